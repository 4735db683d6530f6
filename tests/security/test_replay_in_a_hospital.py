"""Grades B and C: a hospital works on its own round again. It is no oracle: no charge, no order, no number."""

import dataclasses
import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fixed_secrets import fixed_secrets
from lab import LabHospital, patient_rows, study_document
from replay_lab import LabRun
from security.permit_lab import DAY, LabIssuer, PermitLab
from solblom_client.approvals.approval import revoke
from solblom_client.budget.ledger import STATE_FILE
from solblom_client.log.decision_log import log_place, read_entries
from solblom_client.replaying import replay as replay_module
from solblom_client.replaying.replay import ReplayedRound
from solblom_client.state import VaultState
from solblom_client.training.keystream import KeyStream
from solblom_client.training.optimizer import KeyedDPOptimizer
from solblom_models.replay import DifferenceError
from solblom_models.replay_files import update_name
from solblom_protocol.errors import DataError, RefusedError, RunError, SolblomError
from solblom_protocol.messages.order import OrderKind
from solblom_verify.canonical import digest

WIDE = {"kind": "mlp", "hidden": [24]}  # 169 weights: enough noise to judge
Mutate = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
def patients() -> int:
    return 40


@pytest.fixture
def hospital(tmp_path: Path, patients: int) -> LabHospital:
    """A hospital whose keys, and so its noise, are the same in every run of these tests."""
    with fixed_secrets("hospital"):
        return LabHospital(tmp_path / "north", patients=patients)


@pytest.fixture
def run(hospital: LabHospital, tmp_path: Path) -> LabRun:
    """Three rounds of one hospital, of a net that is wide enough to judge its noise."""
    return lab_run(hospital, tmp_path).finish(3)


def lab_run(hospital: LabHospital, tmp_path: Path, **training: Any) -> LabRun:
    document = study_document(task={"model": WIDE}, training=training)
    return LabRun(hospital, document, tmp_path / "model")


def state_of(hospital: LabHospital) -> dict[str, list[tuple[object, ...]]]:
    """Return everything that the vault remembers, but the place of its log of decisions."""
    state = VaultState(hospital.config.state / STATE_FILE)
    names = [str(r[0]) for r in state.query("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {n: state.query(f"SELECT * FROM {n}") for n in names if n != "meta"}  # noqa: S608
    state.close()
    return found


def files_of(folder: Path) -> dict[str, str]:
    """Return every file of the state but the state file itself and the logs."""
    return {
        str(path.relative_to(folder)): digest(path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
        and "log" not in path.parts
        and path.suffix != ".log"
        and path.name.split(".")[0] != "vault"
    }


def logged(hospital: LabHospital) -> list[dict[str, Any]]:
    entries = [json.loads(entry) for entry in read_entries(log_place(hospital.config))]
    return [entry for entry in entries if entry["event"] == "replayed"]


def assert_refused(run: LabRun, number: int, code: str, because: str) -> SolblomError:
    """Check a refusal by name, and that it stands in the hospital's log."""
    with pytest.raises(SolblomError, match=because) as caught:
        run.replay(number)
    assert caught.value.code == code
    assert (logged(run.hospital)[-1]["code"], logged(run.hospital)[-1]["what"]) == (
        code,
        "not-done",
    )
    return caught.value


# --- Grade B


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"local_steps": 3},
        {"local_steps": 3, "strategy": "fedprox", "proximal": 0.5},
        {"server_momentum": 0.5, "averaging": "second-half"},
    ],
    ids=["one step", "three steps", "fedprox", "momentum"],
)
def test_every_round_gives_the_same_update_again(
    hospital: LabHospital, tmp_path: Path, training: dict[str, Any]
) -> None:
    run = lab_run(hospital, tmp_path, **training).finish(3)
    for number in (3, 1, 2):
        found = run.replay(number, noise=number == 2)
        assert found.same
        assert found.update == run.rounds[number - 1]["updates"]["north"]
        assert found.noise is None or found.noise.passed


