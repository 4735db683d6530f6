"""A hospital's table as it stands in its file, CSV or Parquet: columns as text, genes as numbers.

Where the contract is given, only its columns are kept: what no hospital approved is not read.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solblom_models.patient_id import patient_id
from solblom_protocol.contracts.expression import Expression
from solblom_protocol.contracts.table import Contract
from solblom_protocol.errors import DataError
from solblom_verify.wording import counted

MAX_CELL_CHARACTERS = 10_000
# Plain decimal numbers only: Python would also read 1_5 as 15, and digits of any script.
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_PLAIN_ROW = re.compile(r"[0-9.eE+,-]*")
_LONG_EXPONENT = re.compile(r"[eE][+-]?[0-9]{4}")


@dataclass(frozen=True)
class GeneValues:
    """Genes of a table's rows.

    Attributes:
        values: shape (N, G), genes in the contract's order; float32, so that CSV and Parquet of one
            precision give the same. NaN is missing.
        absent: genes of the contract for which the table has no column.
    """

    values: NDArray[np.float32]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table: one id per row, the columns by name as text, and what the contract and node.toml name besides.

    Attributes:
        ids: of the rows' patients.
        columns: cells by column.
        genes: the contract's, if it has any.
        families: each row's family where node.toml names a column for it; None for a patient without one.
        notes: what bringing it to the contract's units and codes counted; stays inside.
    """

    ids: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    genes: GeneValues | None = None
    families: tuple[str | None, ...] | None = None
    notes: Mapping[str, int] = field(default_factory=dict)


def read_table(
    path: Path,
    *,
    id_column: str,
    contract: Contract | None = None,
    family_column: str | None = None,
) -> Table:
    """Read a CSV file, or a Parquet file where the name ends in `.parquet`.

    Args:
        path: the file.
        id_column: the column of patient ids; they get their one spelling (`patient_id`).
        contract: whose columns are read; None reads all as text, and no genes.
        family_column: the column of families, if there is one; an empty cell is a patient without one.

    Raises:
        DataError: SB-301 no id column or a column stands twice, SB-302 a row of another length, a
            column of a type that no contract knows, or genes that are not numbers, SB-307 unreadable.
        ConfigurationError: SB-118, Parquet without its package.
    """
    if path.suffix.lower() == ".parquet":
        from solblom_models.tabular.parquet import read_parquet

        found = read_parquet(
            path, id_column=id_column, contract=contract, family_column=family_column
        )
    else:
        found = read_csv(path, id_column=id_column, contract=contract, family_column=family_column)
    return found if family_column is None else _with_families(found, family_column, contract)


def _with_families(table: Table, column: str, contract: Contract | None) -> Table:
    """Return the table with its families; their column stays only where the contract has it too."""
    families = tuple(cell or None for cell in table.columns[column])
    kept = dict(table.columns)
    if contract is not None and column not in contract.columns:
        del kept[column]
    return replace(table, columns=kept, families=families)


