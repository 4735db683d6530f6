"""Permits that end, are revoked or used up between two rounds; lists that are stale; clocks that run backwards."""

import datetime as dt
import json
from typing import Any

import pytest

from lab import study_document
from security.observer import Observer
from security.permit_lab import DAY, JTI, LabIssuer, PermitLab
from security.test_hostile_permit import answered
from security.test_hostile_permit import lab as lab
from solblom_client import vault as vault_module
from solblom_client.approvals.approval import revoke
from solblom_client.approvals.record import approval_folder
from solblom_client.keys import read_node_keys
from solblom_client.link.exchange import exchange_once
from solblom_client.log.decision_log import log_place, open_decisions, read_entries
from solblom_client.outbox.outbox import Outbox, release
from solblom_protocol.errors import RefusedError
from solblom_protocol.messages.result import Refusal, Result

# --- Dates


def test_a_permit_that_expires_between_two_rounds_stops_the_second(lab: PermitLab) -> None:
    answered(lab)
    order = lab.next_round(2, days=30)
    lab.publish()
    lab.assert_refused("SB-217", "has ended", **order)
    assert not lab.root()


def test_the_last_second_of_a_permit_counts_and_the_next_does_not(lab: PermitLab) -> None:
    lab.hospital.clock.advance(days=30, seconds=-1)
    lab.publish()
    answered(lab)
    lab.hospital.clock.advance(seconds=1)
    lab.assert_refused("SB-217", "has ended", round=2)


def test_an_answered_round_is_not_given_again_after_the_permit_has_ended(lab: PermitLab) -> None:
    answered(lab)
    lab.hospital.clock.advance(days=31)
    lab.publish()
    lab.assert_refused("SB-217", "has ended", attempt=2)


def test_the_noise_root_is_wiped_at_the_permits_date_by_an_order_of_another_study(
    lab: PermitLab,
) -> None:
    lab.hospital.clock.advance(days=31)
    assert lab.root()
    lab.observer.assert_refused(lab.hospital.order(study_document()), "SB-203")
    assert not lab.root()


def test_the_noise_root_is_wiped_by_an_exchange_without_any_order(lab: PermitLab) -> None:
    for name in ("inbox", "outbox"):
        (lab.hospital.folder / name).mkdir()
    lab.observer.edit_config(
        "[coordinator]\n", '[coordinator]\ninbox = "inbox"\noutbox = "outbox"\n'
    )
    lab.hospital.clock.advance(days=31)
    exchange_once(lab.hospital.config, lab.hospital.vault)
    assert not lab.root()
    entries = [json.loads(line) for line in read_entries(log_place(lab.hospital.config))]
    assert ("ended", lab.study.digest) in [(e["event"], e.get("study")) for e in entries]


def test_the_noise_root_is_wiped_when_another_study_is_approved(lab: PermitLab) -> None:
    lab.hospital.clock.advance(days=31)
    first = lab.study.digest
    lab.study = study_document(study={"duo": ["DUO:0000027"]}, training={"rounds": 2})
    lab.publish()
    lab.approve(lab.honest(jti="the-next-permit"))
    assert not (approval_folder(lab.hospital.config, first) / "noise.root").exists()
    answered(lab)


def test_a_new_permit_after_the_end_brings_a_new_root_and_new_noise(lab: PermitLab) -> None:
    folder = approval_folder(lab.hospital.config, lab.study.digest)
    before, first = (folder / "noise.root").read_bytes(), answered(lab)
    lab.hospital.clock.advance(days=31)
    lab.publish()
    lab.approve(lab.honest(jti="the-next-permit"))
    assert (folder / "noise.root").read_bytes() != before
    again = answered(lab, attempt=2)
    assert bytes(again.update) != bytes(first.update)
    assert lab.hospital.charges() == 2  # independent noise, a charge of its own (privacy.md rule 3)


def test_an_expired_permit_is_not_revived_by_setting_the_clock_back(lab: PermitLab) -> None:
    answered(lab)
    order = lab.next_round(2, days=30)
    lab.assert_refused("SB-217", "has ended", **order)
    lab.hospital.clock.advance(days=-1)
    lab.hospital.restart()
    lab.assert_refused("SB-206", "gone backwards", **order)


