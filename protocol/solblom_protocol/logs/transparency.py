"""An append-only log that anybody can check: RFC 6962 trees, their proofs, and signed checkpoints.

A log is a list of entries. Its tree head, size and root, stands for all of them; a consistency proof
shows that a later head only added entries (RFC 6962 §2.1.2). A checkpoint is a signed head as text
(C2SP tlog-checkpoint in a C2SP signed-note, https://c2sp.org), which any witness can read. The hospital's
log of decisions and the coordinator's log use this file.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.merkle import leaf_hash, node_hash, root_of_proof, tree_root

HASH_BYTES = 32
MOST_ENTRIES = 2**53 - 1
MAX_NOTE_BYTES = 65_536  # with the cosignatures of some hundred hospitals
_ED25519 = b"\x01"  # signature type of a signed note

Subtree = Callable[[int, int], bytes]
"""Gives the hash over 2^level entries, from entry index * 2^level on: (level, index)."""


@dataclass(frozen=True)
class Head:
    """A tree head: how many entries, and the hash over them."""

    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The root as a digest."""
        return "sha256:" + self.root.hex()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes; of an empty log, the hash of nothing (RFC 6962 §2.1)."""
    return tree_root(leaves) if leaves else hashlib.sha256(b"").digest()


def head_of(entries: Sequence[bytes]) -> Head:
    """Return the head of a log with these entries."""
    return Head(len(entries), root_of([leaf_hash(entry) for entry in entries]))


def subtrees(size: int) -> list[tuple[int, int]]:
    """Return the complete subtrees that make up the first `size` entries, as (level, index), the largest first."""
    found, start = [], 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            found.append((level, start >> level))
            start += 1 << level
    return found


def root_from(size: int, subtree: Subtree) -> bytes:
    """Return the root of `size` entries from the hashes of its complete subtrees: logarithmic work."""
    hashes = [subtree(level, index) for level, index in subtrees(size)]
    if not hashes:
        return root_of([])
    root = hashes.pop()
    while hashes:
        root = node_hash(hashes.pop(), root)
    return root


def completed(index: int) -> list[int]:
    """Return the levels above 0 at which the entry `index` completes a subtree, the lowest first."""
    levels, level = [], 0
    while index >> level & 1:
        level += 1
        levels.append(level)
    return levels


def range_hash(start: int, end: int, subtree: Subtree) -> bytes:
    """Return the hash over entries start … end - 1, where `start` is a multiple of a subtree that holds them."""
    count = end - start
    if count & (count - 1) == 0:
        level = count.bit_length() - 1
        return subtree(level, start >> level)
    left = 1 << ((count - 1).bit_length() - 1)
    return node_hash(
        range_hash(start, start + left, subtree), range_hash(start + left, end, subtree)
    )


def inclusion_path(index: int, size: int, subtree: Subtree) -> tuple[bytes, ...]:
    """Return the proof that entry `index` is among the first `size`, the nearest hash first (§2.1.1).

    Raises:
        ValueError: there is no such entry.
    """
    if not 0 <= index < size:
        raise ValueError(f"a log of {size} entries has none at {index}")
    path, start, end = [], 0, size
    while end - start > 1:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        if index < middle:
            path.append(range_hash(middle, end, subtree))
            end = middle
        else:
            path.append(range_hash(start, middle, subtree))
            start = middle
    return tuple(reversed(path))


def verify_inclusion(leaf: bytes, index: int, head: Head, proof: Sequence[bytes]) -> bool:
    """Tell whether a proof shows that the entry with this leaf hash stands at `index` of the log."""
    if any(len(part) != HASH_BYTES for part in proof):
        return False
    return root_of_proof(leaf, index, head.size, proof) == head.root


def consistency_path(old: int, new: int, subtree: Subtree) -> tuple[bytes, ...]:
    """Return the proof that the first `old` of `new` entries are the earlier log (§2.1.2).

    Raises:
        ValueError: the earlier log is larger.
    """
    if not 0 <= old <= new:
        raise ValueError(f"a log of {new} entries does not extend one of {old}")
    if old in (0, new):
        return ()
    path, start, end, whole = [], 0, new, True
    while old != end:
        middle = start + (1 << ((end - start - 1).bit_length() - 1))
        if old <= middle:
            path.append(range_hash(middle, end, subtree))
            end = middle
        else:
            path.append(range_hash(start, middle, subtree))
            start, whole = middle, False
    if not whole:
        path.append(range_hash(start, end, subtree))
    return tuple(reversed(path))


def verify_consistency(old: Head, new: Head, proof: Sequence[bytes]) -> bool:
    """Tell whether a proof shows that `new` only added entries to `old` (RFC 9162 §2.1.4.2)."""
    if any(len(part) != HASH_BYTES for part in proof) or not 0 <= old.size <= new.size:
        return False
    if old.size in (0, new.size):
        same = old.root == (new.root if old.size else root_of([]))
        return same and not proof
    hashes = list(proof)
    if old.size & (old.size - 1) == 0:
        hashes.insert(0, old.root)
    if not hashes:
        return False
    first, last = old.size - 1, new.size - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    older = newer = hashes[0]
    for part in hashes[1:]:
        if last == 0:
            return False
        if first & 1 or first == last:
            older, newer = node_hash(part, older), node_hash(part, newer)
            while first and not first & 1:
                first, last = first >> 1, last >> 1
        else:
            newer = node_hash(newer, part)
        first, last = first >> 1, last >> 1
    return last == 0 and older == old.root and newer == new.root


def key_hash(name: str, public: Ed25519PublicKey, kind: bytes = _ED25519) -> bytes:
    """Return the four bytes that name a key in a signed note; `kind` is the signature's type."""
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(name.encode() + b"\n" + kind + raw).digest()[:4]


