"""A hostile coordinator, with a colluding node, opens one sum of a round or none: real nodes, all lies.

Four hospitals, of which three must survive and one may collude, unless a test says otherwise.
"""

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, permutations, product
from pathlib import Path

import numpy as np
import pytest

from solblom_client.masks import record as mask_record_module
from solblom_client.masks.record import MaskRecord
from solblom_client.masks.sum_node import SumNode
from solblom_client.state import VaultState
from solblom_protocol.errors import IntegrityError, RefusedError, SolblomError
from solblom_protocol.messages.signing import sign_envelope
from solblom_protocol.sums import double_masks
from solblom_protocol.sums.double_masks import PairMasks, add_masks
from solblom_protocol.sums.mask_setup import (
    DEALT_PAYLOAD_TYPE,
    SETUP_PAYLOAD_TYPE,
    MaskSecrets,
    Participants,
    participants_of,
    read_dealt_setup,
)
from solblom_protocol.sums.ring import Ring, Words
from solblom_protocol.sums.roster import SumRoster
from solblom_protocol.sums.survivors import (
    SurvivorSet,
    check_cosignatures,
    choose_survivors,
    join_cosignatures,
)
from solblom_protocol.sums.unmasking import join_releases, read_release, unmask_sum
from solblom_verify.canonical import canonical_json
from sum_lab import (
    MODEL,
    STUDY,
    SumLab,
    draw_values,
    plain_sum,
    secrets_of,
    share_key,
    signing_key,
    sum_nodes,
    sum_roster,
    told,
)

RING = Ring(64)
COLLUDER = "h00"


class Coordinator:
    """Asks real nodes in the order of a round; `values` is what each of them hides."""

    def __init__(self, nodes: dict[str, SumNode], *, attempt: int = 1) -> None:
        self.nodes = nodes
        self.roster: SumRoster = next(iter(nodes.values())).roster
        self.of = self.roster.round(kind="train", number=1, attempt=attempt)
        self.values = draw_values(RING, self.roster, size=8, seed=1)
        self.share_keys = [node.join(new=share_key(site)) for site, node in nodes.items()]
        self.setups = {
            site: node.set_up(self.of, share_keys=self.share_keys, new=secrets_of(site, self.of))
            for site, node in nodes.items()
        }

    def mask(self, sites: Iterable[str]) -> dict[str, Words]:
        return {site: self.mask_of(site, self.setups.values()) for site in sites}

    def mask_of(self, site: str, setups: Iterable[bytes]) -> Words:
        participants = told(self.roster, self.of, setups, site)
        return self.nodes[site].mask(
            RING, self.values[site], participants=participants, base_model=MODEL
        )

    @property
    def participants(self) -> Participants:
        dealt = [read_dealt_setup(self.roster, self.of, one) for one in self.setups.values()]
        return participants_of(self.roster, self.of, dealt)

    def name(self, survivors: Iterable[str]) -> SurvivorSet:
        return choose_survivors(
            self.roster, self.participants, base_model=MODEL, survivors=list(survivors)
        )

    def open(
        self, vectors: dict[str, Words], *, cosigning: Iterable[str], releasing: Iterable[str]
    ) -> list[int]:
        asked = self.name(vectors)
        cosignatures = join_cosignatures([self.nodes[site].agree(asked) for site in cosigning])
        agreed = check_cosignatures(self.roster, asked, cosignatures)
        releases = [
            read_release(
                self.roster,
                self.participants,
                agreed,
                self.nodes[site].open(asked, cosignatures=cosignatures),
            )
            for site in releasing
        ]
        secrets = join_releases(self.roster, self.participants, agreed, releases)
        total = unmask_sum(
            RING, vectors, participants=self.participants, agreed=agreed, secrets=secrets
        )
        return RING.decode(total).tolist()


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    return Coordinator(sum_nodes(sum_roster(4), tmp_path))


