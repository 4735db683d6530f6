"""The demo of rare diseases: made-up patients, said so everywhere; and what its model says of a new case."""

import hashlib
import hmac
import json
import shutil
from pathlib import Path

import pytest

from integration.demo_run import Demo, Solblom
from integration.test_demo import assert_work, changes, printed_commands
from phenotype_lab import real_release
from solblom_simulation.rare_disease import CREATED_BY, HOSPITALS, digest_of, write_hospitals

SITES = sorted(HOSPITALS)


def predict(demo: Demo, solblom: Solblom, *options: str) -> dict[str, object]:
    model = str(demo.home / "models" / "rare-disease-v1")
    case = str(demo.home / "generated" / "new-patient.json")
    done = solblom("model", "predict", model, "--phenopacket", case, "--json", *options)
    assert done.exit_code == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


def test_the_demo_ends_well_and_says_that_patients_are_made_up(rare_demo: Demo) -> None:
    assert rare_demo.exit_status == 0, rare_demo.stderr
    assert "SIMULATION: 1600 made-up patients in four made-up hospitals" in rare_demo.stdout
    assert "14 of 14 checks" in rare_demo.stdout
    assert "Traceback" not in rare_demo.stderr


def test_every_generated_case_says_that_it_is_no_patient(rare_demo: Demo) -> None:
    for site in SITES:
        lines = (rare_demo.home / "generated" / f"{site}.jsonl").read_text("utf-8").splitlines()
        assert len(lines) == HOSPITALS[site]
        for line in lines:
            case = json.loads(line)
            assert case["metaData"]["createdBy"] == CREATED_BY
            assert case["id"].startswith("simulated-")


def test_the_study_of_the_demo_is_one_sum_that_keeps_its_promise(rare_demo: Demo) -> None:
    statement = json.loads(
        (rare_demo.home / "models/rare-disease-v1/privacy/statement.json").read_bytes()
    )
    for site in SITES:
        assert 2.9 < float(statement["sites"][site]["epsilon"]) <= 3.0


def test_printed_commands_work_in_order(rare_demo: Demo, tmp_path: Path) -> None:
    commands = printed_commands(rare_demo)
    assert_work([c for c in commands if not changes(c)], tmp_path)
    assert_work([c for c in commands if changes(c)], tmp_path)


