"""What a run's exchanges share: the run itself, and one question to all its hospitals."""

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from flwr.app import ArrayRecord
from flwr.serverapp import Grid

from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.layout import Layout
from solblom_protocol.messages.order import OrderKind, RosterEntry
from solblom_protocol.messages.seal import LockedArray, lock
from solblom_protocol.studies.privacy_event import PrivacyEvent
from solblom_protocol.studies.study import StudyDocument
from solblom_server.coordinator import Coordinator
from solblom_server.database import Database
from solblom_server.log.transparency_log import TransparencyLog
from solblom_server.transports.grids.sealed import shared_body
from solblom_verify.canonical import digest


def utc_now() -> dt.datetime:
    """Return the present moment in UTC."""
    return dt.datetime.now(dt.UTC)


@dataclass(frozen=True)
class RunContext:
    """Everything a run needs, fixed before its first round."""

    grid: Grid
    coordinator: Coordinator
    database: Database
    run: str
    document: StudyDocument
    nodes: dict[str, PublicKeys]  # by site
    addresses: dict[str, int]  # Flower node id by site
    layout: Layout
    folder: Path
    clock: Callable[[], dt.datetime] = utc_now

    @cached_property  # it stands in every order, and each entry hashes a key
    def roster(self) -> list[RosterEntry]:
        """All nodes of the run, sorted by site."""
        return [RosterEntry(site=s, node=self.nodes[s].key_id) for s in sorted(self.nodes)]

    @cached_property
    def log(self) -> TransparencyLog:
        """The coordinator's log, open as long as the run is conducted."""
        return self.coordinator.log()


@dataclass(frozen=True)
class Question:
    """What one exchange asks of every node.

    Attributes:
        number: of the round or of the release.
        array: bytes of the model; empty for Table 1.
        layout: names and shapes in the array.
        event: what an answer does to patients; an answer with another one is refused.
        take: folds the bytes of one result; raises IntegrityError for what does not belong.
        masking: with shared noise, what hospitals signed about masks, as the order says.
        own_masking: the same where each site is shown something else.
        head: which head of the coordinator's log is shown, by its size; None: the newest.
    """

    kind: OrderKind
    number: int
    array: bytes
    layout: Layout
    event: PrivacyEvent | None
    take: Callable[[str, bytes | memoryview], None]
    masking: tuple[str, ...] = ()
    own_masking: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    head: int | None = None

    @cached_property
    def base_model(self) -> str:
        """Digest of the model; hashed once, not once a node."""
        return digest(self.array)

    @cached_property
    def locked(self) -> LockedArray:
        """The model as it travels: encrypted once, so that a courier may carry the same bytes to all."""
        return lock(self.array)

    @cached_property
    def body(self) -> ArrayRecord:
        """The locked model as a record of Flower's, which orders share."""
        return shared_body(self.locked.ciphertext)
