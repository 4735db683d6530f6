"""What a hospital hands out before a sum: once a run its share key, once a sum its signed setup.

Bonawitz et al. 2017, figure 4, rounds 0 and 1 (AdvertiseKeys, ShareKeys), in one message: the keys to which shares
are sealed are known for the whole run. A setup is a fresh mask key, and for every hospital of the roster,
its owner too, a sealed share of the private mask key and of the self seed. It commits to the seed and to
each share, so a wrong one is traced to whoever dealt or released it.

Setups travel on earlier replies, through the coordinator. It can leave one out, but changes none.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import Field

from solblom_protocol.errors import IntegrityError
from solblom_protocol.mask_shares import (
    SecretHex,
    ShareKind,
    SharePair,
    seal_share,
    seed_commitment,
    share_commitment,
    split_secret,
    unseal_share,
)
from solblom_protocol.messages import Digest, Message, RunId, SiteName, parse_message
from solblom_protocol.sum_roster import SumRoster, SumRound, check_round
from solblom_verify.canonical import canonical_json, digest
from solblom_verify.envelope import sign_envelope

SHARE_KEY_PAYLOAD_TYPE = "application/vnd.solblom.share-key+json"
SETUP_PAYLOAD_TYPE = "application/vnd.solblom.mask-setup+json"

Sealed = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{1,4096}={0,2}$")]


class _ShareKeyMessage(Message):
    schema_: Literal["solblom.share-key/1"] = Field(alias="schema")
    run: RunId
    roster: Digest
    site: SiteName
    key: SecretHex


class DealtShare(Message):
    """One recipient's part of a setup: the sealed shares in base64, and what the owner commits them to."""

    recipient: SiteName
    sealed: Sealed
    key: Digest
    seed: Digest

    def commitment(self, kind: ShareKind) -> str:
        """Return the commitment to one of the two shares."""
        return self.key if kind == "key" else self.seed


class MaskSetup(Message):
    """What a node signs before a sum.

    Attributes:
        mask_key: the fresh X25519 public key, raw.
        seed: commitment to the self seed.
        shares: for every site of the roster, sorted.
    """

    schema_: Literal["solblom.mask-setup/1"] = Field(alias="schema")
    round: SumRound
    site: SiteName
    mask_key: SecretHex
    seed: Digest
    shares: list[DealtShare]

    @property
    def digest(self) -> str:
        """The digest of what was signed."""
        return digest(self.payload())

    @property
    def public_key(self) -> X25519PublicKey:
        """The mask key."""
        return X25519PublicKey.from_public_bytes(bytes.fromhex(self.mask_key))

    def share_for(self, recipient: str) -> DealtShare:
        """Return a recipient's part.

        Raises:
            IntegrityError: SB-404, there is none.
        """
        for share in self.shares:
            if share.recipient == recipient:
                return share
        raise IntegrityError("SB-404", f"The setup of {self.site} has no share for {recipient}")

    def check_share(self, share: bytes, *, recipient: str, kind: ShareKind) -> bool:
        """Return whether a share is the one that this setup's owner dealt to a recipient."""
        found = share_commitment(
            self.round, owner=self.site, recipient=recipient, kind=kind, share=share
        )
        return found == self.share_for(recipient).commitment(kind)


@dataclass(frozen=True)
class MaskSecrets:
    """The private half of a setup: erased when its round is closed."""

    mask_key: X25519PrivateKey = field(repr=False)
    self_seed: bytes = field(repr=False)


@dataclass(frozen=True)
class Participants:
    """The checked setups of one sum: whose masks are in a vector, and under which keys."""

    round: SumRound
    setups: Mapping[str, MaskSetup]

    @cached_property
    def digest(self) -> str:
        """The digest of all setups. It goes into every mask: nodes that were shown others share none."""
        return digest(
            canonical_json(
                {
                    "schema": "solblom.sum-participants/1",
                    "round": self.round.model_dump(mode="json"),
                    "setups": {site: setup.digest for site, setup in sorted(self.setups.items())},
                }
            )
        )


def write_share_key(
    roster: SumRoster, key: X25519PublicKey, *, site: str, signing_key: Ed25519PrivateKey
) -> bytes:
    """Return a site's share key for the run, signed by its node.

    Raises:
        IntegrityError: SB-404, the roster has another signing key for the site.
    """
    roster.check_own_key(site, signing_key)
    message = _ShareKeyMessage(
        schema="solblom.share-key/1",
        run=roster.run,
        roster=roster.digest,
        site=site,
        key=key.public_bytes_raw().hex(),
    )
    return sign_envelope(message.payload(), SHARE_KEY_PAYLOAD_TYPE, [signing_key])


