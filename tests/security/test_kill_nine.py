"""kill -9 at every step between reservation and result: the charge is never forgotten, the retry never free."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lab import LabHospital, study_document
from solblom_client import answers as answers_module
from solblom_client import vault as vault_module
from solblom_client.budget import ledger as ledger_module
from solblom_client.store import Store
from solblom_protocol.messages.result import Result


def killed_before(target: Any, name: str) -> Callable[[], None]:
    """Make a process die the moment it would call `target.name`."""

    def arm() -> None:
        def die(*_: object, **__: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(target, name, die)

    return arm


# (point, where the process dies, is the charge on disk by then)
POINTS: list[tuple[str, Callable[[], None], bool]] = [
    ("before the reservation", killed_before(ledger_module.Ledger, "reserve"), False),
    ("before a row is read", killed_before(vault_module, "open_source"), True),
    ("before the work is bound", killed_before(ledger_module.Ledger, "bind"), True),
    ("before training", killed_before(answers_module, "train"), True),
    ("before the export gate", killed_before(answers_module, "export_update"), True),
    ("before the receipt", killed_before(vault_module, "write_result"), True),
    ("before the reply is stored", killed_before(Store, "keep_reply"), True),
    ("before it is marked as spent", killed_before(ledger_module.Ledger, "mark_spent"), True),
]


def die_at(hospital: LabHospital, order: bytes, arm: Callable[[], None]) -> None:
    """Process an order in a child that dies at a point; SQLite must not be shared over a fork."""
    hospital.vault.close()
    torch.set_num_threads(1)  # a child has none of its parent's threads, and would wait for them
    child = os.fork()
    if child == 0:
        arm()
        hospital.open_vault().process(order)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    hospital.vault = hospital.open_vault()
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize(("point", "arm", "charged"), POINTS, ids=[p[0] for p in POINTS])
def test_a_kill_never_loses_a_charge_and_the_retry_is_charged_once(
    hospital: LabHospital, point: str, arm: Callable[[], None], charged: bool
) -> None:
    study = study_document()
    hospital.approve(study)
    order = hospital.order(study)
    die_at(hospital, order, arm)
    assert hospital.charges() == int(charged)
    assert isinstance(hospital.ask(hospital.order(study, attempt=2)), Result)
    assert [entry.status for entry in hospital.vault.ledger.entries()] == ["spent"]


@pytest.mark.slow
def test_a_hundred_kills_in_a_row_never_lose_a_charge(hospital: LabHospital) -> None:
    study = study_document(training={"rounds": 100})
    hospital.approve(study)
    for number in range(1, 101):
        _, arm, _ = POINTS[1 + number % (len(POINTS) - 1)]
        die_at(hospital, hospital.order(study, round=number), arm)
        assert hospital.charges() == number
