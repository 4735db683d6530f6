"""A node's answers about masks where hospitals may drop out: join, set up, mask, agree, open (privacy.md rule 8).

Which sum is meant follows from the order's number and the approved study. Whatever does not hold is a
refusal that names, in the site's own log, whose key, share or signature it is.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from solblom_client.masks.record import MaskRecord
from solblom_client.masks.sum_node import SumNode
from solblom_client.state import VaultState
from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_protocol.messages.message import parse_message
from solblom_protocol.messages.order import OrderHeader, OrderKind
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.sums.mask_setup import MaskSecrets, Participants
from solblom_protocol.sums.pair_masks import checked
from solblom_protocol.sums.ring import Ring
from solblom_protocol.sums.run_sums import place_of, sum_at, sum_roster
from solblom_protocol.sums.secret_sharing import SECRET_BYTES
from solblom_protocol.sums.survivors import SurvivorSet

ABOUT_MASKS: frozenset[OrderKind] = frozenset(("keys", "setup", "agree", "open"))
"""Orders that touch no patient."""


@dataclass(frozen=True)
class MaskSteps:
    """This node in the sums of one run."""

    header: OrderHeader
    document: StudyDocument
    signing: Ed25519PrivateKey
    state: VaultState

    @property
    def _node(self) -> SumNode:
        roster = sum_roster(self.document, self.header.run)
        return SumNode(roster, self.header.site, self.signing, MaskRecord(self.state))

    def answer(self) -> bytes:
        """Return what this node signs in answer to an order about masks.

        Raises:
            RefusedError: SB-205 or SB-207; SB-216, something that another hospital signed does not hold.
        """
        steps: dict[str, Callable[[SumNode], bytes]] = {
            "keys": lambda node: node.join(new=X25519PrivateKey.generate()),
            "setup": self._set_up,
            "agree": lambda node: node.agree(self._asked(node)),
            "open": lambda node: node.open(self._asked(node), cosignatures=self._cosignatures()),
        }
        return _refusing(lambda: steps[self.header.kind](self._node))

    def mask(self, ring: Ring, values: NDArray[np.int64], *, participants: Participants) -> bytes:
        """Return the vector under its masks; sums before this one are closed and their secrets erased.

        `participants` is what the gate has checked.

        Raises:
            RefusedError: as `answer`.
        """
        place = place_of(self.document, self.header.kind, self.header.round)

        def masked() -> bytes:
            node = self._node
            with self.state.transaction():
                if place > 1:
                    node.close(sum_at(self.document, node.roster, place - 1))
                words = node.mask(
                    ring,
                    ring.encode(checked(values)),
                    participants=participants,
                    base_model=self.header.base_model,
                )
            return bytes(words.tobytes())

        return _refusing(masked)

    def _papers(self) -> list[bytes]:
        return [text.encode() for text in self.header.masking]

    def _cosignatures(self) -> bytes:
        papers = self._papers()
        if len(papers) != 2:
            raise RefusedError("SB-202", "The order carries no signatures on its survivor set")
        return papers[1]

    def _set_up(self, node: SumNode) -> bytes:
        of = sum_at(self.document, node.roster, self.header.round)
        new = MaskSecrets(os.urandom(SECRET_BYTES), os.urandom(SECRET_BYTES))
        return node.set_up(of, share_keys=self._papers(), new=new)

    def _asked(self, node: SumNode) -> SurvivorSet:
        """Return the survivor set of the order, which is about the sum that the order names."""
        if not self.header.masking:
            raise RefusedError("SB-202", "The order names no survivor set")
        asked = parse_message(SurvivorSet, self._papers()[0])
        if asked.round != sum_at(self.document, node.roster, self.header.round):
            raise RefusedError("SB-216", "The survivor set is of another sum than the order")
        return asked


def _refusing(step: Callable[[], bytes]) -> bytes:
    """Run a step; what does not hold becomes a refusal, so that its code may leave.

    Raises:
        RefusedError: SB-216.
    """
    try:
        return step()
    except IntegrityError as error:
        if error.code == "SB-402":
            raise
        raise RefusedError("SB-216", error.message) from None
