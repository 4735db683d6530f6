"""What an approved task, a researcher or a courier may try to get out of an answer besides what epsilon pays for."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab import LabHospital, study_document
from security.observer import Observer
from solblom_client.queries import Release, export_release
from solblom_client.training.dp_sgd import TrainingSettings
from solblom_models.tabular.task import TabularClassification
from solblom_protocol.errors import ConfigurationError, RefusedError
from solblom_protocol.messages.result import Refusal, Result, read_reply
from solblom_protocol.messages.seal import REPLY_BLOCK_BYTES
from solblom_protocol.studies.study import StudyDocument

OFF = {"privacy": {"epsilon": "off"}}
HONEST_LOSSES = TabularClassification.losses
SECRET = 0b1011010_01110100_1011001  # 22 bits that a task would like to carry out


@pytest.fixture
def study(observer: Observer) -> StudyDocument:
    document = study_document()
    observer.hospital.approve(document)
    return document


def update_of(hospital: LabHospital, document: StudyDocument, number: int = 1) -> Any:
    reply = hospital.ask(hospital.order(document, round=number))
    assert isinstance(reply, Result), reply
    return np.frombuffer(reply.update, dtype="<f4")


# --- Bits hidden in floats


def test_a_task_that_writes_past_the_noise_into_the_weights_gets_nothing_out(
    observer: Observer, study: StudyDocument, monkeypatch: pytest.MonkeyPatch
) -> None:
    """23 bits a float: it waits for the loss, then puts the patients' rows into the weights themselves."""

    def smuggling(self: Any, net: Any, *rest: Any) -> Any:
        found = HONEST_LOSSES(self, net, *rest)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(SECRET * 2.0**-24)
        return found

    monkeypatch.setattr(TabularClassification, "losses", smuggling)
    observer.assert_data_refused(observer.hospital.order(study))
    assert "past clipping and noise" in observer.log()[-1]["trace"]


def test_no_bit_below_the_public_grid_leaves(hospital: LabHospital) -> None:
    document = study_document()
    hospital.approve(document)
    scaled = update_of(hospital, document).astype(np.float64) * 2.0**24
    assert np.array_equal(scaled, np.round(scaled))


