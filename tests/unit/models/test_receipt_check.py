"""`solblom model receipt`: a prediction is looked up again, from the artefact, the raw input and the receipt alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from compare_lab import linear, write_model, write_patients, write_trust
from lab import study_document
from ranking_lab import ranking_contract, ranking_document, write_cases, write_release
from solblom_models import prediction_receipt
from solblom_models.cli import app
from solblom_models.json_difference import differing_paths


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a table, and the receipt of a prediction with what was printed then."""
    folder = tmp_path_factory.mktemp("receipts")
    write_trust(folder)
    for number, weights in ((1, (0.9, 0.5, 0.0, 0.0, 0.0)), (2, (0.8, 0.5, 0.0, 0.1, 0.0))):
        write_model(
            folder / f"lab-v{number}",
            study_document(privacy={"epsilon": "off"}),
            weigh=linear(*weights),
            version=number,
        )
    write_patients(folder / "patients.csv", 20)
    predicted = invoke(
        *("predict", str(folder / "lab-v1"), "--trust", str(folder / "trust.json")),
        *("--input", str(folder / "patients.csv"), "--json"),
        *("--receipt", str(folder / "receipt.json")),
    )
    assert predicted.exit_code == 0, predicted.output
    (folder / "printed.json").write_text(predicted.stdout, encoding="utf-8")
    return folder


def look_up(
    house: Path,
    *arguments: str,
    model: str = "lab-v1",
    receipt: Path | None = None,
    table: Path | None = None,
) -> Result:
    return invoke(
        *("receipt", str(house / model), str(receipt or house / "receipt.json")),
        *("--receipt-key", str(house / "prediction.key")),
        *("--trust", str(house / "trust.json"), "--json"),
        *("--input", str(table or house / "patients.csv"), *arguments),
    )


def lines(result: Result) -> dict[str, Any]:
    return {line["name"]: line["ok"] for line in json.loads(result.stdout)["lines"]}


def differing(result: Result) -> set[str]:
    assert result.exit_code == 5, result.output
    return {name for name, ok in lines(result).items() if ok is False}


def changed(house: Path, path: Path, **members: Any) -> Path:
    receipt = json.loads((house / "receipt.json").read_bytes())
    path.write_text(json.dumps(receipt | members), encoding="utf-8")
    return path


def test_the_same_model_says_the_same_of_the_same_input(house: Path) -> None:
    result = look_up(house)
    assert result.exit_code == 0, result.output
    assert set(lines(result).values()) == {True}


def test_another_model_is_named(house: Path) -> None:
    assert differing(look_up(house, model="lab-v2")) == {"model", "output"}


def test_an_input_with_one_value_changed_is_named(house: Path, tmp_path: Path) -> None:
    text = (house / "patients.csv").read_text(encoding="utf-8").splitlines()
    first = text[1].split(",")
    first[1] = str((int(first[1]) + 1) % 100)
    table = tmp_path / "patients.csv"
    table.write_text("\n".join([text[0], ",".join(first), *text[2:]]) + "\n", encoding="utf-8")
    assert differing(look_up(house, table=table)) == {"input", "output"}


def test_an_input_that_reads_the_same_but_is_spelt_otherwise_is_named(
    house: Path, tmp_path: Path
) -> None:
    table = tmp_path / "patients.csv"
    table.write_bytes((house / "patients.csv").read_bytes().replace(b"\r\n", b"\n") + b"\n")
    assert differing(look_up(house, table=table)) == {"input"}


@pytest.mark.parametrize("name", ["model", "study", "contract", "output"])
def test_a_changed_receipt_is_named(house: Path, tmp_path: Path, name: str) -> None:
    receipt = changed(house, tmp_path / "r.json", **{name: "sha256:" + "0" * 64})
    assert differing(look_up(house, receipt=receipt)) == {name}


def test_other_code_is_named_and_can_be_accepted(house: Path, tmp_path: Path) -> None:
    receipt = changed(house, tmp_path / "r.json", code="sha256:" + "0" * 64)
    assert differing(look_up(house, receipt=receipt)) == {"code"}
    accepted = look_up(house, "--other-code", receipt=receipt)
    assert accepted.exit_code == 0
    assert lines(accepted)["code"] is None


OTHER_TORCH = {
    "python": "3.11.7",
    "packages": {"solblom-models": "0.1.0", "torch": "2.99", "numpy": "2.4"},
}


def other_digits(house: Path, tmp_path: Path, delta: float) -> tuple[Path, Path]:
    """Return receipt and printed outputs of a runtime whose probabilities were apart by so much."""
    printed = json.loads((house / "printed.json").read_bytes())
    printed["predictions"][3]["probability"] = round(
        printed["predictions"][3]["probability"] + delta, 6
    )
    outputs = {name: part for name, part in printed.items() if name != "schema"}
    from solblom_verify.canonical import canonical_json, digest

    (tmp_path / "printed.json").write_text(json.dumps(printed), encoding="utf-8")
    receipt = changed(
        house,
        tmp_path / "r.json",
        runtime=OTHER_TORCH,
        code="sha256:" + "0" * 64,
        output=digest(canonical_json(outputs)),
    )
    return receipt, tmp_path / "printed.json"