def read_csv(
    path: Path,
    *,
    id_column: str,
    contract: Contract | None = None,
    family_column: str | None = None,
) -> Table:
    """Read a CSV file with a header line; see `read_table`."""
    try:
        # Row by row: 1,000 samples of 20,000 genes as Python texts would be more than a gigabyte.
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, strict=True)
            return _from_rows(rows, id_column, contract, family_column)
    except OSError as error:
        raise DataError("SB-307", f"The table {path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error):
        raise DataError("SB-307", "The table cannot be read as UTF-8 CSV") from None


def _from_rows(
    rows: Iterator[list[str]], id_column: str, contract: Contract | None, family_column: str | None
) -> Table:
    first = next(rows, None)
    if first is None:
        raise DataError("SB-307", "The table has no header line")
    header = tuple(name.strip() for name in first)
    check_header(header, id_column, family_column)
    where = {name: place for place, name in enumerate(header)}
    texts = text_columns(header, id_column, contract, family_column)
    genes = None if contract is None or contract.expression is None else contract.expression
    reader = None if genes is None else _GeneRows(genes, where)
    ids: list[str] = []
    columns: list[list[str]] = [[] for _ in texts]
    places = [(column, where[name]) for column, name in zip(columns, texts, strict=True)]
    odd: list[int] = []
    for number, row in enumerate((row for row in rows if row), start=2):
        if len(row) != len(header):
            odd.append(number)
            continue
        ids.append(patient_id(row[where[id_column]]))
        for column, place in places:
            column.append(row[place].strip()[:MAX_CELL_CHARACTERS])
        if reader is not None:
            reader.add(row, number)
    if odd:
        raise DataError(
            "SB-302",
            f"{counted(len(odd), 'row has', 'rows have')} another length than the header, "
            f"first in line {odd[0]}",
        )
    found = {name: tuple(column) for name, column in zip(texts, columns, strict=True)}
    return Table(tuple(ids), found, None if reader is None else reader.result())


def check_header(header: Sequence[str], id_column: str, family_column: str | None = None) -> None:
    """Refuse a header in which a name stands twice, or without the columns of node.toml.

    Raises:
        DataError: SB-301.
    """
    if len(set(header)) != len(header):
        raise DataError("SB-301", "A column name stands twice in the table's header")
    if id_column not in header:
        raise DataError("SB-301", f"The table has no column `{id_column}` for the patient")
    if family_column is not None and family_column not in header:
        raise DataError("SB-301", f"The table has no column `{family_column}` for the family")


def text_columns(
    header: Sequence[str],
    id_column: str,
    contract: Contract | None,
    family_column: str | None = None,
) -> list[str]:
    """Return the columns that are kept as text, in the table's order."""
    wanted = set(header) if contract is None else {*contract.columns, family_column}
    return [name for name in header if name in wanted and name != id_column]


def absent_genes(expression: Expression, header: Sequence[str]) -> tuple[str, ...]:
    """Return the genes of the contract for which a table has no column."""
    known = set(header)
    return tuple(gene for gene in expression.columns if gene not in known)


def numbers_of(cells: Sequence[str], missing: Sequence[str]) -> tuple[NDArray[np.float64], int]:
    """Return cells as numbers, NaN where missing, and how many are neither.

    A missing code that is a number, such as -9, is compared as a number.
    """
    text, codes = ",".join(cells), number_codes(missing)
    # One look at the whole row: twenty thousand looks at single cells took most of the time.
    if _PLAIN_ROW.fullmatch(text) and not _LONG_EXPONENT.search(text):
        try:
            return without_codes(np.array([float(cell) for cell in cells]), codes), 0
        except ValueError:
            pass
    values, wrong, words = np.full(len(cells), np.nan), 0, {"", *missing}
    for place, cell in enumerate(cells):
        spelt = cell.strip()
        if NUMBER.fullmatch(spelt):
            values[place] = float(spelt)
        elif spelt not in words:
            wrong += 1
    return without_codes(values, codes), wrong


def number_codes(missing: Sequence[str]) -> list[float]:
    """Return the missing codes that are numbers."""
    return [float(code) for code in missing if NUMBER.fullmatch(code)]


def without_codes(values: NDArray[np.float64], codes: Sequence[float]) -> NDArray[np.float64]:
    """Return values with NaN in the place of missing codes."""
    return np.where(np.isin(values, codes), np.nan, values) if codes else values


def refuse_wrong_genes(wrong: dict[int, int]) -> None:
    """Refuse genes that are not numbers; `wrong` counts them by line.

    Raises:
        DataError: SB-302, says how many, never what.
    """
    if wrong:
        values = counted(
            sum(wrong.values()), "value that is not a number", "values that are no numbers"
        )
        raise DataError(
            "SB-302",
            f"The expression has {values}, in {counted(len(wrong), 'row')}, first in line {min(wrong)}",
        )


class _GeneRows:
    """Collects the genes of one row after another."""

    def __init__(self, expression: Expression, where: dict[str, int]) -> None:
        present = [(i, where[g]) for i, g in enumerate(expression.columns) if g in where]
        self._absent = absent_genes(expression, tuple(where))
        self._width = len(expression.columns)
        self._targets = np.array([target for target, _ in present], dtype=np.int64)
        sources = [source for _, source in present]
        # A first place twice, so that itemgetter gives a tuple for one gene and for none.
        self._pick = itemgetter(0, 0, *sources)
        self._missing = expression.missing
        self._rows: list[NDArray[np.float32]] = []
        self._wrong: dict[int, int] = {}

    def add(self, row: list[str], number: int) -> None:
        """Add the genes of one row of the file."""
        values, wrong = numbers_of(self._pick(row)[2:], self._missing)
        if wrong:
            self._wrong[number] = wrong
        whole = np.full(self._width, np.nan, dtype=np.float32)
        with np.errstate(over="ignore"):  # too large for float32 is too large for any range
            whole[self._targets] = values.astype(np.float32)
        self._rows.append(whole)

    def result(self) -> GeneValues:
        """Return all rows.

        Raises:
            DataError: SB-302, values that are not numbers.
        """
        refuse_wrong_genes(self._wrong)
        shape = (len(self._rows), self._width)
        values = np.stack(self._rows) if self._rows else np.empty(shape, dtype=np.float32)
        return GeneValues(values, self._absent)
