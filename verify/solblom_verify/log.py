"""The coordinator's log: a signed head that hospitals cosign, and proof that entries stand in it.

A checkpoint is a C2SP signed note (https://c2sp.org/signed-note, tlog-checkpoint) with cosignatures
of witnesses (https://c2sp.org/tlog-cosignature), here in exactly one spelling; the tree is that of
RFC 6962, section 2.1, over the canonical bytes of each entry.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from solblom_verify.canonical import canonical_json, parse_canonical
from solblom_verify.envelope import decode_base64
from solblom_verify.shape import JsonObject

ENTRY_SCHEMA = "solblom.log-entry/1"
EXPORT_SCHEMA = "solblom.log-export/1"
INCLUSION_SCHEMA = "solblom.inclusion/1"
# fmt: off
_NOTE = re.compile(
    r"(?P<body>(?P<origin>[!-~]+)\n(?P<size>[1-9][0-9]{0,15})\n(?P<root>[!-~]{44})\n)\n"
    r"(?P<signatures>(?:\u2014 [!-~]+ [!-~]+\n)+)"
)
# fmt: on
_SIGNATURE = re.compile(r"\u2014 ([!-~]+) ([!-~]+)\n")
_ED25519, _COSIGNATURE_V1 = b"\x01", b"\x04"  # types of key in a signed note
_MAX_NOTE = 64 * 1024


class LogError(ValueError):
    """A checkpoint or a proof does not hold, for the reason given."""


Witnesses: TypeAlias = Collection[tuple[str, Ed25519PublicKey]]
"""Who may cosign: names and keys; one name has several keys where a witness replaced its own."""


@dataclass(frozen=True)
class Cosignature:
    """A witness's signature on a head: when, and by which key."""

    time: datetime
    key: Ed25519PublicKey


@dataclass(frozen=True)
class Checkpoint:
    """A head of the log, the coordinator's signature and every cosignature verified."""

    origin: str
    size: int  # entries
    root: bytes
    cosigned: Mapping[str, Cosignature]  # by name of the witness


def open_checkpoint(
    note: bytes,
    origin: str,
    coordinator: Ed25519PublicKey,
    witnesses: Witnesses,
    *,
    strangers: bool = False,
) -> Checkpoint:
    """Verify a checkpoint: first the coordinator's signature, then witnesses' by name.

    Args:
        note: the bytes of the note.
        origin: the log's name, which is the name of the coordinator's key too.
        coordinator: the key that signs the log.
        witnesses: who may cosign.
        strangers: leave out cosignatures of others instead of refusing them.

    Raises:
        LogError: another form or order, another log, a signature that does not hold.
        EnvelopeError: base64 in another spelling.
    """
    match = _NOTE.fullmatch(note.decode("utf-8")) if len(note) <= _MAX_NOTE else None
    if match is None or match["origin"] != origin:
        raise LogError(f"not a checkpoint of the log {origin}")
    body = match["body"].encode()
    (first, signature), *cosignatures = _SIGNATURE.findall(match["signatures"])
    hashed, signature = _split_signature(signature)
    if first != origin or hashed != _key_hash(origin, coordinator, _ED25519):
        raise LogError("the first signature is not by the coordinator's key")
    _verify(origin, coordinator, signature, body)
    if [name for name, _ in cosignatures] != sorted({name for name, _ in cosignatures}):
        raise LogError("cosignatures are not in order of name, each once")
    known = {(name, _key_hash(name, key, _COSIGNATURE_V1)): key for name, key in witnesses}
    cosigned = {}
    for name, data in cosignatures:
        hashed, cosignature = _split_signature(data)
        key = known.get((name, hashed))
        if key is not None:
            cosigned[name] = Cosignature(_cosignature_time(name, key, cosignature, body), key)
        elif not strangers:
            raise LogError(f"cosigned by a stranger, or with another key than its own: {name}")
    return Checkpoint(origin, int(match["size"]), decode_base64(match["root"]), cosigned)


