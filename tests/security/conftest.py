"""Fixtures of the attacks."""

import pytest

from lab import LabHospital
from security.observer import Observer


@pytest.fixture
def observer(hospital: LabHospital, monkeypatch: pytest.MonkeyPatch) -> Observer:
    """A hospital under attack, with every read of patient rows noted."""
    watched = Observer(hospital)
    watched.watch(monkeypatch)
    return watched
