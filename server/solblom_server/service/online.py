"""Which hospitals are connected right now, asked of our own SuperLink."""

from pathlib import Path

from solblom_server.coordinator import DATABASE_FILE
from solblom_server.database import Database
from solblom_server.service.status import service_status


def online_sites(home: Path) -> set[str] | None:
    """Return the sites whose nodes are connected; None where no service can tell."""
    status = service_status(home)
    if not status or not status.get("superlink_port"):
        return None
    from solblom_protocol.errors import RunError
    from solblom_server.service.superlink import Control

    control = Control(home, int(status["superlink_port"]))
    try:
        online = {node.key.strip() for node in control.nodes() if node.online}
    except RunError:
        return None
    finally:
        control.close()
    database = Database(home / DATABASE_FILE)
    links = database.links()
    database.close()
    return {site for site, row in links.items() if row.transport_key.encode().strip() in online}
