"""Fixtures that all tests share."""

from pathlib import Path

import pytest

from lab import LabHospital


@pytest.fixture
def patients() -> int:
    """How many made-up patients the hospital has."""
    return 60


@pytest.fixture
def hospital(tmp_path: Path, patients: int) -> LabHospital:
    """A hospital of made-up patients with a real vault."""
    return LabHospital(tmp_path / "north", patients=patients)
