"""node.toml: the hospital's own rules, which have the last word."""

from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from solblom_protocol.errors import ConfigurationError
from solblom_protocol.messages.order import NamedRelease
from solblom_protocol.toml_file import parse, parse_toml, read_text
from solblom_verify.wording import counted

SiteName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
SYSLOG = r"^(unix:/[^\x00-\x20]{1,100}|(udp|tcp):[a-zA-Z0-9.-]{1,253}:[0-9]{1,5})$"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
HOURS = r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeTable(_Table):
    """Who the node is and where its keys, ledger and log live."""

    site: SiteName
    state: str
    anchor: str | None = (
        None  # file outside `state`, best on another disk: shows a rolled-back ledger
    )
    simulation: bool = False  # printed on every receipt and artefact


class CoordinatorTable(_Table):
    """The pinned coordinator. Its key is compared out of band, never learned from the network."""

    key: str
    inbox: str | None = None  # rounds by file: folder where orders arrive
    outbox: str | None = None  # folder from which replies are carried away
    carrier_before: tuple[str, ...] = ()  # command that fetches orders, run before each pass
    carrier_after: tuple[str, ...] = ()  # command that delivers replies, run after each pass
    url: str | None = None
    ca_file: str | None = None
    proxy: str | None = None


class LinkTable(_Table):
    """Where the network half of the node keeps its own few files; it may read nothing else."""

    state: str = "link"


class VaultTable(_Table):
    """The half of the node that sees patient data, as a process of its own."""

    socket: str = "vault/vault.sock"  # a unix socket; its path may have 107 bytes
    order_minutes: Positive = 60.0  # an order that works longer is hung: the process ends
    memory_gib: Positive = 8.0
    isolation: Literal["required", "best-effort"] = "required"


class SharedNoiseTable(_Table):
    """Whether this hospital lets others add part of its noise (privacy.md rule 7)."""

    allow: bool = False
    min_honest_nodes: Annotated[int, Field(ge=2)] = 3
    alone_epsilon: Positive = 10.0  # per study, if all other hospitals work with the coordinator


class PolicyTable(_Table):
    """What may run here and how much privacy it may cost."""

    tasks: Annotated[tuple[str, ...], Field(min_length=1)]
    nets: tuple[str, ...] = ()  # kinds of task.model that may be trained; empty: any of these tasks
    study_signers: Annotated[
        tuple[str, ...], Field(min_length=1)
    ]  # public-key files of researchers
    epsilon_budget: Positive = 8.0  # lifetime, all studies and data sets of this hospital
    study_epsilon: Positive = 3.0  # per study
    delta: Probability = 1e-5  # studies with a larger delta are refused
    shared_noise: SharedNoiseTable = SharedNoiseTable()
    min_patients: Annotated[int, Field(ge=2)] = 10  # of a training set, and the small-cell rule
    named_releases: tuple[NamedRelease, ...] = ()  # leave without noise: outside epsilon
    release: Literal["automatic", "manual"] = "automatic"  # manual: a person releases each answer
    hours: Annotated[str, Field(pattern=HOURS)] | None = (
        None  # orders are worked on between these times of day only
    )
    time_zone: str = "Europe/Oslo"  # of `hours`, and of the days in consents
    allow_privacy_off: bool = False

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("a time zone has a name like Europe/Oslo") from None
        return value


class LogTable(_Table):
    """The log of decisions: for how long it keeps entries, and where a copy of each goes."""

    syslog: Annotated[str, Field(pattern=SYSLOG)] | None = None
    retention_days: Annotated[int, Field(ge=1)] = 400


class ConsentTable(_Table):
    """Who may take part today."""

    source: str
    kind: Literal["csv", "fhir"] = "csv"  # fhir: an HL7 FHIR R4B bundle in JSON
    rule: Literal["opt-in", "opt-out"]
    max_age_hours: Positive = 24.0
    purpose: tuple[str, ...] = ()  # fhir: codes of provision.purpose, one of which a consent names
    identifier_system: str | None = None  # fhir: whose value is the patient's id in the data sets
    deceased: Literal["exclude", "keep"] = "exclude"
    min_age_years: Annotated[int, Field(ge=1, le=150)] | None = None
    guardian_until_age: Annotated[int, Field(ge=1, le=150)] = 16
    cohort_record_years: Positive = 15.0  # who was in which round is forgotten after that
    notice_days: Annotated[int, Field(ge=1)] = 30  # least time between notices of withdrawals

    @model_validator(mode="after")
    def _fhir_only(self) -> "ConsentTable":
        if self.kind != "fhir" and (self.purpose or self.identifier_system is not None):
            raise ValueError('purpose and identifier_system belong to kind = "fhir"')
        return self


