"""A whole federation of three small hospitals: it completes, repeats, resumes, and says who refused."""

import datetime as dt
import json
import time
from base64 import b64decode
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant

from integration.federation import PRIVACY, ROUNDS, SITES, Federation, Traces, progress
from solblom_client.training.dp_sgd import TrainingTrace
from solblom_protocol.errors import RunError
from solblom_protocol.messages.message import parse_timestamp
from solblom_server.database import Database
from solblom_server.rounds.run_report import run_report
from solblom_server.rounds.runs import FinishedRun, start_run
from solblom_verify.artefact import verify_artefact
from solblom_verify.trust import load_trust

ALL_SPENT = {site: [(n, "spent") for n in range(1, ROUNDS + 1)] for site in SITES}


class PowerCutError(BaseException):
    """What no code of the product expects."""


def failed_checks(home: Path, run: FinishedRun) -> list[tuple[str, str]]:
    trust = load_trust(home / "trust.json")
    verdict = verify_artefact(run.path, trust, now=dt.datetime.now(dt.UTC))
    assert verdict.artefact in (run.digest, None)
    return [(check.name, check.reason) for check in verdict.checks if not check.ok]


def interrupted(federation: Federation, *, after_round: int) -> str:
    """Start the run and cut the power when a round has closed; return the run's name."""

    def cut(number: int, rounds: int, text: str) -> None:
        if number == after_round:
            raise PowerCutError

    with progress(cut), pytest.raises(PowerCutError):
        federation.start()
    return only_run(federation)


def only_run(federation: Federation) -> str:
    database = Database(federation.home / "coordinator.sqlite")
    (run,) = database.runs()
    database.close()
    return run.id


def report(federation: Federation, run: str) -> dict[str, Any]:
    return run_report(federation.home, run)


def test_a_run_ends_with_a_model_that_verifies(
    federation: Federation, finished: FinishedRun
) -> None:
    assert failed_checks(federation.home, finished) == []


def test_a_finished_run_is_completed_with_every_hospital_in_every_round(
    federation: Federation, finished: FinishedRun
) -> None:
    told = report(federation, finished.run)
    assert (told["status"], told["model"]["digest"]) == ("completed", finished.digest)
    assert [sorted(row["results"]) for row in told["rounds"]] == [sorted(SITES)] * ROUNDS
    assert all(row["refusals"] == {} and row["missing"] == [] for row in told["rounds"])


def test_each_round_begins_with_the_model_that_the_last_one_led_to(
    federation: Federation, finished: FinishedRun
) -> None:
    rows = report(federation, finished.run)["rounds"]
    assert [row["base"] for row in rows[1:]] == [row["result"] for row in rows[:-1]]


def test_each_hospital_is_charged_once_a_round(
    federation: Federation, finished: FinishedRun
) -> None:
    assert federation.charges() == ALL_SPENT


def test_a_completed_run_cannot_be_resumed(federation: Federation, finished: FinishedRun) -> None:
    with pytest.raises(RunError) as caught:
        federation.resume(finished.run)
    assert caught.value.code == "SB-504"


def test_an_unknown_run_cannot_be_resumed(federation: Federation) -> None:
    with pytest.raises(RunError) as caught:
        federation.resume("nowhere-1")
    assert caught.value.code == "SB-502"


def reference_epsilon(traces: list[TrainingTrace], sampling_rate: float, delta: float) -> float:
    """Account for what training did, by dp-accounting alone, ten times finer than the product."""
    accountant = PLDAccountant(value_discretization_interval=1e-4)
    steps: Counter[float] = Counter()
    for trace in traces:
        steps[trace.noise_deviation / trace.clipping_norm] += len(trace.batch_sizes)
    for noise, count in steps.items():
        step = dp_event.PoissonSampledDpEvent(sampling_rate, dp_event.GaussianDpEvent(noise))
        accountant.compose(step, count)
    return float(accountant.get_epsilon(delta))


@pytest.mark.parametrize("site", SITES)
def test_the_reported_epsilon_is_that_of_what_training_really_did(
    federation: Federation, finished: FinishedRun, traces: Traces, site: str
) -> None:
    reference = reference_epsilon(traces[site], PRIVACY["sampling_rate"], 1e-5)
    reported = float(report(federation, finished.run)["epsilon"][site])
    assert 1.0 <= reported / reference <= 1.01


@pytest.mark.parametrize("site", SITES)
def test_the_hospitals_own_ledger_says_the_same_as_the_coordinator(
    federation: Federation, finished: FinishedRun, site: str
) -> None:
    assert federation.spent(site) == report(federation, finished.run)["epsilon"][site]


def test_the_reported_epsilon_keeps_the_promise(
    federation: Federation, finished: FinishedRun
) -> None:
    told = report(federation, finished.run)["epsilon"]
    assert all(0.99 * PRIVACY["epsilon"] < float(e) <= PRIVACY["epsilon"] for e in told.values())


def test_patients_were_drawn_at_the_public_rate(traces: Traces) -> None:
    drawn = sum(sum(trace.batch_sizes) for found in traces.values() for trace in found)
    coins = sum(
        trace.population * len(trace.batch_sizes) for found in traces.values() for trace in found
    )
    rate, deviation = PRIVACY["sampling_rate"], (0.25 / coins) ** 0.5
    assert abs(drawn / coins - rate) < 5 * deviation


def test_every_step_of_every_round_was_trained(traces: Traces) -> None:
    steps = [[len(trace.batch_sizes) for trace in found] for found in traces.values()]
    assert steps == [[2] * ROUNDS] * len(SITES)