def test_real_nodes_open_the_survivors_sum_when_one_drops_out_at_each_phase(tmp_path: Path) -> None:
    """h06 is gone before its vector, h05 before the cosignature, h04 before the release; h03's is late."""
    coordinator = Coordinator(sum_nodes(sum_roster(7, 5), tmp_path))
    sites = coordinator.roster.sites
    vectors = coordinator.mask(sites[:6])
    late = vectors.pop("h03")
    got = coordinator.open(
        vectors,
        cosigning=["h00", "h01", "h02", "h04", "h05"],
        releasing=["h00", "h01", "h02", "h03", "h05"],
    )
    assert got == plain_sum(RING, coordinator.values, ["h00", "h01", "h02", "h04", "h05"])
    assert not np.array_equal(late, coordinator.values["h03"])
    for node in coordinator.nodes.values():
        node.close(coordinator.of)


def difference_attack(coordinator: Coordinator) -> list[int]:
    """Open the sum with and without h03 and return what h03 sent, if the nodes let it happen."""
    vectors = coordinator.mask(coordinator.roster.sites)
    three = {site: vectors[site] for site in ("h00", "h01", "h02")}
    small = coordinator.open(three, cosigning=three, releasing=three)
    large = coordinator.open(vectors, cosigning=vectors, releasing=three)
    return [big - less for big, less in zip(large, small, strict=True)]


def test_two_sums_of_one_round_are_refused(coordinator: Coordinator) -> None:
    with pytest.raises(RefusedError, match="second survivor set: h00, h01, h02, h03") as caught:
        difference_attack(coordinator)
    assert caught.value.code == "SB-207"


def test_mutant_without_a_memory_is_stopped_by_the_erased_shares(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask_record_module, "check_only_one", lambda *_, **__: None)
    with pytest.raises(IntegrityError, match="not as they were left"):
        difference_attack(coordinator)


