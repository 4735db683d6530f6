"""From a table of text to features, by the data contract and its public constants alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.patient_id import check_ids
from solblom_models.tabular.expression import encode_genes
from solblom_models.tabular.table_file import NUMBER, Table
from solblom_protocol.contracts.kinds import contract_as
from solblom_protocol.contracts.table import (
    BooleanVariable,
    CategoryVariable,
    Contract,
    NumberVariable,
    Target,
    Variable,
)
from solblom_protocol.errors import DataError
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.wording import counted

LIMIT = 3.0  # standardised numbers are limited to ±3, so that one odd value cannot rule a gradient


@dataclass(frozen=True)
class TableUnits:
    """Patients of a table as features, shape (N, D) float32, and labels, shape (N,).

    `groups` holds each patient's family where node.toml names a column for it, `notes` what harmonising counted.
    """

    ids: tuple[str, ...]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    positive_weight: float = 1.0  # public weight of a positive patient's loss
    groups: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict, repr=False)
    notes: Mapping[str, int] = field(default_factory=dict, repr=False)

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return features (B, D), labels (B,) and loss weights (B,) of these patients."""
        chosen = np.asarray(indices, dtype=np.int64)
        labels = torch.from_numpy(self.labels[chosen].astype(np.float32))
        weights = 1.0 + (self.positive_weight - 1.0) * labels
        return torch.from_numpy(self.features[chosen]), labels, weights

    def select(self, indices: Sequence[int]) -> "TableUnits":
        """Return these patients only."""
        chosen = np.asarray(indices, dtype=np.int64)
        return TableUnits(
            tuple(self.ids[i] for i in chosen),
            self.features[chosen],
            self.labels[chosen],
            self.positive_weight,
            {kind: tuple(of[i] for i in indices) for kind, of in self.groups.items()},
        )

    def row_bytes(self, index: int) -> bytes:
        """Return the patient's features, label and groups as bytes."""
        row: bytes = self.features[index].astype("<f4").tobytes()
        groups = "".join(f"{kind}\0{of[index] or ''}\0" for kind, of in sorted(self.groups.items()))
        return row + bytes([int(self.labels[index])]) + groups.encode("utf-8", "surrogatepass")


def table_contract(document: StudyDocument) -> Contract:
    """Return the contract of a study on tables.

    Raises:
        ConfigurationError: SB-106, it is one of something else.
    """
    return contract_as(Contract, document.contract, task=document.study.task.name)


def feature_names(contract: Contract) -> tuple[str, ...]:
    """Return the names of the net's inputs, in order."""
    names: list[str] = []
    for variable in contract.variable:
        if isinstance(variable, CategoryVariable):
            names.extend(f"{variable.name}={level}" for level in variable.levels)
        else:
            names.append(variable.name)
    if contract.expression is not None:
        names.extend(contract.expression.feature_names)
    return tuple(names)


def read_units(table: Table, contract: Contract) -> TableUnits:
    """Return the table's patients as features and labels.

    Raises:
        DataError: SB-301 missing column, SB-302 wrong type, SB-303 out of range, SB-304 patient
        twice, SB-312 too many genes missing.
    """
    check_ids(table.ids)
    features = encode(table, contract)
    groups = {} if table.families is None else {"family": table.families}
    labels = labels_of(table, contract.target)
    return TableUnits(table.ids, features, labels, groups=groups, notes=table.notes)


def read_inputs(table: Table, contract: Contract) -> TableUnits:
    """Return rows without a label (shown as 0), for prediction.

    Raises:
        DataError: SB-301, SB-302, SB-303 or SB-312.
    """
    return TableUnits(table.ids, encode(table, contract), np.zeros(len(table.ids), dtype=np.int64))


def encode(table: Table, contract: Contract) -> NDArray[np.float32]:
    """Return the features, shape (N, D), by the contract's public constants: variables, then expression.

    Raises:
        DataError: SB-301, SB-302, SB-303 or SB-312.
    """
    needed = [variable.column for variable in contract.variable]
    missing = sorted(set(needed) - set(table.columns))
    if missing:
        raise DataError(
            "SB-301", f"The table lacks {counted(len(missing), 'column')}: {', '.join(missing)}"
        )
    blocks: list[NDArray[np.float32]] = [
        encode_variable(variable, table.columns[variable.column]).astype(np.float32)
        for variable in contract.variable
    ]
    if contract.expression is not None:
        blocks.append(encode_genes(table.genes, contract.expression, limit=LIMIT))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1)