def test_the_same_work_on_fresh_state_gives_the_same_model(
    finished: FinishedRun, tmp_path: Path
) -> None:
    again = Federation(tmp_path / "home").start()
    assert (again.run, again.digest) == (finished.run, finished.digest)


def test_another_seed_of_the_keys_gives_another_model(
    finished: FinishedRun, tmp_path: Path
) -> None:
    other = Federation(tmp_path / "home", seed=8).start()
    assert other.run == finished.run  # the study is the same
    assert other.digest != finished.digest


def test_a_run_cut_between_two_rounds_resumes_to_the_same_model_and_charges_nothing_twice(
    finished: FinishedRun, tmp_path: Path
) -> None:
    federation = Federation(tmp_path / "home")
    run = interrupted(federation, after_round=2)
    assert report(federation, run)["status"] == "open"
    resumed = federation.resume(run)
    assert (resumed.run, resumed.digest) == (finished.run, finished.digest)
    assert federation.charges() == ALL_SPENT
    assert failed_checks(federation.home, resumed) == []


@pytest.mark.parametrize(
    "step", ["rounds.rounds.write_checkpoint", "database.Database.close_round"]
)
def test_a_run_cut_when_all_have_answered_resumes_to_the_same_model_and_charges_nothing_twice(
    finished: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    federation = Federation(tmp_path / "home")

    def cut(*_: Any, **__: Any) -> None:
        raise PowerCutError

    def arm(number: int, rounds: int, text: str) -> None:
        power.setattr(f"solblom_server.{step}", cut)

    with monkeypatch.context() as power, progress(arm), pytest.raises(PowerCutError):
        federation.start()
    assert {len(rounds) for rounds in federation.charges().values()} == {2}
    resumed = federation.resume(only_run(federation))
    assert resumed.digest == finished.digest
    assert federation.charges() == ALL_SPENT


def test_a_run_that_somebody_interrupts_is_shown_so_and_goes_on(
    finished: FinishedRun, tmp_path: Path
) -> None:
    federation = Federation(tmp_path / "home")

    def stop(number: int, rounds: int, text: str) -> None:
        if number == 2:
            raise KeyboardInterrupt

    with progress(stop), pytest.raises(KeyboardInterrupt) as caught:
        federation.start()
    run = only_run(federation)
    told = report(federation, run)
    assert (told["status"], told["reason"]) == ("interrupted", "Interrupted at the keyboard")
    assert told["ended"] is not None
    assert caught.value.__notes__ == [f"Interrupted. To go on: solblom run resume {run}"]
    with progress(lambda *_: statuses.append(report(federation, run)["status"])):
        statuses: list[str] = []
        resumed = federation.resume(run)
    assert statuses == ["open"] * (ROUNDS - 2)
    assert resumed.digest == finished.digest
    assert report(federation, run)["status"] == "completed"


def test_a_run_ends_later_than_it_started(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "home")
    with progress(lambda *_: time.sleep(0.7)):
        run = federation.start()
    told = report(federation, run.run)
    started, ended = (parse_timestamp(told[name]) for name in ("started", "ended"))
    assert ended - started >= dt.timedelta(seconds=2)
    envelope = json.loads((run.path / "attestations/model.dsse.json").read_bytes())
    statement = json.loads(b64decode(envelope["payload"]))
    created = parse_timestamp(statement["predicate"]["created"])
    assert started + dt.timedelta(seconds=2) <= created <= ended


def test_a_run_cut_after_its_last_round_still_becomes_the_same_model(
    finished: FinishedRun, tmp_path: Path
) -> None:
    federation = Federation(tmp_path / "home")
    run = interrupted(federation, after_round=ROUNDS)
    assert federation.resume(run).digest == finished.digest
    assert federation.charges() == ALL_SPENT


def test_a_hospital_that_refuses_is_named_with_its_code(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "home", quorum=2, approving=("cleveland", "va"))
    done = federation.start()
    rows = report(federation, done.run)["rounds"]
    assert [row["refusals"] for row in rows] == [{"hungarian": "SB-203"}] * ROUNDS
    assert [sorted(row["results"]) for row in rows] == [["cleveland", "va"]] * ROUNDS
    assert federation.charges()["hungarian"] == []
    assert failed_checks(federation.home, done) == []


def test_a_lost_quorum_stops_the_run_until_the_hospital_approves(
    finished: FinishedRun, tmp_path: Path
) -> None:
    federation = Federation(tmp_path / "home", approving=("cleveland", "va"))
    with pytest.raises(RunError, match=r"hungarian refused \(SB-203\)") as caught:
        federation.start()
    run = only_run(federation)
    assert (caught.value.code, caught.value.exit_status) == ("SB-507", 4)
    assert "Ask the hospitals named" in caught.value.hint
    assert f"`solblom run resume {run}`" in caught.value.hint
    assert report(federation, run)["status"] == "stopped"
    federation.approve("hungarian")
    resumed = federation.resume(run)
    assert resumed.digest == finished.digest
    assert federation.charges() == ALL_SPENT
    assert report(federation, run)["rounds"][0]["refusals"] == {}


def test_too_few_hospitals_for_the_study_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    federation = Federation(tmp_path / "home")
    (federation.home / "nodes" / "va.pub").unlink()
    with pytest.raises(RunError, match="2 hospitals can be reached") as caught:
        federation.start()
    assert caught.value.code == "SB-501"
    assert federation.charges() == {site: [] for site in SITES}


def test_a_transport_that_is_not_installed_is_refused(federation: Federation) -> None:
    with pytest.raises(RunError, match=r"installed: .*local") as caught:
        start_run(
            federation.home,
            federation.envelope,
            transport_name="pigeon",
            now=dt.datetime.now(dt.UTC),
        )
    assert caught.value.code == "SB-505"