def verifier_key(name: str, public: Ed25519PublicKey) -> str:
    """Return a key as witnesses write it (`vkey`): name+hash+base64 of type and key."""
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    encoded = base64.b64encode(_ED25519 + raw).decode()
    return f"{name}+{key_hash(name, public).hex()}+{encoded}"


def sign_note(text: str, name: str, key: Ed25519PrivateKey) -> str:
    """Return a text with one signature below it (C2SP signed-note).

    Raises:
        ValueError: the text does not end its last line, or the name cannot stand in a note.
    """
    if not text.endswith("\n") or not is_key_name(name) or any(c < " " for c in text if c != "\n"):
        raise ValueError("a note is whole lines of text, its key's name one word without a plus")
    signature = key_hash(name, key.public_key()) + key.sign(text.encode())
    return f"{text}\n{write_signature(name, signature)}\n"


def open_note(note: str, name: str, public: Ed25519PublicKey) -> str:
    """Return the text of a note that this key signed.

    Other signatures, witnesses' for instance, may stand beside it. One by this key that does not hold
    makes the note void.

    Raises:
        IntegrityError: SB-405.
    """
    signed, lines = split_note(note)
    wanted = key_hash(name, public)
    found = False
    for line in lines:
        signer, data = read_signature(line)
        if signer != name or data[:4] != wanted:
            continue
        try:
            public.verify(data[4:], signed.encode())
        except InvalidSignature:
            raise IntegrityError("SB-405", "The note's signature does not hold") from None
        found = True
    if not found:
        raise IntegrityError("SB-405", "The note is not signed by the key that should have")
    return signed


def split_note(note: str) -> tuple[str, list[str]]:
    """Return the text of a note, which is what is signed, and the lines below it; nothing is checked of them.

    Raises:
        IntegrityError: SB-405, the text is not a signed note.
    """
    text, split, below = note.rpartition("\n\n")
    # A line ends with LF alone (c2sp.org/signed-note); `splitlines` would end one at U+2028 or U+0085 too.
    *lines, rest = below.split("\n")
    if not (split and lines and not rest and len(note) <= MAX_NOTE_BYTES):
        raise IntegrityError("SB-405", "The text is not a signed note")
    return text + "\n", lines


def write_signature(name: str, data: bytes) -> str:
    """Return a signature's line, without the line's end."""
    return f"\u2014 {name} {base64.b64encode(data).decode()}"


def read_signature(line: str) -> tuple[str, bytes]:
    """Return whose signature a line has, and its bytes; nothing is checked of them.

    Raises:
        IntegrityError: SB-405, it is no signature, or has another spelling.
    """
    parts = line.split(" ")
    if len(parts) != 3 or parts[0] != "\u2014" or not is_key_name(parts[1]):
        raise IntegrityError("SB-405", "The note has a line that is no signature")
    return parts[1], decoded(parts[2])


def decoded(text: str) -> bytes:
    """Return base64 in its one spelling.

    Raises:
        IntegrityError: SB-405.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise IntegrityError("SB-405", "The note has text that is not base64") from None
    if base64.b64encode(data).decode() != text:
        raise IntegrityError("SB-405", "The note's base64 has another spelling than its own")
    return data


def is_key_name(name: str) -> bool:
    """Tell whether a key of a note may be called so."""
    return bool(name) and "+" not in name and not any(c.isspace() or c < " " for c in name)


def log_origin(coordinator: str) -> str:
    """Return the name of a coordinator's log, and of its key in checkpoints, from its key's id."""
    return f"solblom/{coordinator[:16]}"


def write_checkpoint(origin: str, head: Head, key: Ed25519PrivateKey) -> str:
    """Return the signed head of the log `origin`: its name, size and root, a line each."""
    root = base64.b64encode(head.root).decode()
    return sign_note(f"{origin}\n{head.size}\n{root}\n", origin, key)


def read_checkpoint(note: str, origin: str, public: Ed25519PublicKey) -> Head:
    """Return the head in a checkpoint of the log `origin`; the same text under the same key is checked once.

    Raises:
        IntegrityError: SB-405, not signed by this key, of another log, or malformed.
    """
    return _read_checkpoint(note, origin, public.public_bytes_raw())


@lru_cache(
    maxsize=64
)  # a head stands in several places, and is read from all of them for every order
def _read_checkpoint(note: str, origin: str, public: bytes) -> Head:
    key = Ed25519PublicKey.from_public_bytes(public)
    if open_note(note, origin, key).split("\n")[0] != origin:
        raise IntegrityError("SB-405", "The checkpoint is of another log")
    return head_in(note)


def head_in(note: str) -> Head:
    """Return the head in a checkpoint whose signature was checked.

    Raises:
        IntegrityError: SB-405, it is malformed.
    """
    lines = split_note(note)[0].split("\n")[:-1]
    if len(lines) < 3:
        raise IntegrityError("SB-405", "The checkpoint has no size and no root")
    size, root = lines[1], decoded(lines[2])
    plain = size.isascii() and size.isdigit() and (size == "0" or not size.startswith("0"))
    if not plain or len(size) > 16 or int(size) > MOST_ENTRIES or len(root) != HASH_BYTES:
        raise IntegrityError("SB-405", "The checkpoint's size or root is malformed")
    return Head(int(size), root)
