"""Two verified models, one input: the whole comparison."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from solblom_models.comparison.agreement import agreement, flips, ranked_agreement
from solblom_models.comparison.inputs import Given, check_question, read_pair
from solblom_models.comparison.manifests import differences, read_facts
from solblom_models.comparison.overlay import calibration_overlay
from solblom_models.comparison.pair import RankedPair, ScoredPair, Version
from solblom_models.comparison.paired import performance
from solblom_models.comparison.patients import patient_rows
from solblom_models.comparison.ranked import ranked_performance
from solblom_models.comparison.record import SCHEMA, STAYS, Comparison
from solblom_models.comparison.small_groups import shown_count
from solblom_models.metrics import BOOTSTRAP_SEED, MIN_CLASS
from solblom_models.predict import input_bytes
from solblom_models.prediction_receipt import PARTS, keyed_digest, runtime
from solblom_protocol.code_digest import code_digest
from solblom_protocol.errors import ConfigurationError, RunError
from solblom_protocol.keys.key_files import write_new

RECORD, FLIPS, PATIENTS, OVERLAY = "comparison.json", "flips.csv", "patients.csv", "calibration.svg"
TRAINED_ON = "Patients who took part in the training of a model flatter it: compare on patients of neither training"
FEW = (
    "Fewer than 5 patients: no figure is shown. Each patient's answers stand in the folder of --out"
)
NOT_WHOLE = "The {which} model's intercept stays at each hospital: give --{which}-recalibration"


@dataclass(frozen=True)
class Settings:
    """What a comparison depends on besides models and input; all of it stands in the record.

    Attributes:
        threshold: a probability at or above it is a yes.
        tolerance: how far apart two probabilities are still the same.
        resamples: of the bootstrap.
        seed: of the bootstrap; public.
    """

    threshold: float = 0.5
    tolerance: float = 1e-5
    resamples: int = 1_000
    seed: int = BOOTSTRAP_SEED

    def check(self) -> None:
        """Refuse settings that mean nothing.

        Raises:
            ConfigurationError: SB-103.
        """
        if not 0.0 < self.threshold < 1.0:
            raise ConfigurationError("SB-103", "--threshold lies between 0 and 1")
        if not 0.0 <= self.tolerance <= 1.0:
            raise ConfigurationError("SB-103", "--tolerance lies between 0 and 1")
        if not 100 <= self.resamples <= 100_000:
            raise ConfigurationError("SB-103", "--resamples lies between 100 and 100,000")


def compare(
    old: Version, new: Version, given: Given, settings: Settings, *, key: bytes
) -> Comparison:
    """Give the same input to both models and return what they agree on, what changes, and how they came about.

    Args:
        old: verified.
        new: verified.
        given: the input.
        settings: thresholds and resamples.
        key: of the input's digest: a plain digest of a few findings could be undone by trying.

    Raises:
        RunError: SB-506.
        ConfigurationError: SB-103, settings or recalibrations that do not fit.
    """
    settings.check()
    check_question(old, new, given)
    read = keyed_digest(key, input_bytes(given.sources, slides=bool(given.slides)))
    pair = read_pair(old, new, given)
    if keyed_digest(key, input_bytes(given.sources, slides=bool(given.slides))) != read:
        raise RunError("SB-506", "The input changed while the models read it")
    body: dict[str, Any] = {
        "schema": SCHEMA,
        "stays": STAYS,
        "old": {"model": old.artefact, "ref": old.ref},
        "new": {"model": new.artefact, "ref": new.ref},
        "task": old.model.task.name,
        "input": read,
        "code": code_digest(PARTS),
        "runtime": runtime(),
        "settings": _settings(pair, given, settings, key),
        "patients": shown_count(len(pair.ids)),
        **{
            f"differences_in_{kind}": found
            for kind, found in differences(read_facts(old.folder), read_facts(new.folder)).items()
        },
        "notes": _notes(old, new, given, pair),
        **_figures(pair, settings),
    }
    return Comparison(body, pair)


def _figures(pair: ScoredPair | RankedPair, settings: Settings) -> dict[str, Any]:
    if isinstance(pair, RankedPair):
        return {
            "left_out": {words: shown_count(n) for words, n in pair.left_out.items()},
            "agreement": ranked_agreement(pair, tolerance=settings.tolerance),
            "flips": flips(pair, settings.threshold),
            "performance": ranked_performance(pair, resamples=settings.resamples),
        }
    return {
        "left_out": {},
        "agreement": agreement(pair, threshold=settings.threshold, tolerance=settings.tolerance),
        "flips": flips(pair, settings.threshold),
        "performance": performance(
            pair, threshold=settings.threshold, resamples=settings.resamples, seed=settings.seed
        ),
    }


def _settings(
    pair: ScoredPair | RankedPair, given: Given, settings: Settings, key: bytes
) -> dict[str, Any]:
    def own(path: Path | None) -> str | None:
        return None if path is None else keyed_digest(key, path.read_bytes())

    return {
        "threshold": settings.threshold,
        "tolerance": settings.tolerance,
        "resamples": settings.resamples,
        "seed": settings.seed,
        "interval": "95 %, percentile bootstrap, paired",
        "drawn": pair.unit,
        "id": given.id_column,
        "target": given.target,
        "family": given.family,
        "recalibration": {"old": own(given.old_recalibration), "new": own(given.new_recalibration)},
    }


def _notes(old: Version, new: Version, given: Given, pair: ScoredPair | RankedPair) -> list[str]:
    notes = [TRAINED_ON]
    for which, version, own in (
        ("old", old, given.old_recalibration),
        ("new", new, given.new_recalibration),
    ):
        if own is None and version.model.task.local_parameters(version.model.document):
            notes.append(NOT_WHOLE.format(which=which))
    if old.artefact == new.artefact:
        notes.append("Both are the same model")
    if len(pair.ids) < MIN_CLASS:
        notes.append(FEW)
    if isinstance(pair, ScoredPair) and pair.labels is None:
        notes.append("The input says nothing of the outcome: agreement is shown, gain is not")
    return notes


def write_comparison(found: Comparison, folder: Path) -> list[Path]:
    """Write the record, the lists of patients and the picture into a folder, for their owner's eyes only.

    Raises:
        ConfigurationError: SB-113, a file exists.
    """
    threshold = float(found.body["settings"]["threshold"])
    files = {
        RECORD: found.record,
        FLIPS: patient_rows(found.pair, threshold, only_flips=True),
        PATIENTS: patient_rows(found.pair, threshold, only_flips=False),
    }
    figures = found.body["performance"]
    if isinstance(found.pair, ScoredPair) and figures is not None and figures["reason"] is None:
        files[OVERLAY] = calibration_overlay(
            found.pair, old=found.body["old"]["ref"], new=found.body["new"]["ref"]
        )
    for name, data in files.items():
        write_new(folder / name, data)  # 0600
    return [folder / name for name in files]
