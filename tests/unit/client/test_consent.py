"""Who may take part today: what the consent file says, and that doubt excludes."""

import datetime as dt
import os
from pathlib import Path
from typing import Literal

import pytest

from lab import NOW
from solblom_client.consent.join import ConsentState, read_consent
from solblom_client.consent.rules import AgeRules
from solblom_client.consent.sources.fhir_consent import FhirSettings
from solblom_protocol.errors import DataError

Rule = Literal["opt-in", "opt-out"]
BOTH_RULES = pytest.mark.parametrize("rule", ["opt-in", "opt-out"])
HEADER = "patient_id,status,valid_until"
NFC, NFD = "p\u00e5l", "pa\u030al"  # one name, typed in two ways


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "consent.csv"


def read(path: Path, *lines: str, rule: Rule = "opt-in", age: float = 0.0) -> ConsentState:
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return read_again(path, rule=rule, age=age)


def read_again(path: Path, *, rule: Rule = "opt-in", age: float = 0.0) -> ConsentState:
    """Read a file that is `age` hours old."""
    written = NOW.timestamp() - 3600 * age
    os.utime(path, (written, written))
    return read_consent(path, rule=rule, max_age_hours=24, now=NOW)


def code_of(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(DataError) as error:
        read_again(path)
    return error.value.code


# --- The two rules


def test_opt_in_leaves_out_whoever_has_no_record(path: Path) -> None:
    assert not read(path).includes("ola")


def test_opt_out_takes_in_whoever_has_no_record(path: Path) -> None:
    assert read(path, rule="opt-out").includes("ola")


@BOTH_RULES
def test_granted_takes_in(path: Path, rule: Rule) -> None:
    assert read(path, "ola,granted,", rule=rule).includes("ola")


@BOTH_RULES
@pytest.mark.parametrize("status", ["withdrawn", "refused", "", "Granted", "grant", "ja", "0"])
def test_any_status_but_granted_leaves_out(path: Path, rule: Rule, status: str) -> None:
    assert not read(path, f"ola,{status},", rule=rule).includes("ola")


@BOTH_RULES
@pytest.mark.parametrize(
    "lines", [("ola,granted,", "ola,withdrawn,"), ("ola,withdrawn,", "ola,granted,")]
)
def test_a_patient_who_stands_both_ways_is_left_out(
    path: Path, rule: Rule, lines: tuple[str, str]
) -> None:
    assert not read(path, *lines, rule=rule).includes("ola")


@BOTH_RULES
@pytest.mark.parametrize("line", ["ola", "ola,granted,,x", "ola,withdrawn"])
def test_a_row_of_another_length_never_takes_its_patient_in(
    path: Path, rule: Rule, line: str
) -> None:
    try:
        state = read(path, line, rule=rule)
    except DataError:
        return
    assert not state.includes("ola")


# --- Until when


@pytest.mark.parametrize(
    ("days", "included"), [(-1, False), (0, True), (1, True)], ids=["yesterday", "today", "later"]
)
@BOTH_RULES
def test_consent_holds_until_the_end_of_its_last_day(
    path: Path, rule: Rule, days: int, included: bool
) -> None:
    until = (NOW + dt.timedelta(days=days)).date()
    assert read(path, f"ola,granted,{until}", rule=rule).includes("ola") is included


@pytest.mark.parametrize(
    ("zone", "moment", "included"),
    [
        ("Europe/Oslo", "2026-06-30T21:59:59", True),
        ("Europe/Oslo", "2026-06-30T22:00:00", False),
        ("UTC", "2026-06-30T23:59:59", True),
        ("America/Anchorage", "2026-07-01T07:59:59", True),
        ("America/Anchorage", "2026-07-01T08:00:00", False),
    ],
)
@BOTH_RULES
def test_a_consent_ends_at_midnight_of_the_hospital(
    path: Path, rule: Rule, zone: str, moment: str, included: bool
) -> None:
    now = dt.datetime.fromisoformat(moment).replace(tzinfo=dt.UTC)
    path.write_text(f"{HEADER}\nola,granted,2026-06-30\n", encoding="utf-8")
    os.utime(path, (now.timestamp(), now.timestamp()))
    state = read_consent(path, rule=rule, max_age_hours=24, now=now, fhir=FhirSettings(zone=zone))
    assert state.includes("ola") is included


@pytest.mark.parametrize(("hour", "by_guardian"), [(21, True), (22, False)])
def test_a_birthday_begins_at_midnight_of_the_hospital(
    path: Path, hour: int, by_guardian: bool
) -> None:
    now = dt.datetime(2026, 6, 29, hour, tzinfo=dt.UTC)  # Oslo is two hours ahead
    columns = f"{HEADER},birth_date,given_by_guardian"
    path.write_text(f"{columns}\nola,granted,,2010-06-30,yes\nkari,granted,,2008-06-30,\n", "utf-8")
    os.utime(path, (now.timestamp(), now.timestamp()))
    oslo, ages = FhirSettings(zone="Europe/Oslo"), AgeRules(min_age_years=18)
    children = read_consent(path, rule="opt-in", max_age_hours=24, now=now, fhir=oslo)
    assert children.includes("ola") is by_guardian
    adults = read_consent(path, rule="opt-in", max_age_hours=24, now=now, fhir=oslo, ages=ages)
    assert adults.includes("kari") is not by_guardian


def test_days_at_both_ends_of_time_are_read(path: Path) -> None:
    path.write_text(f"{HEADER},valid_from\nola,granted,9999-12-31,0001-01-01\n", "utf-8")
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    for zone in ("Asia/Tokyo", "America/Anchorage"):
        state = read_consent(
            path, rule="opt-in", max_age_hours=24, now=NOW, fhir=FhirSettings(zone=zone)
        )
        assert state.includes("ola")


@BOTH_RULES
@pytest.mark.parametrize("until", ["31.12.2099", "2099-13-01", "soon", "0"])
def test_a_last_day_that_is_no_date_leaves_out(path: Path, rule: Rule, until: str) -> None:
    assert not read(path, f"ola,granted,{until}", rule=rule).includes("ola")


# --- The source itself


def test_a_source_at_its_age_limit_is_read(path: Path) -> None:
    assert read(path, "ola,granted,", age=24).includes("ola")


def test_a_source_above_its_age_limit_stops(path: Path) -> None:
    with pytest.raises(DataError) as error:
        read(path, "ola,granted,", age=24.01)
    assert error.value.code == "SB-308"


def test_a_source_from_the_future_stops(path: Path) -> None:
    with pytest.raises(DataError):
        read(path, "ola,granted,", age=-48)


def test_a_missing_source_stops(path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_consent(path, rule="opt-out", max_age_hours=24, now=NOW)
    assert error.value.code == "SB-308"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"patient_id,status\nola,granted\n",
        b"status,patient_id,valid_until\ngranted,ola,\n",
        b"patient_id,status,valid_until,note\nola,granted,,x\n",
        b"patient_id;status;valid_until\nola;granted;\n",
        b"Patient_ID,status,valid_until\nola,granted,\n",
        b"patient_id,status,valid_until\nola\xff,granted,\n",
        b'patient_id,status,valid_until\n"ola,granted,\n',
        b"PAR1 not a csv file",
    ],
    ids=[
        "empty",
        "column-missing",
        "columns-swapped",
        "column-extra",
        "semicolons",
        "capitals",
        "not-utf-8",
        "open-quote",
        "another-format",
    ],
)
def test_a_source_that_is_not_the_agreed_table_stops(path: Path, data: bytes) -> None:
    assert code_of(path, data) == "SB-308"


