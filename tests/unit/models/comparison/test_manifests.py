"""How two versions came about differently, from their artefacts alone: no torch, and no text that steers a terminal."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compare_lab import write_model
from lab import study_document
from solblom_models.comparison.contracts import differing_variables
from solblom_models.comparison.manifests import MOST_LISTED, Facts, differences, read_facts
from solblom_models.comparison.show import show_comparison
from solblom_protocol.errors import IntegrityError


def facts(**changes: Any) -> Facts:
    receipts = changes.pop("receipts", [("va", 1, "50-99", "sha256:a")])
    study = {"study": {"training": {"rounds": 3}, "privacy": {"epsilon": 1}}, "secure_sum": None}
    whole: dict[str, Any] = {
        "manifest": {
            "simulation": False,
            "sites": {"va": {}},
            "environment": {"python": "3.11", "packages": {"torch": "2.13"}},
            "training": {"aggregation": {"rule": "plain mean"}},
            "privacy": {"sites": {"va": {"epsilon": "1.000", "delta": "1e-5"}}},
        },
        "study": study,
        "contract": {"variable": [{"name": "age", "minimum": 0}]},
        "statement": {"noise_multiplier": "2"},
        "rounds": ({"opened": "2026-01-01T00:00:00Z", "closed": "2026-01-02T00:00:00Z"},),
        "files": {},
    }
    found = tuple(
        {"site": site, "round": number, "patients": band, "code": code}
        for site, number, band, code in receipts
    )
    return Facts(**{**whole, **changes, "receipts": found})


def named(found: list[dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    return {entry["what"]: (entry["old"], entry["new"]) for entry in found}


def test_the_same_facts_have_no_difference() -> None:
    assert differences(facts(), facts()) == {
        "data": [],
        "code": [],
        "settings": [],
        "privacy": [],
    }


def test_bands_of_patients_stand_in_the_order_of_rounds_and_never_counts() -> None:
    grown = [("va", 2, "100-199", "sha256:a"), ("va", 1, "50-99", "sha256:a")]
    found = named(differences(facts(), facts(receipts=grown))["data"])
    assert found == {"patients at va": ("50-99", "50-99, 100-199")}


def test_a_hospital_that_came_or_left_is_named() -> None:
    both = [("va", 1, "50-99", "sha256:a"), ("oslo", 1, "10-19", "sha256:b")]
    found = differences(facts(), facts(receipts=both))
    assert named(found["data"])["patients at oslo"] == (None, "10-19")
    assert named(found["code"]) == {"code at oslo": (None, "sha256:b")}


def test_epsilon_by_site_stands_under_privacy_and_not_under_settings() -> None:
    other = facts()
    other.manifest["privacy"]["sites"]["va"]["epsilon"] = "3.000"
    other.study["study"]["privacy"]["epsilon"] = 3
    other.study["study"]["training"]["rounds"] = 9
    found = differences(facts(), other)
    assert named(found["settings"]) == {"training.rounds": (3, 9)}
    assert named(found["privacy"]) == {
        "epsilon at va": ("1.000", "3.000"),
        "privacy.epsilon": (1, 3),
    }


def test_packages_and_aggregation_are_compared_by_name() -> None:
    other = facts()
    other.manifest["environment"]["packages"]["torch"] = "2.14"
    other.manifest["training"]["aggregation"]["rule"] = "median"
    found = differences(facts(), other)
    assert named(found["code"]) == {"packages.torch": ("2.13", "2.14")}
    assert named(found["settings"]) == {"aggregation.rule": ("plain mean", "median")}


def test_variables_are_compared_member_by_member_and_meaning_is_no_difference() -> None:
    old = {"variable": [{"name": "age", "minimum": 0, "meaning": {"en": "age"}}], "name": "a"}
    new = {
        "variable": [{"name": "age", "minimum": 18, "meaning": {"en": "years"}}, {"name": "sex"}],
        "name": "b",
    }
    assert differing_variables(old, new) == [
        {"what": "variable age", "old": {"minimum": 0}, "new": {"minimum": 18}},
        {"what": "variable sex", "old": None, "new": {"name": "sex"}},
    ]


def test_thousands_of_differences_are_cut_and_counted() -> None:
    many = {"variable": [{"name": f"gene {n}"} for n in range(MOST_LISTED + 30)]}
    found = differences(facts(contract={"variable": []}), facts(contract=many))["data"]
    assert len(found) == MOST_LISTED + 1
    assert found[-1]["what"] == "30 more"


def test_no_torch_is_loaded_to_read_how_models_came_about(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "lab-v1", study_document(privacy={"epsilon": "off"}))
    program = (
        "import sys; from pathlib import Path; from solblom_models.comparison import manifests as m;"
        f"f = m.read_facts(Path({str(folder)!r})); assert m.differences(f, f)['data'] == [];"
        "assert not {'torch', 'flwr'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("training/study.json", "[]"),
        ("training/rounds.jsonl", "{"),
        ("privacy/statement.json", None),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, name: str, text: str | None) -> None:
    folder = write_model(tmp_path / "lab-v1", study_document(privacy={"epsilon": "off"}))
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(IntegrityError) as caught:
        read_facts(folder)
    assert caught.value.code == "SB-401"


def test_what_a_manifest_says_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J[red]gone[/] \u202e" + "x" * 500
    body: dict[str, Any] = {
        "old": {"ref": "a@v1", "model": "sha256:a"},
        "new": {"ref": "a@v2", "model": "sha256:b"},
        "patients": 9,
        "agreement": {"reason": "fewer than 5 patients"},
        "flips": {"patients": None},
        "performance": None,
        "notes": [],
        "left_out": {},
        **{f"differences_in_{kind}": [] for kind in ("data", "code", "privacy")},
        "differences_in_settings": [{"what": evil, "old": evil, "new": 1}],
    }
    show_comparison(body)
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "\u202e" not in shown.out + shown.err
    assert "[red]gone[/]" in shown.out
    assert json.dumps(body)  # it stays what it was