# --- Revocation


def test_a_revoked_permit_is_refused(lab: PermitLab) -> None:
    lab.publish(JTI)
    lab.assert_refused("SB-218", "is revoked")


def test_a_permit_revoked_between_two_rounds_stops_the_second(lab: PermitLab) -> None:
    answered(lab)
    order = lab.next_round(2, hours=1)
    lab.publish("some-other-permit", JTI)
    lab.assert_refused("SB-218", "is revoked", **order)


def test_an_answered_round_is_not_given_again_under_a_revoked_permit(lab: PermitLab) -> None:
    answered(lab)
    lab.publish(JTI, age=-1)
    lab.assert_refused("SB-218", "is revoked", attempt=2)


def test_a_revocation_is_final_whatever_a_later_list_says(lab: PermitLab) -> None:
    lab.publish(JTI)
    lab.assert_refused("SB-218", "is revoked")
    lab.hospital.clock.advance(days=1)
    lab.publish()
    lab.hospital.restart()
    lab.assert_refused("SB-218", "was revoked")


def test_a_stale_list_that_names_the_permit_still_revokes_it(lab: PermitLab) -> None:
    lab.publish(JTI, age=40 * DAY)
    lab.assert_refused("SB-218", "is revoked")


def test_a_stale_list_stops_the_study(lab: PermitLab) -> None:
    answered(lab)
    order = lab.next_round(2, days=7, seconds=1)
    lab.assert_refused("SB-218", "it may be 604800 seconds old", **order)
    lab.publish()
    answered(lab, **order)


def test_a_list_from_the_future_stops_the_study(lab: PermitLab) -> None:
    lab.publish(age=-301)
    lab.assert_refused("SB-218", "from the future")


def test_a_list_that_was_rolled_back_stops_the_study(lab: PermitLab) -> None:
    old = lab.issuer.revocations(lab.hospital)
    lab.hospital.clock.advance(days=1)
    lab.publish("some-other-permit")
    answered(lab)
    lab.write_list(old)
    lab.hospital.restart()
    lab.assert_refused("SB-218", "is older than the one", round=2)


def test_two_lists_of_one_moment_stop_the_study(lab: PermitLab) -> None:
    answered(lab)
    lab.write_list(lab.issuer.revocations(lab.hospital, "some-other-permit"))
    lab.assert_refused("SB-218", "is older than the one", round=2)


def test_a_missing_list_stops_the_study(lab: PermitLab) -> None:
    (lab.hospital.folder / "revocations.jws").unlink()
    lab.assert_refused("SB-218", "cannot be read")


def test_a_list_that_is_a_link_elsewhere_stops_the_study(lab: PermitLab) -> None:
    file = lab.hospital.folder / "revocations.jws"
    file.rename(file.with_name("elsewhere.jws"))
    file.symlink_to("elsewhere.jws")
    lab.assert_refused("SB-218", "cannot be read")


@pytest.mark.parametrize("data", [b"", b"\n", b"x", b"a.b.c"], ids=["empty", "line", "x", "parts"])
def test_an_unreadable_list_stops_the_study(lab: PermitLab, data: bytes) -> None:
    lab.write_list(data)
    lab.assert_refused("SB-218", "list does not hold")


def test_a_cut_list_stops_the_study(lab: PermitLab) -> None:
    lab.write_list(lab.issuer.revocations(lab.hospital)[:-1])
    lab.assert_refused("SB-218", "list does not hold")


def test_a_list_of_another_issuer_stops_the_study(lab: PermitLab) -> None:
    lab.write_list(LabIssuer().revocations(lab.hospital))
    lab.assert_refused("SB-218", "a key that is not pinned")


