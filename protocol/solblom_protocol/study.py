"""The study file: one TOML that a researcher writes, a hospital reads and everybody signs.

Everything that changes the result stands inside the signed study: settings, contract, noise. A node
compares what it is asked to do with the study that its own people approved, never with what an
order says.
"""

import datetime as dt
from pathlib import Path
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from solblom_protocol.contract import Contract
from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.order import NamedRelease
from solblom_protocol.privacy_event import PrivacyEvent, exact_decimal
from solblom_protocol.toml_file import parse, read_toml
from solblom_verify.canonical import canonical_json, digest, parse_canonical
from solblom_verify.envelope import EnvelopeError, open_envelope, sign_envelope

STUDY_PAYLOAD_TYPE = "application/vnd.solblom.study+json"
MIN_NOISE = 0.25  # smallest noise multiplier of a study with privacy
MAX_DELTA = 0.01  # delta is a probability of total failure: never more than one in a hundred

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Text = Annotated[str, Field(min_length=1, max_length=4000)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Noise = Annotated[str, Field(pattern=r"^[0-9]{1,6}\.[0-9]{4}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class StudyTable(_Table):
    """Who asks for what, on which legal basis, and until when."""

    name: Name
    title: Text
    purpose: Text
    legal_basis: Annotated[tuple[Text, ...], Field(min_length=1)]
    duo: tuple[Annotated[str, Field(pattern=r"^DUO:[0-9]{7}$")], ...] = ()  # GA4GH data use terms
    ends: dt.date  # the last day on which a node takes part, UTC


class TaskTable(_Table):
    """What is learned and from which variables."""

    name: Name
    target: Text
    model: dict[str, Any]
    contract: Text  # file name, relative to the study file


class TrainingTable(_Table):
    """How the rounds go. All of it public."""

    rounds: Annotated[int, Field(ge=1, le=10_000)]
    strategy: Literal["fedavg", "fedprox"] = "fedavg"
    proximal: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # fedprox: its mu
    local_steps: Annotated[int, Field(ge=1, le=10_000)] = 1
    learning_rate: Positive
    expected_batch_size: Positive  # divisor of every noisy sum, the same at every hospital
    server_learning_rate: Positive = 1.0
    server_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    averaging: Literal["none", "second-half"] = "none"  # mean of the later rounds' models
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0  # initial weights and simulated splits only


class PrivacyTable(_Table):
    """What a patient is promised."""

    unit: Literal["patient", "family"] = "patient"
    epsilon: float | Literal["off"]
    delta: float = 1e-5
    clipping_norm: Positive  # L2 norm of one patient's gradient
    noise: Literal["local", "shared"] = "local"
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 1.0  # Poisson over patients


class CohortTable(_Table):
    """Who must take part for a round to count."""

    min_nodes: Annotated[int, Field(ge=1)] = 2
    min_patients: Annotated[int, Field(ge=1)] = 20
    deadline_minutes: Positive = 60.0
    quorum: Annotated[int, Field(ge=1)] = 2


class SplitTable(_Table):
    """Which patients are kept for testing: HMAC(the hospital's split key, id) < test_fraction."""

    by: Literal["patient"] = "patient"
    test_fraction: Fraction = 0.3


class EvaluationTable(_Table):
    """How the model is judged, and what of it may leave a hospital (privacy.md rule 9)."""

    split: SplitTable = SplitTable()
    releases: Annotated[int, Field(ge=0, le=100)] = 0  # score histograms per study, charged
    epsilon: float | None = None  # what a test patient pays at most; None: privacy.epsilon
    bins: Annotated[int, Field(ge=10, le=20)] = 10  # of the score, for each class
    named: tuple[NamedRelease, ...] = ()  # leave without noise: outside epsilon
    baselines: tuple[Literal["local", "pooled", "prior"], ...] = ()


class TableOneTable(_Table):
    """Counts that describe the patients, once per study, charged to all of them (rule 9)."""

    epsilon: Positive  # part of privacy.epsilon; the training gets the rest
    variables: Annotated[tuple[Text, ...], Field(min_length=1, max_length=100)]


class TuningTable(_Table):
    """How many configurations were tried, and on whom. Stands in the artefact's privacy statement."""

    configurations_tried: Annotated[int, Field(ge=0)]
    tried_on: Literal["public", "mock", "same-patients"] = "mock"


class Study(_Table):
    """The study file as it was written."""

    study: StudyTable
    task: TaskTable
    training: TrainingTable
    privacy: PrivacyTable
    cohort: CohortTable = CohortTable()
    evaluation: EvaluationTable = EvaluationTable()
    table_one: TableOneTable | None = None
    tuning: TuningTable | None = None  # None: the researcher did not say


class StudyDocument(_Table):
    """What is signed: the study, its contract and the noise that follows from them.

    The noise multipliers are decimal strings. That of training is None where `privacy.epsilon` is
    "off", the others where nothing of the kind is released.
    """

    schema_: Literal["solblom.study/1"] = Field(alias="schema")
    study: Study
    contract: Contract
    noise_multiplier: Noise | None
    evaluation_noise: Noise | None
    table_one_noise: Noise | None

    def payload(self) -> bytes:
        """Return the canonical JSON that is signed."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    @property
    def digest(self) -> str:
        """The study's identity: SHA-256 of the canonical payload."""
        return digest(self.payload())

    @property
    def round_event(self) -> PrivacyEvent:
        """What one round does to a patient who is in a hospital's training set."""
        training, privacy = self.study.training, self.study.privacy
        return PrivacyEvent(
            kind="no-privacy" if self.noise_multiplier is None else "poisson-gaussian",
            sampling_rate=exact_decimal(privacy.sampling_rate),
            noise_multiplier=self.noise_multiplier or "0",
            steps=training.local_steps,
            patients_from=exact_decimal(self.study.evaluation.split.test_fraction),
        )

    @property
    def evaluation_event(self) -> PrivacyEvent | None:
        """What one released score histogram does to a test patient, who is counted in one cell."""
        if self.evaluation_noise is None:
            return None
        return PrivacyEvent(
            kind="discrete-gaussian",
            sampling_rate="1",
            noise_multiplier=self.evaluation_noise,
            steps=1,
            patients_to=exact_decimal(self.study.evaluation.split.test_fraction),
        )

    @property
    def table_one_event(self) -> PrivacyEvent | None:
        """What Table 1 does to a patient, who is counted once for each variable."""
        if self.table_one_noise is None or self.study.table_one is None:
            return None
        return PrivacyEvent(
            kind="discrete-gaussian",
            sampling_rate="1",
            noise_multiplier=self.table_one_noise,
            steps=len(self.study.table_one.variables),
        )

    @property
    def all_events(self) -> list[PrivacyEvent]:
        """Everything that one run of the study does to a hospital's patients."""
        events = [self.round_event] * self.study.training.rounds
        if self.evaluation_event is not None:
            events += [self.evaluation_event] * self.study.evaluation.releases
        if self.table_one_event is not None:
            events.append(self.table_one_event)
        return events


def load_study(path: Path) -> tuple[Study, Contract]:
    """Read a study file and the contract it names.

    Raises:
        ConfigurationError: SB-101 to SB-108, with the key or the number that is wrong.
    """
    study = parse(Study, read_toml(path), source=path.name)
    contract_path = path.parent / study.task.contract
    contract = parse(Contract, read_toml(contract_path), source=contract_path.name)
    check_study(study, contract)
    return study, contract


def check_study(study: Study, contract: Contract) -> None:
    """Refuse a study that cannot be run as written; needs no clock and no data.

    Raises:
        ConfigurationError: SB-103, SB-105 or SB-108.
    """
    privacy, cohort = study.privacy, study.cohort
    if privacy.epsilon != "off" and not 0 < privacy.epsilon <= 100:
        raise ConfigurationError(
            "SB-105", f"privacy.epsilon is {privacy.epsilon}; it must lie above 0 and at most 100"
        )
    if not 0 < privacy.delta <= MAX_DELTA:
        raise ConfigurationError(
            "SB-105",
            f"privacy.delta is {privacy.delta}; it must lie above 0 and at most {MAX_DELTA}",
        )
    if not 1e-6 <= privacy.clipping_norm <= 1e6:
        # Near the smallest float32 numbers, rounding could raise a contribution above its norm.
        raise ConfigurationError(
            "SB-103",
            f"privacy.clipping_norm is {privacy.clipping_norm:g}; it must lie within 1e-6 and 1e6",
        )
    if privacy.noise == "shared":
        raise ConfigurationError(
            "SB-108", "privacy.noise is shared; it needs the secure sum, which this version lacks",
            "Use noise = \"local\"",
        )  # fmt: skip
    if privacy.unit == "family":
        raise ConfigurationError(
            "SB-108", "privacy.unit is family, which this version lacks", 'Use unit = "patient"'
        )
    if cohort.quorum > cohort.min_nodes:
        raise ConfigurationError(
            "SB-103", f"cohort.quorum is {cohort.quorum}, more than min_nodes ({cohort.min_nodes})"
        )
    _check_steps(study)
    _check_releases(study, contract)
    if study.task.target != contract.target.name:
        raise ConfigurationError(
            "SB-106",
            f"task.target is {study.task.target}, but the contract's target is {contract.target.name}",
        )


def _check_steps(study: Study) -> None:
    """Refuse local steps that cannot go well.

    Raises:
        ConfigurationError: SB-103.
    """
    training = study.training
    if (training.strategy == "fedprox") != (training.proximal > 0):
        raise ConfigurationError(
            "SB-103", "training.proximal belongs to strategy fedprox, which needs it above 0"
        )
    pull = training.learning_rate * training.proximal
    if pull > 2:
        raise ConfigurationError(
            "SB-103",
            f"training.learning_rate times training.proximal is {pull:g}; above 2 each step moves "
            "further away from the round's first model than the last",
        )


def _check_releases(study: Study, contract: Contract) -> None:
    """Refuse releases that cannot be charged.

    Raises:
        ConfigurationError: SB-103 or SB-105.
    """
    evaluation, table, epsilon = study.evaluation, study.table_one, study.privacy.epsilon
    if epsilon == "off" and (evaluation.releases or table is not None):
        raise ConfigurationError(
            "SB-103",
            "evaluation.releases and table_one are charged, and privacy.epsilon is off",
            "Set an epsilon, or release nothing",
        )
    if evaluation.named and not evaluation.releases:
        raise ConfigurationError(
            "SB-103", "evaluation.named needs evaluation.releases of at least 1"
        )
    shares = {"evaluation.epsilon": evaluation.epsilon}
    if table is not None:
        shares["table_one.epsilon"] = table.epsilon
    for name, share in shares.items():
        if share is not None and epsilon != "off" and not 0 < share <= epsilon:
            raise ConfigurationError(
                "SB-105", f"{name} is {share:g}; it is part of privacy.epsilon ({epsilon:g})"
            )
    if table is None:
        return
    known = {variable.name for variable in contract.variable} | {contract.target.name}
    unknown = sorted(set(table.variables) - known)
    if unknown or len(set(table.variables)) != len(table.variables):
        raise ConfigurationError(
            "SB-103",
            "table_one.variables must name variables of the contract, each once"
            + (f"; unknown: {', '.join(unknown)}" if unknown else ""),
        )


def check_dates(study: Study, *, today: dt.date) -> None:
    """Refuse a study that has ended.

    Raises:
        ConfigurationError: SB-104.
    """
    if today > study.study.ends:
        raise ConfigurationError(
            "SB-104", f"The study {study.study.name} ended on {study.study.ends}; today is {today}"
        )


def sign_study(document: StudyDocument, key: Ed25519PrivateKey) -> bytes:
    """Return the DSSE envelope of the study."""
    return sign_envelope(document.payload(), STUDY_PAYLOAD_TYPE, [key])


def open_study(envelope: bytes, signers: dict[str, Ed25519PublicKey]) -> StudyDocument:
    """Return the study in an envelope signed by one of `signers` (key id → key).

    Raises:
        IntegrityError: SB-215, the signature is missing, false or somebody else's.
        ConfigurationError: the payload is not a study of this version.
    """
    try:
        opened = open_envelope(envelope, payload_type=STUDY_PAYLOAD_TYPE, keys=signers)
    except EnvelopeError as error:
        raise IntegrityError("SB-215", f"The study's signature does not hold: {error}") from None
    return parse_document(opened.payload)


def study_signatures(envelope: bytes) -> tuple[str, ...]:
    """Return the key ids under a study that `open_study` has opened, where every signature was checked."""
    value: Any = parse_canonical(envelope)
    return tuple(str(signature["keyid"]) for signature in value["signatures"])


def parse_document(payload: bytes) -> StudyDocument:
    """Return the study document in a payload, checked; nothing is left to defaults.

    Raises:
        ConfigurationError: the payload is not a study of this version, or cannot be run.
    """
    try:
        document = StudyDocument.model_validate_json(canonical_json(parse_canonical(payload)))
    except (ValidationError, ValueError):
        raise ConfigurationError("SB-103", "The signed study has wrong members") from None
    if document.payload() != payload:
        raise ConfigurationError("SB-103", "The signed study leaves settings to a default")
    check_study(document.study, document.contract)
    if (document.noise_multiplier is None) != (document.study.privacy.epsilon == "off"):
        raise ConfigurationError("SB-103", "The signed study's noise does not fit its epsilon")
    evaluation, table = document.study.evaluation, document.study.table_one
    if (document.evaluation_noise is None) != (evaluation.releases == 0) or (
        document.table_one_noise is None
    ) != (table is None):
        raise ConfigurationError("SB-103", "The signed study's noise does not fit its releases")
    for noise in (document.noise_multiplier, document.evaluation_noise, document.table_one_noise):
        if noise is not None and float(noise) < MIN_NOISE:
            # Less noise promises nothing, and to account for it takes hours and gigabytes.
            raise ConfigurationError(
                "SB-105", f"The study's noise multiplier is {noise}, below {MIN_NOISE}"
            )
    return document
