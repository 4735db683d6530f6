"""The page says of a model only what the verifier would accept, and says that even beside entries that do not hold."""

import contextlib
import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from registry_lab import NOW, STEWARD, Registry
from solblom_server.log.entries import LogEntry, status_given
from solblom_server.registry import life_cycle
from solblom_server.steward.log_reading import later_decisions
from solblom_verify.canonical import parse_canonical
from solblom_verify.trust import load_trust

LATER = NOW + dt.timedelta(hours=1)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def decision(folder: Path, status: str, key: Ed25519PrivateKey) -> LogEntry:
    model = life_cycle.registered_model(folder).model
    return life_cycle._entry(model, status, "trust me", key, NOW)


def said(registry: Registry, folder: Path, *entries: LogEntry) -> list[str]:
    verdict = registry.verify(folder)
    with contextlib.closing(registry.coordinator.log()) as log:
        log.append(*entries)
    trust = load_trust(registry.home / "trust.json")
    return [one.status for one in later_decisions(registry.home, verdict, trust)]


def test_a_stewards_later_decision_is_shown(registry: Registry) -> None:
    folder = registry.add()
    assert said(registry, folder, decision(folder, "withdrawn", STEWARD)) == ["withdrawn"]


def test_a_release_that_the_coordinator_alone_signed_is_not_shown(registry: Registry) -> None:
    folder = registry.add()
    alone = decision(folder, "released", registry.coordinator.signing)
    assert said(registry, folder, alone) == []


def test_a_decision_that_was_logged_at_another_time_is_not_shown(registry: Registry) -> None:
    folder = registry.add()
    entry = decision(folder, "released", STEWARD)
    read: Any = parse_canonical(entry.text.encode())
    moved = status_given(
        artefact=life_cycle.registered_model(folder).model.artefact,
        envelope=read["envelope"],
        time=f"{LATER:%Y-%m-%dT%H:%M:%SZ}",
    )
    assert said(registry, folder, moved) == []


def test_an_entry_that_does_not_hold_hides_no_withdrawal(registry: Registry) -> None:
    folder = registry.add()
    alone = decision(folder, "released", registry.coordinator.signing)
    assert said(registry, folder, alone, decision(folder, "withdrawn", STEWARD)) == ["withdrawn"]
