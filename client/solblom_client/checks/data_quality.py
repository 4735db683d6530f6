"""Looks at a hospital's data that no order ever takes: missing values, doubles, leaks. Pure; counts stay inside."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from solblom_models.metrics import auroc
from solblom_models.tabular.data import encode_variable, is_missing
from solblom_models.tabular.table_file import Table
from solblom_protocol.contracts.table import CategoryVariable, Contract, Variable
from solblom_protocol.errors import DataError

MANY_MISSING = 0.3
LEAK_AUROC = 0.98  # one variable alone: almost always made after, or from, the outcome
LEAST_OF_A_CLASS = 5  # fewer separate by chance too often to say anything


def missing_shares(table: Table, contract: Contract) -> dict[str, float]:
    """Return the share of rows without a value, by variable."""
    rows = max(len(table.ids), 1)
    return {
        variable.name: sum(is_missing(variable, cell) for cell in table.columns[variable.column])
        / rows
        for variable in contract.variable
        if variable.column in table.columns
    }


def wrong_values(table: Table, contract: Contract) -> tuple[str, ...]:
    """Return what is wrong with each variable's values, a line each; counts and lines, never a value."""
    found = []
    for variable in contract.variable:
        if variable.column in table.columns:
            try:
                encode_variable(variable, table.columns[variable.column])
            except DataError as error:
                found.append(error.message)
    return tuple(found)


def identical_rows(table: Table, contract: Contract) -> tuple[int, float]:
    """Return pairs of patients whose rows are the same in all columns, and how many chance alone would make.

    Chance: columns independent, each with the frequencies that it has here.
    """
    columns = [table.columns[name] for name in contract.columns if name in table.columns]
    count = len(table.ids)
    genes = None if table.genes is None else table.genes.values
    rows = Counter(
        (cells, b"" if genes is None else genes[place].tobytes())
        for place, cells in enumerate(zip(*columns, strict=True))
    )
    pairs = sum(number * (number - 1) // 2 for number in rows.values())
    all_pairs = max(count * (count - 1) / 2, 1.0)
    alike = 0.0 if genes is not None and genes.shape[1] else 1.0
    for cells in columns:
        alike *= sum(n * (n - 1) / 2 for n in Counter(cells).values()) / all_pairs
    return pairs, alike * all_pairs


def more_than_chance(pairs: int, expected: float) -> bool:
    """Tell whether identical rows are worth a person's look."""
    return pairs > max(5 * expected, 0.5)


def leaks(
    table: Table, contract: Contract, labels: NDArray[np.int64], rows: Sequence[int]
) -> dict[str, float]:
    """Return the variables that alone separate the labels of these rows, with their area under the curve."""
    found = {}
    chosen = np.asarray(rows, dtype=np.int64)
    for variable in contract.variable:
        cells = [table.columns[variable.column][row] for row in rows]
        area = _best_area(variable, cells, labels[chosen])
        if area > LEAK_AUROC:
            found[variable.name] = area
    if table.genes is not None and contract.expression is not None:
        for place, gene in enumerate(contract.expression.columns):
            values = table.genes.values[chosen, place].astype(np.float64)
            known = ~np.isnan(values)
            area = _area(labels[chosen][known], values[known])
            if area > LEAK_AUROC:
                found[f"gene {gene}"] = area
    return found


def column_leaks(features: NDArray[np.float32], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return the columns of features (N, D) that alone separate the labels; for sources that are no tables."""
    areas = [_area(labels, features[:, column]) for column in range(features.shape[1])]
    return {f"feature {n}": area for n, area in enumerate(areas, start=1) if area > LEAK_AUROC}


def enough_of_both(labels: NDArray[np.int64]) -> bool:
    """Tell whether areas under the curve say anything about these labels."""
    positives = int((labels == 1).sum())
    return min(positives, len(labels) - positives) >= LEAST_OF_A_CLASS


def _best_area(variable: Variable, cells: list[str], labels: NDArray[np.int64]) -> float:
    """Return the larger of what the values say, and what it says that there is a value at all."""
    absent = np.array([is_missing(variable, cell) for cell in cells], dtype=np.float64)
    there = _area(labels, absent)
    if isinstance(variable, CategoryVariable):
        scores = _left_out_rate(cells, labels)
        return max(there, float(auroc(labels, scores)) if enough_of_both(labels) else 0.5)
    return max(there, _area(labels, encode_variable(variable, cells)[:, 0]))


def _area(labels: NDArray[np.int64], scores: NDArray[np.float64] | NDArray[np.float32]) -> float:
    if not enough_of_both(labels):
        return 0.5
    area = auroc(labels, np.asarray(scores, dtype=np.float64))
    return max(area, 1.0 - area)


def _left_out_rate(cells: list[str], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for each row how often the others of its level are positive; rare levels show nothing by themselves."""
    total = Counter(cells)
    positive = Counter(cell for cell, label in zip(cells, labels, strict=True) if label == 1)
    overall = float(labels.mean())
    return np.array(
        [
            (positive[cell] - label) / (total[cell] - 1) if total[cell] > 1 else overall
            for cell, label in zip(cells, labels.tolist(), strict=True)
        ]
    )