def test_a_byte_order_mark_of_a_spreadsheet_is_read_over(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\nola,granted,\n".encode())
    assert read_again(path).includes("ola")


@pytest.mark.parametrize(
    "line",
    [
        "ola ,withdrawn,",
        " ola,withdrawn,",
        ",withdrawn,",
        "ola,nordmann,withdrawn,",
        "ola\0,withdrawn,",
    ],
    ids=["space-after", "space-before", "no-id", "one-cell-too-many", "nul"],
)
def test_under_opt_out_a_withdrawal_that_is_not_clean_never_leaves_the_patient_in(
    path: Path, line: str
) -> None:
    patient = "ola,nordmann" if "nordmann" in line else "ola"
    try:
        state = read(path, line, rule="opt-out")
    except DataError:
        return
    assert not state.includes(patient)


@BOTH_RULES
@pytest.mark.parametrize("row", ["ola,granted,", "ola,granted,2030-01-01", "ola,granted,2030"])
def test_a_last_row_without_its_end_may_be_cut_and_lets_nobody_in(
    path: Path, rule: Rule, row: str
) -> None:
    path.write_text(f"{HEADER}\nkari,granted,\n{row}", encoding="utf-8")
    state = read_again(path, rule=rule)
    assert not state.includes("ola")
    assert state.includes("kari")


@BOTH_RULES
def test_a_row_with_other_signs_between_its_cells_stops(path: Path, rule: Rule) -> None:
    with pytest.raises(DataError):
        read(path, "ola\twithdrawn\t,,", rule=rule)


def test_messages_about_the_source_name_no_patient(path: Path) -> None:
    path.write_bytes(b"patient\nSECRET-PATIENT-0042\n")
    with pytest.raises(DataError) as error:
        read_again(path)
    assert "SECRET" not in f"{error.value} {error.value.hint}"


@pytest.mark.parametrize(
    "written",
    [
        "ola\u200bnordmann-1",
        "\ufeffola nordmann-1",
        "ola\u00a0nordmann-1",
        "ola  nordmann-1",
        "ola nordmann\u20111",
        "ola nordmann\u20131",
        "ola nordmann-1\ufe0f",
        "o\u034fla nordmann-1",
        "\uff4f\uff4c\uff41 nordmann-1",
    ],
    ids=[
        "zero-width-space-in-the-place-of-a-space",
        "byte-order-mark-of-joined-files",
        "no-break-space",
        "two-spaces",
        "no-break-hyphen",
        "dash",
        "variation-selector",
        "grapheme-joiner",
        "full-width",
    ],
)
def test_a_withdrawal_that_looks_like_the_patients_id_is_theirs(path: Path, written: str) -> None:
    state = read(path, f"{written},withdrawn,", rule="opt-out")
    assert not state.includes("ola nordmann-1")
    assert state.includes("kari nordmann-1")


@pytest.mark.parametrize(
    "written",
    ["1019012345", "1019012345.0", '="01019012345"', "'01019012345", "010190 12345"],
    ids=["zero-lost", "decimal", "formula", "apostrophe", "space"],
)
@pytest.mark.parametrize("known", [False, True])
def test_a_reservation_whose_id_a_spreadsheet_changed_leaves_its_patient_out(
    path: Path, written: str, known: bool
) -> None:
    lines = [f"{written},withdrawn,,1990-01-01", "11019012345,granted,,1990-01-01"]
    if known:  # by a record that says nothing for or against
        lines = [*lines, "01019012345,granted,2020-01-01,1990-01-01"]
    path.write_text("\n".join([f"{HEADER},birth_date", *lines]) + "\n", encoding="utf-8")
    state = read_again(path, rule="opt-out")
    assert not state.includes("01019012345")
    assert state.includes("11019012345")
    assert state.includes("21019012345")


def test_a_record_of_ones_own_outweighs_anothers_that_looks_like_it(path: Path) -> None:
    state = read(path, "0012,granted,", "12,withdrawn,", rule="opt-out")
    assert state.includes("0012")
    assert not state.includes("12")
    assert not state.includes("012")
    assert state.reason("012") == "unclear"


@BOTH_RULES
@pytest.mark.parametrize("written", ["1.01901E+10", '"1,01901e+10"'])
def test_an_id_that_a_spreadsheet_rounded_stops_the_round(
    path: Path, rule: Rule, written: str
) -> None:
    with pytest.raises(DataError) as error:
        read(path, f"{written},withdrawn,", rule=rule)
    assert error.value.code == "SB-308"


# --- What the receipt's digest covers


def test_the_record_covers_the_training_patients_only(path: Path) -> None:
    one = read(path, "ola,granted,").record_bytes(["ola"])
    two = read(path, "ola,granted,", "kari,withdrawn,").record_bytes(["ola"])
    assert one == two


def test_the_record_changes_with_the_rule(path: Path) -> None:
    opt_in = read(path, "ola,granted,").record_bytes(["ola"])
    assert opt_in != read(path, "ola,granted,", rule="opt-out").record_bytes(["ola"])


def test_the_record_does_not_depend_on_the_order_of_patients(path: Path) -> None:
    state = read(path, "ola,granted,", "kari,granted,")
    assert state.record_bytes(["ola", "kari"]) == state.record_bytes(["kari", "ola"])


# --- One spelling


@pytest.mark.parametrize("written", [NFC, NFD, f" {NFD}\t"], ids=["nfc", "nfd", "spaced"])
@pytest.mark.parametrize("asked", [NFC, NFD], ids=["nfc", "nfd"])
def test_a_withdrawal_is_found_in_either_spelling(path: Path, written: str, asked: str) -> None:
    assert not read(path, f"{written},withdrawn,", rule="opt-out").includes(asked)
    assert read(path, f"{written},granted,").includes(asked)


def test_a_withdrawal_in_one_spelling_outweighs_a_grant_in_the_other(path: Path) -> None:
    state = read(path, f"{NFC},granted,", f"{NFD},withdrawn,")
    assert not state.includes(NFC)
    assert not state.includes(NFD)
