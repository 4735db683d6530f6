"""Parquet is read inside the vault's process behind its walls, and gives the very update that CSV gives."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lab import LabHospital
from solblom_protocol.messages.result import Result
from vault_process import (
    FULL_LEVEL,
    hospital_of_today,
    reachable_level,
    running_vault,
    short_folder,
)


def to_parquet(hospital: LabHospital) -> None:
    """Keep the hospital's patients as Parquet from now on, codes as numbers."""
    rows = hospital.rows
    columns = {
        name: [int(row[name]) if row[name].isdigit() else row[name] for row in rows]
        for name in rows[0]
    }
    pq.write_table(pa.table(columns), hospital.folder / "patients.parquet")
    (hospital.folder / "patients.csv").unlink()
    node = hospital.folder / "node.toml"
    text = node.read_text(encoding="utf-8")
    assert text.count("patients.csv") == 1
    node.write_text(text.replace("patients.csv", "patients.parquet"), encoding="utf-8")


def test_the_isolated_process_reads_parquet_and_answers_as_from_csv() -> None:
    if reachable_level() != FULL_LEVEL:
        pytest.skip(f"this machine grants {reachable_level()}")
    with short_folder() as folder:
        hospital, study = hospital_of_today(folder)
        order = hospital.order(study)
        state = snapshot(hospital.config.state)
        vault = hospital.open_vault()
        from_csv = hospital.read(vault.process(order))
        vault.close()
        restore(hospital.config.state, state)
        to_parquet(hospital)
        with running_vault(folder) as process:
            answer = hospital.read(process.wait_until_ready().client.process(order))
    assert isinstance(from_csv, Result)
    assert isinstance(answer, Result)
    assert answer.update == from_csv.update
    assert answer.receipt.work == from_csv.receipt.work


def snapshot(state: Path) -> dict[Path, bytes]:
    """Return the files of a state, and of the anchors beside it."""
    anchors = [path for path in state.parent.glob("anchor.json*") if path.is_file()]
    inside = [path for path in state.rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in (*inside, *anchors)}


def restore(state: Path, files: dict[Path, bytes]) -> None:
    """Put a state back as it was, with the anchors beside it, or they would show the rollback."""
    for path in (*state.rglob("*"), *state.parent.glob("anchor.json*")):
        if path.is_file() and path not in files:
            path.unlink()
    for path, data in files.items():
        path.write_bytes(data)
