"""What a hospital hands out before a sum: once a run its share key, once a sum its signed setup and its shares.

Bonawitz et al. 2017, figure 4, rounds 0 and 1 (AdvertiseKeys, ShareKeys), in one message: the keys to which shares
are sealed are known for the whole run. A setup is a fresh mask key, a commitment to the self seed, and one
digest of all shares: a hash tree over a sealed pair of shares for every hospital of the roster, its owner
too, with commitments to both. So a hospital is shown everybody's setup but only its own shares, with the
proof that they are what the owner dealt, and a wrong share is traced to whoever dealt or released it.

Setups travel on earlier replies, through the coordinator. It can leave one out, but changes none.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import MappingProxyType
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import Field

from solblom_protocol.errors import IntegrityError
from solblom_protocol.logs.merkle import inclusion_proof, leaf_hash, root_of_proof, tree_root
from solblom_protocol.messages.message import Digest, Message, RunId, SiteName, parse_message
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.sums.mask_shares import (
    ShareKind,
    SharePair,
    mask_private_key,
    seal_share,
    seed_commitment,
    share_commitment,
    unseal_share,
)
from solblom_protocol.sums.roster import SumRoster, SumRound, check_round
from solblom_protocol.sums.secret_sharing import split_secret
from solblom_verify.canonical import canonical_json, digest

SHARE_KEY_PAYLOAD_TYPE = "application/vnd.solblom.share-key+json"
SETUP_PAYLOAD_TYPE = "application/vnd.solblom.mask-setup+json"
DEALT_PAYLOAD_TYPE = "application/vnd.solblom.dealt-setup+json"

KeyHex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Sealed = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{1,256}={0,2}$")]
Signed = Annotated[str, Field(min_length=2, max_length=8192)]


class _ShareKeyMessage(Message):
    schema_: Literal["solblom.share-key/1"] = Field(alias="schema")
    run: RunId
    roster: Digest
    site: SiteName
    key: KeyHex


class DealtShare(Message):
    """One recipient's part of a setup: the sealed shares in base64, and what the owner commits them to."""

    recipient: SiteName
    sealed: Sealed
    key: Digest
    seed: Digest

    @property
    def leaf(self) -> bytes:
        """Its place in the tree of which the setup has the root."""
        return leaf_hash(self.payload())

    def commitment(self, kind: ShareKind) -> str:
        """Return the commitment to one of the two shares."""
        return self.key if kind == "key" else self.seed


class MaskSetup(Message):
    """What a node signs before a sum.

    Attributes:
        mask_key: the fresh X25519 public key, raw.
        seed: commitment to the self seed.
        shares: root of the tree over what it deals to every site of the roster, sorted.
    """

    schema_: Literal["solblom.mask-setup/2"] = Field(alias="schema")
    round: SumRound
    site: SiteName
    mask_key: KeyHex
    seed: Digest
    shares: Digest

    @property
    def digest(self) -> str:
        """The digest of what was signed."""
        return digest(self.payload())

    @property
    def public_key(self) -> X25519PublicKey:
        """The mask key."""
        return X25519PublicKey.from_public_bytes(bytes.fromhex(self.mask_key))


class _DealtMessage(Message):
    """What a node answers: its signed setup, as text, and all shares."""

    schema_: Literal["solblom.dealt-setup/1"] = Field(alias="schema")
    setup: Signed
    shares: list[DealtShare]


class _HandedMessage(Message):
    """What an order carries of one setup: what its owner signed, and the recipient's share with its proof."""

    schema_: Literal["solblom.handed-setup/1"] = Field(alias="schema")
    setup: Signed
    share: DealtShare
    proof: list[KeyHex]


@dataclass(frozen=True)
class DealtSetup:
    """A node's checked answer: its setup, the text that it signed, and what it deals to each site, sorted."""

    setup: MaskSetup
    signed: str
    shares: tuple[DealtShare, ...]

    def hand_to(self, recipient: str) -> str:
        """Return what an order to one hospital carries of it.

        Raises:
            IntegrityError: SB-404, there is no share for that hospital.
        """
        sites = [share.recipient for share in self.shares]
        if recipient not in sites:
            raise IntegrityError(
                "SB-404", f"The setup of {self.setup.site} has no share for {recipient}"
            )
        index = sites.index(recipient)
        proof = inclusion_proof(self._leaves, index)
        handed = _HandedMessage(
            schema="solblom.handed-setup/1",
            setup=self.signed,
            share=self.shares[index],
            proof=[step.hex() for step in proof],
        )
        return handed.payload().decode()

    @cached_property
    def _leaves(self) -> list[bytes]:
        return [share.leaf for share in self.shares]


