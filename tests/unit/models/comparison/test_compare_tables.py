"""`solblom model compare` on tables: two signed models, one table, and nothing about a patient on the screen."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from compare_lab import linear, write_model, write_patients, write_trust
from lab import CONTRACT, STUDY, study_document
from solblom_models.cli import app
from solblom_models.comparison import inputs
from solblom_models.study_document import resolve
from solblom_models.tabular.table_file import Table
from solblom_protocol.contracts.table import Contract
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.studies.tables import Study
from solblom_protocol.toml_file import parse
from solblom_verify.canonical import canonical_json, digest

OFF = {"epsilon": "off"}  # no noise has to be calibrated
OLD, NEW = linear(0.9, 0.5, 0.0, 0.0, 0.0), linear(1.4, 0.2, 0.3, 0.0, -0.3, bias=-0.2)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions, a trust file, and a table of a hospital."""
    folder = tmp_path_factory.mktemp("compare")
    write_trust(folder)
    write_model(folder / "lab-v1", study_document(privacy=OFF), weigh=OLD)
    changed = study_document(privacy=OFF, training={"rounds": 5, "learning_rate": 0.25})
    write_model(folder / "lab-v2", changed, weigh=NEW, version=2)
    write_patients(folder / "patients.csv")
    return folder


def run(house: Path, *arguments: str, old: str = "lab-v1", new: str = "lab-v2") -> Result:
    trust = ("--trust", str(house / "trust.json"))
    where = (str(house / old), str(house / new))
    return CliRunner().invoke(app, ["compare", *where, *trust, "--resamples", "100", *arguments])


def compared(house: Path, *arguments: str, **models: str) -> dict[str, Any]:
    result = run(house, "--json", *arguments, **models)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(house: Path, *arguments: str, **models: str) -> str:
    result = run(house, *arguments, **models)
    assert result.exit_code == 3, result.output
    assert "SB-506" in result.stderr
    return " ".join(result.stderr.split())


def data(house: Path) -> tuple[str, str]:
    return "--data", str(house / "patients.csv")


def other_contract(**variable: Any) -> StudyDocument:
    """Return the lab's study with one more variable, or an age of another range."""
    tables = json.loads(json.dumps(CONTRACT))
    for name, value in variable.items():
        if name == "target":
            tables["target"] |= value
        elif name == "more":
            tables["variable"].append(value)
        else:
            tables["variable"][0][name] = value
    study = parse(Study, STUDY | {"privacy": STUDY["privacy"] | OFF}, source="lab")
    return resolve(study, parse(Contract, tables, source="lab"))


MORE = {
    "kind": "boolean",
    "name": "cough",
    "column": "cough",
    "true": ["1"],
    "false": ["0"],
    "meaning": {"en": "cough", "no": "hoste"},
}


def test_two_versions_are_compared_on_the_same_patients(house: Path) -> None:
    found = compared(house, *data(house))
    assert (found["old"]["ref"], found["new"]["ref"]) == ("lab@v1", "lab@v2")
    assert found["patients"] == 120
    assert found["agreement"]["largest_delta"] > found["agreement"]["mean_delta"] > 0
    assert found["flips"]["patients"] >= 5
    value, low, high = found["performance"]["auroc"]["difference"]
    assert low <= value <= high
    settings = {
        entry["what"]: (entry["old"], entry["new"]) for entry in found["differences_in_settings"]
    }
    assert settings["training.rounds"] == (3, 5)
    assert settings["training.learning_rate"] == (0.5, 0.25)
    assert found["stays"].startswith("in this hospital")


def test_a_model_compared_with_itself_gains_nothing_and_flips_nobody(house: Path) -> None:
    found = compared(house, *data(house), new="lab-v1")
    assert found["flips"] == {"patients": 0, "reason": None, "to_yes": 0, "to_no": 0}
    assert found["agreement"]["within_tolerance"] == 1.0
    assert found["performance"]["auroc"]["difference"] == [0, 0, 0]
    kinds = ("data", "code", "settings", "privacy")
    assert [found[f"differences_in_{kind}"] for kind in kinds] == [[], [], [], []]
    assert "Both are the same model" in found["notes"]


def test_the_other_order_flips_the_signs(house: Path) -> None:
    found = compared(house, *data(house))
    back = compared(house, *data(house), old="lab-v2", new="lab-v1")
    for name in ("auroc", "auprc", "brier"):
        value, low, high = found["performance"][name]["difference"]
        assert back["performance"][name]["difference"] == pytest.approx(
            [-value, -high, -low], abs=1e-6
        )
    assert found["flips"]["patients"] == back["flips"]["patients"]


def test_no_patient_is_named_on_the_screen_or_in_json(house: Path, tmp_path: Path) -> None:
    for arguments in (("--json",), ()):
        out = tmp_path / str(len(arguments))
        result = run(house, *data(house), "--out", str(out), *arguments)
        assert result.exit_code == 0, result.output
        assert "new-patient" not in result.stdout + result.stderr
        assert "new-patient" in (out / "patients.csv").read_text(encoding="utf-8")
        assert "new-patient" not in (out / "comparison.json").read_text(encoding="utf-8")
        assert "new-patient" not in (out / "calibration.svg").read_text(encoding="utf-8")