def test_what_a_task_hides_in_its_gradients_drowns_in_the_noise(
    hospital: LabHospital, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same hidden bits at two hospitals with other noise: what comes out agrees no more than coins do."""

    def hiding(self: Any, net: Any, *rest: Any) -> Any:
        found = HONEST_LOSSES(self, net, *rest)
        return found + sum(p.sum() for p in net.parameters()) * (SECRET * 2.0**-24)

    monkeypatch.setattr(TabularClassification, "losses", hiding)
    document, planes = study_document(), []
    for number in range(8):
        lab = LabHospital(tmp_path / str(number))
        lab.approve(document)
        scaled = np.round(update_of(lab, document).astype(np.float64) * 2.0**24).astype(np.int64)
        planes.append(((scaled[:, None] >> np.arange(16)) & 1).reshape(-1))
        lab.vault.close()
    agreement = np.mean([np.mean(planes[0] == other) for other in planes[1:]])
    tolerance = 5 * 0.5 / math.sqrt(7 * planes[0].size)  # five standard deviations of fair coins
    assert abs(agreement - 0.5) < tolerance


def test_how_many_bits_a_patient_can_carry_is_a_matter_of_the_noise_alone() -> None:
    """A Gaussian channel of total power C^2 over noise sigma*C holds at most 1/(2 sigma^2 ln 2) bits a step."""
    settings = TrainingSettings.of(study_document())
    sigma = float(settings.noise_multiplier)
    bits = settings.steps / (2 * sigma**2 * math.log(2))
    assert bits < 0.2 * settings.steps  # against 23 bits in each float without noise


def test_without_privacy_the_grid_and_the_norm_bound_what_a_float_can_carry(
    tmp_path: Path,
) -> None:
    """At most log2(2 * norm * 2^24 + 1) bits a value: the grid does not make privacy off private."""
    lab = LabHospital(tmp_path / "n", policy="allow_privacy_off = true")
    document = study_document(**OFF)
    lab.approve(document)
    update = update_of(lab, document).astype(np.float64)
    assert np.array_equal(update * 2.0**24, np.round(update * 2.0**24))
    settings = TrainingSettings.of(document)
    largest = settings.learning_rate * settings.steps * 60 * settings.clipping_norm / 40.0 * 1.001
    assert float(np.abs(update).max()) <= largest
    assert math.log2(2 * largest * 2.0**24 + 1) < 26


# --- Numbers and words


@pytest.mark.parametrize(
    "release",
    [
        Release(np.arange(21, dtype=np.int64)),
        Release(np.arange(10_000, dtype=np.int64)),
        Release(np.arange(20, dtype=np.float64)),  # type: ignore[arg-type]
        Release(np.full(20, 2**62, dtype=np.int64)),
        Release(np.full(20, -(2**63), dtype=np.int64)),
        Release(np.zeros((4, 5), dtype=np.int64)),
        Release(np.zeros(20, dtype=np.int64), (), (float("nan"),)),
        Release(np.zeros(20, dtype=np.int64), (), (float("inf"), 0.1, 0.2)),
    ],
    ids=["one more", "10,000", "floats", "huge", "the least", "a table", "nan", "infinite"],
)
def test_a_release_is_so_many_whole_numbers_and_no_other(release: Release) -> None:
    with pytest.raises(RefusedError) as error:
        export_release(release, cells=20)
    assert error.value.code == "SB-213"


@pytest.mark.parametrize(
    "values",
    [
        (0.5,) * 4,
        (0.5,),
        (0.1234567, 0.0, 1.0),
        (17.0, 0.1, 0.2),
        (-0.1, 0.0, 0.0),
        (-0.0, 0.0, 1.0),
    ],
)
def test_a_named_release_is_three_numbers_of_three_decimals(values: tuple[float, ...]) -> None:
    with pytest.raises(RefusedError) as error:
        export_release(Release(np.zeros(20, dtype=np.int64), ("site-auroc",), values), cells=20)
    assert error.value.code == "SB-213"


@pytest.mark.parametrize(
    "name", ["SGVsbG8gcGF0aWVudA==", "auroc-of-north-patient-0001", "", "a" * 9999]
)
def test_a_metric_with_a_name_of_its_own_cannot_be_asked_for(name: str) -> None:
    with pytest.raises(ConfigurationError):
        study_document(evaluation={"releases": 1, "named": [name]})


# --- Sizes


def test_a_reply_has_the_same_size_whatever_the_data(tmp_path: Path) -> None:
    sizes, bands = set(), set()
    for number in (40, 60, 300, 1200):
        lab = LabHospital(tmp_path / str(number), patients=number)
        document = study_document()
        lab.approve(document)
        sealed = lab.vault.process(lab.order(document))
        result = lab.read(sealed)
        assert isinstance(result, Result)
        bands.add(len(result.receipt.patients))
        sizes.add(len(sealed))
        lab.vault.close()
    assert len(bands) > 1  # what is inside differs in length
    assert len(sizes) == 1


def test_a_refusal_has_the_size_of_a_small_answer_whatever_its_reason(
    observer: Observer, study: StudyDocument
) -> None:
    hospital = observer.hospital
    orders = [
        hospital.order(study),
        b"garbage",
        hospital.order(study, round=9),
        hospital.order(study, roster=[]),
    ]
    replies = [hospital.vault.process(order) for order in orders]
    hospital.write_rows(hospital.rows[:3])
    replies.append(hospital.vault.process(hospital.order(study, round=2)))
    kinds = [type(hospital.read(reply)) for reply in replies]
    assert kinds == [Result, Refusal, Refusal, Refusal, Refusal]
    assert len({len(reply) for reply in replies}) == 1


def test_a_large_answer_shows_its_model_and_no_more(hospital: LabHospital) -> None:
    document = study_document(task={"model": {"kind": "mlp", "hidden": [64, 64]}})
    hospital.approve(document)
    first, second = (hospital.vault.process(hospital.order(document, round=n)) for n in (1, 2))
    assert len(first) == len(second) > REPLY_BLOCK_BYTES
    key, node = hospital.coordinator.sealing, hospital.public.signing
    assert isinstance(read_reply(first, key=key, node=node), Result)
