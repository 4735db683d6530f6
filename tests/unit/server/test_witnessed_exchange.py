"""Claims about heads of the log in an exchange: every order follows from the last, and a refused one is asked anew."""

import base64
import json
from pathlib import Path

import pytest

from solblom_protocol.errors import RunError
from solblom_protocol.logs.cosignature import cosign
from solblom_protocol.logs.transparency import (
    Head,
    log_origin,
    read_checkpoint,
    verify_consistency,
)
from solblom_protocol.messages.order import Order
from solblom_protocol.messages.result import Refusal, Witnessed, write_refusal, write_witnessed
from solblom_server.database import Database
from solblom_server.log.entries import round_closed
from solblom_server.log.witnesses import ask_witnesses
from solblom_server.rounds.exchange import Question, collect
from solblom_server.rounds.rounds import run_rounds
from unit.server.house import SITES, Hospital, House, local_grid, refuse


def other_log(hospital: Hospital, order: Order) -> bytes:
    """Refuse because the order shows another log than was seen."""
    refusal = Refusal(
        schema="solblom.refusal/1",
        site=hospital.site,
        node=hospital.public.key_id,
        order=order.digest,
        code="SB-221",
    )
    return write_refusal(refusal, key=hospital.signing, recipient=hospital.coordinator.sealing)


def cosigns(
    hospital: Hospital, order: Order, *, site: str | None = None, head: str | None = None
) -> bytes:
    """Answer an order to witness; with changes, about something else."""
    if order.header.kind != "witness":
        return hospital.result(order)
    note = head or str(order.header.checkpoint)
    message = Witnessed(
        schema="solblom.witnessed/1",
        site=site or hospital.site,
        node=hospital.public.key_id,
        run=order.header.run,
        order=order.digest,
        cosignature=cosign(note, hospital.site, hospital.signing, time=1795953600),
    )
    return write_witnessed(message, key=hospital.signing, recipient=hospital.coordinator.sealing)


def heads(house: House, site: str) -> list[Head]:
    """The heads that a hospital's orders showed, once each proof was followed as a vault does."""
    public = house.coordinator.signing.public_key()
    origin, found = log_origin(house.coordinator.public.key_id), list[Head]()
    for order in house.hospitals[site].orders:
        head = read_checkpoint(str(order.header.checkpoint), origin, public)
        proof = [base64.b64decode(part) for part in order.header.consistency]
        if found and head != found[-1]:
            assert verify_consistency(found[-1], head, proof)
        found.append(head)
    return found


def test_every_order_shows_a_head_that_follows_from_the_one_before(tmp_path: Path) -> None:
    house = House(tmp_path, {})
    house.run()
    for site in SITES:
        assert [head.size for head in heads(house, site)] == [0, 4]  # three receipts, one round


def test_a_refusal_over_the_log_is_asked_anew_and_the_answer_counts(tmp_path: Path) -> None:
    def once(hospital: Hospital, order: Order) -> bytes:
        return (other_log if order.header.attempt == 1 else Hospital.result)(hospital, order)

    house = House(tmp_path, {"north": once})
    house.run()
    assert [o.header.attempt for o in house.hospitals["north"].orders] == [1, 2, 1, 2]
    assert {kind for _, site, kind, _ in house.answers if site == "north"} == {"result"}


def test_a_hospital_that_refuses_the_log_for_good_is_named_and_logged(tmp_path: Path) -> None:
    house = House(tmp_path, {"north": other_log, "west": other_log})
    with pytest.raises(RunError, match=r"north refused .SB-221.*west refused .SB-221"):
        house.run()
    log = house.coordinator.log()
    entries = [json.loads(entry) for entry in log.entries()]
    log.close()
    told = {(e["site"], e["code"]) for e in entries if e["kind"] == "refusal"}
    assert told == {("north", "SB-221"), ("west", "SB-221")}


def test_a_refusal_is_logged_once_however_often_it_comes(tmp_path: Path) -> None:
    house = House(tmp_path, {"north": refuse})
    context = house.begin(local_grid(house))
    run_rounds(context)
    again = Question("train", 2, b"", context.layout, None, lambda site, data: None)
    collect(context, again, ["north"])
    kinds = [json.loads(entry)["kind"] for entry in context.log.entries()]
    assert kinds.count("refusal") == 2  # one a round
    context.log.close()


def test_all_hospitals_that_answer_cosign_one_head(tmp_path: Path) -> None:
    house = House(tmp_path, dict.fromkeys(SITES, cosigns))
    context = house.begin(local_grid(house))
    run_rounds(context)
    assert set(ask_witnesses(context, seconds=5)) == set(SITES)
    assert set(context.log.cosigners(context.log.size())) == set(SITES)
    asked = {s: len(h.orders) for s, h in house.hospitals.items()}
    ask_witnesses(context, seconds=5)
    assert {s: len(h.orders) for s, h in house.hospitals.items()} == asked, "asked once"
    context.log.close()


def test_a_hospital_that_has_not_answered_an_older_head_cosigns_the_newest_too(
    tmp_path: Path,
) -> None:
    """Its last answers were lost: it may remember either head, and is asked for the older one first."""
    house = House(tmp_path, dict.fromkeys(SITES, cosigns))
    context = house.begin(local_grid(house))
    run_rounds(context)
    context.log.show(["north"])
    context.log.append(round_closed("other", 1, base="a", result="b", time="2026-11-29T12:00:00Z"))
    assert set(ask_witnesses(context, seconds=5)) == set(SITES)
    assert [head.size for head in heads(house, "north")][-2:] == [8, 9]
    context.log.close()


@pytest.mark.parametrize("lie", ["site", "head", "kind"])
def test_a_cosignature_of_something_else_is_not_taken(tmp_path: Path, lie: str) -> None:
    def lies(hospital: Hospital, order: Order) -> bytes:
        if order.header.kind != "witness":
            return hospital.result(order)
        if lie == "kind":
            return hospital.result(order)
        if lie == "site":
            return cosigns(hospital, order, site="east")
        first = str(hospital.orders[0].header.checkpoint)
        return cosigns(hospital, order, head=first)

    house = House(tmp_path, dict.fromkeys(SITES, cosigns) | {"north": lies})
    context = house.begin(local_grid(house))
    run_rounds(context)
    assert set(ask_witnesses(context, seconds=2)) == {"east", "west"}
    invalid = [r for r in context.database.replies(context.run, asked="witness") if r.kind == "invalid"]  # fmt: skip
    assert [r.site for r in invalid] == ["north"]
    context.log.close()


def test_a_run_whose_database_was_lost_logs_nothing_twice(tmp_path: Path) -> None:
    house = House(tmp_path, {})
    house.run()
    log = house.coordinator.log()
    before = log.entries()
    house.database.close()
    for path in tmp_path.glob("coordinator.sqlite*"):
        path.unlink()
    house.database = Database(tmp_path / "coordinator.sqlite")
    house.run()
    kinds = [json.loads(entry)["kind"] for entry in log.entries()]
    assert log.entries()[: len(before)] == before
    # The receipts name other orders now; the rounds are the same.
    assert kinds.count("round-closed") == 2
    log.close()
