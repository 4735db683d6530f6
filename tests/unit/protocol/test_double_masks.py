"""The opened sum is the survivors' sum, to the bit, whoever drops out when; below the threshold nothing opens."""

from collections.abc import Iterator
from itertools import combinations, product

import numpy as np
import pytest

from solblom_protocol.errors import IntegrityError, RunError
from solblom_protocol.sums.double_masks import mask_vector, own_mask_key, pair_mask_key
from solblom_protocol.sums.mask_setup import MaskSecrets, MaskSetup, Participants
from solblom_protocol.sums.ring import Ring, Words
from solblom_protocol.sums.survivors import choose_survivors
from solblom_protocol.sums.unmasking import join_releases, unmask_sum
from sum_lab import (
    MODEL,
    OTHER_MODEL,
    SumLab,
    draw_values,
    least_threshold,
    plain_sum,
    secrets_of,
    sum_roster,
)

RINGS = (Ring(32), Ring(64))


def opened(
    lab: SumLab,
    ring: Ring,
    vectors: dict[str, Words],
    participants: Participants,
    *,
    cosigners: tuple[str, ...],
    releasing: tuple[str, ...],
) -> list[int]:
    """Return the sum as the coordinator opens it from the vectors in their order."""
    agreed = lab.agree(lab.choose(participants, list(vectors)), cosigners)
    releases = lab.releases(participants, agreed, releasing)
    secrets = join_releases(lab.roster, participants, agreed, releases)
    total = unmask_sum(ring, vectors, participants=participants, agreed=agreed, secrets=secrets)
    return ring.decode(total).tolist()


@pytest.mark.parametrize("count", range(3, 21))
def test_the_opened_sum_is_the_plain_sum_to_the_bit(count: int) -> None:
    """As many drop out as may: some give no setup, some no vector, and other ones are gone at the end."""
    roster = sum_roster(count)
    lab = SumLab(roster)
    random = np.random.default_rng(count)
    shuffled = [str(site) for site in random.permutation(roster.sites)]
    most, least = len(shuffled), roster.threshold
    took_part = shuffled[: int(random.integers(least, most, endpoint=True))]
    survived = took_part[: int(random.integers(least, len(took_part), endpoint=True))]
    participants = lab.participants(took_part)
    agreed = lab.agree(lab.choose(participants, survived), survived[-least:])
    releasing = [str(site) for site in random.permutation(took_part)][:least]
    secrets = join_releases(
        roster, participants, agreed, lab.releases(participants, agreed, releasing)
    )
    for ring in RINGS:
        values = draw_values(ring, roster, size=20, seed=count)
        vectors = {site: lab.vector(ring, values[site], site, participants) for site in survived}
        total = unmask_sum(ring, vectors, participants=participants, agreed=agreed, secrets=secrets)
        assert ring.decode(total).tolist() == plain_sum(ring, values, survived)


STATES = ("absent", "no vector", "late", "survivor")


def patterns(sites: tuple[str, ...], least: int) -> Iterator[dict[str, str]]:
    """Give every way to take part in time, too late, without a vector or not at all that can be opened."""
    for states in product(STATES, repeat=len(sites)):
        if states.count("survivor") >= least:
            yield dict(zip(sites, states, strict=True))


def subsets(sites: tuple[str, ...], least: int) -> Iterator[tuple[str, ...]]:
    for size in range(least, len(sites) + 1):
        yield from combinations(sites, size)


@pytest.mark.parametrize("count", [3, 4, 5])
def test_every_tolerated_dropout_at_every_phase_opens_the_survivors_sum(count: int) -> None:
    """Before the vector, before the cosignature, before the release; and every vector that comes too late.

    A late vector is masked and lies before the coordinator, but is in no sum.
    """
    lab, ring = SumLab(sum_roster(count)), Ring(64)
    least, sites = lab.roster.threshold, lab.roster.sites
    values = draw_values(ring, lab.roster, size=4, seed=count)
    seen = 0
    for states in patterns(sites, least):
        took_part = tuple(site for site in sites if states[site] != "absent")
        survived = tuple(site for site in sites if states[site] == "survivor")
        participants = lab.participants(took_part)
        vectors = {site: lab.vector(ring, values[site], site, participants) for site in survived}
        expected = plain_sum(ring, values, survived)
        for cosigners, releasing in product(subsets(survived, least), subsets(took_part, least)):
            got = opened(lab, ring, vectors, participants, cosigners=cosigners, releasing=releasing)
            assert got == expected
            seen += 1
    # By hand for 5 of which 4 are needed: all take part and survive, 6 × 6; one of five late or without a
    # vector, 5 × 2 × 6; one absent, 5. The others likewise.
    assert seen == {3: 1, 4: 5 * 5 + 4 * 2 * 5 + 4, 5: 6 * 6 + 5 * 2 * 6 + 5}[count]


