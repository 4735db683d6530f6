"""`solblom node approve`: shows before it writes, asks where there is a person, and names the hospital that says no."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from lab import LabHospital, study_document
from solblom_client import cli
from solblom_client.approvals.approval import approval_folder
from solblom_protocol.cli import app
from solblom_protocol.console import may_ask
from solblom_protocol.studies.study import StudyDocument

Solblom = Callable[..., Result]


@pytest.fixture
def solblom(monkeypatch: pytest.MonkeyPatch) -> Solblom:
    def invoke(*arguments: str | Path, answer: str | None = None) -> Result:
        words = [str(a) for a in arguments]
        monkeypatch.setattr(sys, "argv", ["solblom", *words])
        return CliRunner().invoke(app, words, input=answer)

    return invoke


@pytest.fixture
def study(hospital: LabHospital) -> StudyDocument:
    """A study that ends late enough for the clock of the command."""
    document = study_document(study={"ends": "2099-12-31"})
    (hospital.folder / "study.signed.json").write_bytes(hospital.sign(document))
    return document


@pytest.fixture
def south(hospital: LabHospital, tmp_path: Path) -> LabHospital:
    """A second hospital, which knows the same researcher."""
    other = LabHospital(tmp_path / "south", site="south")
    (other.folder / "researcher.pub").write_bytes((hospital.folder / "researcher.pub").read_bytes())
    return other


@pytest.fixture
def a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits at a terminal."""
    monkeypatch.setattr(cli, "may_ask", lambda: True)


def signed(hospital: LabHospital) -> Path:
    return hospital.folder / "study.signed.json"


def is_approved(hospital: LabHospital, study: StudyDocument) -> bool:
    return (approval_folder(hospital.config, study.digest) / "approval.dsse.json").is_file()


def test_a_program_reads_the_whole_summary(
    hospital: LabHospital, study: StudyDocument, solblom: Solblom
) -> None:
    done = solblom("node", "approve", signed(hospital), hospital.folder, "--json")
    told = json.loads(done.stdout)
    assert told["schema"] == "solblom.node.approve/1"
    (row,) = told["approvals"]
    assert (row["site"], row["study"], row["rounds_that_fit"]) == ("north", study.digest, 3)
    assert row["signed_by"][0]["name"] == "researcher"
    assert row["leaves"]
    assert is_approved(hospital, study)


def test_a_person_is_shown_the_study_and_asked(
    hospital: LabHospital, study: StudyDocument, solblom: Solblom, a_person: None
) -> None:
    done = solblom("node", "approve", signed(hospital), hospital.folder, answer="y\n")
    assert done.exit_code == 0
    for label in ("purpose", "legal basis", "ends", "signed by", "promise", "will leave"):
        assert f"  {label}" in done.stdout
    assert "Approve this study at north?" in done.stderr
    assert is_approved(hospital, study)


def test_a_no_writes_nothing(
    hospital: LabHospital, study: StudyDocument, solblom: Solblom, a_person: None
) -> None:
    done = solblom("node", "approve", signed(hospital), hospital.folder, answer="n\n")
    assert done.exit_code == 1
    assert "Not approved" in done.stderr
    assert not approval_folder(hospital.config, study.digest).exists()


@pytest.mark.parametrize("option", [["--yes"], ["--json"]], ids=" ".join)
def test_nobody_is_asked_who_said_yes_before(
    hospital: LabHospital,
    study: StudyDocument,
    solblom: Solblom,
    a_person: None,
    option: list[str],
) -> None:
    done = solblom("node", "approve", signed(hospital), hospital.folder, *option)
    assert (done.exit_code, "Approve this study" in done.stderr) == (0, False)
    assert is_approved(hospital, study)


class Terminal(io.StringIO):
    """Where a person types."""

    def isatty(self) -> bool:
        return True


def test_there_is_somebody_to_ask_at_a_terminal_unless_no_input_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SOLBLOM_NO_INPUT", raising=False)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert not may_ask()
    monkeypatch.setattr(sys, "stdin", Terminal())
    assert may_ask()
    monkeypatch.setenv("SOLBLOM_NO_INPUT", "1")
    assert not may_ask()


def test_the_hospital_that_says_no_is_named_and_none_has_approved(
    hospital: LabHospital, south: LabHospital, study: StudyDocument, solblom: Solblom
) -> None:
    south.write_rows(south.rows[:5])
    done = solblom("node", "approve", signed(hospital), hospital.folder, south.folder)
    assert done.exit_code == 1
    assert done.stderr.startswith("error[SB-306]: south: The training set has")
    assert not is_approved(hospital, study)
    assert not is_approved(south, study)


def test_a_node_file_that_is_missing_is_named_once(
    hospital: LabHospital, study: StudyDocument, solblom: Solblom, tmp_path: Path
) -> None:
    done = solblom("node", "approve", signed(hospital), hospital.folder, tmp_path / "x", "--json")
    message = json.loads(done.stderr)["error"]["message"]
    assert message.count(str(tmp_path / "x")) == 1


def test_a_setting_that_is_wrong_names_the_hospitals_folder(
    hospital: LabHospital, south: LabHospital, study: StudyDocument, solblom: Solblom
) -> None:
    (south.folder / "node.toml").write_text("[node]\nsit = 1\n", encoding="utf-8")
    done = solblom("node", "approve", signed(hospital), hospital.folder, south.folder, "--json")
    assert str(south.folder) in json.loads(done.stderr)["error"]["message"]


def test_one_hospital_needs_no_name_in_its_error(
    hospital: LabHospital, study: StudyDocument, solblom: Solblom
) -> None:
    hospital.write_rows(hospital.rows[:5])
    done = solblom("node", "approve", signed(hospital), hospital.folder)
    assert done.stderr.startswith("error[SB-306]: The training set has")


def test_the_summary_comes_in_norwegian_and_an_unknown_language_is_named(
    hospital: LabHospital, study: StudyDocument, solblom: Solblom
) -> None:
    done = solblom("node", "approve", signed(hospital), hospital.folder, "--lang", "no")
    assert "  formål" in done.stdout
    assert "purpose" not in done.stdout
    other = solblom("node", "approve", signed(hospital), hospital.folder, "--lang", "sv")
    assert (other.exit_code, "SB-103" in other.stderr) == (3, True)


def test_a_permit_is_given_by_file_from_the_issuers_command_to_the_hospitals(
    hospital: LabHospital, study: StudyDocument, solblom: Solblom, tmp_path: Path
) -> None:
    config = hospital.folder / "node.toml"
    table = '[permit]\nrequired = true\nissuers = ["dac.pub"]\n[consent]'
    config.write_text(config.read_text(encoding="utf-8").replace("[consent]", table))
    solblom("permit", "key", "dac", "--in", hospital.folder)
    key, permit = hospital.folder / "dac.key", tmp_path / "study.permit.jws"
    terms = ("--site", "north", "--days", "30", "--rounds", "3", "--duo", "DUO:0000027")
    solblom("permit", "issue", signed(hospital), "--key", key, "--out", permit, *terms)
    solblom("permit", "revoke", "--key", key, "--out", hospital.folder / "revocations.jws")
    without = solblom("node", "approve", signed(hospital), hospital.folder)
    assert (without.exit_code, "SB-217" in without.stderr) == (4, True)
    done = solblom("node", "approve", signed(hospital), hospital.folder, "--permit", permit)
    assert done.exit_code == 0, done.stderr
    assert "(for the named project only)" in done.stdout
    assert is_approved(hospital, study)
    shown = solblom("node", "fingerprint", hospital.folder)
    assert "dac  (issuer of permits, dac.pub)" in shown.stdout
