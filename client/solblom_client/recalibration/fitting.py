"""A model fitted to one hospital: which of its patients, and what it gains there. Nothing of this leaves."""

import datetime as dt
import math
from dataclasses import dataclass

import numpy as np

from solblom_client.cohorts.cohort import join_cohort
from solblom_client.connectors.sources import open_source
from solblom_client.keys import read_node_keys
from solblom_client.policy import NodeConfig, fitting_dataset
from solblom_models.artefact import LoadedModel
from solblom_models.metrics import Z95, Estimate, brier
from solblom_models.recalibration import Labels, Recalibration, Scores, fit_recalibration
from solblom_models.task import RankingTask
from solblom_protocol.errors import DataError, RunError


@dataclass(frozen=True)
class Fit:
    """How well probabilities fit one set of patients; for the hospital's own eyes.

    Attributes:
        mean: mean probability.
        observed: share of patients with the outcome.
        brier: mean squared difference of probability and outcome.
    """

    mean: float
    observed: float
    brier: float

    @classmethod
    def of(cls, labels: Labels, scores: Scores) -> "Fit":
        """Return the figures of these patients."""
        return cls(float(np.mean(scores)), float(np.mean(labels)), brier(labels, scores))


@dataclass(frozen=True)
class Recalibrated:
    """What was found on training patients, and its figures on test patients; none where there are no test patients.

    Attributes:
        gain: Brier score before minus after, with the 95 % interval of a mean of differences.
    """

    found: Recalibration
    patients: int
    tested: int
    before: Fit | None
    after: Fit | None
    gain: Estimate | None


def recalibrate(
    config: NodeConfig, model: LoadedModel, *, slope: bool, now: dt.datetime
) -> Recalibrated:
    """Fit a model's intercept, and slope if asked for, to the patients who consent now.

    The hospital need not have taken part. Patients are split as the model's study splits them, so that no test
    patient is fitted on.

    Raises:
        RunError: SB-506, the model gives no probabilities.
        DataError: the data do not obey the contract; SB-306 fewer patients than policy.min_patients.
    """
    if isinstance(model.task, RankingTask):
        raise RunError("SB-506", f"The task {model.task.name} ranks; it gives no probabilities")
    dataset = fitting_dataset(config, model.task.connector)
    keys = read_node_keys(config.state)
    source = open_source(config, dataset, model.document.contract)
    units = model.task.read_units(source, model.document)
    cohort = join_cohort(config, keys, model.document, units, now=now)
    training, test = cohort.training, cohort.test
    if len(training.ids) < config.policy.min_patients:
        raise DataError(
            "SB-306",
            f"{len(training.ids)} patients may be used; policy.min_patients is {config.policy.min_patients}",
        )
    scores = model.task.scores(model.net, training)
    found = fit_recalibration(scores, training.labels, slope=slope)
    if not test.ids:
        return Recalibrated(found, len(training.ids), 0, None, None, None)
    raw = model.task.scores(model.net, test)
    own = found.apply(raw)
    before, after = Fit.of(test.labels, raw), Fit.of(test.labels, own)
    gain = _mean_with_interval((raw - test.labels) ** 2 - (own - test.labels) ** 2)
    return Recalibrated(found, len(training.ids), len(test.ids), before, after, gain)


def _mean_with_interval(differences: Scores) -> Estimate | None:
    """Return a mean with its 95 % interval; None for a single patient."""
    if len(differences) < 2:
        return None
    mean = float(differences.mean())
    half = Z95 * float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return Estimate(mean, mean - half, mean + half)
