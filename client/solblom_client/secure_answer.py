"""One answer to an order of a study with shared noise: which masks, which range, which share of the noise."""

from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from solblom_client.keystream import KeyStream
from solblom_client.ledger import Ledger, Request
from solblom_client.noise_share import Integers, Masking, on_grid, under_masks, with_noise_share
from solblom_protocol.errors import RefusedError
from solblom_protocol.mask_keys import open_mask_keys
from solblom_protocol.order import OrderHeader
from solblom_protocol.ring import Ring
from solblom_protocol.secure_sum import COUNT_BITS, largest_value
from solblom_protocol.study import StudyDocument


@dataclass(frozen=True)
class SecureAnswer:
    """Turns what this hospital computed into the vector that leaves."""

    ring: Ring
    masking: Masking
    share: int
    largest: int
    noise: KeyStream

    @classmethod
    def to(
        cls,
        header: OrderHeader,
        document: StudyDocument,
        *,
        mine: X25519PrivateKey,
        share: int,
        noise: KeyStream,
    ) -> "SecureAnswer":
        """Return the answer's constants: all from the approved study, but for the keys that its nodes signed.

        Raises:
            RefusedError: SB-216, a mask key is not what the roster's node signed.
        """
        plan, table = document.secure_sum, document.study.secure_sum
        if plan is None or table is None:
            raise RefusedError("SB-216", "The study has no secure sum")
        ring = Ring(table.ring_bits)
        masking = Masking(
            site=header.site,
            mine=mine,
            keys=open_mask_keys(header.mask_keys, plan.roster, run=header.run, study=header.study),
            run=f"{header.study}/{header.run}",
            roster=plan.roster.digest,
            kind=header.kind,
            number=header.round,
            base_model=header.base_model,
        )
        largest = largest_value(ring, nodes=len(plan.roster.members), share=share)
        return cls(ring, masking, share, largest, noise)

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
        return under_masks(self.ring, noisy, self.masking)


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
