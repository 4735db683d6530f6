"""`--transport network`: the hospitals behind the coordinator's service, each by HTTPS or by file as enrolled."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from solblom_protocol.errors import RunError
from solblom_server.coordinator import Coordinator
from solblom_server.database import Database, RunRow
from solblom_server.log.entries import NOT_YET
from solblom_server.service.status import service_status
from solblom_server.transports.transports import PROGRESS, RealHospitals
from solblom_verify.wording import counted

TRANSPORTS = frozenset({"network", "simulated-network"})
"""Transports whose runs the service conducts."""
LOOK_SECONDS = 0.3
SILENT_SECONDS = 10.0
"""A round that takes longer is explained: whom it waits for."""
WITHOUT_SERVICE_SECONDS = 90.0
"""How long a service may be away (a restart) before a waiting command says so and ends."""


class NetworkTransport(RealHospitals):
    """The enrolled hospitals of a home folder; their runs are conducted by the service, not by this process."""

    def __init__(self, home: Path) -> None:
        self._home = home
        database = Coordinator.open(home).database()
        self.addresses = {site: number for number, site in enumerate(database.links(), start=1)}
        database.close()

    @property
    def grid(self) -> None:
        """None: Flower gives its grid to the process that it starts."""
        return None

    def follow(self, database: Database, run: str, rounds: int) -> str:
        """Wait until the service has conducted a run; return its last status.

        Raises:
            RunError: SB-630, no service is there to do it.
        """
        told, away_since = _Told(), None
        while True:
            row = database.run(run)
            told.tell(database, row, rounds)
            if row.status not in ("open", "evaluating", "witnessing", "stopping"):
                return row.status
            if service_status(self._home) is not None:
                away_since = None
            elif away_since is None:
                away_since = time.monotonic()
            elif time.monotonic() - away_since > self.patience_seconds:
                raise RunError(
                    "SB-630",
                    f"No service runs for {self._home}; {run} waits and goes on when it does",
                )
            time.sleep(LOOK_SECONDS)

    patience_seconds = WITHOUT_SERVICE_SECONDS

    def close(self) -> None:
        """Leave the service as it is."""


@dataclass
class _Told:
    """What a waiting person has been told."""

    closed: int = 0
    at: float = field(default_factory=time.monotonic)
    text: str = ""

    def tell(self, database: Database, row: RunRow, rounds: int) -> None:
        """Say which rounds have closed since, and whom a long one waits for."""
        closed = sum(r.status == "closed" for r in database.rounds(row.id))
        hospitals = len(row.roster.split(","))
        if closed > self.closed:
            gave = sum(r.kind == "result" and r.round == closed for r in database.replies(row.id))
            text = f"{gave} of {counted(hospitals, 'hospital')}"
        elif closed < rounds and time.monotonic() - self.at > SILENT_SECONDS:
            text = waiting_for(database, row, closed + 1)
        else:
            return
        if (closed, text) != (self.closed, self.text):
            PROGRESS.get()(closed, rounds, text)
        self.closed, self.at, self.text = closed, time.monotonic(), text


def waiting_for(database: Database, row: RunRow, number: int) -> str:
    """Return in words whom an open round waits for, with what was last heard of them."""
    answered = {
        r.site
        for r in database.replies(row.id)
        if r.round == number and r.kind != "invalid" and r.code != NOT_YET
    }
    held = {r.site for r in database.replies(row.id) if r.round == number and r.code == NOT_YET}
    links = database.links()
    words = []
    for site in sorted(set(row.roster.split(",")) - answered):
        heard = links[site].code or links[site].state if site in links else None
        if site in held:
            heard = f"{NOT_YET}: it has not said yes or no yet"
        words.append(site if heard in (None, "answered") else f"{site} ({heard})")
    return f"round {number} waits for {', '.join(words)}" if words else f"round {number}"
