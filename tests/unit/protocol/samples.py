"""Keys, headers and study files that the protocol's tests share. Every key follows from a number."""

import copy
import datetime as dt
from pathlib import Path
from typing import Any

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lab import CONTRACT, STUDY
from solblom_protocol.messages.order import OrderHeader, RosterEntry
from solblom_protocol.messages.result import Receipt
from solblom_verify.canonical import digest
from solblom_verify.envelope import key_id


def signing_key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def sealing_key(number: int) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(bytes([number]) * 32)


COORDINATOR, NODE, STRANGER = signing_key(1), signing_key(2), signing_key(3)
COORDINATOR_SEALING, NODE_SEALING, STRANGER_SEALING = (sealing_key(n) for n in (4, 5, 6))
COORDINATOR_ID, NODE_ID = key_id(COORDINATOR.public_key()), key_id(NODE.public_key())
ARRAY = bytes(range(24))
EVENT = {
    "kind": "poisson-gaussian",
    "sampling_rate": "0.5",
    "noise_multiplier": "2.5000",
    "steps": 1,
    "patients_from": "0",
    "patients_to": "1",
}


def study_tables(**changes: dict[str, Any]) -> dict[str, Any]:
    """Return the laboratory's study; a changed value of None takes the key away."""
    tables: dict[str, Any] = copy.deepcopy(STUDY)
    tables["study"]["ends"] = dt.date(2027, 12, 31)
    for name, change in changes.items():
        table = tables.setdefault(name, {})
        table.update(change)
        tables[name] = {key: value for key, value in table.items() if value is not None}
    return tables


def contract_tables() -> dict[str, Any]:
    return copy.deepcopy(CONTRACT)


def write_study(
    folder: Path, *, contract: dict[str, Any] | None = None, **changes: dict[str, Any]
) -> Path:
    """Write study.toml and contract.toml; return the study file."""
    (folder / "contract.toml").write_text(tomli_w.dumps(contract or CONTRACT), encoding="utf-8")
    path = folder / "study.toml"
    path.write_text(tomli_w.dumps(study_tables(**changes)), encoding="utf-8")
    return path


def order_header(**changes: Any) -> OrderHeader:
    values: dict[str, Any] = {
        "schema": "solblom.order/1",
        "kind": "train",
        "coordinator": COORDINATOR_ID,
        "site": "north",
        "node": NODE_ID,
        "study": digest(b"study"),
        "run": "lab-1",
        "round": 1,
        "attempt": 1,
        "issued": "2026-11-22T12:00:00Z",
        "expires": "2026-11-22T13:00:00Z",
        "base_model": digest(ARRAY),
        "layout": [{"name": "w", "shape": [2, 3]}],
        "roster": [RosterEntry(site="north", node=NODE_ID)],
        "noise": "local",
        "previous_order": None,
        "last_receipt": None,
        "masking": (),
    }
    return OrderHeader(**(values | changes))


def receipt(update: bytes = ARRAY, **changes: Any) -> Receipt:
    values: dict[str, Any] = {
        "schema": "solblom.receipt/1",
        "kind": "train",
        "outside_epsilon": [],
        "site": "north",
        "node": NODE_ID,
        "study": digest(b"study"),
        "run": "lab-1",
        "round": 1,
        "base_model": digest(b"model"),
        "order": digest(b"order"),
        "work": digest(b"work"),
        "update": digest(update),
        "event": EVENT,
        "noise_commitment": digest(b"commitment"),
        "cohort": digest(b"cohort"),
        "consent": digest(b"consent"),
        "patients": "50-99",
        "code": digest(b"code"),
        "fixed_point_bits": 24,
        "simulation": False,
    }
    return Receipt(**(values | changes))
