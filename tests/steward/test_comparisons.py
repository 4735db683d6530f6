"""A hospital's record of a comparison on the page: all of it, and nothing else than such a record."""

import json
from pathlib import Path

import pytest

from integration.demo_run import Demo, Solblom
from steward.lab import NAME, scene_of, serving
from steward.test_pages import Words


@pytest.fixture
def record(demo: Demo, tmp_path: Path, solblom: Solblom) -> Path:
    """What `solblom model compare --out` writes of a model beside itself."""
    data = demo.home / "sites/va/patients.csv"
    done = solblom(
        "model", "compare", f"{NAME}@v1", f"{NAME}@v1", "--home", str(demo.home),
        "--data", str(data), "--resamples", "100", "--out", str(tmp_path / "compared"),
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    return tmp_path / "compared" / "comparison.json"


def test_a_hospitals_record_is_shown_with_its_picture_and_where_it_belongs(
    home: Path, record: Path
) -> None:
    auroc = json.loads(record.read_bytes())["performance"]["auroc"]["old"][0]
    with serving(scene_of(home, "en", record)) as running:
        running.enter()
        assert "compared/comparison.json" in running.ask("/comparisons").body
        answer = running.ask("/comparisons/1")
        shown = Words(answer.body).words
        assert f"{auroc:.3f} [" in shown
        assert "so it stays on the hospital's machines" in shown
        assert "another form" not in shown
        assert answer.body.count("<img") == 2
        assert running.ask("/comparisons/2").status == 404


def test_no_patient_of_the_folder_is_shown(home: Path, record: Path) -> None:
    assert "va-0" in (record.parent / "patients.csv").read_text()
    with serving(scene_of(home, "en", record)) as running:
        running.enter()
        assert "va-0" not in running.ask("/comparisons/1").body
        for name in ("patients.csv", "flips.csv", "prediction.key"):
            assert running.ask(f"/comparisons/{name}").status in (404, 422)


def test_a_record_of_another_form_is_said_and_not_guessed_at(home: Path, record: Path) -> None:
    body = json.loads(record.read_bytes())
    body |= {"agreement": 3, "performance": {"reason": None, "auroc": "<script>"}}
    del body["differences_in_code"]
    record.write_text(json.dumps(body))
    with serving(scene_of(home, "en", record)) as running:
        running.enter()
        answer = running.ask("/comparisons/1")
        assert answer.status == 200
        assert Words(answer.body).words.count("another form than this version shows") == 3
        assert "<script" not in answer.body


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"schema": "other/1"}', "[" * 100_000])
def test_anything_else_is_refused_before_the_page_opens(
    home: Path, tmp_path: Path, solblom: Solblom, text: str
) -> None:
    other = tmp_path / "other.json"
    other.write_text(text)
    done = solblom("steward", "serve", "--home", str(home), "--comparison", str(other))
    assert done.exit_code == 3
    assert "SB-462" in done.stderr
    assert "http://" not in done.stdout


def test_what_differs_is_norwegian_on_a_norwegian_page_and_keys_of_a_study_keep_their_names(
    home: Path, record: Path, tmp_path: Path
) -> None:
    found = json.loads(record.read_bytes())
    change = {"old": "1", "new": "2"}
    found["differences_in_data"] = [{"what": "cohort from", **change}]
    names = ("epsilon at va", "noise multiplier", "privacy.epsilon")
    found["differences_in_privacy"] = [{"what": name, **change} for name in names]
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(found))
    with serving(scene_of(home, "no", changed)) as running:
        running.enter()
        shown = Words(running.ask("/comparisons/1?lang=no").body).words
    for words in ("Kohort fra", "Epsilon ved va", "Støyfaktor", "privacy.epsilon"):
        assert words in shown
    assert "cohort from" not in shown
