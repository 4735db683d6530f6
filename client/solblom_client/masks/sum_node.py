"""A node's four answers in a secure sum that survives dropouts, and its share key before the first.

The order of things is the protection: check, then record on disk, then sign or release. Nothing here
reads patients or trains; the caller passes the vector in.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from solblom_client.masks.record import MaskRecord
from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_protocol.sums.double_masks import mask_vector
from solblom_protocol.sums.mask_setup import (
    MaskSecrets,
    Participants,
    read_dealt_setup,
    read_dealt_share,
    read_share_keys,
    write_setup,
    write_share_key,
)
from solblom_protocol.sums.ring import Ring, Words
from solblom_protocol.sums.roster import SumRoster, SumRound
from solblom_protocol.sums.survivors import (
    MaskedWork,
    SurvivorSet,
    check_cosignatures,
    cosign_survivors,
)
from solblom_protocol.sums.unmasking import write_release


@dataclass(frozen=True)
class SumNode:
    """One hospital in the secure sums of a run.

    Attributes:
        roster: as the signed study has it, not as an order does.
    """

    roster: SumRoster
    site: str
    signing_key: Ed25519PrivateKey
    record: MaskRecord

    def join(self, *, new: X25519PrivateKey) -> bytes:
        """Return this node's signed share key for the run; `new` becomes that key the first time.

        Raises:
            RefusedError: SB-207, the run was begun with another roster, or its masks are erased.
        """
        key = self.record.share_key(self.roster)
        if key is None:
            self.record.keep_share_key(self.roster, new)
            self.record.close_study(self.roster.study, but=self.roster.run)
            key = new
        return write_share_key(
            self.roster, key.public_key(), site=self.site, signing_key=self.signing_key
        )

    def set_up(self, of: SumRound, *, share_keys: Sequence[bytes], new: MaskSecrets) -> bytes:
        """Return this node's signed setup for a sum, the same whenever asked; `new` are its secrets the first time.

        Raises:
            RefusedError: SB-207, the round is closed.
            IntegrityError: SB-404, SB-405, a share key does not hold, or is missing.
        """
        stored = self.record.setup(of)
        if stored is not None:
            return stored
        setup = write_setup(
            self.roster,
            of,
            site=self.site,
            secrets=new,
            share_keys=read_share_keys(self.roster, share_keys),
            signing_key=self.signing_key,
        )
        self.record.keep_setup(of, new, setup=setup)
        return setup

    def mask(
        self, ring: Ring, values: Words, *, participants: Participants, base_model: str
    ) -> Words:
        """Return the vector under its masks; the shares dealt to this node are opened, checked and kept.

        `participants` has passed `read_participants` for this node.

        Raises:
            RefusedError: SB-207, another vector, other setups or another model under this setup; no setup;
            the round is closed.
            IntegrityError: SB-404, SB-405, a share does not hold, or the setup of this site is not its own:
            names the owner.
        """
        of = participants.round
        secrets = self.record.secrets(of)
        key = self._share_key()
        self._check_own_setup(participants)
        shares = {
            owner: read_dealt_share(participants, owner=owner, recipient=self.site, key=key)
            for owner in participants.setups
        }
        vector = mask_vector(
            ring,
            values,
            participants=participants,
            site=self.site,
            secrets=secrets,
            base_model=base_model,
        )
        work = MaskedWork(of, participants.digest, base_model, tuple(participants.setups))
        self.record.keep_masked(work, vector=_vector_digest(ring, vector), shares=shares)
        return vector

    def agree(self, asked: SurvivorSet) -> bytes:
        """Record the round's one survivor set and return this node's signature on it.

        Raises:
            RefusedError: SB-207, another set is recorded; nothing was masked here; the round is closed.
            IntegrityError: SB-404, the set is not of what was masked, too small, or without this node.
        """
        if self.site not in asked.survivors:
            raise IntegrityError("SB-404", f"{self.site} is not in the survivor set")
        self.record.keep_survivors(self.roster, asked)
        return cosign_survivors(self.roster, asked, site=self.site, signing_key=self.signing_key)

    def open(self, asked: SurvivorSet, *, cosignatures: bytes) -> bytes:
        """Return this node's shares for a set that enough of its members signed, and forget the others.

        A node that is not in the set helps too.

        Raises:
            RefusedError: SB-207, another set is recorded; nothing was masked here; the round is closed.
            IntegrityError: SB-404, SB-405, too few cosignatures, or one that does not hold: names the signer.
        """
        agreed = check_cosignatures(self.roster, asked, cosignatures)
        shares = self.record.release(self.roster, agreed)
        return write_release(
            self.roster,
            agreed,
            site=self.site,
            seeds=shares.seeds,
            keys=shares.keys,
            signing_key=self.signing_key,
        )

    def close(self, of: SumRound) -> None:
        """Erase the secrets of a round and all before it."""
        self.record.close_round(of)

    def _share_key(self) -> X25519PrivateKey:
        key = self.record.share_key(self.roster)
        if key is None:
            raise RefusedError("SB-207", "This node has not joined the secure sums of the run")
        return key

    def _check_own_setup(self, participants: Participants) -> None:
        """Refuse a setup of this site that is not the recorded one."""
        stored, of = self.record.setup(participants.round), participants.round
        own = None if stored is None else read_dealt_setup(self.roster, of, stored).setup
        if own is None or participants.setups.get(self.site) != own:
            raise IntegrityError("SB-404", f"The order has not the mask setup of {self.site}")


def _vector_digest(ring: Ring, vector: Words) -> str:
    words = np.ascontiguousarray(vector, dtype=f"<u{ring.word_bytes}")
    hashed = hashlib.sha256(f"solblom/masked-vector/v1/{ring.bits}\x00".encode())
    hashed.update(words.data)
    return f"sha256:{hashed.hexdigest()}"
