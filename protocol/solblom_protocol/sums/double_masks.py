"""The double mask: a hospital's vector under a mask of its own and one mask for each peer.

Bonawitz et al. 2017, section 4 ("Double-Masking to Protect Security") and figure 4, round 2. The peers'
masks cancel where both vectors are in the sum; of a hospital that dropped out they are made again from its
mask key. The own mask is what keeps a vector hidden that arrives after that. It comes off where the vector
is in the sum.

The masks of a pair are bound to both names. X25519 gives one secret for several spellings of a public key
(RFC 7748 §6.1), so a node could repeat a peer's key as its own; without the names, its mask and the peer's
would then be the same and cancel inside one vector.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from solblom_protocol.errors import IntegrityError
from solblom_protocol.sums.mask_setup import MaskSecrets, Participants
from solblom_protocol.sums.mask_shares import seed_commitment
from solblom_protocol.sums.pair_masks import round_pair_key, run_pair_key, self_mask_key
from solblom_protocol.sums.ring import Ring, Words
from solblom_protocol.sums.secret_sharing import SECRET_BYTES
from solblom_verify.canonical import canonical_json, digest

Mask = Callable[[Words, bool], None]
"""Puts one mask onto a vector, in place; True subtracts it. A mask is made block by block, never whole."""

PairMasks = Iterable[tuple[str, Mask]]
"""Peers and the mask shared with each."""


def mask_vector(
    ring: Ring,
    values: Words,
    *,
    participants: Participants,
    site: str,
    secrets: MaskSecrets,
    base_model: str,
) -> Words:
    """Return a hospital's vector under its own mask and its masks with all other participants.

    The caller sees to it that a setup masks one vector, ever.

    Raises:
        IntegrityError: SB-404, the site has no setup here, or one with other secrets; SB-405, a peer's mask
        key is not one: names the peer.
    """
    _check_own_setup(participants, site=site, secrets=secrets)
    key = own_mask_key(participants, site=site, seed=secrets.self_seed, base_model=base_model)
    pairs = pair_masks(
        ring,
        participants,
        site=site,
        mask_key=secrets.mask_key(participants.round, site=site),
        peers=[peer for peer in participants.setups if peer != site],
        base_model=base_model,
    )
    return add_masks(values, site=site, own=stream_mask(ring, key), pairs=pairs)


def stream_mask(ring: Ring, key: bytes) -> Mask:
    """Return the mask that a key stands for."""
    return lambda total, subtract: ring.add_uniform(total, key, subtract=subtract)


def add_masks(values: Words, *, site: str, own: Mask, pairs: PairMasks) -> Words:
    """Return a vector under a hospital's own mask and its masks with its peers."""
    total = values.copy()
    own(total, False)
    for peer, mask in pairs:
        _put_pair(total, mask, site=site, peer=peer)
    return total


def remove_masks(total: Words, *, own: Iterable[Mask], dropped: Mapping[str, PairMasks]) -> Words:
    """Return the sum of the survivors' vectors without the masks that did not cancel.

    Args:
        total: the sum of the survivors' masked vectors, and of no other.
        own: the survivors' own masks.
        dropped: for each hospital that is not in the sum, its mask with each survivor.
    """
    total = total.copy()
    for mask in own:
        mask(total, True)
    for site, pairs in dropped.items():
        # What the dropped hospital would have added to its own vector is what cancels the survivors' part.
        for survivor, mask in pairs:
            _put_pair(total, mask, site=site, peer=survivor)
    return total


def pair_masks(
    ring: Ring,
    participants: Participants,
    *,
    site: str,
    mask_key: X25519PrivateKey,
    peers: Iterable[str],
    base_model: str,
) -> Iterator[tuple[str, Mask]]:
    """Give a hospital's mask with each of some peers, from its private mask key.

    Raises:
        IntegrityError: SB-405, a peer's mask key is not one: names the peer.
    """
    key_with = partial(
        pair_mask_key, participants, site=site, mask_key=mask_key, base_model=base_model
    )
    for peer in peers:
        yield peer, stream_mask(ring, key_with(peer=peer))


def pair_mask_key(
    participants: Participants,
    *,
    site: str,
    mask_key: X25519PrivateKey,
    peer: str,
    base_model: str,
) -> bytes:
    """Return the key of the mask of two hospitals, bound to their names, all setups, the round and the model.

    Raises:
        IntegrityError: SB-405, the peer's mask key is not one: names the peer.
    """
    of = participants.round
    context = digest(canonical_json({"participants": participants.digest, "roster": of.roster}))
    try:
        pair = run_pair_key(
            mask_key,
            participants.setups[peer].public_key,
            pair=(site, peer),
            run=of.run,
            roster=context,
        )
    except IntegrityError as error:
        raise IntegrityError(error.code, f"The mask key of {peer} is not one") from None
    return round_pair_key(pair, kind=of.kind, number=of.number, base_model=base_model)


def own_mask_key(participants: Participants, *, site: str, seed: bytes, base_model: str) -> bytes:
    """Return the key of a hospital's own mask, bound to all setups, the round and the model."""
    of = participants.round
    return self_mask_key(
        seed,
        site=site,
        run=of.run,
        participants=participants.digest,
        kind=of.kind,
        number=of.number,
        base_model=base_model,
    )


def _put_pair(total: Words, mask: Mask, *, site: str, peer: str) -> None:
    """Put the mask of a pair onto the vector of one of them: added towards later names, else subtracted."""
    if site == peer:
        raise ValueError("a hospital shares no mask with itself")
    mask(total, site > peer)


def _check_own_setup(participants: Participants, *, site: str, secrets: MaskSecrets) -> None:
    if site not in participants.setups:
        raise IntegrityError("SB-404", f"{site} has no mask setup in this sum")
    setup = participants.setups[site]
    key = secrets.mask_key(setup.round, site=site)
    public = key.public_key().public_bytes_raw().hex()
    seed = seed_commitment(setup.round, owner=site, seed=secrets.self_seed)
    if len(secrets.self_seed) != SECRET_BYTES or (setup.mask_key, setup.seed) != (public, seed):
        raise IntegrityError("SB-404", f"The mask setup of {site} is not of its own mask key")
