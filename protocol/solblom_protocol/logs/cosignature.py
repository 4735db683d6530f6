"""Cosignatures: what a witness adds below a checkpoint, once it has seen that the log only grew.

C2SP tlog-cosignature, `cosignature/v1` with Ed25519 (https://c2sp.org/tlog-cosignature): the witness signs the
note's text and the time at which it looked. Another algorithm would have another type byte. A checkpoint with
all its lines has one spelling here: the log's own signature, then the witnesses' by name, each once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.transparency import (
    Head,
    is_key_name,
    key_hash,
    read_checkpoint,
    read_signature,
    split_note,
    write_signature,
)

COSIGNATURE_V1 = b"\x04"  # type byte of Ed25519 cosignatures in C2SP signed-note
LATEST = 2**40  # seconds since 1970: far beyond any clock, and exact in every JSON reader
_LINE_BYTES = 4 + 8 + 64


@dataclass(frozen=True)
class Cosignature:
    """A checked cosignature: whose, when, and its line as it stands in a note."""

    name: str
    time: int  # seconds since 1970, UTC
    line: str


@dataclass(frozen=True)
class CosignedHead:
    """A checkpoint's head with the witnesses whose cosignatures hold, by name."""

    head: Head
    cosignatures: dict[str, Cosignature]


def _signed_text(body: str, time: int) -> bytes:
    """Return what a witness signs: the note's text below a line that says when."""
    return f"cosignature/v1\ntime {time}\n{body}".encode()


def cosign(note: str, name: str, key: Ed25519PrivateKey, *, time: int) -> str:
    """Return the line of a cosignature over a checkpoint, without the line's end; `time` in seconds since 1970.

    Whoever calls has checked the checkpoint.

    Raises:
        IntegrityError: SB-405, the text is not a signed note.
        ValueError: the name cannot stand in a note, or the time is no moment.
    """
    if not is_key_name(name) or not 0 < time < LATEST:
        raise ValueError("a cosignature has one word as name, and a moment")
    body = split_note(note)[0]
    signature = key.sign(_signed_text(body, time))
    named = key_hash(name, key.public_key(), COSIGNATURE_V1)
    return write_signature(name, named + time.to_bytes(8, "big") + signature)


def read_cosignature(note: str, line: str, name: str, public: Ed25519PublicKey) -> Cosignature:
    """Return a witness's cosignature over a checkpoint, checked.

    Raises:
        IntegrityError: SB-405, it is another witness's, of another kind, malformed, or does not hold.
    """
    signer, data = read_signature(line)
    if signer != name or data[:4] != key_hash(name, public, COSIGNATURE_V1):
        raise IntegrityError("SB-405", "The cosignature is not by the witness that it should be of")
    time = int.from_bytes(data[4:12], "big")
    if len(data) != _LINE_BYTES or not 0 < time < LATEST:
        raise IntegrityError("SB-405", "The cosignature has another shape than cosignature/v1")
    try:
        public.verify(data[12:], _signed_text(split_note(note)[0], time))
    except InvalidSignature:
        raise IntegrityError("SB-405", f"The cosignature of {name} does not hold") from None
    return Cosignature(name, time, line)


def join_cosignatures(note: str, lines: Iterable[str]) -> str:
    """Return a checkpoint, which has the log's signature alone, with cosignatures below it, by the witnesses' names.

    Raises:
        IntegrityError: SB-405, a line is no signature, or a name appears twice.
    """
    named = sorted((read_signature(line)[0], line) for line in lines)
    if len({name for name, _ in named}) != len(named):
        raise IntegrityError("SB-405", "A witness cosigned a checkpoint twice")
    return note + "".join(f"{line}\n" for _, line in named)


def read_cosigned(
    note: str, origin: str, public: Ed25519PublicKey, witnesses: Mapping[str, Ed25519PublicKey]
) -> CosignedHead:
    """Return the head of a checkpoint and its cosignatures; every line must be known and hold.

    Raises:
        IntegrityError: SB-405, a line of nobody known, a name twice, another order than the one spelling, or
            a signature that does not hold.
    """
    head = read_checkpoint(note, origin, public)
    body, lines = split_note(note)
    if note != f"{body}\n" + "".join(f"{line}\n" for line in lines):
        raise IntegrityError("SB-405", "The note's lines end otherwise than with one line feed")
    found: dict[str, Cosignature] = {}
    own = read_checkpoint(
        f"{body}\n{lines[0]}\n", origin, public
    )  # the log's own line stands first
    if own != head or body.count("\n") != 3:
        raise IntegrityError("SB-405", "The checkpoint says more than its log, size and root")
    for line in lines[1:]:
        name = line.split(" ")[1] if line.count(" ") == 2 else ""
        if name not in witnesses:
            raise IntegrityError("SB-405", "The checkpoint has a line of nobody who is known")
        if found and name <= max(found):
            raise IntegrityError(
                "SB-405", "The checkpoint's cosignatures are not in order, each once"
            )
        found[name] = read_cosignature(note, line, name, witnesses[name])
    return CosignedHead(head, found)
