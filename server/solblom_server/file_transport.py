"""`--transport files`: every enrolled hospital behind a folder for orders and one for replies."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from solblom_protocol.errors import RunError
from solblom_protocol.study import StudyDocument
from solblom_server.coordinator import Coordinator
from solblom_server.grids.files import FileGrid

EXCHANGE = "exchange"


class FileTransport:
    """The enrolled hospitals of a home folder, behind the file grid."""

    simulation = False

    def __init__(self, home: Path) -> None:
        sites = [node.name for node in Coordinator.open(home).nodes()]
        if not sites:
            raise RunError("SB-505", f"{home} has no enrolled hospitals")
        self.addresses = {site: number for number, site in enumerate(sites, start=1)}
        self.folders = {number: home / EXCHANGE / site for site, number in self.addresses.items()}
        self.grid = FileGrid(self.folders)

    def evaluate(
        self,
        document: StudyDocument,
        weights: bytes,
        sites: Collection[str],
        left_out: dict[str, str],
    ) -> dict[str, Any] | None:
        """Return nothing: where hospitals are real, no exact metric exists (privacy.md rule 9)."""
        return None

    def close(self) -> None:
        """Leave the folders as they are: their files outlive this process."""
