"""Every root and proof for up to 256 entries is that of an independent implementation (`make merkle-oracle`)."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from solblom_protocol.logs.merkle import inclusion_proof, leaf_hash, tree_root
from solblom_protocol.logs.transparency import (
    Head,
    consistency_path,
    inclusion_path,
    root_from,
    verify_consistency,
    verify_inclusion,
)
from solblom_protocol.logs.tree_file import recomputed

ORACLE = Path(__file__).parents[3] / ".venv-oracle" / "merkle.json"
MOST = 256
ENTRIES = [f"entry {number}" for number in range(MOST)]
NODES = recomputed(ENTRIES)
LEAVES = [leaf_hash(entry.encode()) for entry in ENTRIES]


@pytest.fixture(scope="module")
def oracle() -> Any:
    if not ORACLE.is_file():
        pytest.skip("no proofs of another implementation here: run `make merkle-oracle`")
    found = json.loads(ORACLE.read_bytes())
    assert found["entries"] == MOST
    return found


def subtree(level: int, place: int) -> bytes:
    return NODES[level, place]


def joined(hashes: list[bytes]) -> str:
    return hashlib.sha256(b"".join(hashes)).hexdigest()


def head(size: int) -> Head:
    return Head(size, root_from(size, subtree))


def test_every_root_is_that_of_the_other_implementation(oracle: Any) -> None:
    assert oracle["made_by"].startswith("pymerkle ")
    assert len(oracle["roots"]) == MOST
    for size in range(1, MOST + 1):
        assert head(size).root.hex() == oracle["roots"][str(size)] == tree_root(LEAVES[:size]).hex()


def test_every_inclusion_proof_is_that_of_the_other_implementation(oracle: Any) -> None:
    assert len(oracle["inclusion"]) == MOST * (MOST + 1) // 2
    for size in range(1, MOST + 1):
        for index in range(size):
            path = inclusion_path(index, size, subtree)
            assert joined(list(path)) == oracle["inclusion"][f"{index}/{size}"], (index, size)
            assert verify_inclusion(LEAVES[index], index, head(size), path)
    assert inclusion_proof(LEAVES, 100) == inclusion_path(100, MOST, subtree)


def test_every_consistency_proof_is_that_of_the_other_implementation(oracle: Any) -> None:
    assert len(oracle["consistency"]) == MOST * (MOST - 1) // 2
    for size in range(1, MOST + 1):
        assert consistency_path(size, size, subtree) == ()
        for old in range(1, size):
            path = consistency_path(old, size, subtree)
            assert joined(list(path)) == oracle["consistency"][f"{old}/{size}"], (old, size)
            assert verify_consistency(head(old), head(size), path)
