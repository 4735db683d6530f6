"""The coordinator's trust file: whose signatures count on its models. Every change gives it the next version.

Whoever verifies pins this file, so a change counts there only once the new file has been handed out.
"""

import datetime as dt
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_protocol.errors import ConfigurationError
from solblom_protocol.keys.public_keys import PublicKeys
from solblom_protocol.messages.message import timestamp
from solblom_verify.canonical import canonical_json, parse_json, read_file
from solblom_verify.envelope import key_id, public_key_to_pem
from solblom_verify.trust import TrustError, load_trust

TRUST_FILE = "trust.json"


def read_trust(home: Path) -> dict[str, Any]:
    """Return the members of the home's trust file, which is valid.

    Raises:
        ConfigurationError: SB-112.
    """
    try:
        load_trust(home / TRUST_FILE)
        value: Any = parse_json(read_file(home / TRUST_FILE))
    except (TrustError, OSError, ValueError) as error:
        raise ConfigurationError("SB-112", str(error)) from None
    return dict(value)


def add_key(
    home: Path,
    key: Ed25519PublicKey,
    *,
    name: str,
    role: str,
    since: dt.datetime | None = None,
    until: dt.datetime | None = None,
    threshold: int | None = None,
) -> int:
    """Add a key, or change what is said of one that stands there; return the new version.

    Raises:
        ConfigurationError: SB-112; SB-103, the file would not be valid.
    """
    trust = read_trust(home)
    entry = {
        "keyid": key_id(key),
        "name": name,
        "role": role,
        "public_key": public_key_to_pem(key),
        **({} if since is None else {"from": timestamp(since)}),
        **({} if until is None else {"until": timestamp(until)}),
    }
    others = [other for other in trust["keys"] if other["keyid"] != entry["keyid"]]
    changes: dict[str, Any] = {"keys": [*others, entry]}
    if threshold is not None:
        changes["threshold"] = threshold
    return _write(home, trust | changes)


def pin_witnesses(home: Path, nodes: Sequence[PublicKeys], *, quorum: int | None) -> int:
    """Pin the hospitals' keys as witnesses, beside those that are pinned; return the new version.

    A hospital that has replaced its key keeps the old one too: old models are cosigned with it. `quorum` None: all
    hospitals of a model's run but one, and more than half, must have cosigned.

    Raises:
        ConfigurationError: SB-112; SB-103, the file would not be valid.
    """
    witnesses = [
        {"keyid": node.key_id, "name": node.name, "public_key": public_key_to_pem(node.signing)}
        for node in nodes
    ]
    trust, keys = read_trust(home), {witness["keyid"] for witness in witnesses}
    kept = [old for old in trust.pop("witnesses", []) if old["keyid"] not in keys]
    trust.pop("quorum", None)
    needed = {} if quorum is None else {"quorum": quorum}
    return _write(home, trust | {"witnesses": kept + witnesses} | needed)


def _write(home: Path, trust: dict[str, Any]) -> int:
    """Write the next version whole or not at all, if the verifier can read it."""
    trust = trust | {"version": trust["version"] + 1}
    partial = home / f".{TRUST_FILE}.partial"
    with partial.open("wb") as file:
        file.write(canonical_json(trust))
        file.flush()
        os.fsync(file.fileno())
    try:
        load_trust(partial)
    except TrustError as error:
        partial.unlink()
        reason = str(error).removeprefix(f"{partial}: ")
        raise ConfigurationError("SB-103", f"The trust file would not be valid: {reason}") from None
    partial.replace(home / TRUST_FILE)
    return int(trust["version"])
