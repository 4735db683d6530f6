"""`task.model` of a study that ranks diseases, and what may stand beside it."""

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.toml_file import parse

Width = Annotated[int, Field(ge=1, le=10_000)]
COUNT_WEIGHT = 0.25
"""What a patient adds to the number of patients of the own disease; the vector of terms has norm 1 beside it."""
CONTRIBUTION_NORM = 1.0308
"""L2 norm of a whole contribution of prototypes, sqrt(1 + COUNT_WEIGHT^2), rounded up: nothing is clipped."""


class RankerSettings(BaseModel):
    """`task.model` of a study.

    Attributes:
        kind: `prototypes` adds up patients by disease, once; `linear` and `mlp` are trained over rounds.
        prior_weight: how many patients of a disease the public annotations count for beside exact sums.
        excluded_prior_weight: the same for excluded terms, of which the annotations know what is common.
        hidden: units of the one hidden layer of `mlp`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["prototypes", "linear", "mlp"]
    prior_weight: Annotated[float, Field(gt=0, le=1000)] = 4.0
    excluded_prior_weight: Annotated[float, Field(gt=0, le=1000)] = 6.0
    hidden: Width | None = None

    @model_validator(mode="after")
    def _layers(self) -> "RankerSettings":
        if (self.kind == "mlp") != (self.hidden is not None):
            raise ValueError("hidden belongs to mlp, which needs it")
        return self


def ranker_settings(document: StudyDocument) -> RankerSettings:
    """Return the settings of a study's ranker.

    Raises:
        ConfigurationError: SB-102 or SB-103.
    """
    return parse(RankerSettings, document.study.task.model, source="task.model")


def check_settings(document: StudyDocument) -> None:
    """Refuse training settings under which sums would not be sums.

    Raises:
        ConfigurationError: SB-102 or SB-103.
    """
    settings, study = ranker_settings(document), document.study
    if settings.kind != "prototypes":
        return
    training = study.training
    wrong = {
        "rounds": training.rounds != 1,
        "local_steps": training.local_steps != 1,
        "sampling_rate": study.privacy.sampling_rate != 1.0,
        "server_momentum": training.server_momentum != 0,
        "averaging": training.averaging != "none",
        "strategy": training.strategy != "fedavg",
        "learning_rate (expected_batch_size is not the same)": training.learning_rate
        != training.expected_batch_size,
        "server_learning_rate (not the number of hospitals)": not _is_number_of_hospitals(document),
    }
    named = ", ".join(name for name, is_wrong in wrong.items() if is_wrong)
    if named:
        raise ConfigurationError(
            "SB-103",
            "Prototypes are one exact sum of all patients: one round of one step over everybody; "
            f"not so: {named}",
            "Set rounds = 1, local_steps = 1, sampling_rate = 1.0, learning_rate = expected_batch_size and "
            "server_learning_rate = the number of hospitals",
        )
    if study.privacy.clipping_norm < CONTRIBUTION_NORM:
        raise ConfigurationError(
            "SB-103",
            f"privacy.clipping_norm is {study.privacy.clipping_norm:g}; a patient's contribution to prototypes has "
            f"norm {CONTRIBUTION_NORM}",
            f"Set clipping_norm = {CONTRIBUTION_NORM}",
        )


def noise_deviation(document: StudyDocument) -> float:
    """Return the standard deviation of the noise on each of the prototypes' sums, all hospitals' noise together.

    0 where privacy is off. Public: it follows from the study.
    """
    study, plan = document.study, document.secure_sum
    if plan is not None:
        return (
            plan.training_share * 2.0**-plan.fractional_bits * math.sqrt(len(plan.roster.members))
        )
    own = float(document.noise_multiplier or 0.0) * study.privacy.clipping_norm
    return own * math.sqrt(study.training.server_learning_rate)


def _is_number_of_hospitals(document: StudyDocument) -> bool:
    """Tell whether the model is the sum over the study's hospitals, not their mean."""
    study, plan = document.study, document.secure_sum
    times = study.training.server_learning_rate
    if plan is not None:
        return times == len(plan.roster.members)
    return times == int(times) and times >= study.cohort.quorum
