"""What a simulation's report says of yes-or-no answers, for slides and for tiles, with intervals over patients.

Every model says yes at a threshold that each hospital chooses on its own training patients, never on a test patient:
the one with the highest balanced accuracy there, by that model. A hospital can do so alone; nothing leaves for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.decision_metrics import (
    Clustered,
    Curve,
    Decided,
    Decisions,
    Measure,
    best_threshold,
    difference,
    patient_bootstrap,
)
from solblom_models.metrics import Labels, Scores, brier, calibration_error
from solblom_simulation.ranking_evaluation import SMALLEST_GROUP

KINDS = ("local", "federated", "pooled")
SENSITIVITY = "sensitivity_at_95_specificity"
NOT_SAID = "not said"
"""Stands for the scanner of patients whose hospital names none, beside hospitals that do."""
THRESHOLDS = (
    "each hospital's own, for each model: the highest balanced accuracy on its training patients; "
    "sensitivity at 95 % specificity needs none, it is read off the test patients' ROC curve without interpolation"
)


@dataclass(frozen=True)
class Words:
    """How a reason names patients with a positive and with a negative row."""

    positive: str
    negative: str


OF_PATIENTS = Words("with disease", "without disease")
OF_TILES = Words("patients with a positive tile", "patients with a negative tile")


@dataclass(frozen=True)
class Answers:
    """What one model says of test rows (tiles, or patients).

    Attributes:
        labels, scores, yes: one a row, shape (T,).
        patients: whose each row is, shape (T,), numbers from 0.
    """

    labels: Labels
    scores: Scores
    yes: Decisions
    patients: NDArray[np.int64]

    def of(self, chosen: NDArray[np.int64]) -> "Answers":
        """Return the rows of these patients only."""
        rows = np.isin(self.patients, chosen)
        return Answers(self.labels[rows], self.scores[rows], self.yes[rows], self.patients[rows])


@dataclass(frozen=True)
class Scored:
    """One model's scores of one hospital's patients, with the rows' labels."""

    training: Scores
    training_labels: Labels
    test: Scores
    test_labels: Labels
    test_patients: NDArray[np.int64]

    @property
    def threshold(self) -> float:
        """The threshold that the hospital chooses for this model, on training patients only."""
        return best_threshold(self.training_labels, self.training)

    def answers(self) -> Answers:
        """Return what the model says of the test rows."""
        yes = self.test >= self.threshold
        return Answers(self.test_labels, self.test, yes, self.test_patients)


def together(parts: Sequence[Answers]) -> Answers:
    """Return the rows of several hospitals as those of other patients each."""
    firsts = np.cumsum([0, *(int(part.patients.max(initial=-1)) + 1 for part in parts)])
    return Answers(
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.yes for part in parts]),
        np.concatenate([p.patients + first for p, first in zip(parts, firsts[:-1], strict=True)]),
    )


def decision_figures(answers: Answers, words: Words) -> dict[str, Any]:
    """Return sensitivity at 95 % specificity, balanced accuracy, F1 and kappa, each [value, low, high] or None."""
    return _listed(_bootstrapped(_decision_measures(answers), answers, words))


def tile_figures(answers: Answers) -> dict[str, Any]:
    """Return the figures of tiles; members are those of a table's report and of `decision_figures`.

    All intervals resample patients with all their tiles.
    """
    curve = Curve(answers.labels, answers.scores)
    areas: dict[str, Measure] = {"auroc": curve.auroc, "auprc": curve.average_precision}
    found = _bootstrapped(areas | _decision_measures(answers), answers, OF_TILES)
    listed = _listed(found)
    area = listed.pop("auroc")
    return {
        "auroc": None if area is None else area[0],
        "auroc_interval": None if area is None else area[1:],
        "reason": found["auroc"].reason,
        "calibration_error": round(calibration_error(answers.labels, answers.scores), 6),
        "brier": round(brier(answers.labels, answers.scores), 6),
        **listed,
    }


def gain(ours: Answers, theirs: Answers, words: Words) -> dict[str, Any]:
    """Return our figures minus theirs on the same rows, paired: each [value, low, high] or None, and why."""
    pairs = [
        {"auroc": Curve(of.labels, of.scores).auroc, **_decision_measures(of)}
        for of in (ours, theirs)
    ]
    measures = {name: difference(pairs[0][name], pairs[1][name]) for name in pairs[0]}
    found = _bootstrapped(measures, ours, words)
    return {**_listed(found), "reason": found["auroc"].reason}


def by_scanner(
    answers: Answers,
    scanners: Sequence[tuple[Sequence[str], int]],
    figures: Callable[[Answers], dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Return figures by scanner; small groups are counted, not shown. Empty where no hospital names scanners.

    Args:
        answers: of all hospitals together.
        scanners: of each hospital its test patients' scanners, none or one each, and how many patients these are.
        figures: gives what is shown of a group.
    """
    if not any(names for names, _ in scanners):
        return {}
    of = np.array([n for names, count in scanners for n in names or [NOT_SAID] * count], dtype=str)
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(set(of.tolist())):
        members = np.flatnonzero(of == name)
        found[name] = {"patients": len(members)}
        if len(members) >= SMALLEST_GROUP:
            found[name] |= figures(answers.of(members))
    return found


def _decision_measures(answers: Answers) -> dict[str, Measure]:
    decided = Decided(answers.labels, answers.yes)
    return {
        SENSITIVITY: Curve(answers.labels, answers.scores).sensitivity,
        "balanced_accuracy": decided.balanced_accuracy,
        "f1": decided.f1,
        "kappa": decided.kappa,
    }


def _bootstrapped(
    measures: Mapping[str, Measure], answers: Answers, words: Words
) -> dict[str, Clustered]:
    return patient_bootstrap(
        measures,
        answers.labels,
        answers.patients,
        positive=words.positive,
        negative=words.negative,
    )


def _listed(found: Mapping[str, Clustered]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        name: None if of.estimate is None else [round(value, 6) for value in astuple(of.estimate)]
        for name, of in found.items()
    }
    return figures | {"dropped_resamples": max(of.dropped for of in found.values())}
