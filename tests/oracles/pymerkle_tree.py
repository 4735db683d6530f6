"""Every root and proof of trees of up to 256 entries, as pymerkle makes them; for its own environment only.

pymerkle is under the GPL, so nothing of Solblom imports it: `make merkle-oracle` runs this file with the interpreter of
a separate environment, and tests/unit/protocol/test_merkle_oracle.py compares what it wrote. A proof is written as the
SHA-256 of its hashes. pymerkle's consistency proofs split a tree further than RFC 6962 does where the old one is one of
its left halves. So here the RFC's definition (§2.1.2) says over which entries each hash goes, and pymerkle gives that
hash; pymerkle's own proof for the same two sizes must lead to the same two roots.
"""

import functools
import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path

from pymerkle import InmemoryTree, verify_consistency  # type: ignore[import-not-found,unused-ignore]

MOST = 256


def tree_over(start: int, end: int) -> InmemoryTree:
    """Return a tree over some entries."""
    tree = InmemoryTree(algorithm="sha256")
    for number in range(start, end):
        tree.append_entry(f"entry {number}".encode())
    return tree


@functools.cache
def root(start: int, end: int) -> bytes:
    """Return the root over some entries, as pymerkle computes it."""
    found: bytes = tree_over(start, end).get_root()
    return found


def subproof(old: int, start: int, end: int, whole: bool) -> list[bytes]:
    """Return SUBPROOF(old, D[start:end], whole) of RFC 6962, section 2.1.2, as it stands there."""
    size = end - start
    if old == size:
        return [] if whole else [root(start, end)]
    half = 1
    while 2 * half < size:
        half *= 2
    if old <= half:
        return [*subproof(old, start, start + half, whole), root(start + half, end)]
    return [*subproof(old - half, start + half, end, False), root(start, start + half)]


def joined(hashes: list[bytes]) -> str:
    """Return the digest of hashes."""
    return hashlib.sha256(b"".join(hashes)).hexdigest()


def main(target: Path) -> None:
    """Write roots and proofs as JSON."""
    tree = tree_over(0, MOST)
    sizes = range(1, MOST + 1)
    found = {
        "made_by": f"pymerkle {version('pymerkle')}",
        "entries": MOST,
        "roots": {size: tree.get_root(size).hex() for size in sizes},
        "inclusion": {
            f"{index}/{size}": joined(tree.prove_inclusion(index + 1, size).path[1:])
            for size in sizes
            for index in range(size)
        },
        "consistency": {
            f"{old}/{size}": joined(subproof(old, 0, size, True))
            for size in sizes
            for old in range(1, size)
        },
    }
    for size in sizes:
        for old in range(1, size):
            proof = tree.prove_consistency(old, size)
            verify_consistency(tree.get_root(old), tree.get_root(size), proof)  # raises
    target.write_text(json.dumps(found), encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
