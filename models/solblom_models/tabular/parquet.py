"""Parquet tables with the meaning of CSV: the same patients give the same features from either.

A column's values become the text that a CSV would hold: whole numbers without a decimal point, other numbers in
their shortest spelling, `true` and `false`, dates as 2026-11-24. Null and NaN are missing. Genes stay numbers.
"""

import datetime as dt
import decimal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.patient_id import patient_id
from solblom_models.tabular.table_file import (
    MAX_CELL_CHARACTERS,
    GeneValues,
    Table,
    absent_genes,
    check_header,
    number_codes,
    numbers_of,
    refuse_wrong_genes,
    text_columns,
    without_codes,
)
from solblom_protocol.contracts.expression import Expression
from solblom_protocol.contracts.table import Contract
from solblom_protocol.errors import ConfigurationError, DataError

EXACT_INTEGERS = 2**53  # doubles below are whole numbers without a gap


def read_parquet(
    path: Path, *, id_column: str, contract: Contract | None, family_column: str | None = None
) -> Table:
    """Read the contract's columns of a Parquet file; see `read_table`."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ConfigurationError(
            "SB-118",
            "Parquet tables need the package pyarrow, which is not installed",
            "pip install 'solblom-models[parquet]'",
        ) from None
    try:
        # One thread and no memory map: a vault reads, and shares nothing with other programs.
        with parquet.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
            header = tuple(str(name) for name in file.schema_arrow.names)
            check_header(header, id_column, family_column)
            texts = text_columns(header, id_column, contract, family_column)
            expression = None if contract is None else contract.expression
            known = set(header)
            genes = [] if expression is None else [g for g in expression.columns if g in known]
            _check_types(file.schema_arrow, [id_column, *texts], genes)
            found = file.read(columns=[id_column, *texts, *genes], use_threads=False)
    except FileNotFoundError:
        raise DataError("SB-307", f"The table {path} is not there") from None
    except (OSError, arrow.ArrowException):
        raise DataError("SB-307", "The table cannot be read as Parquet") from None
    return Table(
        tuple(patient_id(text) for text in _texts(found[id_column])),
        {name: _texts(found[name]) for name in texts},
        None if expression is None else _genes(found, expression, header),
    )


def _check_types(schema: Any, texts: list[str], genes: list[str]) -> None:
    """Refuse columns that no CSV could hold.

    Raises:
        DataError: SB-302, names column and type.
    """
    import pyarrow.types as kinds

    plain: tuple[Callable[[Any], bool], ...] = (
        *(kinds.is_string, kinds.is_large_string, kinds.is_integer, kinds.is_floating),
        *(kinds.is_decimal, kinds.is_null),
    )
    for name in [*texts, *genes]:
        kind = schema.field(name).type
        if kinds.is_dictionary(kind):
            kind = kind.value_type
        known = any(check(kind) for check in plain)
        if name in texts:
            known = known or kinds.is_boolean(kind) or kinds.is_date(kind)
        if not known:
            nested = "nested " if kinds.is_nested(kind) else ""
            raise DataError(
                "SB-302", f"`{name}` is a {nested}column of type {kind}, which a table cannot have"
            )


def _texts(column: Any) -> tuple[str, ...]:
    """Return a column as the text that a CSV would hold."""
    import pyarrow.types as kinds

    if kinds.is_floating(column.type):
        values = column.to_numpy()  # null becomes NaN
        return tuple(_number_text(value) for value in values)
    return tuple(_text(value) for value in column.to_pylist())


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _number_text(np.float64(value))
    if isinstance(value, decimal.Decimal):
        return _decimal_text(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    return str(value).strip()[:MAX_CELL_CHARACTERS]


def _decimal_text(value: decimal.Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _number_text(value: "np.floating[Any]") -> str:
    """Return the shortest spelling of a number in its own precision: float32 .1 is 0.1."""
    if np.isnan(value):
        return ""
    if np.isinf(value):
        return "inf"  # no contract knows it: refused as not a number
    if value == np.trunc(value) and abs(value) < EXACT_INTEGERS:
        return str(int(value))
    return str(value)


def _genes(found: Any, expression: Expression, header: tuple[str, ...]) -> GeneValues:
    """Return the genes, column by column, in the contract's order.

    Raises:
        DataError: SB-302, values that are not numbers.
    """
    values = np.full((found.num_rows, len(expression.columns)), np.nan, dtype=np.float32)
    wrong = np.zeros(found.num_rows, dtype=np.int64)
    present = set(header)
    for place, gene in enumerate(expression.columns):
        if gene in present:
            column, bad = _gene(found[gene], expression.missing)
            values[:, place] = column
            wrong += bad
    refuse_wrong_genes({int(row) + 2: int(wrong[row]) for row in np.nonzero(wrong)[0]})
    return GeneValues(values, absent_genes(expression, header))


def _gene(column: Any, missing: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return one gene, shape (N,), and which of its rows hold something else than a number."""
    import pyarrow.types as kinds

    if kinds.is_floating(column.type) or kinds.is_integer(column.type):
        numbers = np.asarray(column.to_numpy(), dtype=np.float64)  # null becomes NaN
        wrong = np.isinf(numbers).astype(np.int64)
        numbers = without_codes(numbers, number_codes(missing))
    else:
        cells = [numbers_of([cell], missing) for cell in _texts(column)]
        numbers = np.array([value[0] for value, _ in cells])
        wrong = np.array([count for _, count in cells], dtype=np.int64)
    with np.errstate(over="ignore"):  # too large for float32 is too large for any range
        return numbers.astype(np.float32), wrong
