"""Masked vectors add up to the plain sum, to the bit, and show nothing else."""

from collections.abc import Iterator, Mapping
from itertools import combinations, product

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from solblom_protocol.errors import ConfigurationError, IntegrityError
from solblom_protocol.sums.pair_masks import (
    CHECK_WORDS,
    OpenedSum,
    add_pair_mask,
    checked,
    masked,
    round_pair_key,
    run_pair_key,
)
from solblom_protocol.sums.ring import Ring, Words

TINY = Ring(4)
ROSTER_DIGEST = "sha256:" + "0" * 64


def hospitals(count: int) -> dict[str, X25519PrivateKey]:
    return {
        f"h{n:02}": X25519PrivateKey.from_private_bytes(bytes([n + 1]) * 32) for n in range(count)
    }


def masks_of(
    ring: Ring, site: str, keys: Mapping[str, X25519PrivateKey], size: int, *, number: int = 1
) -> dict[str, Words]:
    """Return a hospital's masks as the product makes them, from its own key and the others' public ones."""
    found = {}
    for peer in keys.keys() - {site}:
        pair = run_pair_key(
            keys[site],
            keys[peer].public_key(),
            pair=(site, peer),
            run="run-1",
            roster=ROSTER_DIGEST,
        )
        key = round_pair_key(pair, kind="train", number=number, base_model=ROSTER_DIGEST)
        found[peer] = ring.uniform(key, size)
    return found


def opened_sum(
    ring: Ring, vectors: Mapping[str, Words], roster: frozenset[str], size: int
) -> Words:
    """Return what the coordinator opens, as signed integers."""
    closed = OpenedSum(ring, size, roster)
    for site in sorted(vectors, reverse=True):  # any order
        closed.add(site, vectors[site].tobytes())
    return closed.open()


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("count", range(3, 21))
def test_the_opened_sum_is_the_plain_sum_to_the_bit(count: int, bits: int) -> None:
    ring, keys = Ring(bits), hospitals(count)
    largest = 2 ** (bits - 1) // count - 1
    draws = np.random.default_rng(count).integers(-largest, largest, (count, 50), endpoint=True)
    draws[:, 0], draws[:, 1] = largest, -largest  # the corners that the range proof allows
    vectors = {
        site: masked(
            ring,
            ring.encode(checked(draw)),
            site=site,
            masks=masks_of(ring, site, keys, 50 + CHECK_WORDS),
        )
        for site, draw in zip(keys, draws, strict=True)
    }
    assert np.array_equal(opened_sum(ring, vectors, frozenset(keys), 50), draws.sum(axis=0))
    ring.check_range(addends=count, largest=largest)


@pytest.mark.parametrize("missing", ["h00", "h02", "h04"])
def test_one_missing_hospital_is_named_and_the_rest_stays_uniform(missing: str) -> None:
    ring, keys = Ring(64), hospitals(5)
    vectors = {
        site: masked(
            ring,
            ring.encode(np.zeros(4000, np.int64)),
            site=site,
            masks=masks_of(ring, site, keys, 4000),
        )
        for site in keys
    }
    del vectors[missing]
    with pytest.raises(IntegrityError, match=missing):
        opened_sum(ring, vectors, frozenset(keys), 4000 - CHECK_WORDS)
    with pytest.raises(IntegrityError, match="do not cancel"):
        opened_sum(ring, vectors, frozenset(vectors), 4000 - CHECK_WORDS)
    rest = plain_sum(ring, vectors)
    low = np.bincount((rest & np.uint64(15)).astype(np.int64), minlength=16)
    high = np.bincount((rest >> np.uint64(60)).astype(np.int64), minlength=16)
    for counts in (low, high):  # chi-square with 15 degrees of freedom: above 60 once in a million
        assert ((counts - 250.0) ** 2 / 250.0).sum() < 60


def test_a_puppet_beside_the_roster_is_named() -> None:
    vectors = {site: Ring(64).encode(np.zeros(7, np.int64)) for site in ("h00", "h01", "puppet")}
    with pytest.raises(IntegrityError, match="puppet"):
        opened_sum(Ring(64), vectors, frozenset({"h00", "h01"}), 3)


def test_a_vector_that_comes_twice_is_named() -> None:
    closed = OpenedSum(Ring(32), 3, frozenset({"h00", "h01"}))
    closed.add("h00", bytes(4 * 7))
    with pytest.raises(IntegrityError, match="h00"):
        closed.add("h00", bytes(4 * 7))


