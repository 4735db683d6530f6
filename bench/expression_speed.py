"""How long 1,000 made-up samples of 20,000 genes take to read and to transform, and in how much memory.

Each reading is a process of its own, so that its peak is its own.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from tcga_study import TARGET

from solblom_models.tabular.data import read_units
from solblom_models.tabular.table_file import read_table
from solblom_protocol.contracts.table import Contract
from solblom_protocol.toml_file import parse

SAMPLES, GENES = 1000, 20_000
KINDS = ("csv", "parquet")


def measure() -> dict[str, dict[str, float]]:
    """Return seconds and megabytes for each kind of file."""
    with tempfile.TemporaryDirectory() as folder:
        write_samples(Path(folder))
        found = {}
        for kind in KINDS:
            command = [sys.executable, __file__, str(Path(folder) / f"samples.{kind}")]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[kind] = json.loads(done.stdout)
    return found


def write_samples(folder: Path) -> None:
    """Write the same samples as CSV and as Parquet; about a seventh of the values are 0."""
    import pyarrow as arrow
    import pyarrow.csv
    import pyarrow.parquet

    rng, names = np.random.default_rng(20261124), genes()
    path = folder / "samples.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join(["patient_id", *names, "msi_high"]) + "\n")
        for number in range(SAMPLES):
            values = rng.gamma(0.5, 30.0, GENES)
            cells = [f"{value:.3f}" if value >= 1 else "0" for value in values]
            file.write(",".join([f"s{number}", *cells, str(number % 2)]) + "\n")
    table: arrow.Table = pyarrow.csv.read_csv(path)
    pyarrow.parquet.write_table(table, folder / "samples.parquet")


def genes() -> list[str]:
    """Return made-up names of genes."""
    return [f"ENSG{number:011d}" for number in range(GENES)]


def contract_of(transform: str) -> Contract:
    """Return the contract of all genes."""
    expression = {
        "unit": "TPM",
        "minimum": 0.0,
        "maximum": 1e6,
        "columns": genes(),
        "transform": transform,
        "meaning": {"en": "expression", "no": "uttrykk"},
    }
    tables = {"name": "speed", "version": 1, "target": TARGET, "expression": expression}
    return parse(Contract, tables, source="bench")


def read_and_transform(path: Path) -> dict[str, float]:
    """Return what one process needs."""
    before = _peak()
    started = time.monotonic()
    table = read_table(path, id_column="patient_id", contract=contract_of("none"))
    found: dict[str, Any] = {"read_seconds": time.monotonic() - started}
    for transform in ("log2", "rank"):
        contract, started = contract_of(transform), time.monotonic()
        if read_units(table, contract).features.shape != (SAMPLES, GENES):
            raise RuntimeError("samples or genes are missing")
        found[f"{transform}_seconds"] = time.monotonic() - started
    return found | {
        "peak_mb": _peak(),
        "peak_before_mb": before,
        "file_mb": path.stat().st_size / 1e6,
    }


def _peak() -> float:
    """Return this process's own peak; that of `getrusage` would begin with its parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


if __name__ == "__main__":
    print(json.dumps(read_and_transform(Path(sys.argv[1]))))
