"""What the verifier reads of a stranger's model: its signed files, its log, a whole log, and a trust file.

The verifier gives a verdict whatever it is given; only a trust file that cannot be used is an error.
"""

import json
import operator
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from artefact_mutations import CHECKPOINT, ENVELOPE, INCLUSION, MANIFEST, Target, small_target
from fuzz.target import Target as Fuzzed
from fuzz.target import file_in
from solblom_verify.artefact import verify_artefact
from solblom_verify.trust import TrustError, load_trust
from unit.verify.artefact_builder import NOW, ArtefactBuilder
from unit.verify.log_builder import LogBuilder


@cache
def _target() -> Target:
    return small_target(Path(tempfile.mkdtemp(prefix="fuzz-verifier-")))


def _replaced(
    name: str, data: bytes, is_same: Callable[[bytes, bytes], bool] = operator.eq
) -> object:
    target = _target()
    target.write(name, data)
    verdict = verify_artefact(target.folder, target.trust, now=target.now)
    target.write(name, target.files[name])
    if verdict.ok and not is_same(data, target.files[name]):
        raise AssertionError(f"another {name} was verified")
    return verdict


def _manifest(data: bytes, folder: Path) -> object:
    return _replaced(MANIFEST, data)


def _envelope(data: bytes, folder: Path) -> object:
    return _replaced(ENVELOPE, data)


def _checkpoint(data: bytes, folder: Path) -> object:
    return _replaced(CHECKPOINT, data)


def _inclusion(data: bytes, folder: Path) -> object:
    return _replaced(INCLUSION, data, _leaves_out)


def _leaves_out(data: bytes, whole: bytes) -> bool:
    """Tell whether decisions were left out, and nothing else: that is an older copy, as a verdict says (ADR 0016)."""
    found, of = json.loads(data), json.loads(whole)
    kept = [entry for entry in of["entries"] if entry in found["entries"]]
    return found["entries"] == kept and found | {"entries": of["entries"]} == of


def _fresh_log(data: bytes, folder: Path) -> object:
    target = _target()
    log = file_in(folder, "log.json", data)
    return verify_artefact(target.folder, target.trust, now=NOW, fresh_log=log)


def _fresh_log_seeds() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as folder:
        log = LogBuilder(ArtefactBuilder())
        log.write(Path(folder))
        return (log.export(Path(folder) / "log.json").read_bytes(),)


def _trust(data: bytes, folder: Path) -> object:
    return load_trust(file_in(folder, "trust.json", data))


def _trust_seeds() -> tuple[bytes, ...]:
    return ((_target().folder.parent.parent / "trust.json").read_bytes(),)


VERIFIER = (
    Fuzzed("model-manifest", _manifest, lambda: (_target().files[MANIFEST],)),
    Fuzzed("model-envelope", _envelope, lambda: (_target().files[ENVELOPE],)),
    Fuzzed("model-checkpoint", _checkpoint, lambda: (_target().files[CHECKPOINT],)),
    Fuzzed("model-inclusion", _inclusion, lambda: (_target().files[INCLUSION],)),
    Fuzzed("fresh-log", _fresh_log, _fresh_log_seeds),
    Fuzzed("trust-file", _trust, _trust_seeds, allowed=(TrustError,)),
)
