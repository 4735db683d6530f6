"""What the node signs when a person approves a study, where it stands, and how it ends."""

import datetime as dt
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from solblom_client.approvals.study_changes import ApprovedBefore
from solblom_client.keys import SECRET_BYTES, NodeKeys
from solblom_client.masks.record import MaskRecord
from solblom_client.policy import NodeConfig
from solblom_client.state import VaultState
from solblom_protocol.console import printable
from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.messages.message import (
    Digest,
    KeyId,
    Message,
    SiteName,
    Timestamp,
    parse_message,
    parse_timestamp,
)
from solblom_protocol.studies.study import study_payload
from solblom_verify.canonical import CanonicalError, digest, parse_json
from solblom_verify.envelope import (
    EnvelopeError,
    key_id,
    open_envelope,
    public_key_from_pem,
    public_key_to_pem,
)

APPROVAL_PAYLOAD_TYPE = "application/vnd.solblom.approval+json"
RECORDS = ("approval.dsse.json", "withdrawn.dsse.json")  # of a study that runs, and of one that ran


class ApprovalRecord(Message):
    """What the node signs when a person approves a study."""

    schema_: Literal["solblom.approval/2", "solblom.approval/3"] = Field(alias="schema")
    site: SiteName
    node: KeyId
    study: Digest
    dataset: SiteName
    code: Digest
    root_commitment: Digest
    simulation: bool  # the noise root may follow from a public seed
    approved: Timestamp
    permit: Digest | None = None  # approval/2 had none
    root_until: Timestamp | None = None  # the permit's date, from which there is no root (rule 12)


def approval_folder(config: NodeConfig, study: str) -> Path:
    """Return the folder of a study's approval."""
    return config.state / "approvals" / study.removeprefix("sha256:")


def read_record(path: Path, keys: NodeKeys) -> ApprovalRecord:
    """Return the approval in a file, signed by this node.

    Raises:
        IntegrityError: SB-405.
    """
    try:
        return _open_record(path.read_bytes(), public_key_to_pem(keys.signing.public_key()))
    except (EnvelopeError, OSError):
        raise IntegrityError("SB-405", "The stored approval is not signed by this node") from None


@lru_cache(maxsize=64)  # all approvals are looked at before every order
def _open_record(envelope: bytes, pem: str) -> ApprovalRecord:
    public = public_key_from_pem(pem)
    opened = open_envelope(
        envelope, payload_type=APPROVAL_PAYLOAD_TYPE, keys={key_id(public): public}
    )
    return parse_message(ApprovalRecord, opened.payload)


def end_expired(
    config: NodeConfig, keys: NodeKeys, state: VaultState, *, now: dt.datetime
) -> list[str]:
    """Wipe the noise roots whose permit's date has come, and end their approvals; return these studies.

    The root goes first here: a crash in between leaves an approval that is ended the next time (privacy.md rule 12).
    """
    ended = []
    for path in sorted((config.state / "approvals").glob("*/approval.dsse.json")):
        try:
            record = read_record(path, keys)
        except IntegrityError:
            continue  # every order of this study is refused as it is
        if record.root_until is None or now < parse_timestamp(record.root_until):
            continue
        wipe_secrets(path.parent)
        MaskRecord(state).close_study(record.study)
        set_aside(path.parent)
        ended.append(record.study)
    return ended


def last_approved(config: NodeConfig, keys: NodeKeys, name: str) -> ApprovedBefore | None:
    """Return the newest version of a study, by its name, that this hospital has approved; withdrawn ones count."""
    found: list[ApprovedBefore] = []
    for folder in sorted((config.state / "approvals").glob("*")):
        path = next((folder / file for file in RECORDS if (folder / file).is_file()), None)
        try:
            if path is None:
                continue
            record = read_record(path, keys)
            payload = study_payload((folder / "study.dsse.json").read_bytes())
        except (IntegrityError, ConfigurationError, OSError):
            continue  # nothing that could be compared
        before = ApprovedBefore.of(payload, approved=record.approved, code=record.code)
        if digest(payload) == record.study and before.name == name:
            found.append(before)
    return max(found, key=lambda before: before.approved, default=None)


def study_titles(config: NodeConfig) -> dict[str, str]:
    """Return the titles of the studies that were ever approved here, by digest; what cannot be read has none."""
    found: dict[str, str] = {}
    for folder in sorted((config.state / "approvals").glob("*")):
        try:
            payload = study_payload((folder / "study.dsse.json").read_bytes())
            value: Any = parse_json(payload)
            title = value["study"]["study"]["title"]
        except (IntegrityError, CanonicalError, OSError, LookupError, TypeError):
            continue
        if digest(payload) == f"sha256:{folder.name}" and isinstance(title, str):
            found[digest(payload)] = printable(title)
    return found


def set_aside(folder: Path) -> None:
    """End an approval; what it said is kept, so that a later version can be compared with it."""
    current = folder / "approval.dsse.json"
    if current.is_file():
        current.replace(folder / "withdrawn.dsse.json")


def wipe_secrets(folder: Path) -> None:
    """Wipe a study's noise root and mask keys."""
    for secret in (folder / "noise.root", *folder.glob("mask-*.key")):
        if secret.is_file():
            secret.write_bytes(os.urandom(SECRET_BYTES))
            secret.unlink()
