"""`solblom model compare` on rankings, bags, tiles and slides: the fixtures of those tasks, two models of each."""

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from bag_lab import DIM, bag_study, contract, write_bag, write_index
from bag_lab import write_patients as write_bags
from compare_lab import Weigh, write_model, write_trust
from ranking_lab import (
    contract_tables,
    made_up_case,
    ranking_contract,
    ranking_document,
    write_cases,
    write_release,
)
from slide_lab import tissue_picture, write_tiff
from solblom_models.cli import app
from solblom_models.study_document import resolve
from solblom_models.templates import TemplateValues, write_template
from solblom_protocol.studies.study import StudyDocument, load_study

OFF = {"epsilon": "off"}  # no noise has to be calibrated


def run(folder: Path, *arguments: str, old: str = "old", new: str = "new") -> Result:
    trust = ("--trust", str(write_trust(folder)), "--resamples", "100")
    return CliRunner().invoke(
        app, ["compare", str(folder / old), str(folder / new), *trust, *arguments]
    )


def compared(folder: Path, *arguments: str, **models: str) -> dict[str, Any]:
    result = run(folder, "--json", *arguments, **models)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def shaken(seed: int, size: float = 0.5) -> Weigh:
    """Return what adds noise to all weights."""

    def weigh(net: torch.nn.Module) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in net.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))

    return weigh


# Rankings


def other_sums(net: torch.nn.Module) -> None:
    """Set sums of patients that are far from the public profiles."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter.copy_(100 * torch.rand(parameter.shape, generator=generator) ** 4)


@pytest.fixture
def ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models of three diseases, and 60 cases, two of each publication."""
    release = write_release(tmp_path / "hpo", monkeypatch)
    document = ranking_document(ranking_contract(release))
    write_model(tmp_path / "old", document)
    write_model(tmp_path / "new", document, weigh=other_sums, version=2)
    write_cases(tmp_path / "cases.jsonl", 60, papers_of=2)
    return tmp_path


def cases(folder: Path) -> tuple[str, str]:
    return "--phenopacket", str(folder / "cases.jsonl")


def test_rankings_are_compared_by_first_disease_and_own_rank(ranked: Path) -> None:
    found = compared(ranked, *cases(ranked))
    assert found["settings"]["drawn"] == "publication"
    assert found["patients"] == 60
    # Three diseases: the first ten are all of them.
    assert found["agreement"]["shared_of_first_ten"] == 1.0
    performance = found["performance"]
    assert performance["groups"] == 30
    assert performance["top_10"]["difference"] == [0, 0, 0]
    value, low, high = performance["mrr"]["difference"]
    assert value != 0
    assert low <= value <= high
    assert performance["tests"].startswith("not shown: patients of one publication")


def test_the_same_ranker_twice_agrees_on_everybody(ranked: Path) -> None:
    found = compared(ranked, *cases(ranked), new="old")
    assert found["agreement"]["same_first"] == 1.0
    assert found["agreement"]["largest_delta"] == 0.0
    assert found["flips"] == {"patients": 0, "reason": None}
    assert found["performance"]["mrr"]["difference"] == [0, 0, 0]


