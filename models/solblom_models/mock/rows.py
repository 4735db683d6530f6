"""Made-up rows of a table. Every value is drawn by itself, so nothing can be learned from them but that code runs."""

import math
import random
from collections.abc import Sequence

import numpy as np

from solblom_protocol.contracts.expression import Expression
from solblom_protocol.contracts.table import BooleanVariable, CategoryVariable, Contract, Variable

MISSING_RATE = 0.05
POSITIVE_RATE = 0.4
ID_COLUMN = "patient_id"


def mock_id(number: int) -> str:
    """Return the id of a made-up patient, which no hospital's patient has."""
    return f"mock-{number:06d}"


def mock_rows(contract: Contract, patients: int, seed: int) -> tuple[list[str], list[list[str]]]:
    """Return header and rows of a table that obeys the contract; both labels occur from two patients on."""
    columns: dict[str, Variable] = {}
    for variable in contract.variable:
        columns.setdefault(variable.column, variable)
    genes = () if contract.expression is None else contract.expression.columns
    header = [ID_COLUMN, *columns, *genes, contract.target.column]
    rows = []
    for number in range(patients):
        draw = random.Random(f"solblom mock {seed} {number}")  # noqa: S311 - made-up patients
        cells = [_cell(variable, draw) for variable in columns.values()]
        if contract.expression is not None:
            cells += _genes(contract.expression, draw)
        rows.append([mock_id(number), *cells, _label(contract, number, draw)])
    return header, rows


def mock_label(positive: Sequence[str], negative: Sequence[str], draw: random.Random) -> str:
    """Return a code that means yes, four times in ten, or one that means no."""
    return draw.choice(positive if draw.random() < POSITIVE_RATE else negative)


def _label(contract: Contract, number: int, draw: random.Random) -> str:
    """Return a label; the first two patients have one of each, so that the smallest table has both."""
    target = contract.target
    if number < 2:
        return draw.choice(target.negative if number else target.positive)
    return mock_label(target.positive, target.negative, draw)


def _cell(variable: Variable, draw: random.Random) -> str:
    if draw.random() < MISSING_RATE:
        return draw.choice(("", *variable.missing))
    if isinstance(variable, CategoryVariable):
        return draw.choice(variable.levels)
    if isinstance(variable, BooleanVariable):
        return draw.choice(variable.true if draw.random() < 0.5 else variable.false)
    value = draw.gauss(variable.center, variable.scale)
    text = _number(value, variable.minimum, variable.maximum, variable.scale)
    # A value must not read as one of the missing codes, such as 9 or -1.
    return f"{text}.0" if text in variable.missing and "." not in text else text


def _number(value: float, minimum: float, maximum: float, scale: float) -> str:
    """Return a number within its range, with as many decimals as its spread calls for."""
    decimals = max(0, 2 - math.floor(math.log10(scale)))
    text = f"{min(max(value, minimum), maximum):.{decimals}f}"
    if minimum <= float(text) <= maximum:
        return text
    return repr(minimum if float(text) < minimum else maximum)


def _genes(expression: Expression, draw: random.Random) -> list[str]:
    """Return one value for each gene as it stands in a table, before the transform; few are missing."""
    generator = np.random.default_rng(draw.getrandbits(64))
    count = len(expression.columns)
    values = _values(expression, generator, count)
    lacking = generator.random(count) < expression.max_missing / 4
    if lacking.sum() > expression.max_missing * count / 2:
        lacking[:] = False
    code = expression.missing[0] if expression.missing else ""
    return [
        code if absent else f"{value:.6g}"
        for value, absent in zip(values.tolist(), lacking.tolist(), strict=True)
    ]


def _values(
    expression: Expression, generator: np.random.Generator, count: int
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    low, high = expression.minimum, expression.maximum
    if expression.transform == "rank":  # only the order counts
        values = low + (min(high, low + 1e6) - low) * generator.random(count)
    else:
        values = generator.normal(
            np.asarray(expression.center), np.asarray(expression.scale), count
        )
        if expression.transform == "log2":
            values = np.exp2(np.minimum(values, 60.0)) - 1.0
    # Six digits may round past a limit: stay a little inside.
    room = (high - low) * 1e-5
    return np.clip(values, low + room, high - room)
