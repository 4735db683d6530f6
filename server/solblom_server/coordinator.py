"""The coordinator's folder: keys, database, runs and models of one federation.

solblom.toml  trust.json  coordinator.pub  coordinator.sqlite
keys/  nodes/<site>.pub  log/transparency.sqlite  runs/<run>/checkpoints/  models/<name>-v<n>/
"""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from solblom_protocol.errors import ConfigurationError
from solblom_protocol.home import MARKER
from solblom_protocol.keys.key_files import (
    private_pem,
    public_pem,
    read_sealing_key,
    read_signing_key,
    write_new,
)
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.toml_file import parse
from solblom_server.database import Database
from solblom_server.log.transparency_log import TransparencyLog
from solblom_server.service.certificates import create_certificates
from solblom_server.settings import Settings, split_address
from solblom_verify.canonical import canonical_json

TRUST_EXPIRES = "2036-12-31T00:00:00Z"
DATABASE_FILE = "coordinator.sqlite"


@dataclass(frozen=True)
class Coordinator:
    """The coordinator's keys and folder."""

    home: Path
    signing: Ed25519PrivateKey
    sealing: X25519PrivateKey

    @classmethod
    def open(cls, home: Path) -> "Coordinator":
        """Open an existing folder.

        Raises:
            ConfigurationError: SB-109.
        """
        return cls(
            home,
            read_signing_key(home / "keys" / "coordinator-signing.key"),
            read_sealing_key(home / "keys" / "coordinator-sealing.key"),
        )

    @property
    def public(self) -> PublicKeys:
        """What hospitals pin."""
        return PublicKeys("coordinator", self.signing.public_key(), self.sealing.public_key())

    def database(self) -> Database:
        """Open the database."""
        return Database(self.home / DATABASE_FILE)

    def log(self) -> TransparencyLog:
        """Open the log that hospitals witness."""
        return TransparencyLog(self.home, self.signing)

    def nodes(self) -> list[PublicKeys]:
        """Return the enrolled nodes, sorted by site."""
        return [PublicKeys.read(path) for path in sorted((self.home / "nodes").glob("*.pub"))]

    def enrol(
        self, node: PublicKeys, *, transport_key: str | None = None, route: str = "network"
    ) -> None:
        """Add a node whose fingerprint was compared; `transport_key` None: simulated, reached by no link.

        Raises:
            ConfigurationError: SB-113, the site is enrolled.
        """
        write_new(self.home / "nodes" / f"{node.name}.pub", node.to_bytes(), mode=0o644)
        if transport_key is not None:
            database = self.database()
            database.add_link(node.name, transport_key, route=route)
            database.close()

    def remove(self, site: str) -> None:
        """Shut a node out: its keys stay in nodes/removed/, because old models name them.

        Raises:
            ConfigurationError: SB-103, there is none.
        """
        path = self.home / "nodes" / f"{site}.pub"
        if not path.is_file():
            raise ConfigurationError("SB-103", f"No hospital {site} is enrolled")
        database = self.database()
        database.remove_link(site)
        database.close()
        removed = self.home / "nodes" / "removed"
        removed.mkdir(exist_ok=True)
        number = len(list(removed.glob(f"{site}-*.pub"))) + 1
        path.rename(removed / f"{site}-{number}.pub")


def create_coordinator(
    home: Path,
    *,
    name: str,
    entropy: Callable[[str], bytes],
    address: str | None = None,
    listen: str | None = None,
) -> Coordinator:
    """Make a new coordinator's folder: keys, trust file, empty database; with an `address`, certificates too.

    Raises:
        ConfigurationError: SB-113, there is one.
    """
    keys = home / "keys"
    coordinator = Coordinator(
        home,
        Ed25519PrivateKey.from_private_bytes(entropy("coordinator-signing")),
        X25519PrivateKey.from_private_bytes(entropy("coordinator-sealing")),
    )
    tables: dict[str, dict[str, str]] = {"federation": {"name": name}}
    if address is not None:
        tables["network"] = {"address": address} | ({} if listen is None else {"listen": listen})
        parse(Settings, tables, source=MARKER)  # before anything is written
    write_new(home / MARKER, tomli_w.dumps(tables).encode(), mode=0o644)
    if address is not None:
        create_certificates(home, split_address(address)[0], now=dt.datetime.now(dt.UTC))
    write_new(keys / "coordinator-signing.key", private_pem(coordinator.signing))
    write_new(keys / "coordinator-sealing.key", private_pem(coordinator.sealing))
    write_new(home / "coordinator.pub", coordinator.public.to_bytes(), mode=0o644)
    write_new(home / "trust.json", _trust(coordinator), mode=0o644)
    coordinator.database().close()
    return coordinator


def _trust(coordinator: Coordinator) -> bytes:
    public = coordinator.public
    return canonical_json(
        {
            "schema": "solblom.trust/1",
            "version": 1,
            "expires": TRUST_EXPIRES,
            "threshold": 1,
            "keys": [
                {
                    "keyid": public.key_id,
                    "name": "coordinator",
                    "role": "coordinator",
                    "public_key": public_pem(public.signing),
                }
            ],
        }
    )
