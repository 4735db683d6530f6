"""Small contracts with genes, and tables of made-up samples as CSV and as Parquet."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab import CONTRACT
from solblom_protocol.contracts.table import Contract
from solblom_protocol.toml_file import parse

GENES = ("TP53", "MLH1", "HLA-A", "ENSG1.5")
EXPRESSION: dict[str, Any] = {
    "unit": "TPM",
    "minimum": 0.0,
    "maximum": 1e6,
    "columns": list(GENES),
    "max_missing": 0.25,
    "meaning": {"en": "expression", "no": "uttrykk"},
}


def contract_tables(*, variables: bool = False, **changes: Any) -> dict[str, Any]:
    """Return a contract of genes; `changes` are merged into its expression."""
    tables = copy.deepcopy(CONTRACT)
    if not variables:
        del tables["variable"]
    return tables | {"expression": EXPRESSION | changes}


def contract(*, variables: bool = False, **changes: Any) -> Contract:
    """Return a checked contract of genes."""
    return parse(Contract, contract_tables(variables=variables, **changes), source="lab")


def write_samples(path: Path, values: NDArray[np.float64], genes: tuple[str, ...] = GENES) -> Path:
    """Write samples s0, s1, … as CSV, ill in turn; NaN is an empty field."""
    lines = [",".join(["patient_id", *genes, "ill"])]
    for number, row in enumerate(values):
        cells = ["" if np.isnan(v) else repr(float(v)) for v in row]
        lines.append(",".join([f"s{number}", *cells, str(number % 2)]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
