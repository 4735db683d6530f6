"""Presets: each makes a study that can be run, costs at most what it promises, and trains in real vaults."""

import datetime as dt
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab import LabHospital, study_document
from solblom_models.accountant import pld_epsilon
from solblom_models.presets import (
    DEFAULT_PRESET,
    PRESETS,
    LearningRateRule,
    Preset,
    find_preset,
    preset_in_rhythm,
)
from solblom_models.statement import Charge, privacy_statement
from solblom_models.study_document import resolve
from solblom_models.templates import TemplateValues, write_template
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.messages.result import Result
from solblom_protocol.studies.study import StudyDocument, load_study

ENDS = dt.date(2099, 12, 31)
each_preset = pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)


def written(folder: Path, preset: Preset, *, tuning: str = "", **privacy: Any) -> Path:
    values = TemplateValues(name="mine", ends=ENDS, preset=preset, tuning=tuning, **privacy)
    return write_template(folder, "tabular-classification", values)


@each_preset
@pytest.mark.parametrize("epsilon", [0.5, 1.0, 8.0])
def test_a_presets_study_can_be_run_and_costs_at_most_what_it_promises(
    tmp_path: Path, preset: Preset, epsilon: float
) -> None:
    document = resolve(*load_study(written(tmp_path, preset, epsilon=epsilon)))
    cost = pld_epsilon(document.all_events, document.study.privacy.delta)
    assert 0.9 * epsilon < cost <= epsilon


@each_preset
def test_a_study_file_says_in_full_what_its_preset_is(tmp_path: Path, preset: Preset) -> None:
    path = written(tmp_path, preset)
    text = path.read_text(encoding="utf-8")
    training, privacy = tomllib.loads(text)["training"], tomllib.loads(text)["privacy"]
    assert f"# Preset {preset.name}:" in text
    assert training["rounds"] == preset.rounds
    assert training["local_steps"] == preset.local_steps
    assert training["server_momentum"] == preset.server_momentum
    assert training["averaging"] == preset.averaging
    assert privacy["sampling_rate"] == preset.sampling_rate
    assert training["expected_batch_size"] == pytest.approx(150 * preset.sampling_rate)


@each_preset
def test_a_study_files_learning_rate_follows_the_presets_rule(
    tmp_path: Path, preset: Preset
) -> None:
    document = resolve(*load_study(written(tmp_path, preset, epsilon=1.0)))
    training = document.study.training
    expected = preset.rule.rate(
        document.noise_multiplier, expected_batch_size=training.expected_batch_size
    )
    assert training.learning_rate == expected


@each_preset
def test_a_preset_trains_in_a_real_vault(tmp_path: Path, preset: Preset) -> None:
    document = lab_document(preset)
    hospital = LabHospital(tmp_path / "north")
    hospital.approve(document)
    reply = hospital.ask(hospital.order(document))
    assert isinstance(reply, Result)
    update = np.frombuffer(reply.update, dtype="<f4")
    assert np.isfinite(update).all()
    assert np.abs(update).max() > 0
    assert hospital.charges() == 1


def lab_document(preset: Preset) -> StudyDocument:
    return study_document(
        training={
            "rounds": preset.rounds,
            "local_steps": preset.local_steps,
            "server_momentum": preset.server_momentum,
            "averaging": preset.averaging,
            "expected_batch_size": 40.0 * preset.sampling_rate,
            "learning_rate": preset.rule.rate(None),
        },
        privacy={"epsilon": 1.0, "sampling_rate": preset.sampling_rate},
    )


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigurationError) as error:
        find_preset("fast")
    assert error.value.code == "SB-103"
    assert "few-large-steps" in f"{error.value} {error.value.hint}"


def test_presets_have_different_names_and_say_what_speaks_for_them() -> None:
    assert len({preset.name for preset in PRESETS}) == len(PRESETS)
    assert all(len(text) > 20 for p in PRESETS for text in (p.does, p.fits, p.evidence))


@pytest.mark.parametrize(
    ("noise", "norm", "rate"), [("4.3970", 1.0, 1.365), ("1.0000", 1.0, 4.0), (None, 2.0, 2.0)]
)
def test_the_learning_rate_follows_from_public_noise(
    noise: str | None, norm: float, rate: float
) -> None:
    assert LearningRateRule().rate(noise, clipping_norm=norm) == rate


def test_a_rule_that_grows_with_the_batch_allows_larger_steps_in_larger_hospitals() -> None:
    rule = LearningRateRule(over_noise=24.0, most=8.0, grows_with_batch=True)
    assert rule.rate("12.0000", expected_batch_size=150) == 2.0
    assert rule.rate("12.0000", expected_batch_size=300) == 4.0
    assert rule.rate("12.0000", expected_batch_size=3000) == 8.0
    fixed = LearningRateRule()
    assert fixed.rate("12.0000", expected_batch_size=300) == 0.5


@each_preset
def test_a_presets_study_is_recognised_by_its_rhythm(tmp_path: Path, preset: Preset) -> None:
    study, _, _ = load_study(written(tmp_path, preset))
    found = preset_in_rhythm(study)
    assert found is not None
    assert found.rule == preset.rule


def test_a_study_in_no_presets_rhythm_gets_no_rule() -> None:
    assert preset_in_rhythm(study_document(privacy={"sampling_rate": 0.37}).study) is None


def test_a_new_study_declares_no_tuning_and_its_statement_says_so(tmp_path: Path) -> None:
    document = resolve(*load_study(written(tmp_path, DEFAULT_PRESET)))
    assert document.study.tuning is None
    assert "not declared by the researcher: treat the settings as tuned on these patients" in line(
        document
    )


def test_a_declared_zero_reads_as_the_researchers_word() -> None:
    assert line(study_document(tuning={"configurations_tried": 0})) == (
        "Choice of settings: none was tried on these patients, says the researcher"
    )


def test_declared_tuning_on_the_same_patients_stands_in_the_statement(tmp_path: Path) -> None:
    tuning = '[tuning]\nconfigurations_tried = 12\ntried_on = "same-patients"\n'
    document = resolve(*load_study(written(tmp_path, DEFAULT_PRESET, tuning=tuning)))
    assert "12 configurations were tried on the same patients" in line(document)


def line(document: StudyDocument) -> str:
    charges = [Charge(1, "a", document.round_event)]
    statement = privacy_statement(document, charges, simulation=False)
    return next(text for text in statement["not_covered"] if text.startswith("Choice of settings"))