@pytest.mark.parametrize("data", [b"", bytes(27), bytes(4 * 6), bytes(4 * 8)])
def test_a_vector_of_another_size_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        OpenedSum(Ring(32), 3, frozenset({"h00", "h01"})).add("h00", data)


def plain_sum(ring: Ring, vectors: Mapping[str, Words]) -> Words:
    """Return the sum on the ring without any check."""
    total = ring.encode(np.zeros(len(next(iter(vectors.values()))), np.int64))
    for vector in vectors.values():
        total = ring.add(total, vector)
    return total


@pytest.mark.parametrize("bits", [32, 64])
def test_a_swapped_key_leaves_noise_and_not_a_sum(bits: int) -> None:
    """The coordinator gives one hospital a key of its own in another's place: their masks do not cancel."""
    ring, keys = Ring(bits), hospitals(3)
    swapped = {**keys, "h01": X25519PrivateKey.from_private_bytes(b"m" * 32)}
    zeros = ring.encode(np.zeros(100, np.int64))
    vectors = {
        site: masked(
            ring,
            zeros,
            site=site,
            masks=masks_of(ring, site, swapped if site == "h00" else keys, 100),
        )
        for site in keys
    }
    assert np.count_nonzero(plain_sum(ring, vectors)) == 100
    with pytest.raises(IntegrityError, match="do not cancel"):
        opened_sum(ring, vectors, frozenset(keys), 100 - CHECK_WORDS)


@pytest.mark.parametrize("bits", [4, 12, 32, 64])
@pytest.mark.parametrize(("site", "peer"), [("a", "b"), ("b", "a")])
def test_a_mask_put_on_in_place_is_the_same_mask(bits: int, site: str, peer: str) -> None:
    ring, key = Ring(bits), b"k" * 32
    values = ring.encode(np.arange(40_000))
    whole = masked(ring, values, site=site, masks={peer: ring.uniform(key, 40_000)})
    add_pair_mask(ring, values, key, site=site, peer=peer)
    assert np.array_equal(values, whole)


def test_masks_differ_by_run_roster_round_kind_and_model() -> None:
    keys = hospitals(2)
    mine, peer = keys["h00"], keys["h01"].public_key()
    first = run_pair_key(mine, peer, pair=("h00", "h01"), run="run-1", roster=ROSTER_DIGEST)
    pairs = [
        first,
        run_pair_key(mine, peer, pair=("h00", "h01"), run="run-2", roster=ROSTER_DIGEST),
        run_pair_key(mine, peer, pair=("h00", "h01"), run="run-1", roster="sha256:" + "2" * 64),
    ]
    rounds = [
        round_pair_key(first, kind="train", number=1, base_model=ROSTER_DIGEST),
        round_pair_key(first, kind="train", number=2, base_model=ROSTER_DIGEST),
        round_pair_key(first, kind="evaluate", number=1, base_model=ROSTER_DIGEST),
        round_pair_key(first, kind="train", number=1, base_model="sha256:" + "3" * 64),
    ]
    names = run_pair_key(mine, peer, pair=("h00", "h02"), run="run-1", roster=ROSTER_DIGEST)
    assert len({*pairs, *rounds, names}) == 8
    other = run_pair_key(
        keys["h01"], mine.public_key(), pair=("h01", "h00"), run="run-1", roster=ROSTER_DIGEST
    )
    assert other == first


def test_a_hospital_that_repeats_anothers_key_cancels_no_mask() -> None:
    """h02 gives h00's public key as its own: in h01's vector both masks would be one, added and subtracted."""
    ring, keys = Ring(32), hospitals(3)
    copied = {**keys, "h02": keys["h00"]}
    values = ring.encode(np.arange(1, 5))
    sent = masked(ring, values, site="h01", masks=masks_of(ring, "h01", copied, 4))
    assert not np.array_equal(sent, values)
    assert np.abs(ring.decode(sent)).min() > 1000


def test_a_key_of_small_order_is_refused() -> None:
    zero = X25519PublicKey.from_public_bytes(bytes(32))
    with pytest.raises(IntegrityError):
        run_pair_key(
            hospitals(1)["h00"], zero, pair=("h00", "h01"), run="run-1", roster=ROSTER_DIGEST
        )


