"""A node remembers what it masked, signed and released, over restarts, and erases the secrets of closed rounds."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from solblom_client.masks.record import MaskRecord
from solblom_client.masks.sum_node import SumNode
from solblom_protocol.errors import IntegrityError, RefusedError
from solblom_protocol.messages.order import OrderKind
from solblom_protocol.sums.mask_setup import read_dealt_setup
from solblom_protocol.sums.ring import Ring, Words
from solblom_protocol.sums.roster import SumRound
from solblom_protocol.sums.survivors import AgreedSurvivors, MaskedWork, join_cosignatures
from solblom_protocol.sums.unmasking import ShareRelease, read_release
from sum_lab import (
    MODEL,
    OTHER_MODEL,
    SumLab,
    mask_record,
    secrets_of,
    share_key,
    signing_key,
    sum_roster,
    told,
)

RING = Ring(64)
ROSTER = sum_roster(4)
SITES = ROSTER.sites
SURVIVED = SITES[:3]
ZEROS = RING.encode(np.zeros(3, np.int64))
ONES = RING.encode(np.ones(3, np.int64))


def node(folder: Path) -> SumNode:
    """Return h00 with the record in a folder: called again, it is the node after a restart."""
    return SumNode(ROSTER, "h00", signing_key("h00"), mask_record(folder))


class OneSum:
    """A sum in which h00 is a real node and the others are the laboratory's."""

    def __init__(
        self, mine: SumNode, *, kind: OrderKind = "train", number: int = 1, attempt: int = 1
    ) -> None:
        self.mine = mine
        self.lab = SumLab(ROSTER, kind=kind, number=number, attempt=attempt)
        self.of: SumRound = self.lab.of
        mine.join(new=share_key("h00"))
        self.lab.setups["h00"] = mine.set_up(
            self.of, share_keys=self.lab.share_keys, new=secrets_of("h00", self.of)
        )
        self.participants = self.lab.participants()

    def restarted(self, folder: Path) -> "OneSum":
        """Return the same sum, with the node as it is after a restart."""
        again = copy.copy(self)
        again.mine = node(folder)
        return again

    def mask(self, values: Words = ZEROS, *, model: str = MODEL) -> Words:
        return self.mask_with(self.lab.setups.values(), values, model=model)

    def mask_with(
        self, setups: Iterable[bytes], values: Words = ZEROS, *, model: str = MODEL
    ) -> Words:
        participants = told(ROSTER, self.of, setups, "h00")
        return self.mine.mask(RING, values, participants=participants, base_model=model)

    def agreed(self, survivors: tuple[str, ...] = SURVIVED) -> AgreedSurvivors:
        return self.lab.agree(self.lab.choose(self.participants, survivors), survivors)

    def agree(self, survivors: tuple[str, ...] = SURVIVED) -> bytes:
        return self.mine.agree(self.lab.choose(self.participants, survivors))

    def open(self, survivors: tuple[str, ...] = SURVIVED) -> ShareRelease:
        agreed = self.agreed(survivors)
        envelope = self.mine.open(
            agreed.chosen,
            cosignatures=join_cosignatures([self.lab.cosign(agreed.chosen, s) for s in survivors]),
        )
        return read_release(ROSTER, self.participants, agreed, envelope)


@pytest.fixture
def first(tmp_path: Path) -> OneSum:
    return OneSum(node(tmp_path))


def refused(error: pytest.ExceptionInfo[RefusedError]) -> bool:
    return error.value.code == "SB-207"


def test_the_same_order_gets_the_same_answer_after_a_restart(first: OneSum, tmp_path: Path) -> None:
    vector, signature, release = first.mask(), first.agree(), first.open()
    again = first.restarted(tmp_path)
    stored = again.mine.set_up(
        first.of, share_keys=first.lab.share_keys, new=secrets_of("h01", first.of)
    )
    assert stored == first.lab.setups["h00"]
    assert np.array_equal(again.mask(), vector)
    assert again.agree() == signature
    assert again.open() == release


def test_a_run_has_one_share_key(first: OneSum) -> None:
    assert first.mine.join(new=share_key("h01")) == first.lab.share_keys[0]
    with pytest.raises(RefusedError, match="has a share key already") as caught:
        first.mine.record.keep_share_key(ROSTER, share_key("h01"))
    assert refused(caught)


def test_a_run_goes_on_with_the_roster_that_it_began_with(first: OneSum) -> None:
    other = replace(first.mine, roster=sum_roster(4, 4))
    with pytest.raises(RefusedError, match="begun with another roster"):
        other.join(new=share_key("h00"))


