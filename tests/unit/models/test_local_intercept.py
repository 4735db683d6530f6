"""`local_intercept = true`: the intercept is trained in the vault, under privacy, and never leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load

from lab import LabHospital, study_document
from solblom_client.budget.ledger import STATE_FILE
from solblom_client.state import VaultState
from solblom_client.store import Store
from solblom_models.task import find_task
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.messages.result import Result
from solblom_server.rounds.rounds import initial_model

LOGISTIC = {"model": {"kind": "logistic", "local_intercept": True}}
PERCEPTRON = {"model": {"kind": "mlp", "hidden": [3], "local_intercept": True}}


@pytest.mark.parametrize(
    ("task", "name"), [(LOGISTIC, "linear.bias"), (PERCEPTRON, "layers.1.bias")]
)
def test_the_intercept_is_in_no_layout(task: dict[str, Any], name: str) -> None:
    _, layout = initial_model(study_document(task=task))
    _, whole = initial_model(
        study_document(task={"model": {**task["model"], "local_intercept": False}})
    )
    names = {tensor.name for tensor in whole.tensors}
    assert {tensor.name for tensor in layout.tensors} == names - {name}
    assert name in names


def test_the_vault_keeps_the_intercept_and_sends_the_rest(tmp_path: Path) -> None:
    hospital, study = LabHospital(tmp_path / "north"), study_document(task=LOGISTIC)
    hospital.approve(study)
    reply = hospital.ask(hospital.order(study))
    assert isinstance(reply, Result), reply
    assert len(reply.update) == 4 * 5  # five slopes; six numbers with an intercept
    state = VaultState(hospital.config.state / STATE_FILE)
    kept = load(Store(state).newest_local_parameters(study.digest))
    state.close()
    assert set(kept) == {"linear.bias"}
    assert float(kept["linear.bias"]) != 0
    assert reply.receipt.privacy_event() == study.round_event  # noised and charged like all others


def test_the_intercept_of_another_study_is_not_found(tmp_path: Path) -> None:
    hospital, study = LabHospital(tmp_path / "north"), study_document(task=LOGISTIC)
    hospital.approve(study)
    assert isinstance(hospital.ask(hospital.order(study)), Result)
    state = VaultState(hospital.config.state / STATE_FILE)
    assert Store(state).newest_local_parameters("sha256:" + "0" * 64) == b""
    assert Store(state).newest_local_parameters(study.digest[:-1]) == b""
    state.close()


def test_it_needs_privacy_and_local_noise() -> None:
    with pytest.raises(ConfigurationError, match="nothing is stored without privacy"):
        study_document(task=LOGISTIC, privacy={"epsilon": "off"})


def test_without_the_setting_nothing_stays() -> None:
    study = study_document()
    assert find_task("tabular-classification").local_parameters(study) == frozenset()
    assert np.frombuffer(initial_model(study)[0], "<f4").shape == (6,)
