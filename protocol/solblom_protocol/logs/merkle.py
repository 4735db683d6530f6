"""A hash tree over a list: one digest stands for all of it, and a short proof for one entry (RFC 6962, section 2.1)."""

import hashlib
from collections.abc import Sequence


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry; the prefix keeps it apart from that of two subtrees."""
    return hashlib.sha256(b"\x00" + entry).digest()


def tree_root(leaves: Sequence[bytes]) -> bytes:
    """Return the tree's hash from those of its entries.

    Raises:
        ValueError: no entries.
    """
    if not leaves:
        raise ValueError("a tree has at least one entry")
    if len(leaves) == 1:
        return leaves[0]
    left = _left_size(len(leaves))
    return node_hash(tree_root(leaves[:left]), tree_root(leaves[left:]))


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the hashes that lead from one entry to the root, the nearest first (section 2.1.1).

    Raises:
        ValueError: there is no such entry.
    """
    if not 0 <= index < len(leaves):
        raise ValueError(f"a tree of {len(leaves)} entries has none at {index}")
    if len(leaves) == 1:
        return ()
    left = _left_size(len(leaves))
    if index < left:
        return (*inclusion_proof(leaves[:left], index), tree_root(leaves[left:]))
    return (*inclusion_proof(leaves[left:], index - left), tree_root(leaves[:left]))


def root_of_proof(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes | None:
    """Return the root of the tree of `size` entries that has this one at `index`; None where the proof does not fit."""
    if not 0 <= index < size:
        return None
    if size == 1:
        return leaf if not proof else None
    if not proof:
        return None
    left, top = _left_size(size), proof[-1]
    if index < left:
        below = root_of_proof(leaf, index, left, proof[:-1])
        return None if below is None else node_hash(below, top)
    below = root_of_proof(leaf, index - left, size - left, proof[:-1])
    return None if below is None else node_hash(top, below)


def _left_size(size: int) -> int:
    """Return the largest power of two below `size`."""
    return 1 << ((size - 1).bit_length() - 1)


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash over two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()