def test_lists_of_patients_are_for_their_owner_only(house: Path, tmp_path: Path) -> None:
    found = compared(house, *data(house), "--out", str(tmp_path / "out"))
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == [
        *("calibration.svg", "comparison.json", "flips.csv", "patients.csv", "prediction.key")
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    lines = (tmp_path / "out/flips.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) - 1 == found["flips"]["patients"]
    assert all(line.endswith(",yes") for line in lines[1:])


def test_a_comparison_is_never_written_over_another(house: Path, tmp_path: Path) -> None:
    compared(house, *data(house), "--out", str(tmp_path))
    result = run(house, *data(house), "--out", str(tmp_path))
    assert result.exit_code == 3
    assert "SB-113" in result.stderr


def test_the_record_has_no_clock_and_is_named_by_its_digest(house: Path, tmp_path: Path) -> None:
    key = ("--receipt-key", str(tmp_path / "own.key"))
    names = {
        compared(house, *data(house), *key, "--out", str(tmp_path / place))["record"]
        for place in ("a", "b")
    }
    assert names == {digest((tmp_path / "a/comparison.json").read_bytes())}


def test_a_record_can_be_made_again(house: Path, tmp_path: Path) -> None:
    compared(house, *data(house), "--out", str(tmp_path))
    result = run(house, *data(house), "--check", str(tmp_path / "comparison.json"))
    assert result.exit_code == 0, result.output
    assert "Made again: the same record" in result.stderr


def change_auroc(body: Any) -> None:
    body["performance"]["auroc"]["new"][0] = 0.999


def change_model(body: Any) -> None:
    body["new"]["model"] = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("change", "named"),
    [(change_auroc, "performance.auroc.new[0]"), (change_model, "new.model")],
)
def test_a_changed_record_is_named(house: Path, tmp_path: Path, change: Any, named: str) -> None:
    compared(house, *data(house), "--out", str(tmp_path))
    body = json.loads((tmp_path / "comparison.json").read_bytes())
    change(body)
    (tmp_path / "comparison.json").write_bytes(canonical_json(body))
    result = run(house, *data(house), "--check", str(tmp_path / "comparison.json"))
    assert result.exit_code == 5
    assert "SB-451" in result.stderr
    assert named in " ".join(result.stderr.split())


def test_a_hostile_record_cannot_steer_the_terminal(house: Path, tmp_path: Path) -> None:
    compared(house, *data(house), "--out", str(tmp_path))
    body = json.loads((tmp_path / "comparison.json").read_bytes())
    body["\x1b[2J[red]" + "x" * 5000] = 1
    (tmp_path / "comparison.json").write_bytes(canonical_json(body))
    result = run(house, *data(house), "--check", str(tmp_path / "comparison.json"))
    assert result.exit_code == 5
    assert "\x1b" not in result.stdout + result.stderr
    assert len(result.stderr) < 1000


def test_a_record_of_another_table_is_named(house: Path, tmp_path: Path) -> None:
    compared(house, *data(house), "--out", str(tmp_path))
    other = write_patients(tmp_path / "other.csv", 119)
    result = run(house, "--data", str(other), "--check", str(tmp_path / "comparison.json"))
    assert result.exit_code == 5
    assert "input" in result.stderr


def test_a_record_is_not_checked_without_its_key(house: Path, tmp_path: Path) -> None:
    compared(house, *data(house), "--out", str(tmp_path))
    (tmp_path / "prediction.key").unlink()
    result = run(house, *data(house), "--check", str(tmp_path / "comparison.json"))
    assert result.exit_code == 3
    assert not (tmp_path / "prediction.key").exists()


def test_an_altered_model_is_not_compared(house: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "lab-v1", study_document(privacy=OFF), weigh=OLD)
    weights = tmp_path / "lab-v1/model/weights.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(bytes(raw))
    result = run(house, *data(house), old=str(tmp_path / "lab-v1"))
    assert result.exit_code == 5
    assert "SB-401" in result.stderr


def test_contracts_that_differ_serve_one_table_that_has_both(house: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "lab-v3", other_contract(more=MORE), weigh=None, version=3)
    rows = (house / "patients.csv").read_text(encoding="utf-8").splitlines()
    wider = tmp_path / "wider.csv"
    wider.write_text(
        "\n".join([f"{rows[0]},cough", *(f"{row},1" for row in rows[1:])]) + "\n", encoding="utf-8"
    )
    found = compared(house, "--data", str(wider), new=str(tmp_path / "lab-v3"))
    what = [entry["what"] for entry in found["differences_in_data"]]
    assert "variable cough" in what
    told = refused(house, *data(house), new=str(tmp_path / "lab-v3"))
    assert "lab@v3 cannot read it" in told
    assert "The contracts differ in variable cough" in told


def test_a_variable_of_another_range_is_named_field_by_field(house: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "lab-v3", other_contract(maximum=60), weigh=OLD, version=3)
    told = refused(house, *data(house), new=str(tmp_path / "lab-v3"))
    assert "is outside 0 to 60" in told
    assert "The contracts differ in variable age" in told


def test_outcomes_that_are_read_differently_are_refused(house: Path, tmp_path: Path) -> None:
    turned = other_contract(target={"positive": ["0"], "negative": ["1"]})
    write_model(tmp_path / "lab-v3", turned, weigh=OLD, version=3)
    told = refused(house, *data(house), new=str(tmp_path / "lab-v3"))
    assert "read this outcome differently" in told


def test_without_the_outcome_only_agreement_is_shown(house: Path, tmp_path: Path) -> None:
    columns = ("patient_id", "age", "smoker", "grade")
    table = write_patients(tmp_path / "no.csv", columns=columns)
    found = compared(house, "--data", str(table))
    assert found["performance"] is None
    assert found["agreement"]["same_class"] is not None
    told = refused(house, "--data", str(table), "--target", "ill")
    assert "lacks the target column ill" in told


def write_rows(path: Path, *rows: str) -> str:
    path.write_text("\n".join(("patient_id,age,smoker,grade,ill", *rows)) + "\n", encoding="utf-8")
    return str(path)


def test_patients_of_one_outcome_have_agreement_and_no_gain(house: Path, tmp_path: Path) -> None:
    table = write_rows(tmp_path / "one.csv", *(f"p{n},{20 + n},0,a,1" for n in range(30)))
    found = compared(house, "--data", table, "--out", str(tmp_path / "out"))
    assert found["performance"]["reason"] == "fewer than 5 patients without the outcome"
    assert not (tmp_path / "out/calibration.svg").exists()


def test_a_patient_twice_is_refused_and_not_named(house: Path, tmp_path: Path) -> None:
    table = write_rows(tmp_path / "two.csv", "SECRET-1,40,0,a,1", "SECRET-1,50,1,b,0")
    told = refused(house, "--data", table)
    assert "1 patient has more than one row" in told
    assert "SECRET" not in told


def test_ids_can_steer_neither_terminal_nor_spreadsheet(house: Path, tmp_path: Path) -> None:
    rows = [
        "\x1b[2Jgone,80,1,c,1",
        "=cmd|'/c calc'!A1,80,1,c,1",
        *(f"p{n},70,1,c,0" for n in range(9)),
    ]
    table = write_rows(tmp_path / "bad.csv", *rows)
    result = run(house, "--data", table, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "\x1b[2J" not in result.stdout + result.stderr
    listed = (tmp_path / "out/patients.csv").read_text(encoding="utf-8")
    assert "\x1b" not in listed
    assert "\n[2Jgone," in listed  # what cannot be seen is no part of an id
    assert "\n'=cmd|" in listed


def test_very_few_patients_have_no_figures_but_a_list(house: Path, tmp_path: Path) -> None:
    table = write_rows(tmp_path / "few.csv", "p1,80,1,c,1", "p2,20,0,a,0")
    found = compared(house, "--data", table, "--out", str(tmp_path / "out"))
    assert found["agreement"] == {"reason": "fewer than 5 patients"}
    assert found["flips"]["patients"] is None
    assert len((tmp_path / "out/patients.csv").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "takes --data, and nothing else"),
        (("--phenopacket", "x"), "takes --data, and nothing else"),
        (("--slide", "x"), "takes --data, and nothing else"),
        (("--data", "nowhere.csv"), "nowhere.csv does not exist"),
    ],
)
def test_other_inputs_are_refused(house: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(house, *arguments)


@pytest.mark.parametrize(
    "arguments", [("--threshold", "1.5"), ("--tolerance", "-1"), ("--resamples", "3")]
)
def test_settings_that_mean_nothing_are_refused(house: Path, arguments: tuple[str, ...]) -> None:
    result = run(house, *data(house), *arguments)
    assert result.exit_code == 3
    assert "SB-103" in result.stderr


def test_an_empty_table_is_refused(house: Path, tmp_path: Path) -> None:
    assert "no patients" in refused(house, "--data", write_rows(tmp_path / "none.csv"))


def test_an_input_that_changes_while_it_is_read_is_refused(
    house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_patients(tmp_path / "live.csv", 30)
    read, times = inputs.read_table, [0]

    def read_and_append(path: Path, **options: Any) -> Table:
        found = read(path, **options)
        times[0] += 1
        if times[0] == 1:
            return found
        with path.open("a", encoding="utf-8") as file:
            file.write("late,50,1,a,1\n")
        return found

    monkeypatch.setattr(inputs, "read_table", read_and_append)
    assert "changed while the models read it" in refused(house, "--data", str(table))
