"""The study file: one TOML that a researcher writes, a hospital reads and everybody signs.

Everything that changes the result stands inside the signed study: settings, contract, noise. A node
compares what it is asked to do with the study that its own people approved, never with what an
order says.
"""

import base64
import datetime as dt
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, ValidationError

from solblom_protocol.contracts.kinds import RANK_CELLS, AnyContract, read_contract
from solblom_protocol.contracts.phenopackets import PhenotypeContract
from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.studies.checks import check_study
from solblom_protocol.studies.privacy_event import PrivacyEvent, exact_decimal
from solblom_protocol.studies.tables import Study, Table
from solblom_protocol.sums.ring import Ring
from solblom_protocol.sums.secure_sum import (
    Roster,
    SumPlan,
    count_sensitivity,
    fractional_bits,
    largest_value,
    read_roster,
    shared_event,
    training_sensitivity,
)
from solblom_protocol.toml_file import parse, read_toml
from solblom_verify.canonical import canonical_json, digest, parse_canonical
from solblom_verify.envelope import EnvelopeError, open_envelope

STUDY_PAYLOAD_TYPE = "application/vnd.solblom.study+json"
MIN_NOISE = 0.25  # smallest noise multiplier of a study with privacy
MOST_CELLS = 10_000  # more than any variable of Table 1 has: bounds the slack of shared noise

Noise = Annotated[str, Field(pattern=r"^[0-9]{1,6}\.[0-9]{4}$")]