@pytest.mark.parametrize("count", [3, 4])
def test_the_order_in_which_vectors_arrive_does_not_matter(count: int) -> None:
    lab, ring = SumLab(sum_roster(count)), Ring(32)
    values = draw_values(ring, lab.roster, size=4, seed=1)
    sites, participants = lab.roster.sites, lab.participants()
    vectors = {site: lab.vector(ring, values[site], site, participants) for site in sites}
    for order in product(sites, repeat=count):
        if len(set(order)) == count:
            arrived = {site: vectors[site] for site in order}
            got = opened(lab, ring, arrived, participants, cosigners=order, releasing=order[::-1])
            assert got == plain_sum(ring, values, sites)


@pytest.mark.parametrize("phase", ["setup", "survivors", "cosignatures", "releases"])
def test_below_the_threshold_nothing_opens_and_who_is_missing_is_named(phase: str) -> None:
    lab = SumLab(sum_roster(5))
    few, missing = lab.roster.sites[:3], "h03, h04"
    if phase == "setup":
        with pytest.raises(IntegrityError, match=f"3 hospitals.*4 are needed.*{missing}"):
            lab.participants(few)
        return
    participants = lab.participants()
    if phase == "survivors":
        with pytest.raises(RunError, match=f"3 masked vectors.*4 are needed.*{missing}"):
            choose_survivors(lab.roster, participants, base_model=MODEL, survivors=few)
        return
    asked = lab.choose(participants, lab.roster.sites)
    if phase == "cosignatures":
        with pytest.raises(IntegrityError, match=f"3 hospitals signed.*4 are needed.*{missing}"):
            lab.agree(asked, few)
        return
    agreed = lab.agree(asked, lab.roster.sites)
    with pytest.raises(RunError, match=f"3 hospitals released.*4 are needed.*{missing}") as caught:
        join_releases(lab.roster, participants, agreed, lab.releases(participants, agreed, few))
    assert caught.value.code == "SB-501"


def test_a_missing_vector_and_a_vector_of_somebody_else_are_named() -> None:
    lab, ring = SumLab(sum_roster(4)), Ring(64)
    participants = lab.participants()
    survived = lab.roster.sites[:3]
    agreed = lab.agree(lab.choose(participants, survived), survived)
    secrets = join_releases(
        lab.roster, participants, agreed, lab.releases(participants, agreed, survived)
    )
    zeros = ring.encode(np.zeros(4, np.int64))
    vectors = dict.fromkeys(survived, zeros)
    for wrong, name in (
        ({"h00": zeros, "h01": zeros}, "h02"),
        ({**vectors, "h03": zeros}, "h03"),
        ({**vectors, "puppet": zeros}, "puppet"),
        ({**vectors, "h01": zeros[:1]}, "h00 and h01 differ in length"),
    ):
        with pytest.raises(IntegrityError, match=name):
            unmask_sum(ring, wrong, participants=participants, agreed=agreed, secrets=secrets)


def test_a_late_vector_stays_uniform_after_the_sum_is_open() -> None:
    """Its mask key is known by then: everything that can be taken off is taken off."""
    lab, ring, size = SumLab(sum_roster(4)), Ring(64), 4000
    participants = lab.participants()
    zeros = ring.encode(np.zeros(size, np.int64))
    late = lab.vector(ring, zeros, "h03", participants)
    opened_key = secrets_of("h03", lab.of).mask_key(lab.of, site="h03")
    rest = late
    for peer in lab.roster.sites[:3]:
        key = pair_mask_key(
            participants, site="h03", mask_key=opened_key, peer=peer, base_model=MODEL
        )
        rest = ring.add(rest, ring.uniform(key, size))  # h03 comes last and has subtracted them all
    seed = secrets_of("h03", lab.of).self_seed
    own = own_mask_key(participants, site="h03", seed=seed, base_model=MODEL)
    assert np.array_equal(rest, ring.uniform(own, size))  # nothing but its own mask is left
    low = np.bincount((rest & np.uint64(15)).astype(np.int64), minlength=16)
    high = np.bincount((rest >> np.uint64(60)).astype(np.int64), minlength=16)
    for counts in (low, high):  # chi-square with 15 degrees of freedom: above 60 once in a million
        assert ((counts - size / 16) ** 2 / (size / 16)).sum() < 60


