"""The front as a process: TLS, the filter, and the list of keys that may pass, read anew each second."""

import json
import sys
import time
from pathlib import Path

import uvicorn

from solblom_server.coordinator import DATABASE_FILE
from solblom_server.database import Database
from solblom_server.service.certificates import FOLDER as TLS
from solblom_server.service.front import FrontSettings, create_front
from solblom_server.service.front_connection import ImpatientConnection
from solblom_server.service.status import STATUS_FILE
from solblom_server.settings import listens_at, read_network

KEYS_SECONDS = 1.0
CONNECTIONS = 500
HEADER_BYTES = 64 * 1024
"""Of a request; Flower's have about 1 KiB."""


class EnrolledKeys:
    """Tells whether a key is enrolled; asks the database at most once a second."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._keys: frozenset[bytes] = frozenset()
        self._read_at = float("-inf")

    def __call__(self, key: bytes) -> bool:
        """Tell whether a transport key (PEM bytes) belongs to an enrolled hospital."""
        if time.monotonic() - self._read_at > KEYS_SECONDS:
            rows = self._database.links().values()
            self._keys = frozenset(r.transport_key.encode() for r in rows if r.route == "network")
            self._read_at = time.monotonic()
        return key in self._keys


def main() -> None:
    """Serve until SIGTERM; the first argument is the coordinator's folder."""
    home = Path(sys.argv[1])
    host, port = listens_at(read_network(home))
    upstream = json.loads((home / STATUS_FILE).read_text())["superlink_fleet_port"]
    app = create_front(
        FrontSettings(f"127.0.0.1:{upstream}", home / TLS / "authority.pem"),
        EnrolledKeys(Database(home / DATABASE_FILE)),
    )
    uvicorn.run(
        app,
        host=host,
        port=port,
        ssl_certfile=home / TLS / "server.pem",
        ssl_keyfile=home / TLS / "server.key",
        http=ImpatientConnection,  # h11: httptools takes headers without end, of anybody
        h11_max_incomplete_event_size=HEADER_BYTES,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        limit_concurrency=CONNECTIONS,
    )
