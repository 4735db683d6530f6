"""Table 1 counts every patient once in each variable, in cells that the contract fixes."""

import pytest

from lab import patient_rows, study_document
from solblom_models.tabular.table_file import Table
from solblom_models.tabular.table_one import cell_blocks, count_cells
from solblom_protocol.errors import DataError

VARIABLES = ["age", "smoker", "grade", "ill"]
STUDY = study_document(table_one={"epsilon": 0.5, "variables": VARIABLES})


def table(rows: list[dict[str, str]]) -> Table:
    columns = {name: tuple(row[name] for row in rows) for name in rows[0] if name != "patient_id"}
    return Table(tuple(row["patient_id"] for row in rows), columns)


def counted(rows: list[dict[str, str]], ids: list[str] | None = None) -> dict[str, list[int]]:
    data = table(rows)
    counts = count_cells(data, data.ids if ids is None else ids, STUDY).tolist()
    found, start = {}, 0
    for block in cell_blocks(STUDY):
        found[block.variable] = counts[start : start + len(block.cells)]
        start += len(block.cells)
    return found


def test_cells_follow_from_the_contracts_constants() -> None:
    age, smoker, grade, ill = cell_blocks(STUDY)
    assert age.cells == ("below 35", "35 to 45", "45 to 55", "55 to 65", "65 or more", "missing")
    assert smoker.cells == ("no", "yes", "missing")
    assert grade.cells == ("a", "b", "c", "missing")
    assert ill.cells == ("no", "yes")


def test_every_patient_stands_in_one_cell_of_each_variable() -> None:
    rows = patient_rows(50, site="north")
    assert all(sum(cells) == 50 for cells in counted(rows).values())


def test_edges_belong_to_the_cell_above() -> None:
    rows = patient_rows(6, site="north")
    for row, age in zip(rows, ["34.9", "35", "45", "64.9", "65", "?"], strict=True):
        row["age"] = age
    assert counted(rows)["age"] == [1, 1, 1, 1, 1, 1]


def test_only_the_patients_asked_for_are_counted() -> None:
    rows = patient_rows(20, site="north")
    assert sum(counted(rows, ids=[rows[0]["patient_id"]])["ill"]) == 1


def test_one_patient_more_changes_one_cell_of_each_variable_by_one() -> None:
    rows = patient_rows(20, site="north")
    more, less = counted(rows), counted(rows[:-1])
    for name in VARIABLES:
        changes = [a - b for a, b in zip(more[name], less[name], strict=True)]
        assert sorted(changes)[-1] == 1
        assert sum(changes) == 1


def test_an_unknown_code_is_an_error() -> None:
    rows = patient_rows(5, site="north")
    rows[2]["grade"] = "z"
    with pytest.raises(DataError) as caught:
        counted(rows)
    assert caught.value.code == "SB-302"
