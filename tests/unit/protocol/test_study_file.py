"""The study file: what a researcher gets wrong is named by code, key and nearest spelling."""

import datetime as dt
from pathlib import Path
from typing import Any

import pytest

from bag_lab import bag_study
from solblom_models.study_document import resolve
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.study import check_dates, load_study, parse_document
from unit.protocol.samples import contract_tables, write_study


def refusal(path: Path) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_study(path)
    return caught.value


def test_a_correct_study_is_read_with_its_contract(tmp_path: Path) -> None:
    study, contract, _ = load_study(write_study(tmp_path))
    assert study.study.ends == dt.date(2027, 12, 31)
    assert contract.target.name == study.task.target


def test_a_missing_study_file_is_said_to_be_missing(tmp_path: Path) -> None:
    assert refusal(tmp_path / "study.toml").code == "SB-101"


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("[study\nname = 1", encoding="utf-8")
    assert refusal(tmp_path / "study.toml").code == "SB-101"


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_bytes(b'title = "R\xf8ros"')
    assert refusal(tmp_path / "study.toml").code == "SB-101"


def test_a_folder_in_the_place_of_a_study_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path).code == "SB-101"


def test_a_file_of_five_megabytes_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_bytes(b"#" * 5 * 1024**2)
    assert refusal(tmp_path / "study.toml").code == "SB-101"


def test_a_missing_contract_is_named(tmp_path: Path) -> None:
    path = write_study(tmp_path, task={"contract": "elsewhere.toml"})
    error = refusal(path)
    assert error.code == "SB-101"
    assert "elsewhere.toml" in error.message


@pytest.mark.parametrize(
    ("table", "key", "nearest"),
    [
        ("privacy", "epsilom", "epsilon"),
        ("privacy", "clipping", "clipping_norm"),
        ("training", "learning-rate", "learning_rate"),
        ("cohort", "min_node", "min_nodes"),
        ("study", "legalbasis", "legal_basis"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_key(
    tmp_path: Path, table: str, key: str, nearest: str
) -> None:
    error = refusal(write_study(tmp_path, **{table: {key: 1}}))
    assert error.code == "SB-102"
    assert f"`{table}.{key}`; did you mean `{nearest}`?" in error.message


def test_an_unknown_table_is_refused(tmp_path: Path) -> None:
    error = refusal(write_study(tmp_path, privcy={"epsilon": 1.0}))
    assert error.code == "SB-102"
    assert "did you mean `privacy`?" in error.message


def test_an_unknown_key_like_no_other_is_refused_without_a_guess(tmp_path: Path) -> None:
    error = refusal(write_study(tmp_path, privacy={"zzzzzz": 1}))
    assert error.code == "SB-102"
    assert "did you mean" not in error.message


def test_an_unknown_key_of_the_contract_is_refused(tmp_path: Path) -> None:
    contract = contract_tables()
    contract["variable"][0]["maximun"] = 5
    error = refusal(write_study(tmp_path, contract=contract))
    assert error.code == "SB-102"
    assert "`maximum`" in error.message


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ("study", "legal_basis"),
        ("study", "purpose"),
        ("study", "ends"),
        ("training", "expected_batch_size"),
        ("privacy", "epsilon"),
        ("privacy", "clipping_norm"),
    ],
)
def test_a_missing_setting_is_named(tmp_path: Path, table: str, key: str) -> None:
    error = refusal(write_study(tmp_path, **{table: {key: None}}))
    assert error.code == "SB-103"
    assert f"`{table}.{key}`" in error.message


def test_a_study_with_an_empty_list_of_legal_bases_is_refused(tmp_path: Path) -> None:
    assert refusal(write_study(tmp_path, study={"legal_basis": []})).code == "SB-103"


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("training", {"rounds": 0}),
        ("training", {"rounds": 2.5}),
        ("training", {"learning_rate": 0.0}),
        ("training", {"learning_rate": float("inf")}),
        ("training", {"expected_batch_size": 0.0}),
        ("training", {"server_momentum": 1.0}),
        ("training", {"seed": -1}),
        ("training", {"strategy": "bulyan"}),
        ("privacy", {"epsilon": "none"}),
        ("privacy", {"clipping_norm": float("nan")}),
        ("privacy", {"sampling_rate": 0.0}),
        ("privacy", {"sampling_rate": 1.01}),
        ("privacy", {"sampling_rate": float("nan")}),
        ("cohort", {"min_nodes": 0}),
        ("study", {"name": "Heart Disease"}),
        ("study", {"name": "../up"}),
        ("study", {"duo": ["DUO:7"]}),
        ("evaluation", {"split": {"test_fraction": 1.0}}),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, table: str, change: dict[str, Any]) -> None:
    error = refusal(write_study(tmp_path, **{table: change}))
    assert error.code == "SB-103"
    assert f"`{table}.{next(iter(change))}" in error.message