def test_the_same_seed_draws_the_same_patients(tmp_path: Path) -> None:
    ontology, annotations = real_release()
    names = {"OMIM:154700": "Marfan syndrome", "OMIM:147920": "Kabuki syndrome 1"}
    first, again, other = (
        write_hospitals(tmp_path / name, ontology, annotations, names, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert digest_of(first) == digest_of(again) != digest_of(other)


def test_more_than_one_round_of_one_sum_is_refused(solblom: Solblom) -> None:
    done = solblom("demo", "rare-disease", "--rounds", "3", "--json")
    assert json.loads(done.stderr)["error"]["code"] == "SB-103"


def test_a_case_gets_a_list_with_the_terms_that_speak_for_it(
    rare_demo: Demo, solblom: Solblom
) -> None:
    told = predict(rare_demo, solblom, "--top", "4")
    (case,) = told["cases"]  # type: ignore[misc]
    assert told["use"] == "research"
    assert [entry["rank"] for entry in case["diseases"]] == [1, 2, 3, 4]
    assert case["diseases"][0]["score"] > case["diseases"][3]["score"]
    named = json.loads((rare_demo.home / "generated/new-patient.json").read_bytes())
    own = {feature["type"]["id"] for feature in named["phenotypicFeatures"]}
    for entry in case["diseases"]:
        assert 0 < len(entry["terms"]) <= 5
        assert {term["term"] for term in entry["terms"]} <= own


def test_the_points_of_all_terms_add_up_to_the_score(rare_demo: Demo) -> None:
    from solblom_models.artefact import load
    from solblom_models.phenotype import prediction
    from solblom_models.phenotype.net import Ranker

    model = load(rare_demo.home / "models" / "rare-disease-v1")
    assert isinstance(model.net, Ranker)
    path = rare_demo.home / "generated" / "new-patient.json"
    cases, _ = prediction.read_new_cases(path, model.document)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "SHOWN_TERMS", 1000)
        (ranked,) = prediction.ranked_cases(model.net, cases, top=24)
    for entry in ranked.diseases:
        assert sum(t.points for t in entry.terms) == pytest.approx(entry.score, abs=0.01)


def test_a_receipt_names_model_and_answer_and_hides_the_input(
    rare_demo: Demo, solblom: Solblom, tmp_path: Path
) -> None:
    told = predict(rare_demo, solblom, "--receipt", str(tmp_path / "receipt.json"))
    text = (tmp_path / "receipt.json").read_text("utf-8")
    receipt = json.loads(text)
    key = (tmp_path / "prediction.key").read_bytes()
    case = (rare_demo.home / "generated/new-patient.json").read_bytes()
    assert receipt["model"] == told["model"]
    assert receipt["input"] == "hmac-sha256:" + hmac.new(key, case, hashlib.sha256).hexdigest()
    assert "HP:" not in text
    assert (tmp_path / "prediction.key").stat().st_mode & 0o077 == 0
    again = predict(rare_demo, solblom, "--receipt", str(tmp_path / "again.json"))
    assert again == told
    second = json.loads((tmp_path / "again.json").read_bytes())
    assert (second["input"], second["output"]) == (receipt["input"], receipt["output"])


def test_pheval_gets_one_table_a_case_with_every_disease(
    rare_demo: Demo, solblom: Solblom, tmp_path: Path
) -> None:
    predict(rare_demo, solblom, "--pheval", str(tmp_path / "out"))
    (table,) = (tmp_path / "out" / "pheval_disease_results").iterdir()
    head, *rows = table.read_text("utf-8").splitlines()
    assert table.name == "simulated-new-patient-disease_result.tsv"
    assert head.split("\t") == ["rank", "score", "disease_name", "disease_identifier"]
    assert len(rows) == 24
    scores = [float(row.split("\t")[1]) for row in rows]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("option", ["--input", "--phenopacket"])
def test_the_wrong_kind_of_input_is_refused(
    rare_demo: Demo, json_demo: Demo, solblom: Solblom, tmp_path: Path, option: str
) -> None:
    demo, name = (
        (rare_demo, "rare-disease-v1") if option == "--input" else (json_demo, "heart-disease-v1")
    )
    (tmp_path / "x.csv").write_text("patient_id\n1\n", encoding="utf-8")
    done = solblom(
        "model",
        "predict",
        str(demo.home / "models" / name),
        option,
        str(tmp_path / "x.csv"),
        "--json",
    )
    assert (done.exit_code, json.loads(done.stderr)["error"]["code"]) == (3, "SB-506")


def test_a_file_without_a_readable_case_says_why(
    rare_demo: Demo, solblom: Solblom, tmp_path: Path
) -> None:
    (tmp_path / "cut.json").write_text('{"id": "x", "subject": {"id"', encoding="utf-8")
    model = str(rare_demo.home / "models" / "rare-disease-v1")
    done = solblom("model", "predict", model, "--phenopacket", str(tmp_path / "cut.json"), "--json")
    assert "JSON that ends too early: 1" in json.loads(done.stderr)["error"]["message"]


def test_a_file_name_cannot_leave_the_folder_of_pheval(
    rare_demo: Demo, solblom: Solblom, tmp_path: Path
) -> None:
    case = json.loads((rare_demo.home / "generated/new-patient.json").read_bytes())
    case["id"] = "../../../escaped"
    (tmp_path / "case.json").write_text(json.dumps(case), encoding="utf-8")
    model = str(rare_demo.home / "models" / "rare-disease-v1")
    done = solblom(
        "model", "predict", model, "--phenopacket", str(tmp_path / "case.json"),
        "--pheval", str(tmp_path / "out"), "--json",
    )  # fmt: skip
    assert done.exit_code == 0
    assert not list(tmp_path.rglob("escaped*"))
    shutil.rmtree(tmp_path / "out")
