"""The round loop against hospitals that lie, die or stay silent: named, left out, and the round goes on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context, Message, RecordDict

from solblom_protocol.errors import RunError
from solblom_protocol.messages.layout import unpack
from solblom_protocol.messages.order import Order
from solblom_server.commands.run import _cell
from solblom_server.registry.release import refusal_codes, silent_sites
from solblom_server.rounds.rounds import initial_model
from solblom_server.rounds.run_report import run_report
from solblom_verify.canonical import digest
from unit.server.house import HONEST, SITES, Answer, Hospital, House, explode, refuse, secret


@pytest.fixture
def house(tmp_path: Path) -> Callable[..., House]:
    return lambda **answers: House(tmp_path / "home", answers)


def test_the_model_is_the_sum_of_the_rounds_means(house: Callable[..., House]) -> None:
    built = house(north=lambda h, o: h.result(o, 4 * HONEST))
    state = built.run()
    start = unpack(*initial_model(built.document))
    assert np.array_equal(state.final_model(), start + 2 * (2 * HONEST))


def test_every_order_names_what_the_hospital_answered_last(house: Callable[..., House]) -> None:
    built = house()
    built.run()
    for hospital in built.hospitals.values():
        first, second = hospital.orders
        assert (first.header.previous_order, first.header.last_receipt) == (None, None)
        assert second.header.previous_order == first.digest
        assert second.header.last_receipt is not None


def test_every_order_has_the_same_model_and_roster(house: Callable[..., House]) -> None:
    built = house()
    built.run()
    for number in (0, 1):
        headers = [h.orders[number].header for h in built.hospitals.values()]
        assert len({header.base_model for header in headers}) == 1
        assert [e.site for e in headers[0].roster] == sorted(SITES)


LIES: dict[str, tuple[Answer, str]] = {
    "another site": (lambda h, o: h.result(o, site="east"), "SB-404"),
    "another run": (lambda h, o: h.result(o, run="lab-9"), "SB-404"),
    "another round": (lambda h, o: h.result(o, round=o.header.round + 1), "SB-404"),
    "another study": (lambda h, o: h.result(o, study=digest(b"x")), "SB-404"),
    "another model": (lambda h, o: h.result(o, base_model=digest(b"x")), "SB-404"),
    "another order": (lambda h, o: h.result(o, order=digest(b"x")), "SB-404"),
    "less noise": (
        lambda h, o: h.result(
            o, event=h.study.round_event.to_json() | {"noise_multiplier": "0.0001"}
        ),
        "SB-404",
    ),
    "not a number": (lambda h, o: h.result(o, HONEST * np.float32("nan")), "SB-404"),
    "off the grid": (lambda h, o: h.result(o, HONEST * np.float32(2**-26)), "SB-404"),
    "too large": (lambda h, o: h.result(o, HONEST * np.float32(2**22)), "SB-404"),
    "too short": (lambda h, o: h.result(o, HONEST[:3]), "SB-404"),
    "signed by another": (
        lambda h, o: h.result(o, key=Ed25519PrivateKey.from_private_bytes(secret("stranger"))),
        "SB-403",
    ),
    "no bytes": (lambda h, o: b"", "SB-405"),
    "any bytes": (lambda h, o: b"\xff" * 500, "SB-405"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_hospital_that_lies_is_left_out_and_named(house: Callable[..., House], lie: str) -> None:
    answer, code = LIES[lie]
    built = house(north=answer)
    state = built.run()
    start = unpack(*initial_model(built.document))
    assert np.array_equal(state.final_model(), start + 2 * HONEST)  # the mean of the other two
    assert [a for a in built.answers if a[1] == "north"] == [
        (n, "north", "invalid", code) for n in (1, 2)
    ]


def test_a_reply_of_a_stranger_is_shown_as_invalid_and_not_as_a_refusal(
    house: Callable[..., House],
) -> None:
    answer, code = LIES["signed by another"]
    built = house(north=answer, west=refuse, east=Hospital.result)
    with pytest.raises(RunError):
        built.run()
    (row,) = run_report(built.coordinator.home, built.run_id)["rounds"]
    assert (row["invalid"], row["refusals"]) == ({"north": code}, {"west": "SB-205"})
    assert row["missing"] == []
    assert [_cell(row, site) for site in SITES] == [
        "update",
        "invalid reply SB-403",
        "refused SB-205",
    ]


def test_an_artefact_counts_a_site_without_a_valid_reply_as_missing(
    house: Callable[..., House],
) -> None:
    answer, _ = LIES["signed by another"]
    built = house(north=answer)
    built.run()
    replies = built.database.replies(built.run_id)
    assert refusal_codes(replies, 1) == {}
    assert silent_sites(replies, 1, list(SITES)) == ["north"]


def test_one_hospitals_answer_sent_by_another_is_left_out(house: Callable[..., House]) -> None:
    heard: list[bytes] = []

    def speak(hospital: Hospital, order: Order) -> bytes:
        heard.append(hospital.result(order))
        return heard[-1]

    built = house(east=speak, north=lambda h, o: heard[-1])
    built.run()
    assert (1, "north", "invalid", "SB-403") in built.answers


def test_an_answer_of_an_earlier_round_is_left_out(house: Callable[..., House]) -> None:
    heard: list[bytes] = []

    def repeat(hospital: Hospital, order: Order) -> bytes:
        heard.append(hospital.result(order))
        return heard[0]

    built = house(north=repeat)
    built.run()
    assert [a[2:] for a in built.answers if a[1] == "north"] == [
        ("result", None),
        ("invalid", "SB-404"),
    ]


def test_a_hospital_that_fails_once_is_asked_again(house: Callable[..., House]) -> None:
    def stumble(hospital: Hospital, order: Order) -> bytes:
        if order.header.attempt == 1:
            raise RuntimeError("out of memory")
        return hospital.result(order)

    built = house(north=stumble)
    built.run()
    assert [o.header.attempt for o in built.hospitals["north"].orders] == [1, 2, 1, 2]
    assert all(kind == "result" for _, _, kind, _ in built.answers)


def test_a_hospital_that_always_fails_is_asked_three_times_a_round(
    house: Callable[..., House],
) -> None:
    built = house(north=explode)
    built.run()
    assert [o.header.attempt for o in built.hospitals["north"].orders] == [1, 2, 3, 1, 2, 3]


def test_a_lost_quorum_names_everybody_who_is_missing(house: Callable[..., House]) -> None:
    built = house(north=explode, west=lambda h, o: h.result(o, run="lab-9"))
    with pytest.raises(
        RunError, match=r"north did not answer, west sent no valid reply \(SB-404\)"
    ) as caught:
        built.run()
    assert (caught.value.code, caught.value.exit_status) == ("SB-501", 6)
    assert caught.value.hint == f"When they are back, run `solblom run resume {built.run_id}`"


@pytest.mark.parametrize(
    ("others", "code"),
    [({"west": refuse}, "SB-507"), ({"west": explode}, "SB-501"), ({}, None)],
    ids=["refused", "silent", "enough"],
)
def test_a_run_is_stopped_by_refusals_only_where_they_alone_break_the_quorum(
    house: Callable[..., House], others: dict[str, Answer], code: str | None
) -> None:
    built = house(north=refuse, **others)
    if code is None:
        built.run()
        return
    with pytest.raises(RunError, match=r"north refused \(SB-205\)") as caught:
        built.run()
    assert caught.value.code == code
    assert "Ask the hospitals named" in caught.value.hint
    assert f"`solblom run resume {built.run_id}`" in caught.value.hint


def test_a_reply_without_sealed_bytes_is_left_out(house: Callable[..., House]) -> None:
    built = house()

    class Empty(Hospital):
        def __call__(self, message: Message, context: Context) -> Message:
            return Message(RecordDict(), reply_to=message)

    built.hospitals["north"] = Empty(
        "north", built.coordinator.public, built.document, Hospital.result
    )
    state = built.run()
    assert np.array_equal(state.final_model(), unpack(*initial_model(built.document)) + 2 * HONEST)