def test_a_sum_has_one_setup(first: OneSum) -> None:
    other = secrets_of("h01", first.of)
    stored = first.mine.set_up(first.of, share_keys=first.lab.share_keys, new=other)
    assert stored == first.lab.setups["h00"]
    with pytest.raises(RefusedError, match="has a mask setup already") as caught:
        first.mine.record.keep_setup(first.of, other, setup=b"other")
    assert refused(caught)


def test_a_second_vector_under_the_same_masks_is_refused(first: OneSum) -> None:
    first.mask()
    with pytest.raises(RefusedError, match="has a masked vector already") as caught:
        first.mask(ONES)
    assert refused(caught)


def test_a_second_model_or_other_participants_under_one_setup_are_refused(first: OneSum) -> None:
    """Opened later, the sum over both lists of participants would show who stands in one only."""
    first.mask()
    with pytest.raises(RefusedError, match="has a masked vector already"):
        first.mask(model=OTHER_MODEL)
    fewer = [first.lab.setups[site] for site in SURVIVED]
    with pytest.raises(RefusedError, match="has a masked vector already"):
        first.mask_with(fewer)


def test_the_order_must_carry_this_nodes_own_setup(first: OneSum) -> None:
    without = [first.lab.setups[site] for site in SITES[1:]]
    with pytest.raises(IntegrityError, match="not the mask setup of h00"):
        first.mask_with(without)
    # A second one that a rolled-back node signed: other shares of the same secrets.
    forgotten = SumLab(ROSTER).setups["h00"]
    assert read_dealt_setup(ROSTER, first.of, forgotten).setup.site == "h00"
    with pytest.raises(IntegrityError, match="not the mask setup of h00"):
        first.mask_with([*without, forgotten])


@pytest.mark.parametrize("step", ["agree", "open"])
def test_nothing_is_signed_or_released_for_a_sum_in_which_nothing_was_masked(
    first: OneSum, step: str
) -> None:
    with pytest.raises(RefusedError, match="No vector was masked here") as caught:
        first.agree() if step == "agree" else first.open()
    assert refused(caught)


def test_second_survivor_set_is_refused_also_after_a_restart(first: OneSum, tmp_path: Path) -> None:
    first.mask()
    first.agree()
    again = first.restarted(tmp_path)
    for survivors in (SITES, ("h00", "h01", "h03")):
        with pytest.raises(RefusedError, match="second survivor set: h00, h01") as caught:
            again.agree(survivors)
        assert refused(caught)
        with pytest.raises(RefusedError, match="second survivor set"):
            again.open(survivors)
    assert again.open().seeds.keys() == set(SURVIVED)


def test_a_second_attempt_of_a_round_gets_no_second_survivor_set(
    first: OneSum, tmp_path: Path
) -> None:
    """The work is the same in both, so the difference of two sums would be what h03 sent."""
    first.mask()
    first.agree()
    second = OneSum(node(tmp_path), attempt=2)
    second.mask()
    for survivors in (SURVIVED, SITES):
        with pytest.raises(RefusedError, match=r"second survivor set \(differs in: attempt\)"):
            second.agree(survivors)
        with pytest.raises(RefusedError, match=r"differs in: attempt"):
            second.open(survivors)


def test_rounds_and_kinds_have_a_survivor_set_each(first: OneSum, tmp_path: Path) -> None:
    first.mask()
    first.agree()
    for other in (
        OneSum(node(tmp_path), number=2),
        OneSum(node(tmp_path), kind="evaluate"),
    ):
        other.mask()
        other.agree(SITES)
        assert other.open(SITES).keys == {}


def test_a_node_that_was_not_asked_to_sign_releases_for_one_set_only(first: OneSum) -> None:
    first.mask()
    first.open()
    with pytest.raises(RefusedError, match="second survivor set"):
        first.agree(SITES)
    with pytest.raises(RefusedError, match="second survivor set"):
        first.open(SITES)


def test_a_node_outside_the_set_helps_to_open_it_but_does_not_sign_it(first: OneSum) -> None:
    first.mask()
    without = SITES[1:]
    with pytest.raises(IntegrityError, match="h00 is not in the survivor set"):
        first.agree(without)
    release = first.open(without)
    assert release.seeds.keys() == set(without)
    assert release.keys.keys() == {"h00"}


