"""`--transport files`: every enrolled hospital behind a folder for orders and one for replies."""

from pathlib import Path

from solblom_protocol.errors import RunError
from solblom_server.coordinator import Coordinator
from solblom_server.transports.grids.files import FileGrid
from solblom_server.transports.transports import RealHospitals

EXCHANGE = "exchange"


class FileTransport(RealHospitals):
    """The enrolled hospitals of a home folder, behind the file grid."""

    def __init__(self, home: Path) -> None:
        sites = [node.name for node in Coordinator.open(home).nodes()]
        if not sites:
            raise RunError("SB-505", f"{home} has no enrolled hospitals")
        self.addresses = {site: number for number, site in enumerate(sites, start=1)}
        self.folders = {number: home / EXCHANGE / site for site, number in self.addresses.items()}
        self.grid = FileGrid(self.folders)

    def close(self) -> None:
        """Leave the folders as they are: their files outlive this process."""
