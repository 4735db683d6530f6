"""Privacy events are read strictly: a record that is kept for ever has one meaning."""

from typing import Any

import pytest

from solblom_protocol.errors import IntegrityError
from solblom_protocol.studies.privacy_event import PrivacyEvent
from unit.protocol.samples import EVENT


def assert_refused(value: Any) -> None:
    with pytest.raises(IntegrityError) as caught:
        PrivacyEvent.from_json(value)
    assert caught.value.code == "SB-405"


def test_an_event_comes_back_from_its_json() -> None:
    event = PrivacyEvent("poisson-gaussian", "0.1", "1.2345", 7)
    assert PrivacyEvent.from_json(event.to_json()) == event


def test_training_without_privacy_is_an_event_of_its_own() -> None:
    value = EVENT | {"kind": "no-privacy", "noise_multiplier": "0"}
    assert PrivacyEvent.from_json(value).kind == "no-privacy"


@pytest.mark.parametrize("value", [None, [], "event", {}, 1.0])
def test_what_is_no_event_is_refused(value: Any) -> None:
    assert_refused(value)


@pytest.mark.parametrize("key", sorted(EVENT))
def test_an_event_without_one_of_its_members_is_refused(key: str) -> None:
    assert_refused({name: value for name, value in EVENT.items() if name != key})


def test_an_event_with_another_member_is_refused() -> None:
    assert_refused(EVENT | {"epsilon": "0.1"})


@pytest.mark.parametrize("kind", ["laplace", "", None, "Poisson-Gaussian", ["poisson-gaussian"]])
def test_an_unknown_kind_is_refused(kind: Any) -> None:
    assert_refused(EVENT | {"kind": kind})


@pytest.mark.parametrize("rate", ["0", "-0.5", "1.000001", "nan", "inf", "", "half", "sNaN", "0x1"])
def test_a_sampling_rate_outside_zero_to_one_is_refused(rate: str) -> None:
    assert_refused(EVENT | {"sampling_rate": rate})


@pytest.mark.parametrize("noise", ["0", "0.0000", "-1", "nan", "inf", "-inf", "", "much"])
def test_noise_that_is_not_above_zero_is_refused(noise: str) -> None:
    assert_refused(EVENT | {"noise_multiplier": noise})


@pytest.mark.parametrize("name", ["sampling_rate", "noise_multiplier"])
@pytest.mark.parametrize("value", [1, 0.5, None, True, ["1"]])
def test_a_number_that_is_no_decimal_string_is_refused(name: str, value: Any) -> None:
    assert_refused(EVENT | {name: value})


@pytest.mark.parametrize("steps", [0, -1, 1.0, "1", True, None])
def test_steps_are_a_whole_number_from_one(steps: Any) -> None:
    assert_refused(EVENT | {"steps": steps})


def test_every_patient_in_every_step_is_a_rate_of_one() -> None:
    assert PrivacyEvent.from_json(EVENT | {"sampling_rate": "1"}).sampling_rate == "1"


@pytest.mark.parametrize("rate", [" 0.5", "0_1", "０.5", "1e-400", ".5"])
def test_a_number_in_another_spelling_is_refused(rate: str) -> None:
    assert_refused(EVENT | {"sampling_rate": rate})
