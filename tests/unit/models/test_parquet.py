"""Parquet tables: the same patients give the same features as from CSV; what no CSV could hold is refused."""

import datetime as dt
import decimal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from expression_lab import GENES, contract, write_samples
from lab import LabHospital, patient_rows, study_document, write_table
from solblom_models.tabular.data import read_units
from solblom_models.tabular.table_file import Table, read_table
from solblom_protocol.contracts.table import Contract
from solblom_protocol.errors import ConfigurationError, DataError

LAB = study_document().contract
PATIENTS: dict[str, Any] = {
    "patient_id": ["p1", "p2", "p3"],
    "age": [60, 61, None],
    "smoker": [1, 0, None],
    "grade": ["b", None, "a"],
    "ill": [1, 0, 1],
}


def read(path: Path, found: Contract | None = LAB) -> Table:
    return read_table(path, id_column="patient_id", contract=found)


def table(folder: Path, *, found: Contract | None = LAB, **columns: Any) -> Table:
    """Return the three patients read from Parquet, with other columns as given."""
    pq.write_table(pa.table(PATIENTS | columns), folder / "patients.parquet")
    return read(folder / "patients.parquet", found)


def refusal(folder: Path, **columns: Any) -> DataError:
    with pytest.raises(DataError) as caught:
        table(folder, **columns)
    return caught.value


def test_the_same_patients_give_the_same_features_from_csv_and_parquet(tmp_path: Path) -> None:
    rows = patient_rows(50, site="north")
    write_table(tmp_path / "t.csv", rows)
    numbers = {k: [int(r[k]) for r in rows] for k in ("age", "smoker", "ill")}
    texts = {k: [r[k] for r in rows] for k in ("patient_id", "grade")}
    pq.write_table(pa.table({**texts, **numbers}), tmp_path / "t.parquet")
    from_csv = read_units(read(tmp_path / "t.csv"), LAB)
    from_parquet = read_units(read(tmp_path / "t.parquet"), LAB)
    assert from_csv.ids == from_parquet.ids
    assert [from_csv.row_bytes(n) for n in range(50)] == [
        from_parquet.row_bytes(n) for n in range(50)
    ]


@pytest.mark.parametrize("transform", ["none", "log2", "rank"])
@pytest.mark.parametrize("kind", ["float32", "float64", "string"])
def test_the_same_samples_give_the_same_genes_from_csv_and_parquet(
    tmp_path: Path, kind: str, transform: str
) -> None:
    values = np.random.default_rng(3).gamma(1.0, 50.0, size=(40, 4)).astype(np.float32)
    values[values < 5] = 0
    exact = [[float(str(v)) for v in row] for row in values]  # as a CSV spells a float32
    if kind == "float64":
        exact = values.astype(np.float64).tolist()
    found = contract(transform=transform, scale=3.0, gene_sets={"s": GENES}, inputs=GENES)
    write_samples(tmp_path / "t.csv", np.array(exact))
    columns: dict[str, Any] = {g: values[:, i].astype("float64") for i, g in enumerate(GENES)}
    if kind == "float32":
        columns = {g: values[:, i] for i, g in enumerate(GENES)}
    if kind == "string":
        columns = {g: [repr(row[i]) for row in exact] for i, g in enumerate(GENES)}
    rest = {"patient_id": [f"s{n}" for n in range(40)], "ill": [n % 2 for n in range(40)]}
    pq.write_table(pa.table(rest | columns), tmp_path / "t.parquet")
    one = read_units(read(tmp_path / "t.csv", found), found)
    two = read_units(read(tmp_path / "t.parquet", found), found)
    assert one.ids == two.ids
    assert one.features.tobytes() == two.features.tobytes()


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        (pa.array([1, None, 3]), ("1", "", "3")),
        (pa.array([1.0, None, 2.5]), ("1", "", "2.5")),
        (pa.array([0.1, float("nan"), 1e30], pa.float32()), ("0.1", "", "1e+30")),
        (pa.array([True, False, None]), ("true", "false", "")),
        (pa.array([" a ", "", None]), ("a", "", "")),
        (pa.array(["a", None, "a"]).dictionary_encode(), ("a", "", "a")),
        (pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("2.00")]), ("1.5", "", "2")),
        (pa.array([dt.date(2026, 11, 24), None, None]), ("2026-11-24", "", "")),
        (pa.nulls(3), ("", "", "")),
    ],
)
def test_values_become_the_text_of_a_csv(tmp_path: Path, values: Any, texts: Any) -> None:
    assert table(tmp_path, found=None, note=values).columns["note"] == texts


