"""What the operating system saw: the reservation was synced to disk before the patients' file was opened."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab import LabHospital, study_document

PROCESS = """
import sys
from pathlib import Path
from lab import NOW
from solblom_client.vault import Vault
vault = Vault.open(Path(sys.argv[1]), clock=lambda: NOW)
vault.process(Path(sys.argv[2]).read_bytes())
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_the_reservation_is_synced_before_the_first_row_is_read(hospital: LabHospital) -> None:
    study = study_document()
    hospital.approve(study)
    order = hospital.folder / "order.sealed"
    order.write_bytes(hospital.order(study))
    hospital.vault.close()
    trace = hospital.folder / "trace.txt"
    command = ["strace", "-f", "-y", "-e", "trace=openat,fsync,fdatasync", "-o", str(trace)]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    subprocess.run(
        [*command, sys.executable, "-c", PROCESS, str(hospital.folder), str(order)],
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=120,
    )
    hospital.vault = hospital.open_vault()
    calls = trace.read_text().splitlines()
    rows = next(i for i, line in enumerate(calls) if "patients.csv" in line)
    synced = [
        i for i, line in enumerate(calls) if re.search(r"f(data)?sync\(\d+<.*vault\.sqlite>", line)
    ]
    # One transaction comes first: the charge, that the order was seen, and what the log has to say of both.
    assert any(index < rows for index in synced)
    assert hospital.charges() == 1
