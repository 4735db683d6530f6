"""The command that makes a support bundle: it shows, asks, logs and then writes; and helps where a node is broken."""

import hashlib
import json
import sqlite3
import zipfile
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from lab import LabHospital, study_document
from solblom_client.cli import app
from solblom_client.log.decision_log import log_place, read_entries
from solblom_client.support.report import (
    ago_band,
    few_or_many,
    share_band,
    size_band,
)
from solblom_protocol import console


@pytest.fixture
def hospital(tmp_path: Path) -> LabHospital:
    return LabHospital(tmp_path / "node")


def invoke(hospital: LabHospital, into: Path, *more: str, answer: str | None = None) -> Result:
    words = ["support-bundle", "--out", str(into), "--node", str(hospital.folder), *more]
    return CliRunner().invoke(app, words, input=answer)


def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("solblom_client.support.cli.may_ask", lambda: True)


def last_entry(hospital: LabHospital) -> dict[str, object]:
    entry: dict[str, object] = json.loads(read_entries(log_place(hospital.config), last=1)[0])
    return entry


def test_where_nobody_can_be_asked_nothing_is_written(
    hospital: LabHospital, tmp_path: Path
) -> None:
    assert not console.may_ask()
    result = invoke(hospital, tmp_path / "s.zip")
    assert result.exit_code == 3
    assert "add --yes" in result.output
    assert not (tmp_path / "s.zip").exists()


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 1)])
def test_a_person_sees_it_all_and_decides(
    hospital: LabHospital,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    status: int,
) -> None:
    at_a_terminal(monkeypatch)
    result = invoke(hospital, tmp_path / "s.zip", answer=answer)
    assert result.exit_code == status
    assert (tmp_path / "s.zip").exists() == (status == 0)
    if status == 0:
        with zipfile.ZipFile(tmp_path / "s.zip") as archive:
            assert archive.read("report.txt").decode() in result.stdout
    else:
        assert read_entries(log_place(hospital.config)) == []


def test_the_log_names_the_file_by_its_digest_and_the_person(
    hospital: LabHospital, tmp_path: Path
) -> None:
    into = tmp_path / "s.zip"
    assert invoke(hospital, into, "--yes", "--by", "Kari Nordmann").exit_code == 0
    entry = last_entry(hospital)
    assert entry["event"] == "support-bundle"
    assert entry["file"] == f"sha256:{hashlib.sha256(into.read_bytes()).hexdigest()}"
    assert entry["by"] == "Kari Nordmann"
    assert into.stat().st_mode & 0o777 == 0o600


def test_a_name_that_cannot_stand_in_the_log_writes_nothing(
    hospital: LabHospital, tmp_path: Path
) -> None:
    assert invoke(hospital, tmp_path / "s.zip", "--yes", "--by", "\x1b[2J").exit_code == 5
    assert not (tmp_path / "s.zip").exists()


def test_a_file_that_is_there_is_not_replaced_and_nothing_is_logged(
    hospital: LabHospital, tmp_path: Path
) -> None:
    (tmp_path / "s.zip").write_text("mine")
    assert invoke(hospital, tmp_path / "s.zip", "--yes").exit_code == 3
    assert (tmp_path / "s.zip").read_text() == "mine"
    assert read_entries(log_place(hospital.config)) == []


def test_a_node_with_a_broken_log_gets_its_file_and_is_told(
    hospital: LabHospital, tmp_path: Path
) -> None:
    hospital.approve(study_document())
    hospital.ask(hospital.order(study_document()))
    hospital.vault.close()
    (hospital.config.state / "log" / "decisions.sqlite").write_bytes(b"not a database" * 100)
    result = invoke(hospital, tmp_path / "s.zip", "--yes", "--json")
    assert result.exit_code == 0, result.output
    assert "NOT LOGGED: SB-406" in result.stderr
    report = json.loads(result.stdout)
    assert report["refusals_code"] == "SB-406"
    assert {row["name"]: row["light"] for row in report["lights"]}["decisions"] == "stop"


def test_a_broken_ledger_is_a_code(hospital: LabHospital, tmp_path: Path) -> None:
    hospital.approve(study_document())
    hospital.ask(hospital.order(study_document()))
    hospital.vault.close()
    with sqlite3.connect(hospital.config.state / "vault.sqlite") as database:
        database.execute("UPDATE events SET study = 'sha256:00'")
    result = invoke(hospital, tmp_path / "s.zip", "--yes", "--json")
    assert result.exit_code == 0, result.output
    ledger = json.loads(result.stdout)["ledger"]
    assert ledger == {"spent": None, "studies": None, "charges": None, "code": "SB-402"}


def test_what_repeated_is_counted_by_the_code_outside(
    hospital: LabHospital, tmp_path: Path
) -> None:
    study = study_document()
    for _ in range(3):
        hospital.ask(hospital.order(study))
    hospital.clock.advance(hours=2)
    hospital.ask(hospital.order(study))
    from solblom_client.support.gather import gather

    report = gather(hospital.config, now=hospital.clock())
    assert [(row.code, row.times) for row in report.refusals] == [("SB-203", 4)]
    hospital.clock.advance(days=31)
    assert gather(hospital.config, now=hospital.clock()).refusals == ()


def test_bands_have_no_gap() -> None:
    assert [few_or_many(n) for n in (0, 1, 9, 10, 99, 100, 999, 1000)] == [
        "0",
        *["1-9"] * 2,
        *["10-99"] * 2,
        *["100-999"] * 2,
        "1000 or more",
    ]
    assert [size_band(n) for n in (0, 1, 2**16 - 1, 2**16, 2**28)] == [
        "empty",
        *["below 64 KiB"] * 2,
        "below 1 MiB",
        "more",
    ]
    assert [share_band(n, 8.0) for n in (0.0, 2.0, 2.1, 6.0, 7.9, 8.0, 9.0)] == [
        "none",
        "up to a quarter",
        "up to half",
        "up to three quarters",
        "more",
        "all",
        "all",
    ]
    assert share_band(float("nan"), 8.0) == share_band(float("inf"), 8.0) == "all"
    assert [ago_band(n) for n in (0, 60, 3600, 86400)] == [
        "below a minute",
        "below an hour",
        "below a day",
        "longer",
    ]
