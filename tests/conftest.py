"""Fixtures that all tests share."""

from pathlib import Path

import pytest

from lab import LabHospital


@pytest.fixture
def hospital(tmp_path: Path) -> LabHospital:
    """A hospital of sixty made-up patients with a real vault."""
    return LabHospital(tmp_path / "north")
