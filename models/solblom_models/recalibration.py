"""A hospital's own intercept and slope for a model of probabilities: fitted on its own patients, and kept there.

How common a disease is differs between hospitals more than how its findings speak for it. The shared weights carry
the second; this carries the first (logistic recalibration: Cox 1958; Steyerberg, Clinical Prediction Models, ch. 20).

It is computed without noise, so it must not leave: not as a number, and not through anything that is released. No
vault and no released evaluation uses it.
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from solblom_protocol.errors import ConfigurationError, DataError, IntegrityError, RunError
from solblom_protocol.keys.key_files import write_new
from solblom_protocol.messages.message import (
    Digest,
    Message,
    SiteName,
    Timestamp,
    parse_message,
    timestamp,
)

Labels = NDArray[np.int64]
Scores = NDArray[np.float64]

INTERCEPT_DEVIATION = 1.0
"""Of the normal prior of the intercept, in logits, around 0: keeps it finite where all patients have one label."""
SLOPE_DEVIATION = 0.5
"""Of the normal prior of the slope around 1."""
STEPS, ENOUGH = 100, 1e-10
LARGEST_FILE = 10_000
Finite = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Recalibration:
    """What turns a shared model's logit into a hospital's own: intercept + slope x logit."""

    intercept: float
    slope: float = 1.0

    def apply(self, scores: Scores) -> Scores:
        """Return the probabilities, shape (N,), as this hospital's."""
        return _sigmoid(self.intercept + self.slope * _logits(scores))


def fit_recalibration(scores: Scores, labels: Labels, *, slope: bool = False) -> Recalibration:
    """Return intercept, and slope if asked for, that are likeliest for these patients and the priors above.

    Args:
        scores: the shared model's probabilities, shape (N,).
        labels: 0 or 1, shape (N,).
        slope: whether the slope is fitted too; else it is 1.

    Raises:
        DataError: SB-306, there are no patients.
        RunError: SB-506, the likeliest slope is not above 0: the model says the contrary of what is so here.
    """
    if not len(scores):
        raise DataError("SB-306", "There are no patients to fit an intercept on")
    logits = _logits(scores)
    inputs = np.stack([np.ones_like(logits), logits])[: 2 if slope else 1]  # (K, N)
    precision = np.array([INTERCEPT_DEVIATION, SLOPE_DEVIATION])[: len(inputs)] ** -2.0
    start = np.array([0.0, 1.0])[: len(inputs)]
    offset = np.zeros_like(logits) if slope else logits

    def cost(found: Scores) -> float:
        linear = offset + found @ inputs
        loss = np.logaddexp(0.0, linear) - labels * linear
        return float(loss.sum() + (precision * (found - start) ** 2).sum() / 2)

    found = start
    for _ in range(STEPS):  # Newton; the cost is strictly convex
        chance = _sigmoid(offset + found @ inputs)
        gradient = inputs @ (chance - labels) + precision * (found - start)
        curvature = (inputs * (chance * (1 - chance))) @ inputs.T + np.diag(precision)
        step = np.linalg.solve(curvature, gradient)
        found = _smaller(cost, found, step)
        if np.abs(step).max() < ENOUGH:
            break
    if slope and found[1] <= 0:
        raise RunError("SB-506", "The model ranks these patients the wrong way round")
    return Recalibration(float(found[0]), float(found[1]) if slope else 1.0)


def _smaller(cost: Callable[[Scores], float], found: Scores, step: Scores) -> Scores:
    """Return a point along the step that costs no more: the whole step, or a half, a quarter and so on."""
    before = cost(found)
    for halvings in range(40):
        tried: Scores = found - step / 2.0**halvings
        if cost(tried) <= before:
            return tried
    return found


def _logits(scores: Scores) -> Scores:
    limited = np.clip(scores, 1e-12, 1 - 1e-12)
    logits: Scores = np.log(limited) - np.log1p(-limited)
    return logits


def _sigmoid(logits: Scores) -> Scores:
    chance: Scores = 0.5 * (1.0 + np.tanh(0.5 * logits))
    return chance


class RecalibrationFile(Message):
    """A recalibration as a hospital keeps it. Not signed: nobody else is to read it."""

    schema_: Literal["solblom.recalibration/1"] = Field(alias="schema")
    stays: Literal["in this hospital: computed from its patients without noise"]
    site: SiteName
    model: Digest  # of the artefact
    study: Digest
    patients: Annotated[int, Field(ge=1)]
    intercept: Finite
    slope: Annotated[Finite, Field(gt=0)]
    created: Timestamp

    @property
    def recalibration(self) -> Recalibration:
        """The numbers alone."""
        return Recalibration(self.intercept, self.slope)


def write_recalibration(
    path: Path,
    found: Recalibration,
    *,
    site: str,
    model: str,
    study: str,
    patients: int,
    now: dt.datetime,
) -> None:
    """Write a recalibration into a new file that only its owner can read.

    Raises:
        ConfigurationError: SB-113, the file exists.
    """
    record = RecalibrationFile(
        schema="solblom.recalibration/1",
        stays="in this hospital: computed from its patients without noise",
        site=site,
        model=model,
        study=study,
        patients=patients,
        intercept=found.intercept,
        slope=found.slope,
        created=timestamp(now),
    )
    write_new(path, record.payload() + b"\n")


def read_recalibration(path: Path, *, model: str) -> RecalibrationFile:
    """Return the recalibration of a model from a hospital's file.

    Raises:
        ConfigurationError: SB-101 it cannot be read, SB-103 it is none, or of another model.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigurationError("SB-103", f"{path} is no recalibration: it is too large")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigurationError("SB-101", f"{path} cannot be read: {error.strerror}") from None
    try:
        record = parse_message(RecalibrationFile, data.removesuffix(b"\n"))
    except IntegrityError:
        raise ConfigurationError("SB-103", f"{path} is no recalibration") from None
    if record.model != model:
        raise ConfigurationError(
            "SB-103",
            f"{path} belongs to the model {record.model[:19]}…, not to {model[:19]}…",
            "Fit it again: solblom node recalibrate",
        )
    return record
