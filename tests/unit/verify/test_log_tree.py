"""The verifier's own trees and proofs are those of the coordinator's code."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from solblom_protocol.logs.merkle import inclusion_proof, leaf_hash
from solblom_protocol.logs.transparency import head_of
from solblom_verify import log as log_module

CHECKPOINT = "log/checkpoint.txt"


@pytest.mark.parametrize("size", range(1, 34))
def test_roots_and_proofs_are_those_of_the_coordinators_code(size: int) -> None:
    leaves = [leaf_hash(b"%d" % n) for n in range(size)]
    root = head_of([b"%d" % n for n in range(size)]).root
    assert log_module._root(leaves) == root
    for index, leaf in enumerate(leaves):
        proof = inclusion_proof(leaves, index)
        assert log_module._root_of_proof(leaf, index, size, proof) == root
        assert log_module._root_of_proof(leaf, index + 1, size, proof) != root
        assert size == 1 or log_module._root_of_proof(leaf, index, size, proof[1:]) != root
        assert log_module._root_of_proof(leaf, index, size, (*proof, leaf)) != root
    assert log_module._root_of_proof(leaves[0], -1, size, ()) is None


def test_a_checkpoint_cannot_be_taken_for_that_of_another_log(log: Any, logged: Path) -> None:
    note = (logged / CHECKPOINT).read_bytes()
    keys = [(name, key.public_key()) for name, key in log.witnesses.items()]
    opened = log_module.open_checkpoint(note, log.origin, log.key.public_key(), keys)
    assert opened == replace(opened, size=5)
    with pytest.raises(log_module.LogError, match="not a checkpoint of the log solblom/0"):
        log_module.open_checkpoint(note, "solblom/0", log.key.public_key(), keys)
