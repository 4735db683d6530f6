"""`solblom model compare` with what is a hospital's own: recalibrations, families, an intercept that stayed there."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from compare_lab import linear, write_model, write_patients, write_trust
from lab import study_document
from solblom_models.cli import app
from solblom_models.recalibration import Recalibration, write_recalibration
from solblom_verify.canonical import file_digest

OFF = {"epsilon": "off"}
NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    write_trust(folder)
    for number, weights in ((1, (0.9, 0.5, 0.0, 0.0, 0.0)), (2, (1.4, 0.2, 0.3, 0.0, -0.3))):
        write_model(
            folder / f"lab-v{number}",
            study_document(privacy=OFF),
            weigh=linear(*weights),
            version=number,
        )
    write_patients(folder / "patients.csv", 80)
    return folder


def run(house: Path, *arguments: str, new: str = "lab-v2", table: Path | None = None) -> Result:
    return CliRunner().invoke(
        app,
        [
            *("compare", str(house / "lab-v1"), str(house / new), "--resamples", "100", "--json"),
            *("--trust", str(house / "trust.json")),
            *("--data", str(table or house / "patients.csv"), *arguments),
        ],
    )


def compared(house: Path, *arguments: str, **more: Any) -> dict[str, Any]:
    result = run(house, *arguments, **more)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def recalibration(house: Path, path: Path, model: str, intercept: float) -> Path:
    name = file_digest(house / model / "manifest.json")[0]
    study = study_document(privacy=OFF).digest
    found = Recalibration(intercept)
    write_recalibration(path, found, site="va", model=name, study=study, patients=50, now=NOW)
    return path


def test_a_recalibration_moves_probabilities_and_no_order(house: Path, tmp_path: Path) -> None:
    own = recalibration(house, tmp_path / "own.json", "lab-v2", 2.0)
    plain = compared(house)
    moved = compared(house, "--new-recalibration", str(own))
    assert moved["performance"]["auroc"] == plain["performance"]["auroc"]
    assert moved["performance"]["brier"]["new"] != plain["performance"]["brier"]["new"]
    assert moved["performance"]["brier"]["old"] == plain["performance"]["brier"]["old"]
    assert moved["settings"]["recalibration"]["new"].startswith("hmac-sha256:")


def test_a_recalibration_of_the_other_model_is_refused(house: Path, tmp_path: Path) -> None:
    own = recalibration(house, tmp_path / "own.json", "lab-v1", 2.0)
    result = run(house, "--new-recalibration", str(own))
    assert result.exit_code == 3
    assert "SB-103" in result.stderr


def test_an_intercept_that_stayed_at_hospitals_is_said(house: Path) -> None:
    kept = {"model": {"kind": "logistic", "local_intercept": True}}
    document = study_document(privacy={"sampling_rate": 1.0}, task=kept)
    write_model(house / "lab-v3", document, version=3)
    notes = compared(house, new="lab-v3")["notes"]
    assert any("new model's intercept stays at each hospital" in note for note in notes)


def with_families(house: Path, path: Path, size: int) -> Path:
    header, *rows = (house / "patients.csv").read_text(encoding="utf-8").splitlines()
    lines = [f"{header},kin", *(f"{row},f{n // size}" for n, row in enumerate(rows))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_families_are_drawn_as_one(house: Path, tmp_path: Path) -> None:
    table = with_families(house, tmp_path / "families.csv", 4)
    found = compared(house, "--family", "kin", table=table)
    alone = compared(house, table=table)
    assert found["settings"]["drawn"] == "family"
    assert (
        found["performance"]["auroc"]["difference"][0]
        == (alone["performance"]["auroc"]["difference"][0])
    )
    assert (
        found["performance"]["auroc"]["difference"] != (alone["performance"]["auroc"]["difference"])
    )
    assert found["performance"]["delong_p"] is None
    assert alone["performance"]["delong_p"] is not None


def test_too_few_families_have_no_gain(house: Path, tmp_path: Path) -> None:
    table = with_families(house, tmp_path / "families.csv", 27)
    found = compared(house, "--family", "kin", table=table)
    assert found["performance"]["reason"].startswith("fewer than 5 groups by family with")


def test_a_column_of_families_that_is_not_there_is_refused(house: Path) -> None:
    result = run(house, "--family", "kin")
    assert result.exit_code == 3
    assert "SB-506" in result.stderr
