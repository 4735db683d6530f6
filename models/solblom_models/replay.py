"""Replay, grade A: add up again what the hospitals signed, round by round, to the released weights. Needs numpy only.

Anybody can do it, with nothing but the artefact: the same fold, optimisers and averaging as the coordinator's
(`solblom_models.aggregation`), and each step compared bit for bit with what the signed manifest says. Elementwise
sums, products, quotients and roots of float64 are rounded alike on every machine (IEEE 754, section 5.4.1), and sums
over hospitals are sums of integers.

Verify the artefact first: here bytes are compared with the manifest, and signatures are not looked at.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solblom_models.aggregation.opened_sum import mean_update
from solblom_models.aggregation.optimisers import ServerState, step
from solblom_models.aggregation.robust import round_of, rule_in_words
from solblom_models.replay_files import GRADE_A, INITIAL, sum_name, update_name
from solblom_protocol.errors import IntegrityError, RunError
from solblom_protocol.messages.layout import Float32, Layout, pack, unpack
from solblom_protocol.studies.study import StudyDocument, parse_document
from solblom_verify.canonical import digest, parse_canonical, read_file
from solblom_verify.shape import JsonObject


class DifferenceError(IntegrityError):
    """The replay is not what the manifest says: at which round, and of which hospital's update where that is known."""

    def __init__(self, reason: str, *, number: int | None = None, site: str | None = None) -> None:
        place = (
            ""
            if number is None
            else f"round {number}: "
            if site is None
            else f"round {number}, {site}: "
        )
        super().__init__("SB-442", f"{place}{reason}")
        self.round, self.site, self.reason = number, site, reason


@dataclass(frozen=True)
class Replayed:
    """What a whole replay led to: everything was the same.

    Attributes:
        rounds: how many were added up again.
        updates: how many updates, or opened sums where `masked`.
        releases: how many released evaluations name the replayed weights.
        rule: by which each round's updates became one.
    """

    rounds: int
    updates: int
    masked: bool
    final_model: str
    releases: int
    rule: str


@dataclass(frozen=True)
class Recording:
    """An artefact opened for replay."""

    folder: Path
    manifest: JsonObject
    document: StudyDocument
    layout: Layout

    @classmethod
    def of(cls, folder: Path) -> "Recording":
        """Open an artefact whose signatures were verified.

        Raises:
            RunError: SB-441, it keeps nothing that could be added up; the reason is the artefact's own.
            DifferenceError: SB-442, its study or layout is not what the manifest says.
            ConfigurationError: SB-103, the study is of another version.
        """
        try:
            manifest = _json(folder / "manifest.json")
            grade = manifest.object("training").text("replay_grade")
            if grade != GRADE_A:
                raise RunError("SB-441", f"{folder.name}: {grade}")
            study = read_file(folder / "training/study.json")
            if digest(study) != manifest.object("training").digest("study"):
                raise DifferenceError("the study is not the one that the manifest names")
            architecture = _json(folder / "model/architecture.json")
            layout = Layout.from_json(architecture.members.get("layout"))
            return cls(folder, manifest, parse_document(study), layout)
        except (ValueError, OSError) as error:
            raise DifferenceError(f"the artefact cannot be read: {error}") from None

    @staticmethod
    def manifest_of(folder: Path) -> JsonObject:
        """Return the manifest of an artefact that was verified.

        Raises:
            ValueError: it has another form.
            OSError: it cannot be read.
        """
        return _json(folder / "manifest.json")

    @property
    def rounds(self) -> tuple[JsonObject, ...]:
        """What the manifest says of each round."""
        return self.manifest.object("training").objects("rounds")

    def initial(self) -> Float32:
        """Return the weights before round 1.

        Raises:
            DifferenceError: SB-442.
        """
        data = self._read(INITIAL, 4 * self.layout.size)
        if digest(data) != self.rounds[0].digest("base"):
            raise DifferenceError("the initial weights are not those before round 1", number=1)
        return unpack(data, self.layout).copy()

    def mean(self, number: int, claim: JsonObject) -> NDArray[np.float64]:
        """Return what a round moves the model by, from what is stored of it.

        Raises:
            DifferenceError: SB-442, names the hospital whose stored update it is.
        """
        updates = claim.object("updates")
        if self.document.secure_sum is not None:
            data = self._read(sum_name(number), 8 * self.layout.size, number=number)
            opened = np.frombuffer(data, dtype="<i8").astype(np.int64)
            return mean_update(self.document, opened, hospitals=len(updates.members))
        fold = round_of(self.document.study.training, self.layout.size)
        for site in sorted(updates.members):
            data = self._read(update_name(number, site), 4 * self.layout.size, number, site)
            if digest(data) != updates.digest(site):
                raise DifferenceError(
                    "the stored update is not the one that the hospital signed",
                    number=number,
                    site=site,
                )
            try:
                fold.add(unpack(data, self.layout).astype(np.float32))
            except IntegrityError as error:
                raise DifferenceError(error.message, number=number, site=site) from None
        try:
            return fold.result()
        except (RunError, ValueError) as error:  # fewer updates than the study's rule needs
            raise DifferenceError(str(error), number=number) from None

    def _read(
        self, name: str, size: int, number: int | None = None, site: str | None = None
    ) -> bytes:
        try:
            data = read_file(self.folder / name, max_bytes=size)
        except (ValueError, OSError):
            raise DifferenceError(
                f"{name} is missing or too long", number=number, site=site
            ) from None
        if len(data) != size:
            raise DifferenceError(
                f"{name} has {len(data)} bytes; {size} are needed", number=number, site=site
            )
        return data


