"""The data contract: contradictions are found when it is read, not when patients are."""

from typing import Any

import pytest

from lab import STUDY
from solblom_models.study_document import resolve
from solblom_protocol.contracts.table import Contract
from solblom_protocol.errors import ConfigurationError
from solblom_protocol.studies.tables import Study
from solblom_protocol.toml_file import parse
from unit.protocol.samples import contract_tables

AGE, SMOKER, GRADE = 0, 1, 2


def refusal(contract: dict[str, Any]) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        parse(Contract, contract, source="contract.toml")
    return caught.value


def changed(index: int, **change: Any) -> dict[str, Any]:
    contract = contract_tables()
    contract["variable"][index].update(change)
    return contract


def test_a_range_must_begin_below_its_end() -> None:
    error = refusal(changed(AGE, minimum=120))
    assert error.code == "SB-103"
    assert "age: minimum must be below maximum" in error.message


def test_a_level_stands_once() -> None:
    assert "a level stands twice" in refusal(changed(GRADE, levels=["a", "b", "a"])).message


def test_labels_match_levels_one_to_one() -> None:
    error = refusal(changed(GRADE, labels=["first", "second"]))
    assert "labels must match levels" in error.message


def test_a_category_needs_two_levels() -> None:
    assert refusal(changed(GRADE, levels=["a"])).code == "SB-103"


def test_a_variable_stands_once() -> None:
    error = refusal(changed(SMOKER, name="age"))
    assert "variable stands twice: age" in error.message


def test_the_target_is_no_variable() -> None:
    error = refusal(changed(SMOKER, column="ill"))
    assert "target column ill is also a variable" in error.message


def test_a_contract_needs_a_variable() -> None:
    assert refusal(contract_tables() | {"variable": []}).code == "SB-103"


def test_an_unknown_kind_of_variable_is_refused() -> None:
    assert refusal(changed(AGE, kind="genome")).code == "SB-103"


@pytest.mark.parametrize("scale", [0, -1, float("nan")])
def test_a_scale_is_above_zero(scale: float) -> None:
    assert refusal(changed(AGE, scale=scale)).code == "SB-103"


def test_a_variable_says_what_it_means_in_norwegian_and_english() -> None:
    assert refusal(changed(AGE, meaning={"en": "age"})).code == "SB-103"


@pytest.mark.parametrize("key", ["positive", "negative"])
def test_a_target_needs_codes_for_yes_and_for_no(key: str) -> None:
    contract = contract_tables()
    contract["target"][key] = []
    assert refusal(contract).code == "SB-103"


def test_a_number_and_a_category_may_read_the_same_column() -> None:
    contract = parse(Contract, changed(GRADE, column="age"), source="contract.toml")
    assert [variable.column for variable in contract.variable] == ["age", "smoker", "age"]


def test_a_target_code_cannot_mean_both_yes_and_no() -> None:
    contract = contract_tables()
    contract["target"]["negative"] = ["0", "1"]
    assert refusal(contract).code == "SB-103"


def test_a_code_cannot_be_both_true_and_false() -> None:
    assert refusal(changed(SMOKER, false=["0", "1"])).code == "SB-103"


def test_a_level_cannot_be_a_missing_code() -> None:
    assert refusal(changed(GRADE, missing=["a"])).code == "SB-103"


@pytest.mark.parametrize(
    "change",
    [{"center": float("nan")}, {"scale": float("inf")}, {"maximum": float("inf")}],
    ids=["center", "scale", "maximum"],
)
def test_a_constant_that_is_not_finite_is_refused(change: dict[str, float]) -> None:
    contract = changed(AGE, **change)
    with pytest.raises(ConfigurationError):
        study_payload(contract)


def study_payload(contract: dict[str, Any]) -> bytes:
    checked = parse(Contract, contract, source="contract.toml")
    return resolve(parse(Study, STUDY, source="lab"), checked).payload()


def test_an_error_in_a_variable_gives_its_name_and_not_its_number() -> None:
    message = refusal(changed(GRADE, missing=[-9])).message
    assert '`variable "grade".' in message
    assert "variable.2" not in message


def test_a_variable_whose_name_could_write_over_the_screen_is_counted() -> None:
    message = refusal(changed(AGE, name="\x1b[2J", unit=7)).message
    assert "\x1b" not in message
    assert "variable.0" in message
