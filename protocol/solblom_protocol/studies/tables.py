"""study.toml as a researcher writes it: one table a class, unknown keys are errors."""

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from solblom_protocol.errors import ConfigurationError
from solblom_protocol.messages.message import SiteName
from solblom_protocol.messages.order import NamedRelease

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Text = Annotated[str, Field(min_length=1, max_length=4000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
BySite = Annotated[dict[SiteName, Positive], Field(min_length=1, max_length=1000)]


class Table(BaseModel):
    """A table of a TOML file: unknown keys are errors, nothing is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StudyTable(Table):
    """Who asks for what, on which legal basis, and until when."""

    name: Name
    title: Text
    purpose: Text
    legal_basis: Annotated[tuple[Text, ...], Field(min_length=1)]
    duo: tuple[Annotated[str, Field(pattern=r"^DUO:[0-9]{7}$")], ...] = ()  # GA4GH data use terms
    ends: dt.date  # the last day on which a node takes part, UTC


class TaskTable(Table):
    """What is learned and from which variables."""

    name: Name
    target: Text
    model: dict[str, Any]
    contract: Text  # file name, relative to the study file


class TrainingTable(Table):
    """How the rounds go. All of it public."""

    rounds: Annotated[int, Field(ge=1, le=10_000)]
    strategy: Literal[
        "fedavg", "fedprox", "fedadam", "fedyogi", "median", "trimmed-mean", "krum"
    ] = "fedavg"
    tolerated: Annotated[int, Field(ge=1, le=1000)] | None = (
        None  # trimmed-mean and krum: hospitals whose updates may be anything
    )
    proximal: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # fedprox: its mu
    local_steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    learning_rate: Positive
    # Divisor of every noisy sum: one for all, or each hospital's own where updates are compared.
    expected_batch_size: Positive | BySite
    server_learning_rate: Positive = 1.0
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    # fedadam and fedyogi need all three, others have none: nothing that changes a result is implied.
    beta_1: Annotated[float, Field(ge=0, lt=1)] | None = None  # memory of the mean update
    beta_2: Annotated[float, Field(ge=0, lt=1)] | None = None  # memory of its square
    tau: Annotated[float, Field(ge=1e-8, le=1e3)] | None = None  # in the update's unit
    averaging: Literal["none", "second-half"] = "none"  # mean of the later rounds' models
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0  # initial weights and simulated splits only
    # Into the artefact, so that anybody can add them up again; None: signed before there was the choice.
    keep_updates: bool | None = True

    @model_serializer(mode="wrap")
    def _as_signed(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a study of before lacks: it keeps its digest, and promises nothing new."""
        members: dict[str, Any] = write(self)
        for name in ("keep_updates", "tolerated"):
            if members.get(name) is None:
                members.pop(name, None)
        return members

    def divisor_of(self, site: str) -> float:
        """Return the public number by which a hospital divides its noisy sums, in patients.

        Raises:
            ConfigurationError: SB-103, the study gives each hospital its own, and this one none.
        """
        batch = self.expected_batch_size
        if not isinstance(batch, dict):
            return batch
        if site not in batch:
            raise ConfigurationError(
                "SB-103",
                f"training.expected_batch_size has {len(batch)} hospitals' numbers, and none for "
                f"{site or 'a hospital without a name'}",
                "Ask the researcher to name this hospital in the study",
            )
        return batch[site]

    @property
    def common_divisor(self) -> float:
        """The one divisor of all hospitals, in patients.

        Raises:
            ConfigurationError: SB-103, each has its own: their sums cannot be added up.
        """
        if isinstance(self.expected_batch_size, dict):
            raise ConfigurationError(
                "SB-103", "training.expected_batch_size is not one number for all hospitals"
            )
        return self.expected_batch_size


class PrivacyTable(Table):
    """What a patient is promised."""

    unit: Literal["patient", "family"] = "patient"
    epsilon: float | Literal["off"]
    delta: float = 1e-5
    clipping_norm: Positive  # L2 norm of one patient's gradient
    noise: Literal["local", "shared"] = "local"
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0  # Poisson over patients


class SecureSumTable(Table):
    """Who adds up under masks, and what is assumed of them; belongs to noise = "shared" (rules 7 and 8)."""

    roster: Text  # file name, relative to the study file: `solblom coordinator roster` writes it
    colluders: Annotated[int, Field(ge=1)] = (
        1  # nodes whose noise is not counted: each knows its own
    )
    ring_bits: Literal[32, 64] = 32
    threshold: Annotated[int, Field(ge=2)] | None = None  # hospitals that a sum needs; None: all


class CohortTable(Table):
    """Who must take part for a round to count."""

    min_nodes: Annotated[int, Field(ge=1)] = 2
    min_patients: Annotated[int, Field(ge=1)] = 20
    deadline_minutes: Positive = 60.0
    quorum: Annotated[int, Field(ge=1)] = 2


class SplitTable(Table):
    """Which patients are kept for testing: HMAC(the hospital's split key, id) < test_fraction.

    The id is the patient's, or that of the family or publication to which the patient belongs, so that patients who
    resemble each other stay on one side.
    """

    by: Literal["patient", "family", "publication"] = "patient"
    test_fraction: Fraction = 0.3


class EvaluationTable(Table):
    """How the model is judged, and what of it may leave a hospital (privacy.md rule 9)."""

    split: SplitTable = SplitTable()
    releases: Annotated[int, Field(ge=0, le=100)] = 0  # score histograms per study, charged
    epsilon: float | None = None  # what a test patient pays at most; None: privacy.epsilon
    bins: Annotated[int, Field(ge=10, le=20)] = 10  # of the score, for each class
    named: tuple[NamedRelease, ...] = ()  # leave without noise: outside epsilon
    subgroups: Annotated[tuple[Text, ...], Field(max_length=20)] = ()  # of a simulation's report
    baselines: tuple[Literal["local", "pooled", "prior"], ...] = ()


class TableOneTable(Table):
    """Counts that describe the patients, once per study, charged to all of them (rule 9)."""

    epsilon: Positive  # part of privacy.epsilon; the training gets the rest
    variables: Annotated[tuple[Text, ...], Field(min_length=1, max_length=100)]


class TuningTable(Table):
    """How many configurations were tried, and on whom. Stands in the artefact's privacy statement."""

    configurations_tried: Annotated[int, Field(ge=0)]
    tried_on: Literal["public", "mock", "same-patients"] = "mock"


class Study(Table):
    """The study file as it was written."""

    study: StudyTable
    task: TaskTable
    training: TrainingTable
    privacy: PrivacyTable
    secure_sum: SecureSumTable | None = None
    cohort: CohortTable = CohortTable()
    evaluation: EvaluationTable = EvaluationTable()
    table_one: TableOneTable | None = None
    tuning: TuningTable | None = None  # None: the researcher did not say