def test_a_list_of_another_pinned_issuer_says_nothing_about_this_permit(lab: PermitLab) -> None:
    other = LabIssuer("second")
    (lab.hospital.folder / "second.pub").write_bytes(other.public.to_bytes())
    lab.observer.edit_config('["issuer.pub"]', '["issuer.pub", "second.pub"]')
    lab.write_list(other.revocations(lab.hospital, JTI))
    lab.assert_refused("SB-218", "no revocation list of the permit's issuer")
    lists = [other.revocations(lab.hospital, JTI), lab.issuer.revocations(lab.hospital)]
    lab.write_list(b"\n".join(lists))
    answered(lab)


def test_a_second_list_of_one_issuer_in_the_file_stops_the_study(lab: PermitLab) -> None:
    lists = [lab.issuer.revocations(lab.hospital, age=age) for age in (0, 9)]
    lab.write_list(b"\n".join(lists))
    lab.assert_refused("SB-218", "two lists of one issuer")


def test_a_permit_is_no_revocation_list(lab: PermitLab) -> None:
    lab.write_list(lab.honest())
    lab.assert_refused("SB-218", "the type is not revocations+jwt")


def test_a_study_is_not_approved_under_a_revoked_permit(lab: PermitLab) -> None:
    revoke(lab.hospital.config, lab.study.digest)
    lab.publish(JTI)
    with pytest.raises(RefusedError) as caught:
        lab.approve(lab.honest())
    assert caught.value.code == "SB-218"
    assert not lab.root()


# --- Limits


def test_more_rounds_than_permitted_are_refused(lab: PermitLab) -> None:
    lab.approve(lab.honest(rounds=3))
    for number in (1, 2):
        answered(lab, round=number)
    answered(lab, run="lab-2")
    lab.assert_refused("SB-217", "allows 3 rounds", run="lab-2", round=2)
    answered(lab, run="lab-2", attempt=2)  # charged before: no new use


def test_more_runs_than_permitted_are_refused(lab: PermitLab) -> None:
    for run in ("lab-1", "lab-2"):
        answered(lab, run=run)
    lab.assert_refused("SB-217", "allows 2 runs", run="lab-3")
    lab.hospital.restart()
    lab.observer.assert_refused(lab.hospital.evaluation(lab.study, run="lab-3"), "SB-217")
    answered(lab, run="lab-2", round=2)


def test_a_permit_that_was_renewed_goes_on_counting(lab: PermitLab) -> None:
    for run in ("lab-1", "lab-2"):
        answered(lab, run=run)
    lab.approve(lab.honest(jti="the-next-permit"))
    lab.assert_refused("SB-217", "allows 2 runs", run="lab-3")


def test_a_training_set_below_the_permits_minimum_looks_like_every_refusal_about_data(
    lab: PermitLab,
) -> None:
    lab.approve(lab.honest(min_cohort=30))
    lab.hospital.write_rows(lab.hospital.rows[:25])
    for number in (1, 2, 3):
        lab.observer.assert_data_refused(lab.hospital.order(lab.study, attempt=number))
    lab.assert_logged("SB-209", "below the permit's minimum")
    assert lab.observer.strikes(lab.study.digest) == 3
    lab.assert_refused("SB-210", "three data refusals", attempt=4)


def test_a_study_below_the_permits_minimum_is_not_approved(lab: PermitLab) -> None:
    with pytest.raises(Exception, match="below the permit's minimum of 60"):
        lab.approve(lab.honest(min_cohort=60))


# --- What was approved, and what runs


def test_settings_changed_after_the_approval_are_refused(lab: PermitLab) -> None:
    other = study_document(study={"duo": ["DUO:0000027"]}, privacy={"epsilon": 2.5})
    folder = approval_folder(lab.hospital.config, lab.study.digest)
    (folder / "study.dsse.json").write_bytes(lab.hospital.sign(other))
    lab.assert_refused("SB-214", "The stored approval is for another study")
    lab.observer.assert_refused(lab.hospital.order(other), "SB-203")


def test_code_changed_after_the_approval_is_refused_whatever_the_permit_says(
    lab: PermitLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "solblom_client.approvals.approval.code_digest", lambda _: "sha256:" + "c" * 64
    )
    lab.assert_refused("SB-211", "not the code that was approved")


# --- The clock