def test_parameters_that_stay_at_the_hospital_are_those_of_the_round(
    hospital: LabHospital, tmp_path: Path
) -> None:
    document = study_document(task={"model": {"kind": "logistic", "local_intercept": True}})
    run = LabRun(hospital, document, tmp_path / "model").finish(3)
    assert [run.replay(number).same for number in (1, 2, 3)] == [True] * 3


def test_a_replay_charges_nothing_keeps_nothing_and_is_logged(run: LabRun) -> None:
    hospital = run.hospital
    before, files, charges = state_of(hospital), files_of(hospital.folder), hospital.charges()
    run.replay(2, noise=True)
    assert state_of(hospital) == before
    assert files_of(hospital.folder) == files
    assert hospital.charges() == charges == 3
    (entry,) = logged(hospital)
    assert (entry["round"], entry["what"], entry["run"]) == (2, "same", "lab-1")
    assert {"study", "work", "receipt"} <= entry.keys()


def test_the_vault_goes_on_as_if_nothing_had_been_replayed(run: LabRun) -> None:
    """The next order's answer is the one that would have come without the replay: no coin was used up."""
    run.replay(3)
    again = run.hospital.order(run.document, array=None, round=3, run="lab-1", attempt=2)
    assert run.hospital.ask(again) is not None
    assert run.replay(1).same


def test_no_order_can_ask_for_a_replay_and_no_answer_of_one_has_numbers() -> None:
    assert not [kind for kind in typing.get_args(OrderKind) if "replay" in kind]
    names = {field.name for field in dataclasses.fields(ReplayedRound)}
    assert names == {"site", "round", "work", "update", "same", "noise"}


def test_patients_who_came_later_do_not_matter(run: LabRun) -> None:
    more = patient_rows(30, site="north", seed=2)
    for number, row in enumerate(more):
        row["patient_id"] = f"later-{number:03d}"
    run.hospital.write_rows([*reversed(run.hospital.rows), *more])
    assert run.replay(2).same


def test_once_a_patient_has_withdrawn_no_round_with_them_is_worked_on_again(run: LabRun) -> None:
    run.hospital.write_consent([f"{run.trained[0]},withdrawn,"])
    error = assert_refused(run, 2, "SB-443", "rule 13")
    assert "1 patient" in error.message
    assert "north-patient" not in error.message
    assert isinstance(error, RefusedError)
    assert error.exit_status == 4


def test_a_round_after_a_withdrawal_is_worked_on_again_and_those_before_it_are_not(
    hospital: LabHospital, tmp_path: Path
) -> None:
    run = lab_run(hospital, tmp_path)
    run.next_round()
    hospital.write_consent([f"{run.trained[0]},withdrawn,"])
    run.finish(3)
    assert run.replay(2).same
    found = run.replay(3, noise=True)
    assert found.noise is not None
    assert found.noise.rounds == (3, 2)  # round 1 is not touched for the noise of round 3 either
    assert_refused(run, 1, "SB-443", "rule 13")


def test_a_withdrawal_of_somebody_who_was_not_in_the_round_does_not_matter(run: LabRun) -> None:
    tested = next(r["patient_id"] for r in run.hospital.rows if r["patient_id"] not in run.trained)
    run.hospital.write_consent([f"{tested},withdrawn,"])
    assert run.replay(2).same


def test_a_changed_row_and_a_missing_patient_are_refused(run: LabRun) -> None:
    rows = [dict(row) for row in run.hospital.rows]
    changed = next(row for row in rows if row["patient_id"] == run.trained[3])
    changed["age"] = "33" if changed["age"] != "33" else "34"
    run.hospital.write_rows(rows)
    assert_refused(run, 1, "SB-443", "another row now")
    run.hospital.write_rows(run.hospital.rows[:-10])
    assert_refused(run, 1, "SB-443", "no longer in the data")