@pytest.mark.parametrize("epsilon", [0.0, -1.0, 100.5, float("inf"), float("nan")])
def test_an_epsilon_out_of_range_is_refused(tmp_path: Path, epsilon: float) -> None:
    error = refusal(write_study(tmp_path, privacy={"epsilon": epsilon}))
    assert error.code == "SB-105"
    assert "privacy.epsilon" in error.message


@pytest.mark.parametrize("delta", [0.0, -1e-5, 0.0101, 1.0, float("nan")])
def test_a_delta_out_of_range_is_refused(tmp_path: Path, delta: float) -> None:
    error = refusal(write_study(tmp_path, privacy={"delta": delta}))
    assert error.code == "SB-105"
    assert "privacy.delta" in error.message


def test_a_delta_of_one_in_a_hundred_is_the_largest(tmp_path: Path) -> None:
    study, _, _ = load_study(write_study(tmp_path, privacy={"delta": 0.01}))
    assert study.privacy.delta == 0.01


def test_a_target_that_is_not_the_contracts_is_refused(tmp_path: Path) -> None:
    error = refusal(write_study(tmp_path, task={"target": "asthma"}))
    assert error.code == "SB-106"
    assert "asthma" in error.message


def test_shared_noise_without_a_secure_sum_is_refused(tmp_path: Path) -> None:
    error = refusal(write_study(tmp_path, privacy={"noise": "shared"}))
    assert error.code == "SB-103"
    assert "secure_sum belong together" in error.message


def test_families_as_privacy_unit_need_a_split_by_family(tmp_path: Path) -> None:
    error = refusal(write_study(tmp_path, privacy={"unit": "family"}))
    assert error.code == "SB-103"
    assert "a family could stand on both sides" in error.message


def test_families_as_privacy_unit_are_refused_for_slides() -> None:
    study = bag_study(privacy={"unit": "family"}, evaluation={"split": {"by": "family"}})
    with pytest.raises(ConfigurationError, match="slides, which name no families") as caught:
        parse_document(study.payload())
    assert caught.value.code == "SB-108"


def test_families_as_privacy_unit_are_read(tmp_path: Path) -> None:
    split = {"split": {"by": "family"}}
    study, _, _ = load_study(write_study(tmp_path, privacy={"unit": "family"}, evaluation=split))
    assert study.privacy.unit == "family"


def test_a_quorum_above_the_number_of_nodes_is_refused(tmp_path: Path) -> None:
    error = refusal(write_study(tmp_path, cohort={"quorum": 3, "min_nodes": 2}))
    assert error.code == "SB-103"
    assert "cohort.quorum is 3" in error.message


def test_a_study_may_run_on_its_last_day(tmp_path: Path) -> None:
    study, _, _ = load_study(write_study(tmp_path))
    check_dates(study, today=dt.date(2027, 12, 31))


def test_a_study_is_refused_the_day_after_its_end(tmp_path: Path) -> None:
    study, _, _ = load_study(write_study(tmp_path))
    with pytest.raises(ConfigurationError, match="ended on 2027-12-31") as caught:
        check_dates(study, today=dt.date(2028, 1, 1))
    assert caught.value.code == "SB-104"