def test_of_each_hospital_one_share_leaves_and_the_other_is_erased(
    first: OneSum, tmp_path: Path
) -> None:
    first.mask()
    pairs = {site: first.lab.share(first.participants, site, "h00") for site in SITES}
    release = first.open()
    assert release.seeds == {site: pairs[site].seed.hex() for site in SURVIVED}
    assert release.keys == {"h03": pairs["h03"].key.hex()}
    file = (tmp_path / "vault.sqlite").read_bytes()
    gone = [*(pairs[site].key for site in SURVIVED), pairs["h03"].seed]
    assert not any(share in file for share in gone)


def test_to_mask_again_brings_no_erased_share_back(first: OneSum, tmp_path: Path) -> None:
    first.mask()
    first.open()
    first.mask()
    erased = first.lab.share(first.participants, "h03", "h00").seed
    assert erased not in (tmp_path / "vault.sqlite").read_bytes()


def test_too_few_cosignatures_release_nothing(first: OneSum) -> None:
    first.mask()
    asked = first.lab.choose(first.participants, SURVIVED)
    two = [first.lab.cosign(asked, site) for site in SURVIVED[:2]]
    for cosignatures in (two, [*two, two[1]]):
        with pytest.raises(IntegrityError):
            first.mine.open(asked, cosignatures=join_cosignatures(cosignatures))
    assert first.mine.record.survivors(first.of) is None


def test_a_set_that_is_refused_is_not_recorded(first: OneSum) -> None:
    first.mask()
    with pytest.raises(IntegrityError, match="2 hospitals survived"):
        first.agree(SITES[:2])
    first.agree(SITES)


def test_the_secrets_of_a_closed_round_are_erased_from_the_disk(
    first: OneSum, tmp_path: Path
) -> None:
    later = OneSum(node(tmp_path), number=2)
    for one in (first, later):
        one.mask()
    first.open()

    def on_disk(one: OneSum) -> list[bool]:
        secrets = secrets_of("h00", one.of)
        shares = [one.lab.share(one.participants, site, "h00") for site in SITES]
        seeds = [pair.seed for site, pair in zip(SITES, shares, strict=True) if site != "h03"]
        wanted = [secrets.mask_seed, secrets.self_seed, *seeds]
        file = (tmp_path / "vault.sqlite").read_bytes()
        return [secret in file for secret in wanted]

    assert all(on_disk(first))
    first.mine.close(first.of)
    assert not any(on_disk(first))
    assert all(on_disk(later))  # the next round's setup was made already


def test_nothing_is_made_masked_signed_or_released_for_a_closed_round(
    first: OneSum, tmp_path: Path
) -> None:
    first.mask()
    first.agree()
    first.mine.close(first.of)
    again = first.restarted(tmp_path)
    retry = ROSTER.round(kind="train", number=1, attempt=2)
    with pytest.raises(RefusedError, match="erased"):
        again.mask()
    steps: tuple[Callable[[], object], ...] = (again.agree, again.open)
    for step in steps:
        with pytest.raises(RefusedError, match="closed"):
            step()
    with pytest.raises(RefusedError, match="closed"):
        again.mine.set_up(retry, share_keys=again.lab.share_keys, new=secrets_of("h00", retry))


def test_closing_a_later_round_closes_those_before_it(first: OneSum, tmp_path: Path) -> None:
    first.mask()
    first.mine.close(ROSTER.round(kind="train", number=3, attempt=1))
    with pytest.raises(RefusedError, match="closed"):
        first.agree()
    with pytest.raises(RefusedError, match="closed"):
        OneSum(node(tmp_path), number=2)


def test_a_closed_run_keeps_no_secret_and_begins_no_more(first: OneSum, tmp_path: Path) -> None:
    first.mask()
    first.mine.record.close_run(ROSTER)
    file = (tmp_path / "vault.sqlite").read_bytes()
    secrets = secrets_of("h00", first.of)
    for secret in (
        share_key("h00").private_bytes_raw(),
        secrets.mask_seed,
        secrets.self_seed,
    ):
        assert secret not in file
    with pytest.raises(RefusedError, match="erased"):
        first.mine.join(new=share_key("h00"))
    with pytest.raises(RefusedError, match="closed"):
        first.agree()


def test_a_record_keeps_what_was_masked(first: OneSum, tmp_path: Path) -> None:
    first.mask()
    expected = MaskedWork(first.of, first.participants.digest, MODEL, SITES)
    record: MaskRecord = node(tmp_path).record
    assert record.masked(first.of) == expected
    with pytest.raises(RefusedError, match="No mask setup"):
        record.secrets(first.of.model_copy(update={"attempt": 3}))
