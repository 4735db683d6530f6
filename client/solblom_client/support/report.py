"""What a support bundle may say: this list, and nothing else. There is no filter that looks for secrets.

Every text is one of a few words that stand here, a code of ours, or a version; nothing is copied from node.toml, a
path, a log or an error. A field that could hold free text cannot be added without the test that walks these models
saying so. No key, root, digest, name, address or count of patients has a place (privacy.md rules 2, 9 and 12).

Left out though it would help: which inside code (SB-3xx) a refusal had, and where in the code it was raised. Both
depend on patients' data, and refusals that do share one code outside (privacy.md rule 5). Also the size of what is
kept by patient, and `policy.min_patients`, which together with such a refusal would bound a count.
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from solblom_client.checks.node_check import NODE_CHECKS
from solblom_protocol.errors import CODES
from solblom_protocol.messages.message import Message

MOST_DAYS, MOST_TIMES = 100_000, 10**9  # more is said as this
Code = Annotated[str, Field(pattern=r"^SB-[1-6][0-9]{2}$")]
# No letters but those that versions have: a sentence or an id does not fit.
VersionText = Annotated[
    str, Field(pattern=r"^[0-9]{1,8}(\.[0-9]{1,8}){0,4}((a|b|rc|\.post|\.dev)[0-9]{1,4})?(\+cpu)?$")
]
Day = Annotated[str, Field(pattern=r"^20[0-9]{2}-[0-9]{2}-[0-9]{2}$")]
Mode = Annotated[str, Field(pattern=r"^[0-7]{4}$")]
Package = Literal[
    "cryptography",
    "dp-accounting",
    "flwr",
    "grpcio",
    "httpx",
    "numpy",
    "opacus",
    "protobuf",
    "pyarrow",
    "pydantic",
    "safetensors",
    "securesystemslib",
    "solblom-client",
    "solblom-models",
    "solblom-protocol",
    "solblom-verify",
    "torch",
]
Task = Literal[
    "tabular-classification", "phenotype-ranking", "tile-classification", "slide-mil", "another"
]
Connector = Literal["table", "phenopackets", "slides", "tiles", "bags", "genotypes", "another"]
LightName = Literal["ok", "attention", "stop"]
FewOrMany = Literal["0", "1-9", "10-99", "100-999", "1000 or more"]
Size = Literal["empty", "below 64 KiB", "below 1 MiB", "below 16 MiB", "below 256 MiB", "more"]
Share = Literal["none", "up to a quarter", "up to half", "up to three quarters", "more", "all"]
Ago = Literal["below a minute", "below an hour", "below a day", "longer"]
Part = Literal[
    "state folder",
    "folder of keys",
    "signing key",
    "sealing key",
    "split key",
    "ledger",
    "log of decisions",
    "signed head of the log",
    "site log",
    "anchor",
    "folder of the socket",
    "socket of the vault",
    "folder of the link",
    "transport key",
    "consent source",
    "coordinator's key",
]


class _Table(Message):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Installed(_Table):
    """A package that matters to a node; None: it is not installed, or its version says more than a version."""

    package: Package
    version: VersionText | None


class MachineFacts(_Table):
    """What the node runs on. No name of the machine."""

    system: Literal["Linux", "another"]
    processor: Literal["x86_64", "aarch64", "another"]
    distribution: Literal[
        "debian", "ubuntu", "rhel", "rocky", "almalinux", "fedora", "sles", "another"
    ]
    distribution_version: VersionText | None
    kernel: VersionText | None
    glibc: VersionText | None
    python: VersionText
    openssl: VersionText
    sqlite: VersionText
    processors: Annotated[int, Field(ge=1, le=4096)]
    memory_gib: Annotated[int, Field(ge=0, le=65536)]
    container: bool
    systemd: bool


class Settings(_Table):
    """node.toml, redacted: switches and limits. No name, path, address or key."""

    tasks: tuple[Task, ...]
    researchers: FewOrMany
    epsilon_budget: float
    study_epsilon: float
    delta: float
    shared_noise: bool
    release: Literal["automatic", "manual"]
    hours: bool
    allow_privacy_off: bool
    consent_kind: Literal["csv", "fhir"]
    consent_rule: Literal["opt-in", "opt-out"]
    consent_max_age_hours: float
    permit_required: bool
    issuers: FewOrMany
    connectors: tuple[Connector, ...]
    order_minutes: float
    memory_gib: float
    isolation: Literal["required", "best-effort"]
    anchor: bool
    by_network: bool
    by_file: bool
    proxy: bool
    ca_file: bool
    syslog: Literal["none", "unix", "udp", "tcp"]
    retention_days: Annotated[int, Field(ge=1, le=MOST_DAYS)]
    simulation: bool


class CheckLight(_Table):
    """One check of `solblom node check`, without what it saw."""

    name: Annotated[str, Field(pattern="^(" + "|".join(NODE_CHECKS) + ")$")]
    light: LightName


class Halves(_Table):
    """What link and vault say of themselves."""

    paused: bool | None
    link: Literal[
        "not running",
        "starting",
        "connected",
        "paused",
        "unreachable",
        "stopped",
        "cannot be looked at",  # by the vault's user, under systemd: root says `solblom node status`
        "another",
    ]
    link_code: Code | None
    last_contact: Ago | None
    orders: FewOrMany
    replies: FewOrMany
    vault: Literal["ready", "working", "not running"]
    vault_code: Code | None
    cut_off_by: Literal["network-namespace+seccomp", "network-namespace", "seccomp", "none"] | None


class Refusals(_Table):
    """Refusals of the last days by the code that the coordinator was told: what it knows already."""

    code: Code
    times: Annotated[int, Field(ge=1, le=MOST_TIMES)]


class StateFile(_Table):
    """A file or folder of a node by its part in it, whatever it is called here."""

    part: Part
    kind: Literal["file", "folder", "socket", "link", "missing", "cannot be looked at", "another"]
    mode: Mode | None
    owner: Literal["this user", "root", "another"] | None
    size: Size | None  # where it does not follow the number of patients


class LedgerTotals(_Table):
    """The lifetime budget, in bands."""

    spent: Share | None
    studies: FewOrMany | None
    charges: FewOrMany | None
    code: Code | None  # why it could not be read


class SupportReport(_Table):
    """All of a support bundle."""

    schema_: Literal["solblom.node.support-bundle/1"] = Field(alias="schema")
    day: Day
    days: Annotated[int, Field(ge=1, le=366)]
    machine: MachineFacts
    packages: tuple[Installed, ...]
    settings: Settings | None
    settings_code: Code | None
    lights: tuple[CheckLight, ...]
    halves: Halves | None
    refusals: tuple[Refusals, ...]
    refusals_code: Code | None
    files: tuple[StateFile, ...]
    more_files: FewOrMany | None
    ledger: LedgerTotals | None


def known_code(text: object) -> str | None:
    """Return a code of ours; None for anything else."""
    return text if isinstance(text, str) and text in CODES else None


def few_or_many(count: int) -> FewOrMany:
    """Return the band of a count that is not of patients."""
    if count <= 0:
        return "0"
    if count < 10:
        return "1-9"
    if count < 100:
        return "10-99"
    return "100-999" if count < 1000 else "1000 or more"


def size_band(size: int) -> Size:
    """Return the band of a file's size, each sixteen times the one before."""
    bands: tuple[tuple[int, Size], ...] = (
        (2**16, "below 64 KiB"),
        (2**20, "below 1 MiB"),
        (2**24, "below 16 MiB"),
        (2**28, "below 256 MiB"),
    )
    if size <= 0:
        return "empty"
    return next((name for limit, name in bands if size < limit), "more")


def share_band(part: float, whole: float) -> Share:
    """Return how much of a budget is gone; what cannot be compared counts as all."""
    if not part >= 0.0 or not whole > 0.0 or part >= whole:
        return "all"
    bands: tuple[tuple[float, Share], ...] = (
        (0.0, "none"),
        (0.25, "up to a quarter"),
        (0.5, "up to half"),
        (0.75, "up to three quarters"),
    )
    return next((name for limit, name in bands if part <= limit * whole), "more")


def ago_band(seconds: float) -> Ago:
    """Return how long ago something was."""
    bands: tuple[tuple[float, Ago], ...] = (
        (60.0, "below a minute"),
        (3600.0, "below an hour"),
        (86400.0, "below a day"),
    )
    return next((name for limit, name in bands if seconds < limit), "longer")
