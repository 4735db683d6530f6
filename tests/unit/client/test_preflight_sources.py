"""A pre-flight of bags and phenopackets: read as the study would read them."""

from pathlib import Path

import pytest

from bag_lab import bag_hospital, bag_study
from check_lab import edit, lights
from lab import LabHospital
from ranking_lab import ranking_contract, ranking_document, write_cases, write_release
from solblom_client.checks.finding import Light


def test_bags_are_looked_at_as_their_task_reads_them(tmp_path: Path) -> None:
    hospital = bag_hospital(tmp_path / "bags", patients=60)
    found = lights(hospital, bag_study())
    assert {n: f.text for n, f in found.items() if f.light is Light.STOP} == {}
    assert any("tiles" in line for line in found["schema"].details)
    (tmp_path / "bags" / "index.csv").write_text("patient_id,file\n", encoding="utf-8")
    assert lights(hospital, bag_study())["schema"].light is Light.STOP


def test_a_slide_under_two_patients_wants_attention(tmp_path: Path) -> None:
    hospital = bag_hospital(tmp_path / "bags", patients=60)
    index, bags = tmp_path / "bags" / "index.csv", tmp_path / "bags" / "bags"
    (bags / "again.h5").write_bytes((bags / "p0-0.h5").read_bytes())
    (bags / "more.h5").write_bytes((bags / "p0-0.h5").read_bytes())
    lines = index.read_text(encoding="utf-8") + "q1,bags/again.h5,1\nq2,bags/more.h5,1\n"
    index.write_text(lines, encoding="utf-8")
    assert lights(hospital, bag_study())["identical rows"].light is Light.ATTENTION


def test_phenopackets_are_looked_at_as_their_task_reads_them(
    hospital: LabHospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = write_release(tmp_path / "hpo", monkeypatch)
    document = ranking_document(ranking_contract(release))
    write_cases(hospital.folder / "cases.jsonl", 60)
    edit(hospital, 'connector = "table"', 'connector = "phenopackets"')
    edit(hospital, "patients.csv", "cases.jsonl")
    edit(
        hospital,
        'tasks = ["tabular-classification"]',
        'tasks = ["phenotype-ranking"]\nallow_privacy_off = true',
    )
    found = lights(hospital, document)
    assert {n: f.text for n, f in found.items() if f.light is Light.STOP} == {}
    assert "60 cases" in found["schema"].details
    assert found["labels"].text.startswith("3 diseases of the study")