@dataclass(frozen=True)
class MaskSecrets:
    """The private half of a setup, 16 bytes each: erased when its round is closed."""

    mask_seed: bytes = field(repr=False)
    self_seed: bytes = field(repr=False)

    def mask_key(self, of: SumRound, *, site: str) -> X25519PrivateKey:
        """Return the private mask key."""
        return mask_private_key(of, owner=site, seed=self.mask_seed)


@dataclass(frozen=True)
class Participants:
    """The checked setups of one sum: whose masks are in a vector, and under which keys.

    Attributes:
        shares: what each owner dealt, by recipient; a hospital knows what it was dealt itself.
    """

    round: SumRound
    setups: Mapping[str, MaskSetup]
    shares: Mapping[str, Mapping[str, DealtShare]]

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

    def share(self, owner: str, recipient: str) -> DealtShare:
        """Return what an owner dealt to a recipient.

        Raises:
            IntegrityError: SB-404, nothing that is known here.
        """
        found = self.shares.get(owner, {}).get(recipient)
        if found is None:
            raise IntegrityError("SB-404", f"The setup of {owner} has no share for {recipient}")
        return found

    def check_share(self, share: bytes, *, owner: str, recipient: str, kind: ShareKind) -> bool:
        """Return whether a share is the one that its owner dealt to a recipient."""
        found = share_commitment(
            self.round, owner=owner, recipient=recipient, kind=kind, share=share
        )
        return found == self.share(owner, recipient).commitment(kind)


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


def read_share_keys(roster: SumRoster, envelopes: Sequence[bytes]) -> Mapping[str, X25519PublicKey]:
    """Return the share key of every site of the roster.

    Raises:
        IntegrityError: SB-405, signed by no node of the roster; SB-404, of another run or roster, one
        twice, or a site without. Names them.
    """
    return _share_keys(roster, tuple(envelopes))


@lru_cache(
    maxsize=8
)  # the same keys before every sum of a run; the answer follows from the arguments
def _share_keys(roster: SumRoster, envelopes: tuple[bytes, ...]) -> Mapping[str, X25519PublicKey]:
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
    return MappingProxyType(found)


def write_setup(
    roster: SumRoster,
    of: SumRound,
    *,
    site: str,
    secrets: MaskSecrets,
    share_keys: Mapping[str, X25519PublicKey],
    signing_key: Ed25519PrivateKey,
) -> bytes:
    """Return a site's answer: its signed setup and its shares for all sites, each sealed to that site's share key.

    Raises:
        IntegrityError: SB-404, the roster has another signing key for the site, or the sum another roster.
    """
    roster.check_own_key(site, signing_key)
    roster.check_round(of)
    shares = _deal(roster, of, site=site, secrets=secrets, share_keys=share_keys)
    public = secrets.mask_key(of, site=site).public_key()
    setup = MaskSetup(
        schema="solblom.mask-setup/2",
        round=of,
        site=site,
        mask_key=public.public_bytes_raw().hex(),
        seed=seed_commitment(of, owner=site, seed=secrets.self_seed),
        shares=_root(shares),
    )
    signed = sign_envelope(setup.payload(), SETUP_PAYLOAD_TYPE, [signing_key])
    answer = _DealtMessage(
        schema="solblom.dealt-setup/1", setup=signed.decode(), shares=list(shares)
    )
    return sign_envelope(answer.payload(), DEALT_PAYLOAD_TYPE, [signing_key])


def read_dealt_setup(roster: SumRoster, of: SumRound, envelope: bytes) -> DealtSetup:
    """Return a node's answer, checked: signed by the roster's key of its site, with exactly the shares it signed.

    Raises:
        IntegrityError: SB-405, signed by no node of the roster; SB-404, of another sum or site, not a
        share for each site, or others than the setup stands for. Names the signer.
    """
    signer, payload = roster.open_signed(
        envelope, payload_type=DEALT_PAYLOAD_TYPE, what="A mask setup"
    )
    message = parse_message(_DealtMessage, payload)
    setup = _read_setup(roster, of, message.setup)
    if setup.site != signer:
        raise IntegrityError("SB-404", f"{signer} signed a mask setup of {setup.site}")
    if tuple(share.recipient for share in message.shares) != roster.sites:
        raise IntegrityError(
            "SB-404", f"The mask setup of {signer} has not one share for each hospital"
        )
    if _root(message.shares) != setup.shares:
        raise IntegrityError(
            "SB-404", f"{signer} dealt other shares than its mask setup stands for"
        )
    return DealtSetup(setup, message.setup, tuple(message.shares))


def participants_of(roster: SumRoster, of: SumRound, dealt: Iterable[DealtSetup]) -> Participants:
    """Return whose masks a sum has, as the coordinator knows them; at least `threshold` of them.

    Raises:
        IntegrityError: SB-404, a site twice, or fewer than the threshold: names who is missing.
    """
    pairs = [(one.setup, {share.recipient: share for share in one.shares}) for one in dealt]
    return _participants(roster, of, pairs)