def read_share_keys(roster: SumRoster, envelopes: Sequence[bytes]) -> dict[str, X25519PublicKey]:
    """Return the share key of every site of the roster.

    Raises:
        IntegrityError: SB-405, signed by no node of the roster; SB-404, of another run or roster, one
        twice, or a site without. Names them.
    """
    found: dict[str, X25519PublicKey] = {}
    for envelope in envelopes:
        signer, payload = roster.open_signed(
            envelope, payload_type=SHARE_KEY_PAYLOAD_TYPE, what="A share key"
        )
        message = parse_message(_ShareKeyMessage, payload)
        if message.site != signer:
            raise IntegrityError("SB-404", f"{signer} signed a share key of {message.site}")
        if (message.run, message.roster) != (roster.run, roster.digest):
            raise IntegrityError("SB-404", f"The share key of {signer} is of another run or roster")
        if signer in found:
            raise IntegrityError("SB-404", f"{signer} has two share keys")
        found[signer] = X25519PublicKey.from_public_bytes(bytes.fromhex(message.key))
    missing = [site for site in roster.sites if site not in found]
    if missing:
        raise IntegrityError("SB-404", f"No share key of {', '.join(missing)}")
    return found


def write_setup(
    roster: SumRoster,
    of: SumRound,
    *,
    site: str,
    secrets: MaskSecrets,
    share_keys: Mapping[str, X25519PublicKey],
    signing_key: Ed25519PrivateKey,
) -> bytes:
    """Return a site's signed setup: its shares for all sites, each sealed to that site's share key.

    Raises:
        IntegrityError: SB-404, the roster has another signing key for the site, or the sum another roster.
    """
    roster.check_own_key(site, signing_key)
    roster.check_round(of)
    dealt = [
        split_secret(secret, threshold=roster.threshold, count=len(roster.sites))
        for secret in (secrets.mask_key.private_bytes_raw(), secrets.self_seed)
    ]
    shares = []
    for recipient, key_share, seed_share in zip(roster.sites, *dealt, strict=True):
        sealed = seal_share(
            SharePair(key_share, seed_share),
            of,
            owner=site,
            recipient=recipient,
            key=share_keys[recipient],
        )
        shares.append(
            DealtShare(
                recipient=recipient,
                sealed=base64.b64encode(sealed).decode(),
                key=share_commitment(
                    of, owner=site, recipient=recipient, kind="key", share=key_share
                ),
                seed=share_commitment(
                    of, owner=site, recipient=recipient, kind="seed", share=seed_share
                ),
            )
        )
    setup = MaskSetup(
        schema="solblom.mask-setup/1",
        round=of,
        site=site,
        mask_key=secrets.mask_key.public_key().public_bytes_raw().hex(),
        seed=seed_commitment(of, owner=site, seed=secrets.self_seed),
        shares=shares,
    )
    return sign_envelope(setup.payload(), SETUP_PAYLOAD_TYPE, [signing_key])


def read_setup(roster: SumRoster, of: SumRound, envelope: bytes) -> MaskSetup:
    """Return a setup, checked: signed by the roster's key of its site, for this sum, with a share for each site.

    Raises:
        IntegrityError: SB-405, signed by no node of the roster; SB-404, of another sum or site, or not a
        share for each site. Names the signer.
    """
    signer, payload = roster.open_signed(
        envelope, payload_type=SETUP_PAYLOAD_TYPE, what="A mask setup"
    )
    setup = parse_message(MaskSetup, payload)
    if setup.site != signer:
        raise IntegrityError("SB-404", f"{signer} signed a mask setup of {setup.site}")
    roster.check_round(of)
    check_round(setup.round, of, what=f"The mask setup of {signer}")
    if tuple(share.recipient for share in setup.shares) != roster.sites:
        raise IntegrityError(
            "SB-404", f"The mask setup of {signer} has not one share for each hospital"
        )
    return setup


def read_participants(roster: SumRoster, of: SumRound, envelopes: Sequence[bytes]) -> Participants:
    """Return the setups that an order carries, checked; at least `threshold` of them.

    Raises:
        IntegrityError: as `read_setup`; SB-404, a site twice, or fewer than the threshold: names who is missing.
    """
    found: dict[str, MaskSetup] = {}
    for envelope in envelopes:
        setup = read_setup(roster, of, envelope)
        if setup.site in found:
            raise IntegrityError("SB-404", f"{setup.site} has two mask setups in one sum")
        found[setup.site] = setup
    if len(found) < roster.threshold:
        missing = ", ".join(site for site in roster.sites if site not in found)
        raise IntegrityError(
            "SB-404",
            f"{len(found)} hospitals have a mask setup, {roster.threshold} are needed; missing: {missing}",
        )
    return Participants(of, dict(sorted(found.items())))


def read_dealt_share(setup: MaskSetup, *, recipient: str, key: X25519PrivateKey) -> SharePair:
    """Return what a setup deals to a recipient, checked against what its owner committed to.

    Raises:
        IntegrityError: SB-405, it cannot be opened, or is not what the owner committed to; SB-404, of
        another sum, owner or recipient. Names the owner.
    """
    sealed = base64.b64decode(setup.share_for(recipient).sealed)
    pair = unseal_share(sealed, setup.round, owner=setup.site, recipient=recipient, key=key)
    if not (
        setup.check_share(pair.key, recipient=recipient, kind="key")
        and setup.check_share(pair.seed, recipient=recipient, kind="seed")
    ):
        raise IntegrityError(
            "SB-405",
            f"{setup.site} dealt {recipient} another share than the one it committed to",
        )
    return pair