def test_an_unknown_task_is_refused_with_the_installed_ones(tmp_path: Path) -> None:
    study, contract, _ = load_study(write_study(tmp_path, task={"name": "astrology"}))
    with pytest.raises(ConfigurationError, match="tabular-classification") as caught:
        resolve(study, contract)
    assert caught.value.code == "SB-107"


def test_an_unknown_setting_of_the_model_is_refused(tmp_path: Path) -> None:
    study, contract, _ = load_study(
        write_study(tmp_path, task={"model": {"kind": "logistic", "depth": 3}})
    )
    with pytest.raises(ConfigurationError) as caught:
        resolve(study, contract)
    assert caught.value.code == "SB-102"


@pytest.mark.parametrize("rate", ["0.0000001", "0.333333333333", "0.1", "1.0"])
def test_a_sampling_rate_keeps_all_its_decimals(tmp_path: Path, rate: str) -> None:
    path = write_study(tmp_path, privacy={"sampling_rate": float(rate)})
    assert resolve(*load_study(path)).round_event.sampling_rate == rate


@pytest.mark.parametrize(
    "change",
    [{"strategy": "fedprox"}, {"strategy": "fedavg", "proximal": 0.1}],
    ids=["none where needed", "one where unused"],
)
def test_a_proximal_term_belongs_to_fedprox(tmp_path: Path, change: dict[str, Any]) -> None:
    error = refusal(write_study(tmp_path, training=change))
    assert error.code == "SB-103"
    assert "training.proximal" in error.message


def test_a_pull_that_pushes_away_is_refused(tmp_path: Path) -> None:
    change = {"strategy": "fedprox", "proximal": 2.5, "learning_rate": 1.0}
    error = refusal(write_study(tmp_path, training=change))
    assert error.code == "SB-103"
    assert "is 2.5; above 2" in error.message
    load_study(write_study(tmp_path, training={**change, "proximal": 2.0}))


ADAM = {"strategy": "fedadam", "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}


@pytest.mark.parametrize("strategy", ["fedadam", "fedyogi"])
def test_adaptive_steps_at_the_coordinator_can_be_asked_for(tmp_path: Path, strategy: str) -> None:
    study, _, _ = load_study(write_study(tmp_path, training=ADAM | {"strategy": strategy}))
    assert (study.training.beta_1, study.training.beta_2, study.training.tau) == (0.9, 0.99, 1e-3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (ADAM | {"beta_1": None}, "needs beta_1"),
        ({"strategy": "fedyogi"}, "needs beta_1, beta_2, tau"),
        (ADAM | {"beta_1": 1.0}, "training.beta_1"),
        (ADAM | {"beta_2": 1.0}, "training.beta_2"),
        (ADAM | {"beta_2": -0.1}, "training.beta_2"),
        (ADAM | {"tau": 0.0}, "training.tau"),
        (ADAM | {"tau": 1e4}, "training.tau"),
        (ADAM | {"server_momentum": 0.9}, "the momentum of fedadam is beta_1"),
        (ADAM | {"server_learning_rate": 0.0}, "training.server_learning_rate"),
        (ADAM | {"proximal": 0.1}, "training.proximal"),
        (ADAM | {"strategy": "fedavg"}, "training.beta_1 belongs to strategy fedadam or fedyogi"),
        ({"tau": 0.1}, "training.tau belongs to strategy fedadam or fedyogi, not fedavg"),
    ],
)
def test_settings_of_adaptive_steps_that_make_no_sense_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    error = refusal(write_study(tmp_path, training=change))
    assert error.code == "SB-103"
    assert words in error.message


@pytest.mark.parametrize(
    ("table", "change"), [("privacy", {"epsilon": True}), ("training", {"rounds": True})]
)
def test_a_truth_value_in_the_place_of_a_number_is_refused(
    tmp_path: Path, table: str, change: dict[str, Any]
) -> None:
    path = write_study(tmp_path, **{table: change})
    with pytest.raises(ConfigurationError):
        load_study(path)


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + "9" * 5000], ids=["deep", "digits"])
def test_a_file_that_pythons_toml_reader_gives_up_on_is_not_toml(tmp_path: Path, text: str) -> None:
    path = tmp_path / "study.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_study(path)
    assert caught.value.code == "SB-101"
