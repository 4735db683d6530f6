"""Fixtures that all tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fixed_secrets import fixed_secrets
from lab import LabHospital


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Draw secrets from the test's name: who is split off and how noise falls is the same every time."""
    with fixed_secrets(item.nodeid):
        return (yield)


@pytest.fixture
def patients() -> int:
    """How many made-up patients the hospital has."""
    return 60


@pytest.fixture
def hospital(tmp_path: Path, patients: int) -> LabHospital:
    """A hospital of made-up patients with a real vault."""
    return LabHospital(tmp_path / "north", patients=patients)
