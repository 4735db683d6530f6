"""A prediction looked up years later: the same model on the same input, and whether it says the same.

A receipt holds digests, so outputs are equal or not. Where the runtime is another one, digits may differ in the last
places; with the outputs that were printed then, whose digest the receipt holds, they can be compared within a
tolerance.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from solblom_models.json_difference import differing_paths
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.messages.message import Digest, Message, Timestamp, as_json
from solblom_verify.canonical import canonical_json, digest

TOLERANCE = 1e-5
"""How far probabilities and scores of two runtimes may be apart; printed ones have six decimals."""
LARGEST_RECEIPT, LARGEST_OUTPUT = 100_000, 256 * 1024**2  # bytes
_KEYED = r"^hmac-sha256:[0-9a-f]{64}$"


class Runtime(Message):
    """What ran a prediction."""

    python: str
    packages: dict[str, str]


class PredictionReceipt(Message):
    """The receipt that `solblom model predict --receipt` writes."""

    schema_: Literal["solblom.prediction/1"] = Field(alias="schema")
    model: Digest
    ref: str
    study: Digest
    contract: Digest
    code: Digest
    runtime: Runtime
    input: str = Field(pattern=_KEYED)
    recalibration: str | None = Field(pattern=_KEYED)
    output: Digest
    use: str
    warnings: list[str]
    created: Timestamp


@dataclass(frozen=True)
class Line:
    """One thing that was looked at. `ok` None: it differs, and that alone decides nothing."""

    name: str
    ok: bool | None
    reason: str


@dataclass(frozen=True)
class ReceiptVerdict:
    """Whether a prediction is still what its receipt says."""

    lines: tuple[Line, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing differs that decides."""
        return all(line.ok is not False for line in self.lines)

    def as_json(self) -> list[dict[str, Any]]:
        """Return the lines as JSON."""
        return [asdict(line) for line in self.lines]


def read_receipt(path: Path) -> PredictionReceipt:
    """Return the receipt in a file.

    Raises:
        ConfigurationError: SB-101 it cannot be read, SB-103 it is none.
    """
    try:
        return PredictionReceipt.model_validate_json(_small(path, LARGEST_RECEIPT))
    except ValidationError:
        raise ConfigurationError(
            "SB-103", "The file is no receipt of a prediction (solblom.prediction/1)"
        ) from None


def read_output(path: Path) -> dict[str, Any]:
    """Return what `predict --json` printed, as it went into the receipt.

    Raises:
        ConfigurationError: SB-101 or SB-103.
    """
    try:
        value = json.loads(_small(path, LARGEST_OUTPUT))
        canonical_json(value)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("schema") != "solblom.model.predict/1":
        raise ConfigurationError("SB-103", "The file is not what `model predict --json` prints")
    # Both were added when it was printed: the name of the form, and where heatmaps were written.
    return {name: part for name, part in value.items() if name not in ("schema", "files")}


def _small(path: Path, limit: int) -> bytes:
    try:
        if path.stat().st_size > limit:
            raise ConfigurationError("SB-103", f"{path} is too large")
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError("SB-101", f"{path} cannot be read: {error.strerror}") from None


def compare_receipts(
    then: PredictionReceipt,
    now: PredictionReceipt,
    *,
    printed: dict[str, Any] | None,
    outputs: dict[str, Any],
    other_code: bool,
) -> ReceiptVerdict:
    """Say what of a prediction is as it was.

    Args:
        then: the receipt that was kept.
        now: of the same model and input, made now.
        printed: the outputs that were printed then, if they were kept.
        outputs: the outputs now.
        other_code: whether another version of Solblom or of its libraries may have run it.
    """
    runtime = differing_paths(as_json(then.runtime), as_json(now.runtime))
    whose = {
        "model": "another artefact: not the model that predicted",
        "study": "another study",
        "contract": "another data contract",
        "input": "another input, or another key (--receipt-key)",
        "recalibration": "another recalibration, or one then and none now",
    }
    lines = [_equal(name, getattr(then, name), getattr(now, name), whose[name]) for name in whose]
    lines.append(_code(then.code == now.code, other_code))
    lines.append(Line("runtime", True if not runtime else None, _named(then, now, runtime)))
    lines.append(_output(then, now, printed, outputs, same_runtime=not runtime))
    if then.warnings != now.warnings:
        lines.append(Line("warnings", None, "other warnings stand beside the answer now"))
    return ReceiptVerdict(tuple(lines))


def _equal(name: str, then: str | None, now: str | None, otherwise: str) -> Line:
    return Line(name, then == now, "" if then == now else otherwise)


def _code(same: bool, other_code: bool) -> Line:
    if same:
        return Line("code", True, "")
    if other_code:
        return Line("code", None, "another version of Solblom or a library, accepted")
    return Line("code", False, "another version of Solblom or a library (--other-code accepts it)")


def _named(then: PredictionReceipt, now: PredictionReceipt, paths: list[str]) -> str:
    one, other = then.runtime, now.runtime
    found = {"python": (one.python, other.python)} if "python" in paths else {}
    found |= {
        name: (one.packages.get(name, "none"), other.packages.get(name, "none"))
        for name in sorted(set(one.packages) | set(other.packages))
        if f"packages.{name}" in paths
    }
    return ", ".join(f"{name} {was}, now {is_now}" for name, (was, is_now) in found.items())


def _output(
    then: PredictionReceipt,
    now: PredictionReceipt,
    printed: dict[str, Any] | None,
    outputs: dict[str, Any],
    *,
    same_runtime: bool,
) -> Line:
    if printed is not None and digest(canonical_json(printed)) != then.output:
        return Line("output", False, "the file of outputs is not the one that the receipt names")
    if then.output == now.output:
        return Line("output", True, "the same, to the last digit printed")
    if same_runtime:
        return Line("output", False, "another answer")
    if printed is None:
        more = "give what was printed then (--output) to compare within a tolerance"
        return Line("output", False, f"other digits, under another runtime; {more}")
    places = differing_paths(printed, outputs, tolerance=TOLERANCE)
    if places:
        return Line("output", False, f"another answer, by more than {TOLERANCE:g}")
    return Line("output", True, f"within {TOLERANCE:g}, under another runtime")