def test_mutant_that_releases_both_shares_shows_a_hospitals_vector(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attack is real: without the memory and without the erasure it returns h03's numbers."""
    monkeypatch.setattr(mask_record_module, "check_only_one", lambda *_, **__: None)
    execute: Callable[..., int] = VaultState.execute

    def keeps_shares(state: VaultState, sql: str, values: tuple[object, ...]) -> int:
        return 0 if "_share = NULL" in sql else execute(state, sql, values)

    def both(record: MaskRecord, of: object, chosen: SurvivorSet) -> object:
        rows = record._state.query("SELECT owner, key_share, seed_share FROM mask_shares")
        return mask_record_module.ReleasedShares(
            {str(o): bytes(s) for o, _, s in rows if o in chosen.survivors},  # type: ignore[arg-type]
            {str(o): bytes(k) for o, k, _ in rows if o not in chosen.survivors},  # type: ignore[arg-type]
        )

    monkeypatch.setattr(VaultState, "execute", keeps_shares)
    monkeypatch.setattr(MaskRecord, "_released", both)
    stolen = difference_attack(coordinator)
    assert stolen == RING.decode(coordinator.values["h03"]).tolist()


def take_off_what_is_open(coordinator: Coordinator) -> Words:
    """Open the sum without h03 and take every mask that this opens off h03's late vector."""
    vectors = coordinator.mask(coordinator.roster.sites)
    late = vectors.pop("h03")
    coordinator.open(vectors, cosigning=vectors, releasing=vectors)
    key = secrets_of("h03", coordinator.of).mask_key(coordinator.of, site="h03")  # was released
    pairs = double_masks.pair_masks(
        RING,
        coordinator.participants,
        site="h03",
        mask_key=key,
        peers=list(vectors),
        base_model=MODEL,
    )
    rest = late.copy()
    for peer, mask in pairs:
        mask(rest, peer > "h03")
    return rest


def test_a_late_vector_stays_hidden(coordinator: Coordinator) -> None:
    rest = take_off_what_is_open(coordinator)
    assert not np.any(rest == coordinator.values["h03"])


def test_mutant_without_the_own_mask_shows_a_late_vector(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bare(values: Words, *, site: str, own: double_masks.Mask, pairs: PairMasks) -> Words:
        return add_masks(values, site=site, own=lambda total, subtract: None, pairs=pairs)

    monkeypatch.setattr(double_masks, "add_masks", bare)
    assert np.array_equal(take_off_what_is_open(coordinator), coordinator.values["h03"])


def test_a_second_attempt_opens_no_second_sum_of_the_same_work(tmp_path: Path) -> None:
    """Fresh masks for the same vectors; the first attempt was opened without h03."""
    nodes = sum_nodes(sum_roster(4), tmp_path)
    first, second = Coordinator(nodes), Coordinator(nodes, attempt=2)
    vectors = first.mask(first.roster.sites[:3])
    first.open(vectors, cosigning=vectors, releasing=vectors)
    again = second.mask(second.roster.sites)
    with pytest.raises(RefusedError, match="differs in: attempt"):
        second.open(again, cosigning=again, releasing=vectors)


def test_nodes_that_were_told_different_participants_open_nothing(
    coordinator: Coordinator,
) -> None:
    """h01 is told that h03 gave no setup: it masks with others, and signs no set of the rest."""
    setups = [coordinator.setups[site] for site in ("h00", "h01", "h02")]
    coordinator.mask_of("h01", setups)
    coordinator.mask(["h00", "h02", "h03"])
    asked = coordinator.name(coordinator.roster.sites)
    with pytest.raises(IntegrityError, match="other mask setups"):
        coordinator.nodes["h01"].agree(asked)


def test_a_roster_with_a_puppet_is_another_roster(tmp_path: Path) -> None:
    """The coordinator's puppet signs whatever it likes; no node of the signed study knows it."""
    honest = sum_roster(4)
    swapped = {**honest.nodes, "h03": signing_key("puppet").public_key()}
    false = SumRoster(STUDY, "run-1", swapped, 3, 1)
    node = sum_nodes(honest, tmp_path)["h01"]
    of = false.round(kind="train", number=1, attempt=1)
    node.join(new=share_key("h01"))
    with pytest.raises(IntegrityError, match="not one of the run run-1"):
        node.set_up(of, share_keys=SumLab(honest).share_keys, new=secrets_of("h01", of))


def test_a_setup_that_was_swapped_for_a_colluders_stops_the_sum_by_name(
    coordinator: Coordinator,
) -> None:
    """h00 deals h01's sealed shares as its own, to have their keys and their seeds released."""
    stolen = coordinator.participants.setups["h01"].model_copy(update={"site": COLLUDER})
    signed = sign_envelope(stolen.payload(), SETUP_PAYLOAD_TYPE, [signing_key(COLLUDER)])
    answer = json.loads(open_payload(coordinator.setups["h01"]))
    false = sign_envelope(
        canonical_json({**answer, "setup": signed.decode()}),
        DEALT_PAYLOAD_TYPE,
        [signing_key(COLLUDER)],
    )
    setups = [false, *(coordinator.setups[s] for s in ("h01", "h02", "h03"))]
    with pytest.raises(IntegrityError, match="share of h00 for h02 cannot be opened"):
        coordinator.mask_of("h02", setups)


def open_payload(envelope: bytes) -> bytes:
    return base64.b64decode(json.loads(envelope)["payload"])


def subsets(sites: Iterable[str]) -> Iterator[tuple[str, ...]]:
    listed = tuple(sites)
    for size in range(1, len(listed) + 1):
        yield from combinations(listed, size)


def test_whatever_a_node_is_told_in_whatever_order_it_signs_one_set(tmp_path: Path) -> None:
    """Every subset first, then all others: one signature, for the first that may be signed at all."""
    roster = sum_roster(4)
    lab = SumLab(roster)
    for start, first in enumerate(subsets(roster.sites)):
        node = sum_nodes(roster, tmp_path / str(start))["h01"]
        node.join(new=share_key("h01"))
        lab.setups["h01"] = node.set_up(
            lab.of, share_keys=lab.share_keys, new=secrets_of("h01", lab.of)
        )
        participants = told(roster, lab.of, lab.setups.values(), "h01")
        zeros = RING.encode(np.zeros(2, np.int64))
        node.mask(RING, zeros, participants=participants, base_model=MODEL)
        signed = []
        for asked in (first, *subsets(roster.sites), first):
            try:
                node.agree(lab.choose(participants, asked))
            except SolblomError:
                continue
            signed.append(asked)
        may_be_signed = len(first) >= roster.threshold and "h01" in first
        assert set(signed) == {first if may_be_signed else ("h00", "h01", "h02")}


@pytest.mark.parametrize(("count", "threshold", "colluders"), [(4, 3, 1), (5, 4, 1), (5, 4, 2)])
def test_no_second_set_and_no_small_set_is_agreed_whatever_each_node_is_told(
    count: int, threshold: int, colluders: int
) -> None:
    """Each honest node signs one set or none, as the test above shows; colluders sign all sets. Every combination."""
    roster = sum_roster(count, threshold, colluders)
    lab = SumLab(roster)
    participants = lab.participants()
    dishonest, honest = roster.sites[:colluders], roster.sites[colluders:]
    named = {sites: lab.choose(participants, sites) for sites in subsets(roster.sites)}
    choices = [
        [None, *(sites for sites in named if site in sites and len(sites) >= threshold)]
        for site in honest
    ]
    most = 0
    for signed in product(*choices):
        agreed = [one for one in named if _is_agreed(lab, named[one], dishonest, honest, signed)]
        assert len(agreed) <= 1
        assert all(len(one) >= threshold for one in agreed)
        most = max(most, len(agreed))
    assert most == 1  # the check can be met


def _is_agreed(
    lab: SumLab,
    asked: SurvivorSet,
    dishonest: tuple[str, ...],
    honest: tuple[str, ...],
    signed: tuple[tuple[str, ...] | None, ...],
) -> bool:
    named = tuple(asked.survivors)
    cosigners = [site for site in dishonest if site in named]
    cosigners += [site for site, own in zip(honest, signed, strict=True) if own == named]
    if len(cosigners) < lab.roster.threshold - 1:  # hopeless by more than one: saves time
        return False
    try:
        lab.agree(asked, cosigners)
    except IntegrityError:
        return False
    return True


def test_with_a_smaller_threshold_two_sets_could_be_agreed() -> None:
    """Why SB-103 refuses 2 · threshold ≤ nodes + colluders: h00 signs both, the others one each."""
    first, second = {"h00", "h01"}, {"h00", "h02"}
    signatures = {"h01": first, "h02": second}
    for one in (first, second):
        cosigners = {"h00"} | {site for site, own in signatures.items() if own == one}
        assert len(cosigners) >= 2
    with pytest.raises(SolblomError, match="two survivor sets"):
        sum_roster(3, 2)


@pytest.mark.parametrize("order", list(permutations(["h01", "h02", "h03"])))
def test_different_sets_told_to_different_nodes_open_one_sum_at_most(
    coordinator: Coordinator, order: tuple[str, ...]
) -> None:
    """h00 colludes; two nodes are told of a set without the third, the third of everybody."""
    coordinator.mask(coordinator.roster.sites)
    first, second, third = order
    small = coordinator.name([COLLUDER, first, second])
    large = coordinator.name(coordinator.roster.sites)
    nodes = coordinator.nodes
    by_colluder = SumLab(coordinator.roster)
    colluding = [by_colluder.cosign(asked, COLLUDER) for asked in (small, large)]
    for_small = join_cosignatures(
        [nodes[first].agree(small), nodes[second].agree(small), colluding[0]]
    )
    for_large = join_cosignatures([nodes[third].agree(large), colluding[1]])
    with pytest.raises(IntegrityError, match="2 hospitals signed"):
        nodes[third].open(large, cosignatures=for_large)
    for site in (first, second):
        with pytest.raises(RefusedError, match="second survivor set"):
            nodes[site].agree(large)
        nodes[site].open(small, cosignatures=for_small)
        with pytest.raises(IntegrityError):
            nodes[site].open(large, cosignatures=for_large)
    with pytest.raises(RefusedError, match="second survivor set"):
        nodes[third].open(small, cosignatures=for_small)


def test_a_node_that_never_joined_masks_nothing(tmp_path: Path) -> None:
    roster = sum_roster(4)
    lab = SumLab(roster)
    node = sum_nodes(roster, tmp_path)["h01"]
    secrets: MaskSecrets = secrets_of("h01", lab.of)
    node.record.keep_setup(lab.of, secrets, setup=lab.setups["h01"])
    with pytest.raises(RefusedError, match="has not joined"):
        node.mask(
            RING,
            RING.encode(np.zeros(2, np.int64)),
            participants=told(roster, lab.of, lab.setups.values(), "h01"),
            base_model=MODEL,
        )
