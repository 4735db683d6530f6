"""Claims about the transparency log: trees against the vectors of Certificate Transparency, proofs by brute force."""

import base64
import hashlib
from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.merkle import inclusion_proof, leaf_hash, node_hash
from solblom_protocol.logs.transparency import (
    Head,
    completed,
    consistency_path,
    head_of,
    inclusion_path,
    open_note,
    read_checkpoint,
    root_from,
    root_of,
    sign_note,
    verifier_key,
    verify_consistency,
    verify_inclusion,
    write_checkpoint,
)

# The test data of Google's certificate-transparency (merkle_tree_test), used by every implementation.
CT_ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
MOST = 64
ENTRIES = [f"entry {number}".encode() for number in range(MOST)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]


def subtree(level: int, index: int) -> bytes:
    """Give subtrees by the definition, and not as a log keeps them."""
    return root_of(LEAVES[index << level : (index + 1) << level])


def head(size: int) -> Head:
    return Head(size, root_of(LEAVES[:size]))


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert head_of(CT_ENTRIES[:size]).root.hex() == CT_ROOTS[size]


def test_a_root_by_hand() -> None:
    def sha(data: bytes) -> bytes:
        return hashlib.sha256(data).digest()

    a, b, c = (sha(b"\x00" + entry) for entry in (b"a", b"b", b"c"))
    assert head_of([b"a", b"b", b"c"]).root == sha(b"\x01" + sha(b"\x01" + a + b) + c)


@pytest.mark.parametrize("size", range(MOST + 1))
def test_a_root_from_kept_subtrees_is_the_root_by_definition(size: int) -> None:
    kept: dict[tuple[int, int], bytes] = {}
    for index in range(size):
        kept[(0, index)] = LEAVES[index]
        for level in completed(index):
            at = index >> level
            kept[(level, at)] = node_hash(kept[(level - 1, 2 * at)], kept[(level - 1, 2 * at + 1)])
    assert root_from(size, lambda level, index: kept[(level, index)]) == root_of(LEAVES[:size])


def test_every_entry_of_every_log_up_to_64_has_a_proof_and_no_other_place_takes_it() -> None:
    for size in range(1, MOST + 1):
        for index in range(size):
            proof = inclusion_path(index, size, subtree)
            assert proof == inclusion_proof(LEAVES[:size], index)
            assert verify_inclusion(LEAVES[index], index, head(size), proof)
            assert not verify_inclusion(LEAVES[index], (index + 1) % (size + 1), head(size), proof)
            assert not verify_inclusion(leaf_hash(b"other"), index, head(size), proof)
            assert not verify_inclusion(LEAVES[index], index, head(size), (*proof, LEAVES[0]))


def test_every_pair_of_logs_up_to_64_has_a_consistency_proof_that_nothing_else_passes() -> None:
    for new in range(MOST + 1):
        for old in range(new + 1):
            proof = consistency_path(old, new, subtree)
            assert verify_consistency(head(old), head(new), proof), (old, new)
            assert not verify_consistency(head(old), head(new), (*proof, LEAVES[0]))
            for place in range(len(proof)):
                wrong = (*proof[:place], leaf_hash(b"other"), *proof[place + 1 :])
                assert not verify_consistency(head(old), head(new), wrong)
            if old > 0:
                assert not verify_consistency(Head(old, leaf_hash(b"x")), head(new), proof)
                assert not verify_consistency(head(old), Head(new, leaf_hash(b"x")), proof)


def test_a_log_that_shrank_has_no_proof() -> None:
    with pytest.raises(ValueError, match="does not extend"):
        consistency_path(5, 4, subtree)
    for proof in ((), (LEAVES[0],)):
        assert not verify_consistency(head(5), head(4), proof)


def test_a_rewritten_entry_makes_every_later_head_another() -> None:
    for index in range(20):
        forged = [*LEAVES[:index], leaf_hash(b"forged"), *LEAVES[index + 1 : 20]]
        roots = [root_of(forged[:size]) for size in range(21)]
        assert roots[: index + 1] == [root_of(LEAVES[:size]) for size in range(index + 1)]
        assert all(roots[size] != root_of(LEAVES[:size]) for size in range(index + 1, 21))
    assert all(root_of(LEAVES[:a]) != root_of(LEAVES[:b]) for a, b in pairwise(range(MOST)))


# --- Signed notes


def test_a_note_of_go_sumdb_verifies() -> None:
    """The example of golang.org/x/mod/sumdb/note."""
    note = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
        "\n"
        "\u2014 PeterNeumann "
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(vkey.split("+", 2)[2])[1:])
    assert verifier_key("PeterNeumann", public) == vkey
    assert open_note(note, "PeterNeumann", public).startswith("If you think")


KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def test_a_checkpoint_gives_back_its_head() -> None:
    note = write_checkpoint("solblom/north/decisions", head(5), KEY)
    assert read_checkpoint(note, "solblom/north/decisions", KEY.public_key()) == head(5)


def test_any_changed_character_of_a_checkpoint_is_found() -> None:
    note = write_checkpoint("north", head(5), KEY)
    for place in range(len(note)):
        changed = note[:place] + ("A" if note[place] != "A" else "B") + note[place + 1 :]
        with pytest.raises(IntegrityError):
            read_checkpoint(changed, "north", KEY.public_key())


def test_a_checkpoint_of_another_log_or_key_is_refused() -> None:
    note = write_checkpoint("north", head(5), KEY)
    with pytest.raises(IntegrityError, match="not signed by"):
        read_checkpoint(note, "south", KEY.public_key())
    with pytest.raises(IntegrityError, match="not signed by"):
        read_checkpoint(note, "north", Ed25519PrivateKey.generate().public_key())


def test_a_witness_may_sign_beside_the_log() -> None:
    note = write_checkpoint("north", head(5), KEY)
    text = open_note(note, "north", KEY.public_key())
    witness = sign_note(text, "witness", Ed25519PrivateKey.generate()).rpartition("\n\n")[2]
    assert read_checkpoint(note + witness, "north", KEY.public_key()) == head(5)


@pytest.mark.parametrize("size", ["-1", "01", "+1", "1_0", "٣", "", "9" * 17])
def test_a_size_is_written_in_one_way_only(size: str) -> None:
    note = sign_note(f"north\n{size}\n{'A' * 43}=\n", "north", KEY)
    with pytest.raises(IntegrityError):
        read_checkpoint(note, "north", KEY.public_key())


@pytest.mark.parametrize("text", ["", "no newline", "bell\x07\n"])
def test_a_text_that_cannot_be_a_note_is_not_signed(text: str) -> None:
    with pytest.raises(ValueError, match="note"):
        sign_note(text, "north", KEY)


@pytest.mark.parametrize("name", ["", "two words", "a+b", "line\nbreak"])
def test_a_name_that_cannot_stand_in_a_note_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="note"):
        sign_note("text\n", name, KEY)