def every_mask(sites: tuple[str, ...]) -> dict[tuple[str, str], Words]:
    """Return all values of all pairs' masks in Z_16, one combination a column: ideal masks, exhaustively."""
    pairs = list(combinations(sites, 2))
    grid = np.indices((16,) * len(pairs), dtype=np.uint8).reshape(len(pairs), -1)
    return dict(zip(pairs, grid, strict=True))


def view(
    values: tuple[int, ...], sites: tuple[str, ...], masks: dict[tuple[str, str], Words]
) -> Words:
    """Return how often the coordinator sees each tuple of masked values, over all masks."""
    seen = np.zeros(next(iter(masks.values())).size, dtype=np.uint16)
    for site, value in zip(sites, values, strict=True):
        own = {(a if b == site else b): m for (a, b), m in masks.items() if site in (a, b)}
        column = TINY.encode(np.full(seen.size, value))
        seen = np.uint16(16) * seen + masked(TINY, column, site=site, masks=own)
    return np.bincount(seen, minlength=16 ** len(sites))


def with_sum(total: int, count: int) -> Iterator[tuple[int, ...]]:
    return (v for v in product(range(16), repeat=count) if sum(v) % 16 == total)


@pytest.mark.parametrize("total", range(16))
def test_three_hospitals_on_a_tiny_ring_show_their_sum_and_nothing_else(total: int) -> None:
    """All values, all masks: the same sum gives the same distribution of what the coordinator sees."""
    sites = ("a", "b", "c")
    masks = every_mask(sites)
    first, *others = (view(values, sites, masks) for values in with_sum(total, 3))
    assert all(np.array_equal(first, other) for other in others)
    assert np.count_nonzero(first) == 16**2  # every triple with this sum, each equally often
    assert set(first[first > 0].tolist()) == {16}


def test_four_hospitals_on_a_tiny_ring_show_their_sum_and_nothing_else() -> None:
    """All 16^6 masks, for values as unlike as they can be with one sum."""
    sites = ("a", "b", "c", "d")
    masks = every_mask(sites)
    views = [
        view(v, sites, masks) for v in ((5, 0, 0, 0), (0, 0, 0, 5), (15, 15, 15, 8), (9, 3, 7, 2))
    ]
    assert all(np.array_equal(views[0], other) for other in views[1:])
    assert np.count_nonzero(views[0]) == 16**3


def test_masks_with_a_wrong_sign_do_not_cancel() -> None:
    """The check can fail: c adds its masks where it has to subtract them, and no sum comes out."""
    sites = ("a", "b", "c")
    masks = every_mask(sites)
    zeros = TINY.encode(np.zeros(16**3, np.int64))
    added = TINY.add(TINY.add(zeros, masks[("a", "c")]), masks[("b", "c")])
    a = masked(TINY, zeros, site="a", masks={"b": masks[("a", "b")], "c": masks[("a", "c")]})
    b = masked(TINY, zeros, site="b", masks={"a": masks[("a", "b")], "c": masks[("b", "c")]})
    total = plain_sum(TINY, {"a": a, "b": b, "c": added})
    assert np.count_nonzero(total) > 0


@pytest.mark.parametrize("bits", [4, 12, 31, 32, 63, 64])
def test_numbers_come_back_from_the_ring_and_its_streams_are_even(bits: int) -> None:
    ring = Ring(bits)
    corners = np.array([-(2 ** (bits - 1)), -1, 0, 1, 2 ** (bits - 1) - 1], dtype=np.int64)
    assert np.array_equal(ring.decode(ring.encode(corners)), corners)
    stream = ring.uniform(b"k" * 32, 4096)
    assert stream.dtype.itemsize == ring.word_bytes
    ones = [(stream >> stream.dtype.type(bit) & stream.dtype.type(1)).sum() for bit in range(bits)]
    assert all(abs(int(n) - 2048) < 200 for n in ones)  # over six standard deviations


@pytest.mark.parametrize(("bits", "addends", "largest"), [(32, 4, 2**29), (64, 2, 2**62)])
def test_a_sum_that_could_leave_the_ring_is_refused(bits: int, addends: int, largest: int) -> None:
    with pytest.raises(ConfigurationError, match="does not fit"):
        Ring(bits).check_range(addends=addends, largest=largest)
    Ring(bits).check_range(addends=addends, largest=largest - 1)


@pytest.mark.parametrize("bits", [0, 1, 65])
def test_a_ring_of_impossible_size_is_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="2 to 64"):
        Ring(bits)