def test_no_case_term_or_disease_is_printed(ranked: Path, tmp_path: Path) -> None:
    result = run(ranked, *cases(ranked), "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    for word in ("patient-", "case-", "HP:", "OMIM", "PMID"):
        assert word not in result.stdout + result.stderr
    flips = (tmp_path / "out/flips.csv").read_text(encoding="utf-8")
    assert flips.startswith("id,old_first,new_first,old_rank,new_rank,flipped\n")
    assert "patient-" in (tmp_path / "out/patients.csv").read_text(encoding="utf-8")


def test_another_label_space_is_compared_on_what_both_know(ranked: Path, tmp_path: Path) -> None:
    tables = contract_tables(tmp_path / "hpo")
    fewer = {**tables["target"], "diseases": tables["target"]["diseases"][:2]}
    document = ranking_document(ranking_contract(tmp_path / "hpo", target=fewer))
    write_model(tmp_path / "two", document, version=3)
    found = compared(ranked, *cases(ranked), new="two")
    assert found["performance"]["patients"] == 40  # the third disease is not known to both
    assert "target" in [entry["what"] for entry in found["differences_in_data"]]


def test_cases_without_a_diagnosis_have_agreement_only(ranked: Path, tmp_path: Path) -> None:
    lines = [{**made_up_case(n, "OMIM:1"), "interpretations": []} for n in range(12)]
    path = tmp_path / "new.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    found = compared(ranked, "--phenopacket", str(path))
    assert found["performance"] is None
    assert found["agreement"]["reason"] is None
    assert found["agreement"]["mean_delta"] > 0


def test_a_table_model_and_a_ranker_have_no_input_in_common(ranked: Path) -> None:
    from lab import study_document

    write_model(ranked / "table", study_document(privacy=OFF), version=3)
    result = run(ranked, *cases(ranked), new="table")
    assert result.exit_code == 3
    assert "no input serves both" in " ".join(result.stderr.split())


# Bags and tiles


def tile_study() -> StudyDocument:
    task = {"name": "tile-classification", "model": {"kind": "linear"}}
    return bag_study(task=task, privacy=OFF, bags=contract(target={"column": "labels"}))


def write_tiles(folder: Path, patients: int) -> Path:
    rng, rows = np.random.default_rng(5), []
    for number in range(patients):
        labels = (rng.random(6) < 0.3 * (number % 2)).astype(np.int64)
        features = rng.normal(size=(6, DIM)).astype(np.float32) + labels[:, None]
        name = f"tiles/p{number}.h5"
        write_bag(folder / name, features.astype(np.float32), labels=labels)
        rows.append((f"p{number}", name, "0"))
    return write_index(folder, rows)


@pytest.mark.parametrize("task", ["slide-mil", "tile-classification"])
def test_bags_and_tiles_are_compared_by_patient(tmp_path: Path, task: str) -> None:
    document = bag_study(privacy=OFF) if task == "slide-mil" else tile_study()
    index = (write_bags if task == "slide-mil" else write_tiles)(tmp_path, 40)
    write_model(tmp_path / "old", document, weigh=shaken(1))
    write_model(tmp_path / "new", document, weigh=shaken(2), version=2)
    found = compared(tmp_path, "--data", str(index))
    assert found["task"] == task
    assert found["patients"] == 40
    assert found["performance"]["reason"] is None
    same = compared(tmp_path, "--data", str(index), new="old")
    assert same["agreement"]["within_tolerance"] == 1.0
    assert same["performance"]["brier"]["difference"] == [0, 0, 0]


def test_features_of_another_size_serve_no_two_models(tmp_path: Path) -> None:
    index = write_bags(tmp_path, 12)
    write_model(tmp_path / "old", bag_study(privacy=OFF))
    wider = bag_study(privacy=OFF, bags=contract(encoder={"dim": DIM + 1}))
    write_model(tmp_path / "new", wider, version=2)
    result = run(tmp_path, "--data", str(index))
    told = " ".join(result.stderr.split())
    assert result.exit_code == 3
    assert "SB-506" in told
    assert "The contracts differ in encoder" in told
    assert ".h5" not in told


# Slides


def slide_study(folder: Path) -> StudyDocument:
    values = TemplateValues(name="slides", ends=dt.date(2099, 12, 31), epsilon=None, seed=1)
    written, found, _ = load_study(write_template(folder, "slide-mil", values))
    return resolve(written, found)


def test_one_patients_slide_shows_no_figure_and_writes_both_answers(tmp_path: Path) -> None:
    document = slide_study(tmp_path / "study")
    write_model(tmp_path / "old", document, weigh=shaken(1))
    write_model(tmp_path / "new", document, weigh=shaken(2), version=2)
    picture = tissue_picture(800, 800, left=50, top=50, right=750, bottom=750)
    slide = write_tiff(tmp_path / "secret-name.tiff", picture, 1.0)
    result = run(tmp_path, "--slide", str(slide), "--out", str(tmp_path / "out"), "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["agreement"] == {"reason": "fewer than 5 patients"}
    assert "secret-name" not in result.stdout + result.stderr
    header, row = (tmp_path / "out/patients.csv").read_text(encoding="utf-8").splitlines()
    values = dict(zip(header.split(","), row.split(","), strict=True))
    assert values["old"] != values["new"]
