"""A hospital's own intercept: the likeliest one, finite always, and readable by nobody else's model."""

import datetime as dt
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from solblom_models.recalibration import (
    Recalibration,
    fit_recalibration,
    read_recalibration,
    write_recalibration,
)
from solblom_protocol.errors import ConfigurationError, DataError, RunError

MODEL, STUDY = "sha256:" + "a" * 64, "sha256:" + "b" * 64
NOW = dt.datetime(2026, 11, 24, tzinfo=dt.UTC)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def patients(
    count: int, *, intercept: float, slope: float = 1.0, seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return a model's probabilities, and outcomes that follow them after a shift in logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, count)
    labels = (rng.random(count) < sigmoid(intercept + slope * logits)).astype(np.int64)
    return sigmoid(logits), labels


@pytest.mark.parametrize("slope", [False, True])
def test_the_fit_is_where_a_general_optimiser_finds_the_least_cost(slope: bool) -> None:
    scores, labels = patients(80, intercept=1.2, slope=0.6)
    logits = np.log(scores / (1 - scores))

    def cost(found: np.ndarray) -> float:
        b, m = found[0], found[1] if slope else 1.0
        linear = b + m * logits
        likelihood = (np.logaddexp(0, linear) - labels * linear).sum()
        return float(likelihood + b**2 / 2 + ((m - 1) / 0.5) ** 2 / 2)

    expected = minimize(cost, np.array([0.0, 1.0])[: 2 if slope else 1], tol=1e-12).x
    found = fit_recalibration(scores, labels, slope=slope)
    assert found.intercept == pytest.approx(expected[0], abs=1e-4)
    assert found.slope == (pytest.approx(expected[1], abs=1e-4) if slope else 1.0)


def test_many_patients_give_back_the_shift_that_made_them() -> None:
    found = fit_recalibration(*patients(20_000, intercept=-0.8, slope=1.3), slope=True)
    assert found.intercept == pytest.approx(-0.8, abs=0.06)
    assert found.slope == pytest.approx(1.3, abs=0.06)


@pytest.mark.parametrize("label", [0, 1])
def test_patients_of_one_label_give_a_finite_intercept(label: int) -> None:
    scores = np.array([0.5] * 30 + [0.0, 1.0])  # certain scores have infinite logits
    found = fit_recalibration(scores, np.full(32, label))
    assert 1 < abs(found.intercept) < 10
    assert (found.intercept > 0) == (label == 1)
    assert np.isfinite(found.apply(scores)).all()


def test_an_intercept_changes_no_order_of_patients() -> None:
    scores, labels = patients(50, intercept=2.0)
    after = fit_recalibration(scores, labels).apply(scores)
    assert (np.argsort(after) == np.argsort(scores)).all()
    assert after.mean() > scores.mean()


def test_nobody_cannot_be_fitted() -> None:
    with pytest.raises(DataError) as caught:
        fit_recalibration(np.zeros(0), np.zeros(0, dtype=np.int64))
    assert caught.value.code == "SB-306"


def test_a_model_that_says_the_contrary_is_refused() -> None:
    scores, labels = patients(500, intercept=0.0, slope=-2.0)
    with pytest.raises(RunError, match="wrong way round") as caught:
        fit_recalibration(scores, labels, slope=True)
    assert caught.value.code == "SB-506"


def written(path: Path, found: Recalibration) -> Path:
    write_recalibration(path, found, site="va", model=MODEL, study=STUDY, patients=85, now=NOW)
    return path


def test_what_is_written_is_read_again_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = written(tmp_path / "own.json", Recalibration(0.25, 1.5))
    assert path.stat().st_mode & 0o777 == 0o600
    record = read_recalibration(path, model=MODEL)
    assert record.recalibration == Recalibration(0.25, 1.5)
    assert (record.site, record.patients) == ("va", 85)
    with pytest.raises(ConfigurationError) as caught:
        written(path, Recalibration(0.0))
    assert caught.value.code == "SB-113"


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "own.json", Recalibration(0.25))
    with pytest.raises(ConfigurationError, match="belongs to the model") as caught:
        read_recalibration(path, model=STUDY)
    assert caught.value.code == "SB-103"


@pytest.mark.parametrize(
    "change", [{"slope": -1}, {"slope": 0}, {"intercept": None}, {"more": 1}, {"site": "../x"}]
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = written(tmp_path / "own.json", Recalibration(0.25))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="is no recalibration"):
        read_recalibration(path, model=MODEL)


def test_a_large_file_and_a_missing_one_are_named(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(10_001))
    with pytest.raises(ConfigurationError, match="too large"):
        read_recalibration(tmp_path / "large", model=MODEL)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_recalibration(tmp_path / "none", model=MODEL)
