"""Epsilon worked out again: a coordinator that signs a lie about privacy is named, with site and round."""

import datetime as dt
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result as Ran
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from compare_lab import write_model
from lab import NOW, LabHospital, study_document
from lying_coordinator import Change, sign_anew
from rounds_lab import two_rounds
from solblom_models.artefact import ArtefactContents, RoundRecord, SiteRecord, write_artefact
from solblom_models.cli import app
from solblom_models.recomputed_epsilon import (
    CLAIMED,
    NOT_PINNED,
    PINNED,
    RECOMPUTED,
    recomputed,
    with_epsilon,
)
from solblom_models.statement import Charge
from solblom_protocol.keys.key_files import public_pem
from solblom_server.rounds.rounds import initial_model
from solblom_verify.artefact import Verdict, verify_artefact
from solblom_verify.canonical import canonical_json
from solblom_verify.envelope import key_id, public_key_from_pem
from solblom_verify.trust import Trust, TrustedKey

COORDINATOR = Ed25519PrivateKey.from_private_bytes(bytes([7]) * 32)
PUBLIC = COORDINATOR.public_key()
TRUST = Trust(
    version=1,
    expires=dt.datetime(2036, 12, 31, tzinfo=dt.UTC),
    threshold=1,
    keys=(TrustedKey(key_id(PUBLIC), "x", "coordinator", PUBLIC),),
)
STUDY = study_document(training={"rounds": 2})
EVENTS, STATEMENT, MANIFEST = "privacy/events.json", "privacy/statement.json", "manifest.json"