class PermitTable(_Table):
    """Whose permits count here, beside the hospital's own approval. An approval that has one always needs it."""

    required: bool = False
    issuers: tuple[str, ...] = ()  # issuers' files, pinned: compared by phone
    folder: str = "permits"  # where `node approve` looks when --permit is not given
    revocations: str = "revocations.jws"  # the issuers' lists, one a line

    @model_validator(mode="after")
    def _issuers(self) -> "PermitTable":
        if self.required and not self.issuers:
            raise ValueError("required = true needs issuers")
        return self


class DatasetTable(_Table):
    """A data set of the hospital, read-only."""

    name: SiteName
    connector: str
    path: str
    patient: str = "patient_id"
    family: str | None = None
    features: str | None = None  # of slides: folder of what `solblom node features` makes of them
    units: dict[
        str, str
    ] = {}  # variable → unit that its column has, where it is not the contract's
    maps: dict[str, str] = {}  # variable → CSV from this hospital's codes to the contract's

    @model_validator(mode="after")
    def _features(self) -> "DatasetTable":
        if (self.connector == "slides") != (self.features is not None):
            raise ValueError('features belongs to connector = "slides", which needs it')
        if self.connector != "table" and (self.units or self.maps):
            raise ValueError('units and maps belong to connector = "table"')
        return self

    @property
    def gives(self) -> str:
        """The connector that a task asks for: slides give bags, once their features are made."""
        return "bags" if self.connector == "slides" else self.connector

    @property
    def source(self) -> str:
        """What the vault reads: of slides their features, never an image."""
        return self.path if self.features is None else self.features


class EncoderTable(_Table):
    """An encoder of tiles that somebody at this hospital has approved."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class NodeConfig(_Table):
    """node.toml, checked. Paths inside are relative to the file."""

    node: NodeTable
    coordinator: CoordinatorTable
    link: LinkTable = LinkTable()
    vault: VaultTable = VaultTable()
    policy: PolicyTable
    consent: ConsentTable
    permit: PermitTable = PermitTable()
    log: LogTable = LogTable()
    dataset: Annotated[tuple[DatasetTable, ...], Field(min_length=1)]
    encoder: tuple[EncoderTable, ...] = ()

    _folder: Path = PrivateAttr(default=Path())
    _file: Path | None = PrivateAttr(default=None)
    _text: bytes = PrivateAttr(default=b"")

    @property
    def file(self) -> Path | None:
        """The file that was read; None for a configuration that was made otherwise."""
        return self._file

    @property
    def text(self) -> bytes:
        """The bytes of the file, as they were read."""
        return self._text

    def path(self, text: str) -> Path:
        """Return a path of the file, relative to the file's folder."""
        return self._folder / text

    @property
    def state(self) -> Path:
        """The folder of keys, ledger, results and log."""
        return self.path(self.node.state)


def fitting_dataset(config: NodeConfig, connector: str) -> DatasetTable:
    """Return the node's one data set of a kind.

    Raises:
        ConfigurationError: SB-103, there is none, or there are several.
    """
    fitting = [dataset for dataset in config.dataset if dataset.gives == connector]
    if len(fitting) != 1:
        raise ConfigurationError(
            "SB-103",
            f"node.toml has {counted(len(fitting), 'data set')} for the connector {connector}; one is needed",
        )
    return fitting[0]


def load_node_config(path: Path) -> NodeConfig:
    """Read node.toml, or the node.toml of a folder.

    Raises:
        ConfigurationError: SB-101, SB-102 or SB-103.
    """
    file = path / "node.toml" if path.is_dir() else path
    if not file.exists():
        raise ConfigurationError(
            "SB-101",
            f"{file} is not there",
            "Name the node: its folder or its node.toml. `solblom node init` makes a new one",
        )
    text = read_text(file)
    config = parse(NodeConfig, parse_toml(text, source=file), source=file.name)
    config._folder, config._file, config._text = file.parent, file, text
    return config
