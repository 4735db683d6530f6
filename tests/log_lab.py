"""Histories of a coordinator's log, honest or not, each with heads and proofs as a real log would give them."""

import base64
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from solblom_protocol.logs.transparency import (
    Head,
    consistency_path,
    log_origin,
    root_from,
    write_checkpoint,
)
from solblom_protocol.logs.tree_file import recomputed
from solblom_verify.envelope import key_id


@dataclass(frozen=True)
class History:
    """A log with these entries, signed by this key."""

    key: Ed25519PrivateKey
    entries: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.entries)

    @property
    def origin(self) -> str:
        return log_origin(key_id(self.key.public_key()))

    @cached_property
    def _nodes(self) -> dict[tuple[int, int], bytes]:
        return recomputed(list(self.entries))

    def head(self, size: int) -> Head:
        return Head(size, root_from(size, lambda level, at: self._nodes[level, at]))

    def note(self, size: int) -> str:
        """The signed head over the first entries."""
        return write_checkpoint(self.origin, self.head(size), self.key)

    def proof(self, old: int, new: int) -> tuple[str, ...]:
        """The proof that leads from one head to another, as an order carries it."""
        path = consistency_path(old, new, lambda level, at: self._nodes[level, at])
        return tuple(base64.b64encode(part).decode() for part in path)

    def shows(self, size: int, *, since: int | None = None) -> dict[str, Any]:
        """The members of an order that shows a head to somebody who has seen an earlier one."""
        proof = () if since is None else self.proof(since, size)
        return {"checkpoint": self.note(size), "consistency": proof}


def history(key: Ed25519PrivateKey, count: int, *, name: str = "entry") -> History:
    """A log of made-up entries."""
    return History(key, tuple(f'{{"{name}":{number}}}' for number in range(count)))
