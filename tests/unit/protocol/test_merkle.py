"""The hash tree: the published vectors of Certificate Transparency, and every proof of every small tree."""

import hashlib

import pytest

from solblom_protocol.logs.merkle import inclusion_proof, leaf_hash, root_of_proof, tree_root

ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
# Roots of the first n of these entries, as Certificate Transparency's reference tests give them.
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(bytes([number])) for number in range(count)]


@pytest.mark.parametrize("count", ROOTS)
def test_roots_are_those_of_certificate_transparency(count: int) -> None:
    assert tree_root([leaf_hash(entry) for entry in ENTRIES[:count]]).hex() == ROOTS[count]


@pytest.mark.parametrize("size", range(1, 34))
def test_every_entry_has_a_proof_and_no_other_place(size: int) -> None:
    found, root = leaves(size), tree_root(leaves(size))
    for index in range(size):
        proof = inclusion_proof(found, index)
        assert root_of_proof(found[index], index, size, proof) == root
        for other in range(size):
            if other != index:
                assert root_of_proof(found[index], other, size, proof) != root
        assert root_of_proof(found[index], index, size, (*proof, root)) != root
        if proof:
            assert root_of_proof(found[index], index, size, proof[:-1]) != root


def test_a_subtree_is_no_entry() -> None:
    """The prefixes keep an entry of 64 bytes apart from two hashes (RFC 6962, section 2.1)."""
    two = leaves(2)
    assert leaf_hash(b"".join(two)) != tree_root(two)
    assert tree_root(two) == hashlib.sha256(b"\x01" + two[0] + two[1]).digest()


def test_an_empty_tree_and_a_place_outside_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        tree_root([])
    with pytest.raises(ValueError, match="none at 3"):
        inclusion_proof(leaves(3), 3)
    assert root_of_proof(leaves(1)[0], 1, 1, ()) is None
