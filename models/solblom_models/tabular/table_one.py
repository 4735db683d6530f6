"""Table 1 of a study on tables: how many patients fall into each cell that the contract fixes.

Cells follow from the contract's public constants alone. A number has five: below center - 1.5 scale,
then steps of one scale, then above center + 1.5 scale. Every variable has a cell for missing.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from solblom_models.tabular.data import is_missing, table_contract
from solblom_models.tabular.table_file import Table
from solblom_protocol.contracts.table import BooleanVariable, NumberVariable, Variable
from solblom_protocol.errors import DataError
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.wording import counted

MISSING = "missing"


@dataclass(frozen=True)
class CellBlock:
    """The cells of one variable, in order; a patient is in one of them."""

    variable: str
    unit: str
    cells: tuple[str, ...]


def cell_blocks(document: StudyDocument) -> tuple[CellBlock, ...]:
    """Return the cells of the study's Table 1; empty when it has none."""
    return tuple(_block(document, name) for name in _names(document))


def count_cells(table: Table, ids: Collection[str], document: StudyDocument) -> NDArray[np.int64]:
    """Return how many of these patients are in each cell, blocks one after another.

    Raises:
        DataError: SB-301 missing column, SB-302 a code that the contract does not list.
    """
    wanted = set(ids)
    rows = [row for row, patient in enumerate(table.ids) if patient in wanted]
    counts = []
    for name in _names(document):
        width = len(_block(document, name).cells)
        places = _places(table, document, name)
        counts.append(np.bincount([places[row] for row in rows], minlength=width))
    return np.concatenate(counts).astype(np.int64)


def cells_of(
    table: Table, ids: Sequence[str], document: StudyDocument, names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the cell of each of these patients, in their order, for each variable named.

    Raises:
        DataError: SB-301 missing column, SB-302 a code that the contract does not list.
    """
    rows = {patient: row for row, patient in enumerate(table.ids)}
    found = {}
    for name in names:
        cells, places = _block(document, name).cells, _places(table, document, name)
        found[name] = tuple(cells[places[rows[patient]]] for patient in ids)
    return found


def _names(document: StudyDocument) -> tuple[str, ...]:
    table = document.study.table_one
    return () if table is None else table.variables


def _variable(document: StudyDocument, name: str) -> Variable | None:
    """Return a variable of the contract; None for the target."""
    return next((v for v in table_contract(document).variable if v.name == name), None)


def _block(document: StudyDocument, name: str) -> CellBlock:
    variable = _variable(document, name)
    if variable is None:
        return CellBlock(name, "", ("no", "yes"))
    if isinstance(variable, NumberVariable):
        cuts = [f"{cut:g}" for cut in _cuts(variable)]
        between = [f"{low} to {high}" for low, high in pairwise(cuts)]
        cells = (f"below {cuts[0]}", *between, f"{cuts[-1]} or more", MISSING)
        return CellBlock(name, variable.unit, cells)
    if isinstance(variable, BooleanVariable):
        return CellBlock(name, "", ("no", "yes", MISSING))
    return CellBlock(name, "", (*(variable.labels or variable.levels), MISSING))


def _cuts(variable: NumberVariable) -> list[float]:
    return [variable.center + step * variable.scale for step in (-1.5, -0.5, 0.5, 1.5)]


def _places(table: Table, document: StudyDocument, name: str) -> list[int]:
    variable = _variable(document, name)
    column = table_contract(document).target.column if variable is None else variable.column
    if column not in table.columns:
        raise DataError("SB-301", f"The table lacks the column {column}")
    cells = table.columns[column]
    if variable is None:
        return _coded(cells, table_contract(document).target.codes)
    if isinstance(variable, NumberVariable):
        cuts, last = _cuts(variable), 5
        return [
            last if is_missing(variable, cell) else int(np.searchsorted(cuts, float(cell), "right"))
            for cell in cells
        ]
    missing = ("", *variable.missing)
    if isinstance(variable, BooleanVariable):
        meanings = (variable.false, variable.true, missing)
        return _coded(cells, {c: place for place, codes in enumerate(meanings) for c in codes})
    levels = {level: place for place, level in enumerate(variable.levels)}
    return _coded(cells, dict.fromkeys(missing, len(levels)) | levels)


def _coded(cells: Sequence[str], codes: dict[str, int]) -> list[int]:
    unknown = sum(1 for cell in cells if cell not in codes)
    if unknown:
        raise DataError(
            "SB-302",
            f"{counted(unknown, 'row has', 'rows have')} a code that the contract does not list",
        )
    return [codes[cell] for cell in cells]
