"""Transports by name: each installed part may offer one through the entry-point group `solblom.transports`."""

from collections.abc import Callable, Collection
from contextvars import ContextVar
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from solblom_protocol.errors import RunError
from solblom_protocol.studies.study import StudyDocument

GROUP = "solblom.transports"

Progress = Callable[[int, int, str], None]
"""Called with (round, rounds, what happened)."""

PROGRESS: ContextVar[Progress] = ContextVar("PROGRESS", default=lambda number, rounds, text: None)


class Transport(Protocol):
    """A courier that is ready: a Flower Grid and the address of each site.

    Attributes:
        simulation: True where one machine plays all hospitals.
    """

    simulation: bool
    addresses: dict[str, int]

    @property
    def grid(self) -> Any:
        """The Flower Grid."""
        ...

    def evaluate(
        self,
        document: StudyDocument,
        weights: bytes,
        sites: Collection[str],
        left_out: dict[str, str],
    ) -> dict[str, Any] | None:
        """Return exact metrics in a simulation; None where hospitals are real (privacy.md rule 9).

        `sites` gave an update in the run; `left_out` are the others of the run, with the reason.
        """
        ...

    def close(self) -> None:
        """End whatever the transport started."""
        ...


class RealHospitals:
    """What transports to real hospitals share: nobody has all data, so nobody has exact metrics."""

    simulation = False

    def evaluate(
        self,
        document: StudyDocument,
        weights: bytes,
        sites: Collection[str],
        left_out: dict[str, str],
    ) -> dict[str, Any] | None:
        """Return nothing: where hospitals are real, no exact metric exists (privacy.md rule 9)."""
        return None


def open_transport(name: str, home: Path) -> Transport:
    """Return the transport of that name for the federation in `home`.

    Raises:
        RunError: SB-505, no installed part offers it.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        known = ", ".join(sorted(points)) or "none"
        raise RunError(
            "SB-505",
            f"The transport {name} is not installed; installed: {known}",
            "Say how orders travel, such as --transport network; `local` needs the simulation part",
        )
    transport: Transport = points[name].load()(home)
    return transport