class StudyDocument(Table):
    """What is signed: the study, its contract and the noise that follows from them.

    The noise multipliers are decimal strings. That of training is None where `privacy.epsilon` is
    "off", the others where nothing of the kind is released. With shared noise, `secure_sum` has the
    whole-number shares from which they follow.
    """

    schema_: Literal["solblom.study/1"] = Field(alias="schema")
    study: Study
    contract: AnyContract
    noise_multiplier: Noise | None
    evaluation_noise: Noise | None
    table_one_noise: Noise | None
    secure_sum: SumPlan | None

    def payload(self) -> bytes:
        """Return the canonical JSON that is signed."""
        return canonical_json(self.model_dump(mode="json", by_alias=True))

    @cached_property  # every order compares it
    def digest(self) -> str:
        """The study's identity: SHA-256 of the canonical payload."""
        return digest(self.payload())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other members, which has another digest."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("digest", None)
        return copy

    @property
    def round_event(self) -> PrivacyEvent:
        """What one round does to a patient who is in a hospital's training set."""
        training, privacy = self.study.training, self.study.privacy
        if self.secure_sum is not None:
            return self._shared_round_event(self.secure_sum)
        return PrivacyEvent(
            kind="no-privacy" if self.noise_multiplier is None else "poisson-gaussian",
            sampling_rate=exact_decimal(privacy.sampling_rate),
            noise_multiplier=self.noise_multiplier or "0",
            steps=training.local_steps,
            patients_from=self._split_at("0"),
            patient_steps=self._patient_steps(
                training.local_steps, times=1 if privacy.sampling_rate == 1 else 2
            ),
        )

    @property
    def ranks(self) -> bool:
        """Whether an evaluation counts ranks of a patient's disease, and not scores by class."""
        return isinstance(self.contract, PhenotypeContract)

    @property
    def evaluation_cells(self) -> int:
        """How many counts one evaluation has."""
        return RANK_CELLS if self.ranks else 2 * self.study.evaluation.bins

    @property
    def evaluation_event(self) -> PrivacyEvent | None:
        """What one released histogram does to a test patient, who is counted in one cell."""
        if self.evaluation_noise is None:
            return None
        until = self._split_at("1")
        if self.secure_sum is not None:
            share, cells = self.secure_sum.evaluation_share, self.evaluation_cells
            return self._shared_count_event(share, cells, 1, until)
        return PrivacyEvent(
            kind="discrete-gaussian",
            sampling_rate="1",
            noise_multiplier=self.evaluation_noise,
            steps=1,
            patients_to=until,
            patient_steps=self._patient_steps(1, times=2),
        )

    @property
    def table_one_event(self) -> PrivacyEvent | None:
        """What Table 1 does to a patient, who is counted once for each variable."""
        if self.table_one_noise is None or self.study.table_one is None:
            return None
        variables = len(self.study.table_one.variables)
        if self.secure_sum is not None:
            share, cells = self.secure_sum.table_one_share, MOST_CELLS * variables
            return self._shared_count_event(share, cells, variables, "1")
        return PrivacyEvent(
            kind="discrete-gaussian",
            sampling_rate="1",
            noise_multiplier=self.table_one_noise,
            steps=variables,
            patient_steps=self._patient_steps(variables, times=2),
        )

    def _patient_steps(self, steps: int, *, times: int) -> int | None:
        """Return with how many steps one patient's loss is bounded where the unit is a family; else None.

        Proofs in docs/adr/0021. A sum over everybody moves by at most the clipping norm for a patient too:
        `times` is 1. Where families are sampled, and where one member of each is counted, a patient less is at
        most a family less and another one more: `times` is 2.
        """
        return times * steps if self.by_family else None

    @property
    def by_family(self) -> bool:
        """Whether what is protected is a family, with all its members at a hospital (privacy.md rule 1)."""
        return self.study.privacy.unit == "family"

    def _split_at(self, everybody: str) -> str:
        """Return where on the hospital's line of patients test patients end, or the end that takes in everybody.

        The ledger's line is the code of a patient's own id. Another study may split by another id, so a patient who
        is tested here may be trained there; a split by groups is therefore charged to everybody.
        """
        split = self.study.evaluation.split
        return exact_decimal(split.test_fraction) if split.by == "patient" else everybody

    @property
    def keeps_updates(self) -> bool:
        """Whether updates, or opened sums, are kept in the artefact; never without noise (privacy.md rule 10)."""
        return self.study.training.keep_updates is True and self.study.privacy.epsilon != "off"

    @property
    def threshold(self) -> int:
        """How many hospitals a sum needs: all of the roster unless the study says fewer; 1 without a secure sum."""
        if self.secure_sum is None or self.study.secure_sum is None:
            return 1
        return self.study.secure_sum.threshold or len(self.secure_sum.roster.members)

    @property
    def honest_nodes(self) -> int:
        """How many nodes' noise is counted: K - t - d for t colluders and d dropped (rule 7); one with local noise."""
        if self.study.secure_sum is None:
            return 1
        return self.threshold - self.study.secure_sum.colluders

    def _shared_round_event(self, plan: SumPlan) -> PrivacyEvent:
        norm = self.study.privacy.clipping_norm
        return shared_event(
            share=plan.training_share,
            honest=self.honest_nodes,
            sensitivity=training_sensitivity(norm, plan.fractional_bits, plan.values),
            values=plan.values,
            steps=1,
            patients_from=self._split_at("0"),
            patients_to="1",
            patient_steps=self._patient_steps(1, times=1),
        )

    def _shared_count_event(
        self, share: int | None, cells: int, steps: int, patients_to: str
    ) -> PrivacyEvent | None:
        """Return what counts in a secure sum do; a patient is counted in one of `cells`, `steps` times."""
        if share is None:
            return None
        return shared_event(
            share=share,
            honest=self.honest_nodes,
            sensitivity=count_sensitivity(),
            values=cells,
            steps=steps,
            patients_from="0",
            patients_to=patients_to,
            patient_steps=self._patient_steps(steps, times=2),
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


def load_study(path: Path) -> tuple[Study, AnyContract, Roster | None]:
    """Read a study file, the contract it names, and the roster of its secure sum.

    Raises:
        ConfigurationError: SB-101 to SB-108, with the key or the number that is wrong.
    """
    study = parse(Study, read_toml(path), source=path.name)
    contract = read_contract(path.parent / study.task.contract)
    check_study(study, contract)
    roster = (
        None if study.secure_sum is None else read_roster(path.parent / study.secure_sum.roster)
    )
    return study, contract, roster


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


def study_payload(envelope: bytes) -> bytes:
    """Return what was signed as a study, without a look at the signature: for who knows its digest, or only reads.

    Raises:
        ConfigurationError: SB-101, it is no envelope of a study.
    """
    try:
        members = parse_canonical(envelope)
        if not isinstance(members, dict) or members.get("payloadType") != STUDY_PAYLOAD_TYPE:
            raise ValueError("another payload")
        return base64.b64decode(str(members["payload"]), validate=True)
    except (ValueError, KeyError):
        raise ConfigurationError("SB-101", "The file is not a signed study") from None


@lru_cache(maxsize=8)
def parse_document(payload: bytes) -> StudyDocument:
    """Return the study document in a payload, checked; nothing is left to defaults.

    The same bytes give the same frozen document: a vault reads its approved study before every order.

    Raises:
        ConfigurationError: the payload is not a study of this version, or cannot be run.
    """
    try:
        parse_canonical(payload)
        document = _as_signed(StudyDocument.model_validate_json(payload))
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
    check_sum_plan(document)
    for noise in (document.noise_multiplier, document.evaluation_noise, document.table_one_noise):
        if noise is not None and float(noise) < MIN_NOISE:
            # Less noise promises nothing, and to account for it takes hours and gigabytes.
            raise ConfigurationError(
                "SB-105", f"The study's noise multiplier is {noise}, below {MIN_NOISE}"
            )
    return document


def _as_signed(document: StudyDocument) -> StudyDocument:
    """Return a study without what came after it was signed: its hospitals were not told that updates are kept."""
    training = document.study.training
    if "keep_updates" in training.model_fields_set:
        return document
    study = {"training": training.model_copy(update={"keep_updates": None})}
    return document.model_copy(update={"study": document.study.model_copy(update=study)})


def check_sum_plan(document: StudyDocument) -> None:
    """Refuse a secure sum that does not follow from the study's settings.

    Raises:
        ConfigurationError: SB-103 or SB-109.
    """
    table, plan = document.study.secure_sum, document.secure_sum
    if (table is None) != (plan is None):
        raise ConfigurationError(
            "SB-103", "The signed study's secure sum is missing or unasked for"
        )
    if table is None or plan is None:
        return
    plan.roster.check()
    nodes = len(plan.roster.members)
    _check_threshold(document, nodes, table.colluders)
    if document.honest_nodes < 2:
        raise ConfigurationError(
            "SB-103",
            f"With secure_sum.colluders = {table.colluders} of {nodes} hospitals, nobody is left with whom "
            "noise could be shared",
        )
    if plan.fractional_bits != fractional_bits(document.study.privacy.clipping_norm, plan.values):
        raise ConfigurationError("SB-103", "The secure sum's grid does not follow from the study")
    evaluation = document.study.evaluation.releases > 0
    if (plan.evaluation_share is None) == evaluation or (plan.table_one_share is None) == (
        document.study.table_one is not None
    ):
        raise ConfigurationError("SB-103", "The secure sum's shares do not fit the releases")
    for share in (plan.training_share, plan.evaluation_share, plan.table_one_share):
        if share is not None:
            largest_value(Ring(table.ring_bits), nodes=nodes, share=share)
    events = (document.round_event, document.evaluation_event, document.table_one_event)
    noises = (document.noise_multiplier, document.evaluation_noise, document.table_one_noise)
    if tuple(None if event is None else event.noise_multiplier for event in events) != noises:
        raise ConfigurationError("SB-103", "The signed study's noise is not what its shares give")


def _check_threshold(document: StudyDocument, nodes: int, colluders: int) -> None:
    """Refuse a threshold under which two sums of one round could be agreed.

    Raises:
        ConfigurationError: SB-103.
    """
    needed, cohort = document.threshold, document.study.cohort
    if cohort.min_nodes != nodes or cohort.quorum != needed:
        raise ConfigurationError(
            "SB-103",
            f"A secure sum begins with all hospitals of its roster ({nodes}) and needs {needed} for a "
            f"sum; cohort.min_nodes is {cohort.min_nodes} and cohort.quorum {cohort.quorum}",
            f"Set min_nodes = {nodes} and quorum = {needed}",
        )
    # Otherwise two survivor sets could each find enough cosigners (Bonawitz et al. 2017, section 6).
    if needed > nodes or 2 * needed <= nodes + colluders:
        raise ConfigurationError(
            "SB-103",
            f"secure_sum.threshold is {needed} of {nodes} hospitals with {colluders} assumed "
            "colluders; twice the threshold must exceed their sum",
        )