def test_another_runtime_may_differ_in_the_last_digits_and_says_so(
    house: Path, tmp_path: Path
) -> None:
    receipt, printed = other_digits(house, tmp_path, 0.000003)
    assert differing(look_up(house, "--other-code", receipt=receipt)) == {"output"}
    result = look_up(house, "--other-code", "--output", str(printed), receipt=receipt)
    assert result.exit_code == 0, result.output
    told = {line["name"]: line["reason"] for line in json.loads(result.stdout)["lines"]}
    assert told["output"] == "within 1e-05, under another runtime"
    assert "torch 2.99, now" in told["runtime"]


def test_a_hostile_receipt_cannot_steer_the_terminal(house: Path, tmp_path: Path) -> None:
    evil = {"python": "\x1b[2J", "packages": {"\x1b]0;gone\x07": "[red]"}}
    receipt = changed(house, tmp_path / "r.json", runtime=evil)
    result = invoke(
        *("receipt", str(house / "lab-v1"), str(receipt), "--trust", str(house / "trust.json")),
        *("--receipt-key", str(house / "prediction.key")),
        *("--input", str(house / "patients.csv")),
    )
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.stdout + result.stderr
    assert "\x07" not in result.stdout + result.stderr


def test_another_runtime_excuses_no_other_answer(house: Path, tmp_path: Path) -> None:
    receipt, printed = other_digits(house, tmp_path, 0.01)
    result = look_up(house, "--other-code", "--output", str(printed), receipt=receipt)
    assert differing(result) == {"output"}


def test_the_same_runtime_has_no_tolerance(house: Path, tmp_path: Path) -> None:
    receipt, printed = other_digits(house, tmp_path, 0.000003)
    body = json.loads(receipt.read_bytes()) | {"runtime": prediction_receipt.runtime()}
    receipt.write_text(json.dumps(body), encoding="utf-8")
    result = look_up(house, "--other-code", "--output", str(printed), receipt=receipt)
    assert differing(result) == {"output"}


def test_outputs_that_the_receipt_does_not_name_excuse_nothing(house: Path, tmp_path: Path) -> None:
    receipt, printed = other_digits(house, tmp_path, 0.000003)
    body = json.loads(printed.read_bytes())
    body["predictions"][0]["probability"] = 0.5
    printed.write_text(json.dumps(body), encoding="utf-8")
    result = look_up(house, "--other-code", "--output", str(printed), receipt=receipt)
    assert differing(result) == {"output"}


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"schema": "solblom.prediction/1"}', b"\xff", b"[" * 50_000]
)
def test_a_file_that_is_no_receipt_is_refused(house: Path, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(data)
    result = look_up(house, receipt=path)
    assert result.exit_code == 3
    assert "SB-103" in result.stderr


def test_a_receipt_with_a_member_more_is_refused(house: Path, tmp_path: Path) -> None:
    result = look_up(house, receipt=changed(house, tmp_path / "r.json", more=1))
    assert result.exit_code == 3


def test_a_missing_key_is_an_error_and_makes_no_new_one(house: Path, tmp_path: Path) -> None:
    result = invoke(
        *("receipt", str(house / "lab-v1"), str(house / "receipt.json"), "--json"),
        *("--receipt-key", str(tmp_path / "none.key"), "--input", str(house / "patients.csv")),
    )
    assert result.exit_code == 3
    assert "SB-109" in result.stderr
    assert not (tmp_path / "none.key").exists()


def test_no_patient_is_named_by_a_look_up(house: Path) -> None:
    result = look_up(house, model="lab-v2")
    assert "new-patient" not in result.stdout + result.stderr


def test_a_ranking_is_looked_up_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = write_release(tmp_path / "hpo", monkeypatch)
    write_model(tmp_path / "rank-v1", ranking_document(ranking_contract(release)))
    trust = ("--trust", str(write_trust(tmp_path)))
    cases = ("--phenopacket", str(write_cases(tmp_path / "cases.jsonl", 6)))
    model, receipt = str(tmp_path / "rank-v1"), str(tmp_path / "r.json")
    made = invoke("predict", model, *trust, *cases, "--receipt", receipt, "--top", "2", "--json")
    assert made.exit_code == 0, made.output
    same = invoke("receipt", model, receipt, *trust, *cases, "--top", "2", "--json")
    assert same.exit_code == 0, same.output
    longer = invoke("receipt", model, receipt, *trust, *cases, "--top", "3", "--json")
    assert differing(longer) == {"output"}


def test_json_is_compared_by_value_and_type() -> None:
    assert differing_paths({"a": [1, 2.0]}, {"a": [1, 2]}) == []
    assert differing_paths({"a": 1}, {"a": True}) == ["a"]
    assert differing_paths({"a": 0.5}, {"a": 0.50001}, tolerance=1e-4) == []
    assert differing_paths({"rank": 1}, {"rank": 2}, tolerance=5) == ["rank"]
    assert differing_paths({"a": [1]}, {"a": [1, 2]}) == ["a"]
    assert differing_paths({"a": None}, {"b": None}) == ["a", "b"]
    assert len(differing_paths({str(n): n for n in range(99)}, {})) == 20
    assert differing_paths({"a": float("nan")}, {"a": 0.1}, tolerance=1.0) == ["a"]