def encode_variable(variable: Variable, cells: Sequence[str]) -> NDArray[np.float64]:
    """Return one variable's features, shape (N, d).

    Raises:
        DataError: SB-302 or SB-303.
    """
    if isinstance(variable, NumberVariable):
        return _numbers(variable, cells)[:, None]
    if isinstance(variable, BooleanVariable):
        codes = dict.fromkeys(variable.true, variable.scale)
        codes |= dict.fromkeys(variable.false, -variable.scale)
        return np.array([[_lookup(variable, codes, cell)] for cell in cells]).reshape(-1, 1)
    return _one_hot(variable, cells)


def _numbers(variable: NumberVariable, cells: Sequence[str]) -> NDArray[np.float64]:
    values = np.zeros(len(cells))
    wrong: list[int] = []
    outside: list[int] = []
    for row, cell in enumerate(cells, start=2):
        if is_missing(variable, cell):
            continue
        if not NUMBER.fullmatch(cell):
            wrong.append(row)
            continue
        number = float(cell)
        if not variable.minimum <= number <= variable.maximum:
            outside.append(row)
        # Plain Python: np.clip on single numbers took most of the time to read a table.
        values[row - 2] = min(max((number - variable.center) / variable.scale, -LIMIT), LIMIT)
    _refuse(variable, "SB-302", "is not a number", wrong)
    limits = f"is outside {variable.minimum:g} to {variable.maximum:g} {variable.unit}"
    _refuse(variable, "SB-303", limits, outside, _unit_hint(variable))
    return values


def _one_hot(variable: CategoryVariable, cells: Sequence[str]) -> NDArray[np.float64]:
    position = {level: float(index) for index, level in enumerate(variable.levels)}
    block = np.zeros((len(cells), len(variable.levels)))
    for row, cell in enumerate(cells):
        if not is_missing(variable, cell):
            block[row, int(_lookup(variable, position, cell))] = variable.scale
    return block


def _lookup(variable: Variable, codes: dict[str, float], cell: str) -> float:
    if is_missing(variable, cell):
        return 0.0
    if cell not in codes:
        raise DataError("SB-302", f"`{variable.column}` has a code that the contract does not list")
    return codes[cell]


def is_missing(variable: Variable, cell: str) -> bool:
    """Tell whether a field is empty or holds one of the variable's missing codes."""
    return cell == "" or cell in variable.missing


def _unit_hint(variable: NumberVariable) -> str | None:
    """Say where a hospital's own unit is declared, where the contract accepts one."""
    if not variable.accepts:
        return None
    units = " or ".join(other.unit for other in variable.accepts)
    return (
        f"If the column is in {units}, say so in node.toml below [[dataset]]: "
        f'units = {{ {variable.name} = "{variable.accepts[0].unit}" }}; else correct the values'
    )


def _refuse(
    variable: Variable, code: str, what: str, rows: list[int], hint: str | None = None
) -> None:
    if rows:
        raise DataError(
            code,
            f"`{variable.column}` {what} in {counted(len(rows), 'row')}, first in line {rows[0]}",
            hint,
        )


def labels_of(table: Table, target: Target) -> NDArray[np.int64]:
    """Return each row's label, 1 yes and 0 no.

    Raises:
        DataError: SB-301 no such column, SB-302 a code that the contract does not list.
    """
    if target.column not in table.columns:
        raise DataError("SB-301", f"The table lacks the target column {target.column}")
    codes = target.codes
    cells = table.columns[target.column]
    unknown = [row for row, cell in enumerate(cells, start=2) if cell not in codes]
    if unknown:
        raise DataError(
            "SB-302",
            f"The target `{target.column}` has no known code in {counted(len(unknown), 'row')}, "
            f"first in line {unknown[0]}",
        )
    return np.array([codes[cell] for cell in cells], dtype=np.int64)