def test_without_the_record_of_cohorts_an_unchanged_cohort_is_still_enough(
    run: LabRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from solblom_protocol.errors import ConfigurationError

    def forgotten(*arguments: object) -> None:
        raise ConfigurationError("SB-103", "No cohort on record has this digest")

    monkeypatch.setattr(replay_module, "find_cohort", forgotten)
    assert run.replay(2).same
    run.hospital.write_consent([f"{run.trained[0]},withdrawn,"])
    assert_refused(run, 2, "SB-443", "rule 13")


def test_a_consent_source_that_is_gone_is_refused(run: LabRun) -> None:
    (run.hospital.folder / "consent.csv").unlink()
    with pytest.raises(DataError):
        run.replay(1)


def test_a_revoked_approval_has_no_root_any_more(run: LabRun) -> None:
    revoke(run.hospital.config, run.document.digest)
    assert_refused(run, 1, "SB-444", "rule 12")


def test_a_study_approved_anew_has_another_root(run: LabRun) -> None:
    revoke(run.hospital.config, run.document.digest)
    run.hospital.approve(run.document)
    assert_refused(run, 1, "SB-446", "another noise root")


def test_a_root_that_was_removed_is_gone(run: LabRun) -> None:
    for path in run.hospital.config.state.rglob("noise.root"):
        path.unlink()
    assert_refused(run, 1, "SB-444", "rule 12")


def test_a_study_that_was_never_approved_here_is_refused(run: LabRun, tmp_path: Path) -> None:
    import shutil

    shutil.rmtree(run.hospital.config.state / "approvals")
    assert_refused(run, 1, "SB-203", "not approved")


def test_when_the_permits_date_has_come_the_replay_wipes_the_root_and_refuses(
    observer: Any, tmp_path: Path
) -> None:
    hospital = observer.hospital
    issuer = LabIssuer()
    (hospital.folder / "issuer.pub").write_bytes(issuer.public.to_bytes())
    observer.edit_config(
        "[consent]", '[permit]\nrequired = true\nissuers = ["issuer.pub"]\n[consent]'
    )
    document = study_document(study={"duo": ["DUO:0000027"]})
    permits = PermitLab(observer, issuer, document)
    permits.publish()
    hospital.approve = lambda study: permits.approve(permits.honest())
    run = LabRun(hospital, document, tmp_path / "model").finish(3)
    assert run.replay(2).same
    hospital.clock.now += 400 * (hospital.clock.now.resolution * 1_000_000 * DAY)
    assert_refused(run, 2, "SB-444", "rule 12")
    assert not permits.root()


def test_other_code_is_refused(run: LabRun, monkeypatch: pytest.MonkeyPatch) -> None:
    from solblom_client.approvals import approval

    monkeypatch.setattr(approval, "node_code_digest", lambda task: digest(b"newer"))
    assert_refused(run, 1, "SB-446", "rule 3")
    run.hospital.approve(run.document)  # with the newer code
    assert_refused(run, 1, "SB-446", "other code than is approved now")


def test_another_roster_than_the_rounds_is_refused(run: LabRun) -> None:
    path = run.folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["sites"]["south"] = {"keyid": "5" * 64}
    from solblom_verify.canonical import canonical_json

    path.write_bytes(canonical_json(manifest))
    assert_refused(run, 1, "SB-446", "roster")


def test_a_round_in_which_this_hospital_has_no_update_is_named(run: LabRun) -> None:
    error = assert_refused(run, 4, "SB-449", "no update of north in round 4")
    assert isinstance(error, RunError)
    (run.folder / "training/receipts/002-north.dsse.json").unlink()
    assert_refused(run, 2, "SB-449", "round 2")


def test_a_receipt_that_another_key_signed_is_none_of_this_hospitals(
    run: LabRun, tmp_path: Path
) -> None:
    other = LabHospital(tmp_path / "other", patients=40)
    foreign = lab_run(other, tmp_path / "second").finish(1)
    name = "training/receipts/001-north.dsse.json"
    run.put(name, (foreign.folder / name).read_bytes())
    assert_refused(run, 1, "SB-449", "round 1")


def test_a_model_that_the_rounds_do_not_lead_to_is_never_trained_on(run: LabRun) -> None:
    """Otherwise a hostile artefact could choose at which weights this hospital's gradients are looked at."""
    path = run.folder / update_name(1, "north")
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(DifferenceError, match="round 1, north"):
        run.replay(2)


def test_a_build_that_rounds_otherwise_is_noticed(
    run: LabRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = KeyStream.normals

    def otherwise(stream: KeyStream, count: int) -> torch.Tensor:
        return real(stream, count) * (1 + 2.0**-12)

    monkeypatch.setattr(KeyStream, "normals", otherwise)
    found = run.replay(2, noise=True)
    assert not found.same
    assert found.noise is not None
    assert found.noise.passed  # other bytes, but noise of the promised kind
    assert logged(run.hospital)[-1]["what"] == "differs"


# --- Grade C: builds whose noise is not what they promise

REAL_NOISE, REAL_NORMALS = KeyedDPOptimizer.add_noise, KeyStream.normals


def weaker(factor: float) -> Mutate:
    def add_noise(optimizer: KeyedDPOptimizer) -> None:
        optimizer.noise_multiplier *= factor
        REAL_NOISE(optimizer)
        optimizer.noise_multiplier /= factor

    return lambda patch: patch.setattr(KeyedDPOptimizer, "add_noise", add_noise)


def none(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KeyStream, "normals", lambda stream, count: torch.zeros(count))


def reused(patch: pytest.MonkeyPatch) -> None:
    """Noise that follows from nothing but the study: each round has the same, and so has each step."""
    patch.setattr(KeyStream, "normals", lambda stream, count: REAL_NORMALS(fixed(), count))


def fixed() -> KeyStream:
    return KeyStream(bytes(range(32)))


def one_number(patch: pytest.MonkeyPatch) -> None:
    """One draw for all weights: anybody who guesses it takes it off."""
    patch.setattr(
        KeyStream, "normals", lambda stream, count: REAL_NORMALS(stream, 1).expand(count).clone()
    )


def coins(patch: pytest.MonkeyPatch) -> None:
    """Plus or minus one: the right size and the wrong shape."""

    def normals(stream: KeyStream, count: int) -> torch.Tensor:
        return torch.from_numpy((stream.integers(count) % 2 * 2.0 - 1.0).astype("float32"))

    patch.setattr(KeyStream, "normals", normals)


MUTANTS: dict[str, tuple[Mutate, str]] = {
    "no noise": (none, "size"),
    "half of the noise": (weaker(0.5), "size"),
    "twice the noise": (weaker(2.0), "size"),
    "the same noise in every round": (reused, "reuse"),
    "one number for all weights": (one_number, "shape"),
    "plus or minus one": (coins, "shape"),
}


@pytest.mark.parametrize(
    ("mutant", "steps"),
    [*((mutant, 1) for mutant in MUTANTS), ("half of the noise", 3), ("no noise", 3)],
)
def test_a_build_with_other_noise_is_noticed(
    hospital: LabHospital, tmp_path: Path, mutant: str, steps: int
) -> None:
    """By the honest build, and where it is still installed by itself."""
    mutate, test = MUTANTS[mutant]
    with pytest.MonkeyPatch.context() as patch:
        mutate(patch)
        run = lab_run(hospital, tmp_path, local_steps=steps).finish(3)
        itself = run.replay(2, noise=True)
    honest = run.replay(2, noise=True)
    assert itself.same
    assert not honest.same
    for found in (itself, honest):
        assert found.noise is not None
        assert not found.noise.passed
    failed = [t.name for t in itself.noise.tests if not t.passed] if itself.noise else []
    assert any(name.startswith(test) for name in failed), failed
    assert logged(hospital)[-1]["what"] == "noise-differs"


def test_a_verdict_has_no_number_that_depends_on_the_noise(run: LabRun) -> None:
    """With a public update, the size of its noise says something about the sum of gradients."""
    first, second = run.replay(2, noise=True).noise, run.replay(3, noise=True).noise
    assert first is not None
    assert second is not None
    assert first.tests == second.tests
    assert first.power == second.power
    assert first.values == second.values
