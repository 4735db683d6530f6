"""An id has one spelling, whatever it is spelt with, and no patient has two."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from solblom_models.patient_id import check_ids, loose_id, patient_id
from solblom_protocol.errors import DataError

TRICKY = st.text(
    st.sampled_from(
        "aA1- \t\u00e5\u030a\u0301\u00a0\u00b4\u200b\u2011\ufeff\ufe0f\uff11\u034f\u1160\uffa0"
    ),
    max_size=8,
)


@given(st.text(max_size=20) | TRICKY)
def test_the_spelling_of_a_spelling_is_itself(text: str) -> None:
    assert patient_id(patient_id(text)) == patient_id(text)


@given(TRICKY)
def test_composed_and_decomposed_are_one(text: str) -> None:
    assert patient_id(unicodedata.normalize("NFD", text)) == patient_id(text)


@pytest.mark.parametrize("text", ["p-1", "010190 12345", "ola.nordmann", "P/2024_7"])
def test_a_plain_id_stays_as_it_is(text: str) -> None:
    assert patient_id(text) == text


@pytest.mark.parametrize("text", ["\u200b", "\ufeff ", "\x00", "\u3164"])
def test_an_id_of_which_nothing_can_be_seen_is_none(text: str) -> None:
    with pytest.raises(DataError) as error:
        check_ids(["ola", text])
    assert error.value.code == "SB-302"


@pytest.mark.parametrize("text", ["ola\u200b", "\ufeffola", "ola\x00", "o\u00adla"])
def test_a_patient_who_stands_twice_in_two_spellings_is_refused(text: str) -> None:
    with pytest.raises(DataError) as error:
        check_ids(["ola", text])
    assert error.value.code == "SB-304"


@pytest.mark.parametrize(("one", "other"), [("1", "2"), ("ola", "kari"), ("0", "10"), ("0", "")])
def test_ids_that_no_spreadsheet_brings_together_stay_apart(one: str, other: str) -> None:
    assert loose_id(one) != loose_id(other)


@pytest.mark.parametrize("text", ["1.01901E+10", "1,01901e+10", "1E+5"])
def test_an_id_that_a_spreadsheet_rounded_is_refused(text: str) -> None:
    with pytest.raises(DataError) as error:
        check_ids(["ola", text])
    assert error.value.code == "SB-302"
    assert text not in error.value.message