def read_participants(
    roster: SumRoster, of: SumRound, papers: Sequence[bytes], *, recipient: str
) -> Participants:
    """Return the setups that an order to one hospital carries, checked; at least `threshold` of them.

    Raises:
        IntegrityError: SB-405, a setup signed by no node of the roster; SB-404, of another sum, a site
        twice, a share of somebody else's or one that the owner did not deal, or fewer than the threshold:
        names who is missing.
    """
    index, found = roster.index(recipient) - 1, []
    for paper in papers:
        handed = parse_message(_HandedMessage, paper)
        setup, share = _read_setup(roster, of, handed.setup), handed.share
        proof = [bytes.fromhex(step) for step in handed.proof]
        root = root_of_proof(share.leaf, index, len(roster.sites), proof)
        if share.recipient != recipient or root is None or _digest(root) != setup.shares:
            raise IntegrityError(
                "SB-404",
                f"The order has another share of {setup.site} than it dealt to {recipient}",
            )
        found.append((setup, {recipient: share}))
    return _participants(roster, of, found)


def read_dealt_share(
    participants: Participants, *, owner: str, recipient: str, key: X25519PrivateKey
) -> SharePair:
    """Return what an owner dealt to a recipient, checked against what it committed to.

    Raises:
        IntegrityError: SB-405, it cannot be opened, belongs to another sum, owner or recipient, or is not
        what the owner committed to; SB-404, there is none. Names the owner.
    """
    sealed = base64.b64decode(participants.share(owner, recipient).sealed)
    pair = unseal_share(sealed, participants.round, owner=owner, recipient=recipient, key=key)
    if not (
        participants.check_share(pair.key, owner=owner, recipient=recipient, kind="key")
        and participants.check_share(pair.seed, owner=owner, recipient=recipient, kind="seed")
    ):
        raise IntegrityError(
            "SB-405", f"{owner} dealt {recipient} another share than the one it committed to"
        )
    return pair


def _deal(
    roster: SumRoster,
    of: SumRound,
    *,
    site: str,
    secrets: MaskSecrets,
    share_keys: Mapping[str, X25519PublicKey],
) -> tuple[DealtShare, ...]:
    dealt = [
        split_secret(secret, threshold=roster.threshold, count=len(roster.sites))
        for secret in (secrets.mask_seed, secrets.self_seed)
    ]
    shares = []
    for recipient, key, seed in zip(roster.sites, *dealt, strict=True):
        pair = SharePair(key, seed)
        sealed = seal_share(pair, of, owner=site, recipient=recipient, key=share_keys[recipient])
        commitments = [
            share_commitment(of, owner=site, recipient=recipient, kind=kind, share=share)
            for kind, share in _kinds(pair)
        ]
        shares.append(
            DealtShare(
                recipient=recipient,
                sealed=base64.b64encode(sealed).decode(),
                key=commitments[0],
                seed=commitments[1],
            )
        )
    return tuple(shares)


def _kinds(pair: SharePair) -> tuple[tuple[ShareKind, bytes], tuple[ShareKind, bytes]]:
    return ("key", pair.key), ("seed", pair.seed)


def _read_setup(roster: SumRoster, of: SumRound, signed: str) -> MaskSetup:
    """Return a setup, checked: signed by the roster's key of its site, for this sum."""
    signer, payload = roster.open_signed(
        signed.encode(), payload_type=SETUP_PAYLOAD_TYPE, what="A mask setup"
    )
    setup = parse_message(MaskSetup, payload)
    if setup.site != signer:
        raise IntegrityError("SB-404", f"{signer} signed a mask setup of {setup.site}")
    roster.check_round(of)
    check_round(setup.round, of, what=f"The mask setup of {signer}")
    return setup


def _participants(
    roster: SumRoster,
    of: SumRound,
    pairs: Iterable[tuple[MaskSetup, Mapping[str, DealtShare]]],
) -> Participants:
    setups: dict[str, MaskSetup] = {}
    shares: dict[str, Mapping[str, DealtShare]] = {}
    for setup, dealt in sorted(pairs, key=lambda pair: pair[0].site):
        if setup.site in setups:
            raise IntegrityError("SB-404", f"{setup.site} has two mask setups in one sum")
        setups[setup.site], shares[setup.site] = setup, dealt
    if len(setups) < roster.threshold:
        missing = ", ".join(site for site in roster.sites if site not in setups)
        raise IntegrityError(
            "SB-404",
            f"{len(setups)} hospitals have a mask setup, {roster.threshold} are needed; missing: {missing}",
        )
    return Participants(of, setups, shares)


def _root(shares: Sequence[DealtShare]) -> str:
    return _digest(tree_root([share.leaf for share in shares]))


def _digest(root: bytes) -> str:
    return f"sha256:{root.hex()}"