def contents_of(
    hospital: LabHospital, charges: list[Charge], rounds: list[RoundRecord]
) -> ArtefactContents:
    public = hospital.public.signing
    return ArtefactContents(
        document=STUDY,
        study_envelope=hospital.sign(STUDY),
        run="lab-1",
        simulation=False,
        weights=initial_model(STUDY)[0],
        sites={"north": SiteRecord(public_pem(public), key_id(public))},
        rounds=rounds,
        charges=charges,
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artefact of two real rounds of one real hospital."""
    hospital = LabHospital(tmp_path_factory.mktemp("epsilon") / "north")
    hospital.approve(STUDY)
    rounds, _ = two_rounds(hospital, STUDY)
    charges = [Charge(number, "north", STUDY.round_event) for number in (1, 2)]
    folder = tmp_path_factory.mktemp("models") / "lab-v1"
    folder.mkdir()
    contents = contents_of(hospital, charges, rounds)
    write_artefact(folder, contents, version="v1", evaluation=None, key=COORDINATOR, now=NOW)
    return folder


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "lab-v1"))


def judged(folder: Path) -> Verdict:
    return with_epsilon(verify_artefact(folder, TRUST, now=NOW), folder)


def failed(folder: Path) -> dict[str, str]:
    return {check.name: check.reason for check in judged(folder).checks if not check.ok}


def lie(folder: Path, changes: dict[str, Change]) -> dict[str, str]:
    """Return what fails of an artefact whose coordinator lies, which the signatures alone do not show."""
    sign_anew(folder, COORDINATOR, changes)
    plain = verify_artefact(folder, TRUST, now=NOW)
    assert plain.ok, [check for check in plain.checks if not check.ok]
    return failed(folder)


def set_epsilon(value: str) -> Change:
    def change(statement: Any) -> None:
        statement["sites"]["north"]["epsilon"] = value

    return change


def set_manifest_epsilon(value: str) -> Change:
    def change(manifest: Any) -> None:
        manifest["privacy"]["sites"]["north"]["epsilon"] = value

    return change


def test_an_honest_artefact_passes_and_epsilon_leaves_what_was_not_checked(written: Path) -> None:
    before = verify_artefact(written, TRUST, now=NOW)
    after = judged(written)
    assert after.ok
    assert CLAIMED in dict(before.limits)
    assert CLAIMED not in dict(after.limits)
    assert RECOMPUTED.format(signed=NOT_PINNED) in after.not_checked
    assert len(after.checks) == len(before.checks) + 3


def test_an_epsilon_stated_too_small_is_named_with_its_site(copy: Path) -> None:
    found = lie(copy, {STATEMENT: set_epsilon("0.500"), MANIFEST: set_manifest_epsilon("0.500")})
    assert set(found) == {"epsilon"}
    assert found["epsilon"].startswith("north: epsilon is stated as 0.500, and its events cost ")


def test_an_epsilon_stated_larger_than_it_is_does_no_harm(copy: Path) -> None:
    assert "epsilon" not in lie(
        copy, {STATEMENT: set_epsilon("9.000"), MANIFEST: set_manifest_epsilon("9.000")}
    )


def test_an_epsilon_less_by_two_of_the_last_digit_is_found(copy: Path) -> None:
    stated = json.loads((copy / STATEMENT).read_bytes())["sites"]["north"]["epsilon"]
    less = f"{float(stated) - 0.002:.3f}"
    found = lie(copy, {STATEMENT: set_epsilon(less), MANIFEST: set_manifest_epsilon(less)})
    assert set(found) == {"epsilon"}


def test_manifest_and_statement_may_not_say_two_things(copy: Path) -> None:
    found = lie(copy, {MANIFEST: set_manifest_epsilon("0.100")})
    assert found == {
        "statement-figures": "north: manifest.json and privacy/statement.json say two things"
    }


def test_an_event_that_the_hospital_did_not_sign_is_named_with_site_and_round(copy: Path) -> None:
    def quieter(events: Any) -> None:
        events["north"][1]["event"]["noise_multiplier"] = "9"

    found = lie(copy, {EVENTS: quieter})
    assert found["events"] == (
        "privacy/events.json says another event than the receipt that north signed: round 2"
    )


def test_an_event_that_was_left_out_is_named_with_site_and_round(copy: Path) -> None:
    found = lie(copy, {EVENTS: lambda events: events["north"].pop(0)})
    assert found["events"] == (
        "privacy/events.json lacks the event of the receipt that north signed: round 1"
    )


def test_all_events_of_a_site_left_out_are_found(copy: Path) -> None:
    found = lie(copy, {EVENTS: lambda events: events.pop("north")})
    assert "round 1, and 1 more" in found["events"]


def test_events_and_statement_changed_together_are_found_by_the_receipts(copy: Path) -> None:
    def quieter(events: Any) -> None:
        for entry in events["north"]:
            entry["event"]["noise_multiplier"] = "50"

    small = {STATEMENT: set_epsilon("0.100"), MANIFEST: set_manifest_epsilon("0.100")}
    assert "events" in lie(copy, {EVENTS: quieter, **small})


def test_more_events_than_receipts_cost_more_and_are_said(copy: Path) -> None:
    def twice(events: Any) -> None:
        events["north"].append(events["north"][1])

    assert "epsilon" in lie(copy, {EVENTS: twice})  # its epsilon is stated without it
    reason = next(c.reason for c in judged(copy).checks if c.name == "events")
    assert reason == "2 events as signed by the keys of the manifest, 1 more without a receipt here"


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(loss="At most epsilon 0.010 at delta 1e-5 for this model"),
        lambda s: s.update(loss=s["loss"].replace("at delta 1e-5", "at delta 1e-12")),
        lambda s: s.update(loss=s["loss"] + "; in ten years: epsilon 0.010 at delta 1e-12"),
        lambda s: s.update(loss=s["loss"] + ", and nobody can be found"),
        lambda s: s.update(loss="Very private indeed, as everybody will agree"),
        lambda s: s["target"].update(epsilon="0.1"),
        lambda s: s.update(noise_multiplier="99"),
        lambda s: s.update(clipping_norm="0.0001"),
        lambda s: s.update(sampling="Poisson over patients at rate 0.001, a public constant"),
        lambda s: s.pop("withdrawal"),
    ],
)
def test_any_other_lie_in_the_statement_is_found(copy: Path, change: Change) -> None:
    assert set(lie(copy, {STATEMENT: change})) == {"statement-figures"}


def test_the_loss_of_another_version_gives_one_pair_of_figures_and_may_be_worded_otherwise(
    copy: Path,
) -> None:
    def older(manifest: Any) -> None:
        manifest["environment"]["solblom"] = "0.0.1"

    def lies(change: Change) -> set[str]:
        return set(lie(copy, {STATEMENT: change, MANIFEST: older}))

    assert lies(lambda s: s.update(loss=s["loss"].replace("At most", "No more than"))) == set()
    assert any("loss" in line for line in judged(copy).not_checked)
    more = "; in ten years: epsilon 0.010 at delta 1e-12"
    assert lies(lambda s: s.update(loss=s["loss"] + more)) == {"statement-figures"}


def test_events_are_the_hospitals_only_where_their_keys_are_pinned(copy: Path) -> None:
    key = public_key_from_pem(
        json.loads((copy / MANIFEST).read_bytes())["sites"]["north"]["node_key"]
    )
    pinned = replace(TRUST, witnesses=(TrustedKey(key_id(key), "north", "witness", key),))
    other = replace(TRUST, witnesses=(TrustedKey(key_id(PUBLIC), "north", "witness", PUBLIC),))
    found = {}
    for name, trust in (("pinned", pinned), ("other", other), ("none", None)):
        checks, remarks = recomputed(copy, trust)
        found[name] = checks[0].reason.removeprefix("2 events ")
        assert RECOMPUTED.format(signed=found[name]) in remarks
    assert found == {"pinned": PINNED, "other": NOT_PINNED, "none": NOT_PINNED}


def test_another_delta_in_the_statement_is_found(copy: Path) -> None:
    def change(value: Any) -> None:
        value["sites"]["north"]["delta"] = "0.1"

    def in_manifest(value: Any) -> None:
        change(value["privacy"])

    assert "epsilon" in lie(copy, {STATEMENT: change, MANIFEST: in_manifest})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", "0.0001"),
        ("steps", 10**9),
        ("kind", "free-lunch"),
        ("sampling_rate", "1e-9"),
    ],
)
def test_a_made_up_event_is_refused_and_not_worked_on(copy: Path, name: str, value: object) -> None:
    def change(events: Any) -> None:
        events["north"][0]["event"][name] = value

    found = lie(copy, {EVENTS: change})
    assert set(found) == {"events", "epsilon", "statement-figures"}


def test_what_does_not_verify_is_not_recomputed(copy: Path) -> None:
    (copy / "README.md").write_text("changed", encoding="utf-8")
    verdict = judged(copy)
    assert not verdict.ok
    assert [c.reason for c in verdict.checks[-3:]] == [
        "not reached: the artefact does not verify"
    ] * 3
    assert CLAIMED in dict(verdict.limits)


def verify(folder: Path, *arguments: str) -> Ran:
    trust = {
        "expires": "2099-12-31T00:00:00Z",
        "keys": [
            {
                "keyid": key_id(PUBLIC),
                "name": "coordinator",
                "public_key": public_pem(PUBLIC),
                "role": "coordinator",
            }
        ],
        "schema": "solblom.trust/1",
        "threshold": 1,
        "version": 1,
    }
    path = folder.parent / "trust.json"
    path.write_bytes(canonical_json(trust))
    return CliRunner().invoke(app, ["verify", str(folder), "--trust", str(path), *arguments])


def test_the_command_says_what_was_recomputed_and_exits_with_five_for_a_lie(copy: Path) -> None:
    honest = verify(copy, "--recompute-epsilon", "--json")
    assert honest.exit_code == 0, honest.output
    names = [check["name"] for check in json.loads(honest.stdout)["checks"]]
    assert names[-3:] == ["events", "epsilon", "statement-figures"]
    sign_anew(
        copy,
        COORDINATOR,
        {STATEMENT: set_epsilon("0.500"), MANIFEST: set_manifest_epsilon("0.500")},
    )
    assert verify(copy).exit_code == 0
    lying = verify(copy, "--recompute-epsilon")
    assert lying.exit_code == 5
    assert "NOT VERIFIED" in lying.stdout
    assert "north: epsilon is stated as 0.500" in " ".join(lying.stdout.split())


def test_training_without_noise_costs_infinity_and_may_not_be_stated_as_less(
    tmp_path: Path,
) -> None:
    document = study_document(privacy={"epsilon": "off"})
    charges = [Charge(1, "north", document.round_event)]
    folder = write_model(tmp_path / "lab-v1", document, charges=charges)
    assert [check.ok for check in recomputed(folder)[0]] == [True, True, True]
    changes = {STATEMENT: set_epsilon("8.000"), MANIFEST: set_manifest_epsilon("8.000")}
    sign_anew(folder, COORDINATOR, changes)
    reasons = {check.name: check.reason for check in recomputed(folder)[0] if not check.ok}
    assert reasons["epsilon"] == "north: epsilon is stated as 8.000, and its events cost inf"


@pytest.mark.parametrize("steps", [1, None], ids=["once, not twice", "left out"])
def test_an_event_of_sampled_families_that_charges_a_patient_once_is_refused(
    tmp_path: Path, steps: int | None
) -> None:
    """The study says how often a patient pays, not whoever writes the events."""
    document = study_document(
        privacy={"unit": "family"},
        evaluation={"split": {"by": "family"}},
        cohort={"min_patients": 5},
    )
    event = document.round_event
    assert (event.steps, event.patient_steps) == (1, 2)
    honest = write_model(tmp_path / "honest-v1", document, charges=[Charge(1, "north", event)])
    assert all(check.ok for check in recomputed(honest)[0])
    lying = [Charge(1, "north", replace(event, patient_steps=steps))]
    folder = write_model(tmp_path / "lying-v1", document, charges=lying)
    reasons = [check.reason for check in recomputed(folder)[0] if not check.ok]
    assert len(reasons) == 3
    expected = "one patient pays 2" if steps else "its unit is not the study's"
    assert all(expected in reason for reason in reasons)