def read_inclusion(data: bytes, checkpoint: Checkpoint) -> dict[int, JsonObject]:
    """Read inclusion.json and verify that each of its entries stands in the log; by index.

    Raises:
        LogError: an entry is not in the log at its index, or stands out of order.
        CanonicalError, ShapeError, EnvelopeError: another spelling or form.
    """
    members = JsonObject.of(parse_canonical(data), "inclusion")
    members.only({"schema", "origin", "size", "entries"})
    head = (members.text("schema"), members.text("origin"), members.get("size", int))
    if head != (INCLUSION_SCHEMA, checkpoint.origin, checkpoint.size):
        raise LogError("inclusion.json is not about the checkpoint")
    found: dict[int, JsonObject] = {}
    last = -1
    for item in members.objects("entries"):
        index = item.only({"index", "entry", "proof"}).get("index", int)
        proof = [decode_base64(text) for text in item.texts("proof")]
        leaf = _leaf(item.object("entry"))
        if index <= last:
            raise LogError("entries are not in order of index, each once")
        if _root_of_proof(leaf, index, checkpoint.size, proof) != checkpoint.root:
            raise LogError(f"entry {index} is not in the log")
        found[index], last = item.object("entry"), index
    return found


def read_export(
    data: bytes,
    older: Checkpoint,
    coordinator: Ed25519PublicKey,
    witnesses: Witnesses,
) -> tuple[Checkpoint, tuple[JsonObject, ...]]:
    """Read a whole log, as `solblom audit log --export` writes it, that extends an older head of it.

    Raises:
        LogError: its checkpoint does not hold, is not that of its entries, or it rewrites the past.
        CanonicalError, ShapeError, EnvelopeError: another spelling or form.
    """
    members = JsonObject.of(parse_canonical(data), "log")
    members.only({"schema", "origin", "checkpoint", "entries"})
    if members.text("schema") != EXPORT_SCHEMA or members.text("origin") != older.origin:
        raise LogError(f"not an export of the log {older.origin}")
    note = members.text("checkpoint").encode()
    newer = open_checkpoint(note, older.origin, coordinator, witnesses, strangers=True)
    entries = members.objects("entries")
    leaves = [_leaf(entry) for entry in entries]
    if len(leaves) != newer.size or _root(leaves) != newer.root:
        raise LogError("its entries are not those of its checkpoint")
    if newer.size < older.size or _root(leaves[: older.size]) != older.root:
        raise LogError(
            "it does not extend the log of the artefact: older, or history was rewritten"
        )
    return newer, entries


def _split_signature(data: str) -> tuple[bytes, bytes]:
    """Give the four bytes that name the key of a signed note's signature, and the rest."""
    decoded = decode_base64(data)
    return decoded[:4], decoded[4:]


def _key_hash(name: str, key: Ed25519PublicKey, kind: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + kind + key.public_bytes_raw()).digest()[:4]


def _cosignature_time(name: str, key: Ed25519PublicKey, data: bytes, body: bytes) -> datetime:
    # tlog-cosignature: 8 bytes of POSIX time, big-endian, then the signature over both.
    seconds = int.from_bytes(data[:8], "big")
    _verify(name, key, data[8:], b"cosignature/v1\ntime %d\n" % seconds + body)
    return datetime.fromtimestamp(seconds, UTC)


def _verify(name: str, key: Ed25519PublicKey, signature: bytes, signed: bytes) -> None:
    try:
        key.verify(signature, signed)
    except InvalidSignature as error:
        raise LogError(f"the signature of {name} on the checkpoint is not valid") from error


def _leaf(entry: JsonObject) -> bytes:
    return hashlib.sha256(b"\x00" + canonical_json(entry.members)).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _split(size: int) -> int:
    """Give the largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def _root(leaves: Sequence[bytes]) -> bytes:
    """Give the tree's root (RFC 6962, 2.1)."""
    if len(leaves) == 1:
        return leaves[0]
    left = _split(len(leaves))
    return _node(_root(leaves[:left]), _root(leaves[left:]))


def _root_of_proof(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """Give the root to which a proof leads (RFC 6962, 2.1.1), none where it has another length."""
    if size == 1 or not proof:
        return leaf if size == 1 and index == 0 and not proof else None
    left = _split(size)
    is_left = index < left
    below = (index, left) if is_left else (index - left, size - left)
    root = _root_of_proof(leaf, *below, proof[:-1])
    if root is None:
        return None
    return _node(root, proof[-1]) if is_left else _node(proof[-1], root)
