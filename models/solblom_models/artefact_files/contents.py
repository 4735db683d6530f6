"""What a finished run leaves, before it is written as an artefact."""

from dataclasses import dataclass, field

from solblom_models.replay_files import ReplayFiles
from solblom_models.statement import Charge
from solblom_protocol.messages.result import Receipt
from solblom_protocol.permits.permit import SignedPermit
from solblom_protocol.studies.study import StudyDocument


@dataclass(frozen=True)
class SiteRecord:
    """A hospital's public identity."""

    node_key: str  # PEM
    keyid: str


@dataclass(frozen=True)
class RoundRecord:
    """What one round did: `receipts` are (signed envelope, content) by site."""

    round: int
    base: str
    result: str
    opened: str
    closed: str
    receipts: dict[str, tuple[bytes, Receipt]]
    refusals: dict[str, str]
    missing: list[str]


@dataclass(frozen=True)
class EarlierVersion:
    """The version that a model supersedes: its digest, and the bytes of two of its files.

    It stands in the coordinator's own registry; its study is compared with its manifest before it is used.
    """

    artefact: str
    manifest: bytes
    study: bytes


@dataclass(frozen=True)
class ArtefactContents:
    """Everything that a finished run leaves. `weights` are the flat little-endian float32 bytes.

    Attributes:
        release_receipts: by <kind>-<number>-<site>.
        permits: those that the coordinator holds, each signed by an issuer that it pins.
        replay: what is kept so that anybody can add the rounds up again, or why nothing is.
        supersedes: the newest earlier version of the same name, where there is one.
        log: name of the coordinator's log in which the model will stand; None: in none.
    """

    document: StudyDocument
    study_envelope: bytes
    run: str
    simulation: bool
    weights: bytes
    sites: dict[str, SiteRecord]
    rounds: list[RoundRecord]
    charges: list[Charge]
    release_receipts: dict[str, bytes] = field(default_factory=dict)
    permits: tuple[SignedPermit, ...] = ()
    supersedes: EarlierVersion | None = None
    replay: ReplayFiles = field(default_factory=ReplayFiles)
    log: str | None = None