def states(recording: Recording) -> Iterator[tuple[int, ServerState]]:
    """Yield (round, state after it), from (0, state before round 1) on, each compared with the manifest.

    Raises:
        DifferenceError: SB-442, at the first difference.
    """
    training = recording.document.study.training
    state = ServerState.initial(recording.initial())
    yield 0, state
    for number, claim in enumerate(recording.rounds, start=1):
        if digest(pack([state.model])) != claim.digest("base"):
            raise DifferenceError("the model before it is not the recorded one", number=number)
        with np.errstate(all="ignore"):  # what overflows leads to other weights, and is named
            mean = recording.mean(number, claim)
            state = step(state, mean, training, round_number=number)
        if digest(pack([state.model])) != claim.digest("result"):
            raise DifferenceError(
                "what is stored leads to another model than recorded", number=number
            )
        yield number, state


def replay(folder: Path) -> Replayed:
    """Add up all rounds of a verified artefact again and compare everything with its manifest.

    Raises:
        RunError: SB-441, nothing is kept.
        DifferenceError: SB-442, names the first difference.
    """
    recording = Recording.of(folder)
    try:
        return _replay(recording)
    except ValueError as error:  # a member of the manifest has another form
        raise DifferenceError(str(error)) from None


def _replay(recording: Recording) -> Replayed:
    rounds, training = recording.rounds, recording.document.study.training
    if len(rounds) != training.rounds:
        raise DifferenceError(
            f"the manifest has {len(rounds)} of the study's {training.rounds} rounds"
        )
    for _, last in states(recording):
        state = last
    final = pack([state.final_model()])
    name = digest(final)
    if name != recording.manifest.object("model").digest("final_model"):
        raise DifferenceError("the rounds lead to another final model than the manifest names")
    if _weights(recording) != final:
        raise DifferenceError("the rounds lead to other weights than model/weights.safetensors")
    masked = recording.document.secure_sum is not None
    updates = sum(1 if masked else len(claim.object("updates").members) for claim in rounds)
    rule = rule_in_words(training)
    stated = recording.manifest.object("training").object("aggregation").text("rule")
    if not masked and stated != rule:  # a verifier shows this line: it must be the study's
        raise DifferenceError(f"the manifest says {stated!a}; the study's rule is {rule!a}")
    return Replayed(len(rounds), updates, masked, name, _releases(recording, name), rule)


def _weights(recording: Recording) -> bytes:
    """Return the released weights as flat bytes, in the order of the layout."""
    from safetensors.numpy import load

    try:
        tensors = load((recording.folder / "model/weights.safetensors").read_bytes())
        parts = [tensors[tensor.name] for tensor in recording.layout.tensors]
    except Exception:  # whatever a strange file makes the reader say
        raise DifferenceError(
            "model/weights.safetensors has other tensors than the layout"
        ) from None
    if len(tensors) != len(parts) or any(part.dtype != np.float32 for part in parts):
        raise DifferenceError("model/weights.safetensors has other tensors than the layout")
    return pack(parts)


def _releases(recording: Recording, final: str) -> int:
    """Return how many evaluations were released of the final model; one of another model is a difference."""
    report = _json(recording.folder / "evaluation/report.json")
    made = [r for r in report.objects("released") if r.text("kind") == "evaluate"]
    for release in made:
        if release.digest("model") != final:
            number = release.get("number", int)
            raise DifferenceError(f"evaluation {number} was not made with the final model")
    return len(made)


def _json(path: Path) -> JsonObject:
    return JsonObject.of(parse_canonical(read_file(path)), path.name)


def not_shown(replayed: Replayed) -> tuple[str, ...]:
    """Return what a replay of grade A does not show."""
    source = (
        "The sums: that each is the sum of the vectors that the hospitals signed; masks are erased (privacy.md "
        "rule 8)."
        if replayed.masked
        else "The updates: that each was computed from the hospital's patients, with the noise that was promised "
        "(grades B and C, inside the hospital: solblom node replay)."
    )
    return (
        source,
        "The initial weights: that they follow from the study's seed.",
        "The evaluation: figures are not worked out again.",
        "Epsilon: `solblom model verify --recompute-epsilon`.",
    )