def test_the_newest_moment_is_kept_over_a_restart_and_counts_for_refused_orders(
    lab: PermitLab,
) -> None:
    lab.hospital.clock.advance(days=3)
    lab.observer.assert_refused(lab.hospital.order(study_document()), "SB-203")
    lab.hospital.clock.advance(days=-2)
    lab.hospital.restart()
    lab.assert_refused("SB-206", "gone backwards")


def test_an_approval_with_a_clock_that_ran_backwards_is_refused(lab: PermitLab) -> None:
    lab.hospital.clock.advance(days=-1)
    with pytest.raises(RefusedError, match="gone backwards") as caught:
        lab.approve(lab.honest())
    assert caught.value.code == "SB-206"


def test_an_order_after_an_approval_with_a_later_clock_is_refused(lab: PermitLab) -> None:
    lab.hospital.clock.advance(days=1)
    lab.approve(lab.honest(jti="a-later-permit"))
    lab.hospital.clock.advance(days=-1)
    lab.assert_refused("SB-206", "gone backwards")


def test_a_clock_a_little_behind_is_no_alarm(lab: PermitLab) -> None:
    lab.hospital.clock.advance(hours=1)
    answered(lab)
    lab.hospital.clock.advance(minutes=-4)
    assert isinstance(lab.hospital.ask(lab.hospital.order(lab.study, round=2)), Result)


def test_an_order_of_a_stranger_does_not_move_the_clock(lab: PermitLab, observer: Observer) -> None:
    lab.hospital.clock.advance(days=2)
    observer.assert_refused(b"garbage", "SB-202", named=False)
    lab.hospital.clock.advance(days=-2)
    answered(lab)


def test_dates_are_compared_in_utc(lab: PermitLab) -> None:
    oslo = dt.timezone(dt.timedelta(hours=2))
    lab.hospital.clock.now = (lab.hospital.clock.now + dt.timedelta(days=30)).astimezone(oslo)
    lab.publish()
    lab.assert_refused("SB-217", "has ended")


# --- While an answer waits or is made


@pytest.fixture
def careful(lab: PermitLab) -> PermitLab:
    """The same hospital, where a person releases each answer."""
    lab.observer.edit_config("[policy]\n", '[policy]\nrelease = "manual"\n')
    return lab


def release_what_waits(lab: PermitLab) -> None:
    config, keys = lab.hospital.config, read_node_keys(lab.hospital.config.state)
    (answer,) = Outbox.of(config).all()
    log = open_decisions(config, keys)
    release(config, keys, log, answer.request, by="Kari Nordmann", now=lab.hospital.clock())
    log.close()


def waits(lab: PermitLab) -> None:
    reply = lab.hospital.ask(lab.hospital.order(lab.study))
    assert isinstance(reply, Refusal)
    assert reply.code == "SB-219"


def test_an_answer_that_waits_does_not_leave_under_a_permit_revoked_meanwhile(
    careful: PermitLab,
) -> None:
    waits(careful)
    careful.publish(JTI, age=-1)
    release_what_waits(careful)
    careful.assert_refused("SB-218", "is revoked", attempt=2)


def test_an_answer_that_waits_does_not_leave_after_the_permit_has_ended(careful: PermitLab) -> None:
    waits(careful)
    careful.hospital.clock.advance(days=31)
    careful.publish()
    release_what_waits(careful)
    careful.assert_refused("SB-217", "has ended", attempt=2)


@pytest.mark.parametrize("event", ["revoked", "ended"])
def test_an_update_does_not_leave_when_the_permit_falls_while_it_is_made(
    lab: PermitLab, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    real = vault_module.check_consent_holds

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        if event == "revoked":
            lab.publish(JTI, age=-1)
        else:
            lab.hospital.clock.advance(days=30)
            lab.publish()
        return real(*args, **kwargs)

    monkeypatch.setattr(vault_module, "check_consent_holds", meanwhile)
    lab.observer.assert_data_refused(lab.hospital.order(lab.study))
    assert lab.hospital.charges() == 1  # the charge stays
    lab.assert_logged("SB-209", "revoked" if event == "revoked" else "expired")
