"""Open the sum of the survivors: what each node releases for it, and what the coordinator makes of that.

Bonawitz et al. 2017, figure 4, round 4 (Unmasking). For each survivor the shares of its self seed come in, for each
other participant those of its mask key, and of nobody both. Every share is compared with what its owner
committed to, so a wrong or replayed one is refused with the name of whoever sent it; a secret that does not
fit the setup although all its shares do was dealt wrongly, by its owner.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pydantic import Field

from solblom_protocol.errors import IntegrityError, RunError
from solblom_protocol.messages.message import Digest, Message, SiteName, parse_message
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.sums.double_masks import own_mask_key, pair_masks, remove_masks, stream_mask
from solblom_protocol.sums.mask_setup import MaskSetup, Participants
from solblom_protocol.sums.mask_shares import (
    ShareHex,
    ShareKind,
    mask_private_key,
    seed_commitment,
)
from solblom_protocol.sums.ring import Ring, Words
from solblom_protocol.sums.roster import SumRoster, SumRound, check_round
from solblom_protocol.sums.secret_sharing import join_secret
from solblom_protocol.sums.survivors import AgreedSurvivors

RELEASE_PAYLOAD_TYPE = "application/vnd.solblom.share-release+json"


class ShareRelease(Message):
    """One node's shares for one survivor set.

    Attributes:
        survivors: `SurvivorSet.digest`.
        site: who releases.
        seeds: its share of the self seed of each survivor.
        keys: its share of the mask key of each other participant.
    """

    schema_: Literal["solblom.share-release/1"] = Field(alias="schema")
    round: SumRound
    survivors: Digest
    site: SiteName
    seeds: dict[SiteName, ShareHex]
    keys: dict[SiteName, ShareHex]


@dataclass(frozen=True)
class OpenedSecrets:
    """What a survivor set opens: the survivors' self seeds and the others' private mask keys."""

    self_seeds: Mapping[str, bytes] = field(repr=False)
    mask_keys: Mapping[str, X25519PrivateKey] = field(repr=False)


def dropped_sites(participants: Participants, agreed: AgreedSurvivors) -> tuple[str, ...]:
    """Return the participants that are not in the sum.

    Raises:
        IntegrityError: SB-404, the survivor set belongs to other setups.
    """
    check_round(agreed.chosen.round, participants.round, what="The survivor set")
    if agreed.chosen.participants != participants.digest:
        raise IntegrityError("SB-404", "The survivor set belongs to other mask setups")
    return tuple(site for site in participants.setups if site not in agreed.chosen.survivors)


def write_release(
    roster: SumRoster,
    agreed: AgreedSurvivors,
    *,
    site: str,
    seeds: Mapping[str, bytes],
    keys: Mapping[str, bytes],
    signing_key: Ed25519PrivateKey,
) -> bytes:
    """Return a node's shares, signed; the caller has erased what it must not release.

    Raises:
        IntegrityError: SB-404, seeds of others than the survivors, a hospital in both, or the roster has
        another key for the site.
    """
    roster.check_own_key(site, signing_key)
    if sorted(seeds) != agreed.chosen.survivors or set(seeds) & set(keys):
        raise IntegrityError("SB-404", "A release has seeds of survivors and keys of others only")
    release = ShareRelease(
        schema="solblom.share-release/1",
        round=agreed.chosen.round,
        survivors=agreed.chosen.digest,
        site=site,
        seeds={owner: share.hex() for owner, share in sorted(seeds.items())},
        keys={owner: share.hex() for owner, share in sorted(keys.items())},
    )
    return sign_envelope(release.payload(), RELEASE_PAYLOAD_TYPE, [signing_key])


def read_release(
    roster: SumRoster, participants: Participants, agreed: AgreedSurvivors, envelope: bytes
) -> ShareRelease:
    """Return a node's shares, each compared with what its owner committed to.

    Raises:
        IntegrityError: SB-405, signed by no node of the roster; SB-404, of another sum or survivor set, not
        exactly one share for each participant, or a share that its owner did not deal to the sender. Names
        the sender.
    """
    dropped = dropped_sites(participants, agreed)
    signer, payload = roster.open_signed(
        envelope, payload_type=RELEASE_PAYLOAD_TYPE, what="A release of shares"
    )
    release = parse_message(ShareRelease, payload)
    if release.site != signer:
        raise IntegrityError("SB-404", f"{signer} signed a release of {release.site}")
    check_round(release.round, agreed.chosen.round, what=f"The release of {signer}")
    if release.survivors != agreed.chosen.digest:
        raise IntegrityError("SB-404", f"The release of {signer} is for another survivor set")
    if sorted(release.seeds) != agreed.chosen.survivors or sorted(release.keys) != sorted(dropped):
        raise IntegrityError(
            "SB-404", f"{signer} released other shares than the survivor set asks for"
        )
    kinds: tuple[tuple[ShareKind, Mapping[str, str]], ...] = (
        ("seed", release.seeds),
        ("key", release.keys),
    )
    for kind, shares in kinds:
        for owner, share in shares.items():
            raw = bytes.fromhex(share)
            if not participants.check_share(raw, owner=owner, recipient=signer, kind=kind):
                raise IntegrityError(
                    "SB-404",
                    f"{signer} released another {kind} share of {owner} than the one it was dealt",
                )
    return release


def join_releases(
    roster: SumRoster,
    participants: Participants,
    agreed: AgreedSurvivors,
    releases: Sequence[ShareRelease],
) -> OpenedSecrets:
    """Return the secrets that a survivor set opens, from releases that `read_release` has checked.

    Raises:
        RunError: SB-501, fewer than the threshold: says how many came and from whom none did.
        IntegrityError: SB-404, two releases of one node; or an owner dealt shares that do not fit its
        setup: names it.
    """
    senders = {release.site: release for release in releases}
    if len(senders) != len(releases):
        raise IntegrityError("SB-404", "A hospital released its shares twice")
    if len(senders) < roster.threshold:
        missing = ", ".join(site for site in participants.setups if site not in senders)
        raise RunError(
            "SB-501",
            f"{len(senders)} hospitals released their shares, {roster.threshold} are needed; missing: {missing}",
        )
    self_seeds = {}
    for owner in agreed.chosen.survivors:
        shares = {site: release.seeds[owner] for site, release in senders.items()}
        self_seeds[owner] = _joined_seed(participants.setups[owner], _join(roster, owner, shares))
    mask_keys = {}
    for owner in dropped_sites(participants, agreed):
        shares = {site: release.keys[owner] for site, release in senders.items()}
        mask_keys[owner] = _joined_key(participants.setups[owner], _join(roster, owner, shares))
    return OpenedSecrets(self_seeds, mask_keys)


def unmask_sum(
    ring: Ring,
    vectors: Mapping[str, Words],
    *,
    participants: Participants,
    agreed: AgreedSurvivors,
    secrets: OpenedSecrets,
) -> Words:
    """Return the sum of the survivors' vectors, to the bit. `vectors` is read once for each site, one at a time.

    Raises:
        IntegrityError: SB-404, a survivor's vector is missing, has another length, or one of somebody else
        is there: names them.
    """
    survivors = agreed.chosen.survivors
    missing = [site for site in survivors if site not in vectors]
    strange = [site for site in vectors if site not in survivors]
    if missing or strange:
        raise IntegrityError(
            "SB-404",
            "The sum is of the survivors' vectors and no other; "
            f"missing or not in the survivor set: {', '.join(missing + strange)}",
        )
    total = _sum_of(ring, vectors, survivors)
    base_model = agreed.chosen.base_model
    own = (
        stream_mask(ring, own_mask_key(participants, site=site, seed=seed, base_model=base_model))
        for site, seed in secrets.self_seeds.items()
    )
    dropped = {
        site: pair_masks(
            ring,
            participants,
            site=site,
            mask_key=key,
            peers=survivors,
            base_model=base_model,
        )
        for site, key in secrets.mask_keys.items()
    }
    return remove_masks(total, own=own, dropped=dropped)


def _sum_of(ring: Ring, vectors: Mapping[str, Words], sites: Sequence[str]) -> Words:
    total = vectors[sites[0]]
    for site in sites[1:]:
        vector = vectors[site]
        if vector.shape != total.shape:  # numpy would stretch a single number over the whole sum
            raise IntegrityError(
                "SB-404",
                f"The vectors of {sites[0]} and {site} differ in length: {total.shape}, {vector.shape}",
            )
        total = ring.add(total, vector)
    return total


def _join(roster: SumRoster, owner: str, shares: Mapping[str, str]) -> bytes:
    points = {roster.index(site): bytes.fromhex(share) for site, share in shares.items()}
    try:
        return join_secret(points, threshold=roster.threshold)
    except ValueError:  # each share is the one that its owner committed to
        raise IntegrityError("SB-404", f"{owner} dealt shares that give no secret") from None


def _joined_seed(setup: MaskSetup, seed: bytes) -> bytes:
    if seed_commitment(setup.round, owner=setup.site, seed=seed) != setup.seed:
        raise IntegrityError(
            "SB-404", f"{setup.site} dealt shares of another self seed than its own"
        )
    return seed


def _joined_key(setup: MaskSetup, seed: bytes) -> X25519PrivateKey:
    key = mask_private_key(setup.round, owner=setup.site, seed=seed)
    if key.public_key().public_bytes_raw().hex() != setup.mask_key:
        raise IntegrityError(
            "SB-404", f"{setup.site} dealt shares of another mask key than its own"
        )
    return key
