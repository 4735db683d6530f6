"""One answer to an order of a study with shared noise: which masks, which range, which share of the noise."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from solblom_client.budget.ledger import Ledger, Request
from solblom_client.masks.noise_share import (
    Integers,
    Masking,
    on_grid,
    under_masks,
    with_noise_share,
)
from solblom_client.training.keystream import KeyStream
from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.order import OrderHeader
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.sums.mask_keys import open_mask_keys
from solblom_protocol.sums.ring import Ring
from solblom_protocol.sums.secure_sum import COUNT_BITS, largest_value

Mask = Callable[[Ring, Integers], bytes]
"""Puts this hospital's masks onto a vector and returns the bytes that leave."""


@dataclass(frozen=True)
class SecureAnswer:
    """Turns what this hospital computed into the vector that leaves."""

    ring: Ring
    share: int
    largest: int
    noise: KeyStream
    mask: Mask

    @classmethod
    def to(
        cls, document: StudyDocument, *, share: int, noise: KeyStream, mask: Mask
    ) -> "SecureAnswer":
        """Return the answer's constants: all of them from the approved study.

        Raises:
            RefusedError: SB-216, the study has no secure sum.
        """
        plan, table = document.secure_sum, document.study.secure_sum
        if plan is None or table is None:
            raise RefusedError("SB-216", "The study has no secure sum")
        ring = Ring(table.ring_bits)
        largest = largest_value(ring, nodes=len(plan.roster.members), share=share)
        return cls(ring, share, largest, noise, mask)

    def of_values(self, values: NDArray[np.float64], *, bits: int) -> bytes:
        """Return real values on the grid of 2^-bits, with noise, under masks."""
        return self._leave(on_grid(values, fractional_bits=bits, largest=self.largest))

    def of_counts(self, counts: NDArray[np.int64]) -> bytes:
        """Return counts on their own grid, with noise, under masks."""
        return self._leave(
            on_grid(counts.astype(np.float64), fractional_bits=COUNT_BITS, largest=self.largest)
        )

    def _leave(self, values: Integers) -> bytes:
        noisy = with_noise_share(values, share=self.share, largest=self.largest, stream=self.noise)
        return self.mask(self.ring, noisy)


def pair_masks_of(header: OrderHeader, document: StudyDocument, *, mine: X25519PrivateKey) -> Mask:
    """Return the masks of the form in which all hospitals must answer.

    Raises:
        RefusedError: SB-216, a mask key is not what the roster's node signed.
    """
    plan = document.secure_sum
    if plan is None:
        raise RefusedError("SB-216", "The study has no secure sum")
    masking = Masking(
        site=header.site,
        mine=mine,
        keys=open_mask_keys(header.masking, plan.roster, run=header.run, study=header.study),
        run=f"{header.study}/{header.run}",
        roster=plan.roster.digest,
        kind=header.kind,
        number=header.round,
        base_model=header.base_model,
    )
    return lambda ring, values: under_masks(ring, values, masking)


def check_one_masked_answer(ledger: Ledger, request: Request, *, work: str | None = None) -> None:
    """Refuse to mask a second vector for a round: two under the same masks give away their difference.

    Asked twice: for another request before anything is charged, and for other patients once they are
    known (`work`).

    Raises:
        RefusedError: SB-207; once rows were read it leaves as SB-209.
    """
    if any(
        known != request.digest or work not in (None, done)
        for known, done in ledger.answered_work(request)
    ):
        raise RefusedError(
            "SB-207",
            f"{request.title} of this run was answered for other patients or another model; a masked "
            "round is answered once",
            "Start a new run: its masks and noise are new",
        )
