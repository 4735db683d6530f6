"""Secrets that follow from a seed, so that a test draws the same split, keys and noise every time."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

_lineage: dict[str, Any] = {"forks": 0, "name": ""}


def _before_fork() -> None:
    _lineage["forks"] += 1


def _in_child() -> None:
    """A child of `fork` draws neither what its parent draws next nor what its siblings draw."""
    _lineage["name"] = f"{_lineage['name']}.{_lineage['forks']}"


os.register_at_fork(before=_before_fork, after_in_child=_in_child)


@contextmanager
def fixed_secrets(seed: str) -> Iterator[None]:
    """Let `os.urandom` follow from a seed in this process; programs that it starts stay random."""
    count = itertools.count()

    def urandom(size: int) -> bytes:
        name = f"{seed}-{_lineage['name']}-{next(count)}"
        return hashlib.shake_256(name.encode()).digest(size)

    with mock.patch.object(os, "urandom", urandom):
        yield