def test_ids_may_be_numbers_and_a_null_id_is_no_patient(tmp_path: Path) -> None:
    assert table(tmp_path, patient_id=[7, 8, 9]).ids == ("7", "8", "9")
    with pytest.raises(DataError, match="1 row has no patient id"):
        read_units(table(tmp_path, patient_id=["p1", None, "p3"]), LAB)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[1], [2], [3]]),
        pa.array([{"a": 1}, {"a": 2}, {"a": 3}]),
        pa.array([b"1", b"2", b"3"]),
        pa.array([dt.datetime(2026, 1, 1)] * 3),
    ],
)
def test_a_column_that_no_csv_could_hold_is_refused(tmp_path: Path, column: Any) -> None:
    error = refusal(tmp_path, age=column)
    assert error.code == "SB-302"
    assert "`age` is a" in error.message


def test_what_the_contract_does_not_name_is_neither_read_nor_judged(tmp_path: Path) -> None:
    found = table(tmp_path, notes=pa.array([["Kari"], [], []]), name=["Kari", "Ola", "Per"])
    assert set(found.columns) == {"age", "smoker", "grade", "ill"}


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"age": ["sixty", "1", "2"]}, "SB-302"),
        ({"age": [float("inf"), 1.0, 2.0]}, "SB-302"),
        ({"age": [130, 1, 2]}, "SB-303"),
        ({"patient_id": ["p1", "p1", "p2"]}, "SB-304"),
    ],
)
def test_a_table_that_does_not_obey_the_contract_is_refused_as_from_csv(
    tmp_path: Path, columns: dict[str, Any], code: str
) -> None:
    with pytest.raises(DataError) as caught:
        read_units(table(tmp_path, **columns), LAB)
    assert caught.value.code == code


def test_a_table_without_the_patients_column_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"age": [1]}), tmp_path / "t.parquet")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "t.parquet")
    assert caught.value.code == "SB-301"


@pytest.mark.parametrize("content", [b"", b"PAR1", b"patient_id,age\np1,60\n", None])
def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / "t.parquet")
    assert caught.value.code == "SB-307"


def test_missing_codes_of_genes_are_missing_and_infinity_is_refused(tmp_path: Path) -> None:
    found = contract(missing=["-9"])
    rest = {"patient_id": ["a", "b"], "ill": [0, 1]}
    genes: dict[str, Any] = {g: [1.0, 2.0] for g in GENES}
    pq.write_table(pa.table(rest | genes | {"TP53": [-9.0, 1.5]}), tmp_path / "t.parquet")
    units = read_units(read(tmp_path / "t.parquet", found), found)
    assert units.features[:, 0].tolist() == [0.0, 1.5]
    pq.write_table(pa.table(rest | genes | {"TP53": [float("inf"), 1.5]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="1 value that is not a number") as caught:
        read(tmp_path / "t.parquet", found)
    assert caught.value.code == "SB-302"


def test_without_its_package_parquet_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigurationError) as caught:
        read(tmp_path / "t.parquet")
    assert caught.value.code == "SB-118"
    assert caught.value.hint == "pip install 'solblom-models[parquet]'"


def test_a_hospital_trains_on_parquet_as_on_csv(tmp_path: Path) -> None:
    hospital = LabHospital(tmp_path / "north")
    rows = hospital.rows
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    pq.write_table(pa.table(columns), hospital.folder / "patients.parquet")
    before = read(hospital.folder / "patients.csv")
    toml = hospital.folder / "node.toml"
    toml.write_text(toml.read_text().replace("patients.csv", "patients.parquet"))
    from solblom_client.connectors.sources import open_source
    from solblom_client.policy import load_node_config

    config = load_node_config(hospital.folder)
    assert open_source(config, config.dataset[0], LAB) == before