def test_masks_differ_by_round_kind_model_setups_and_pair() -> None:
    roster, ring = sum_roster(4), Ring(64)
    zeros = ring.encode(np.zeros(4, np.int64))
    labs = [
        SumLab(roster),
        SumLab(roster, number=2),
        SumLab(roster, attempt=2),
        SumLab(roster, kind="evaluate"),
        SumLab(sum_roster(4, run="run-2")),
    ]
    vectors = [lab.vector(ring, zeros, "h00", lab.participants()) for lab in labs]
    first = labs[0]
    vectors += [
        first.vector(ring, zeros, "h00", first.participants(), model=OTHER_MODEL),
        first.vector(ring, zeros, "h00", first.participants(["h00", "h01", "h02"])),
        first.vector(ring, zeros, "h01", first.participants()),
    ]
    assert len({vector.tobytes() for vector in vectors}) == len(vectors)


def test_the_mask_of_a_pair_differs_by_participants_and_by_their_setups() -> None:
    """With the same two mask keys: told different lists, two hospitals share no mask, and no sum comes out."""
    lab = SumLab(sum_roster(4))
    mine = secrets_of("h00", lab.of).mask_key(lab.of, site="h00")
    told = [
        lab.participants(),
        lab.participants(["h00", "h01", "h02"]),
        lab.participants(["h00", "h01", "h03"]),
        SumLab(sum_roster(4)).participants(),  # other shares of the same keys
    ]
    keys = {
        pair_mask_key(participants, site="h00", mask_key=mine, peer="h01", base_model=MODEL)
        for participants in told
    }
    assert len(keys) == len(told)


def test_a_node_that_repeats_a_peers_mask_key_cancels_no_mask() -> None:
    """X25519 agrees on one secret for both; without names in the derivation h01 + copy − h01 would be bare."""
    lab = SumLab(sum_roster(4))
    true = lab.participants()
    copied = true.setups["h02"].model_copy(update={"mask_key": true.setups["h00"].mask_key})
    participants = Participants(true.round, {**true.setups, "h02": copied}, true.shares)
    mine = secrets_of("h01", lab.of).mask_key(lab.of, site="h01")
    keys = [
        pair_mask_key(participants, site="h01", mask_key=mine, peer=peer, base_model=MODEL)
        for peer in ("h00", "h02")
    ]
    assert keys[0] != keys[1]
    bare = [mine.exchange(participants.setups[peer].public_key) for peer in ("h00", "h02")]
    assert bare[0] == bare[1]  # the danger is real


def test_both_hospitals_of_a_pair_derive_one_mask() -> None:
    lab = SumLab(sum_roster(3))
    participants = lab.participants()
    keys = [
        pair_mask_key(
            participants,
            site=site,
            mask_key=secrets_of(site, lab.of).mask_key(lab.of, site=site),
            peer=peer,
            base_model=MODEL,
        )
        for site, peer in (("h00", "h01"), ("h01", "h00"))
    ]
    assert keys[0] == keys[1]


def test_a_mask_key_of_small_order_is_refused_with_its_owners_name() -> None:
    lab, ring = SumLab(sum_roster(3)), Ring(64)
    true = lab.participants()
    zero: MaskSetup = true.setups["h02"].model_copy(update={"mask_key": "0" * 64})
    participants = Participants(true.round, {**true.setups, "h02": zero}, true.shares)
    with pytest.raises(IntegrityError, match="mask key of h02"):
        lab.vector(ring, ring.encode(np.zeros(2, np.int64)), "h00", participants)


@pytest.mark.parametrize("change", ["site", "key", "seed"])
def test_a_vector_is_masked_with_the_secrets_of_ones_own_setup_only(change: str) -> None:
    lab, ring = SumLab(sum_roster(3)), Ring(64)
    secrets = secrets_of("h00", lab.of)
    if change == "key":
        secrets = MaskSecrets(b"k" * 16, secrets.self_seed)
    if change == "seed":
        secrets = MaskSecrets(secrets.mask_seed, b"s" * 16)
    with pytest.raises(IntegrityError):
        mask_vector(
            ring,
            ring.encode(np.zeros(2, np.int64)),
            participants=lab.participants(),
            site="stranger" if change == "site" else "h00",
            secrets=secrets,
            base_model=MODEL,
        )


def test_the_least_threshold_is_what_the_roster_allows() -> None:
    assert [least_threshold(count) for count in (3, 4, 5, 6, 20)] == [3, 3, 4, 4, 11]
