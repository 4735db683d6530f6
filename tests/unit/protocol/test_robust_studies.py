"""Studies with median, trimmed mean or Krum: what would protect from nobody is refused, with numbers and a way out."""

from pathlib import Path
from typing import Any

import pytest

from solblom_models.study_document import resolve
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.study import load_study, parse_document
from solblom_verify.canonical import canonical_json, parse_canonical
from unit.protocol.samples import write_study

FIVE = {"min_nodes": 5, "quorum": 5}
BATCHES = {"a": 40.0, "b": 80.0, "c": 20.0, "d": 40.0, "e": 60.0}


def refusal(path: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_study(path)
    return caught.value


@pytest.mark.parametrize(
    "training",
    [
        {"strategy": "median"},
        {"strategy": "trimmed-mean", "tolerated": 1},
        {"strategy": "trimmed-mean", "tolerated": 2},
        {"strategy": "krum", "tolerated": 1},
        {"strategy": "median", "expected_batch_size": BATCHES},
        {"strategy": "median", "server_momentum": 0.9, "averaging": "second-half"},
    ],
)
def test_a_robust_study_is_read_and_signed_as_it_is_written(
    tmp_path: Path, training: dict[str, Any]
) -> None:
    document = resolve(*load_study(write_study(tmp_path, training=training, cohort=FIVE)))
    read = parse_document(document.payload())
    assert read == document
    for key, value in training.items():
        assert getattr(read.study.training, key) == value


@pytest.mark.parametrize(
    ("training", "quorum", "needed"),
    [
        ({"strategy": "median"}, 2, 3),
        ({"strategy": "trimmed-mean", "tolerated": 1}, 2, 3),
        ({"strategy": "trimmed-mean", "tolerated": 2}, 4, 5),
        ({"strategy": "krum", "tolerated": 1}, 4, 5),
        ({"strategy": "krum", "tolerated": 2}, 6, 7),
    ],
)
def test_a_quorum_below_what_the_rule_needs_is_refused_with_both_numbers(
    tmp_path: Path, training: dict[str, Any], quorum: int, needed: int
) -> None:
    cohort = {"min_nodes": 9, "quorum": quorum}
    error = refusal(write_study(tmp_path, training=training, cohort=cohort))
    assert error.code == "SB-103"
    assert f"needs {needed} updates in every round; cohort.quorum is {quorum}" in error.message
    assert f"{needed} or more" in error.hint
    load_study(write_study(tmp_path, training=training, cohort=cohort | {"quorum": needed}))


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"strategy": "krum"}, "krum needs tolerated"),
        ({"strategy": "trimmed-mean"}, "trimmed-mean needs tolerated"),
        (
            {"strategy": "median", "tolerated": 1},
            "belongs to strategy trimmed-mean or krum, not median",
        ),
        ({"tolerated": 1}, "belongs to strategy trimmed-mean or krum, not fedavg"),
        ({"strategy": "krum", "tolerated": 0}, "training.tolerated"),
        ({"strategy": "krum", "tolerated": 1001}, "training.tolerated"),
        ({"strategy": "median", "proximal": 0.1}, "training.proximal"),
        ({"strategy": "median", "beta_1": 0.9}, "training.beta_1"),
        ({"expected_batch_size": BATCHES}, "fedavg adds up sums, which have one divisor"),
        ({"strategy": "median", "expected_batch_size": {}}, "training.expected_batch_size"),
        (
            {"strategy": "median", "expected_batch_size": {"a": 1.0, "b": 1.0, "c": 1.0}},
            "names 3 hospitals; cohort.min_nodes is 5",
        ),
        (
            {"strategy": "median", "expected_batch_size": BATCHES | {"a": 0.0}},
            "training.expected_batch_size.a`",
        ),
        (
            {"strategy": "median", "expected_batch_size": BATCHES | {"St. Olavs": 10.0}},
            "training.expected_batch_size",
        ),
    ],
)
def test_settings_that_no_rule_reads_are_refused(
    tmp_path: Path, training: dict[str, Any], words: str
) -> None:
    error = refusal(write_study(tmp_path, training=training, cohort=FIVE))
    assert error.code == "SB-103"
    assert words in error.message


@pytest.mark.parametrize("strategy", ["median", "trimmed-mean", "krum"])
def test_a_rule_that_must_see_single_updates_is_refused_with_shared_noise(
    tmp_path: Path, strategy: str
) -> None:
    tolerated = {} if strategy == "median" else {"tolerated": 1}
    error = refusal(
        write_study(
            tmp_path,
            training={"strategy": strategy, "local_steps": 1, **tolerated},
            privacy={"noise": "shared", "sampling_rate": 1.0},
            secure_sum={"roster": "roster.json"},
            cohort=FIVE,
        )
    )
    assert error.code == "SB-103"
    assert (
        f"training.strategy is {strategy}, which compares single hospitals' updates"
        in error.message
    )
    assert 'noise = "local"' in error.hint


def test_each_hospital_has_its_own_divisor_and_a_stranger_none(tmp_path: Path) -> None:
    change = {"strategy": "median", "expected_batch_size": BATCHES}
    study, _, _ = load_study(write_study(tmp_path, training=change, cohort=FIVE))
    assert {site: study.training.divisor_of(site) for site in BATCHES} == BATCHES
    for stranger in ("f", ""):
        with pytest.raises(ConfigurationError, match="none for") as caught:
            study.training.divisor_of(stranger)
        assert caught.value.code == "SB-103"
    with pytest.raises(ConfigurationError):
        _ = study.training.common_divisor


def test_one_divisor_is_everybodys(tmp_path: Path) -> None:
    study, _, _ = load_study(write_study(tmp_path))
    divisor = study.training.expected_batch_size
    assert study.training.divisor_of("anybody") == study.training.common_divisor == divisor


def test_a_study_without_a_rule_keeps_the_digest_that_it_had(tmp_path: Path) -> None:
    """A study of before has no key `tolerated`, and none is added to what hospitals approved."""
    document = resolve(*load_study(write_study(tmp_path)))
    payload: Any = parse_canonical(document.payload())
    assert "tolerated" not in payload["study"]["training"]
    payload["study"]["training"]["tolerated"] = None
    with pytest.raises(ConfigurationError, match="leaves settings to a default"):
        parse_document(canonical_json(payload))
