"""Consent tables with death, age and guardians: small rules, each in a table; and the source itself."""

import os
import tracemalloc
from pathlib import Path
from typing import Literal

import pytest

from lab import NOW
from solblom_client.consent.join import ConsentState, read_consent
from solblom_client.consent.rules import AgeRules
from solblom_client.consent.sources import source_file
from solblom_client.consent.sources.csv_table import COLUMNS, MORE_COLUMNS
from solblom_client.consent.sources.fhir_bundle import read_fhir
from solblom_client.consent.sources.fhir_consent import FhirSettings
from solblom_protocol.errors import DataError

Rule = Literal["opt-in", "opt-out"]
BOTH_RULES = pytest.mark.parametrize("rule", ["opt-in", "opt-out"])
ALL = ",".join((*COLUMNS, *MORE_COLUMNS))
NO_LIMITS = AgeRules()


def read(
    folder: Path,
    *lines: str,
    header: str = ALL,
    rule: Rule = "opt-in",
    ages: AgeRules = NO_LIMITS,
    hours: float = 0,
) -> ConsentState:
    path = folder / "consent.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    os.utime(path, (NOW.timestamp() - 3600 * hours,) * 2)
    return read_consent(path, rule=rule, max_age_hours=24, now=NOW, ages=ages)


# --- Columns


@pytest.mark.parametrize("column", MORE_COLUMNS)
def test_each_further_column_may_stand_alone(tmp_path: Path, column: str) -> None:
    header = ",".join((*COLUMNS, column))
    assert read(tmp_path, "ola,granted,,", header=header).includes("ola")


def test_further_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    header = ",".join((*COLUMNS, *reversed(MORE_COLUMNS)))
    assert read(tmp_path, "ola,granted,,,,,,", header=header).includes("ola")
    assert not read(tmp_path, "ola,granted,,,,,2026-01-01,", header=header).includes("ola")


@pytest.mark.parametrize(
    "header",
    [
        f"{ALL},note",
        ",".join((*COLUMNS, "deceased", "deceased")),
        ",".join((*COLUMNS, "Deceased")),
        ",".join((*COLUMNS, "")),
        ",".join((*MORE_COLUMNS, *COLUMNS)),
    ],
    ids=["unknown", "twice", "capital", "empty", "first"],
)
def test_any_other_header_stops(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, header=header)
    assert caught.value.code == "SB-308"


# --- From when

FROM = [
    ("2026-11-22", None),
    ("2026-11-23", "not-yet"),
    ("23.11.2026", "unclear"),
    ("2026", "unclear"),
]


@BOTH_RULES
@pytest.mark.parametrize(("start", "reason"), FROM)
def test_a_consent_holds_from_its_first_day(
    tmp_path: Path, rule: Rule, start: str, reason: str | None
) -> None:
    assert read(tmp_path, f"ola,granted,,{start},,,,", rule=rule).reason("ola") == reason


# --- Death


@BOTH_RULES
@pytest.mark.parametrize("died", ["2026-11-01", "2030-01-01", "yes", "no", "?"])
def test_anything_in_the_column_of_deaths_is_a_death(tmp_path: Path, rule: Rule, died: str) -> None:
    line = f"ola,granted,,,{died},,,"
    assert read(tmp_path, line, rule=rule).reason("ola") == "deceased"
    assert read(tmp_path, line, rule=rule, ages=AgeRules(deceased="keep")).includes("ola")


def test_a_death_in_one_row_of_several_counts(tmp_path: Path) -> None:
    rows = ("ola,granted,,,,,,", "ola,granted,,,2026-01-01,,,")
    assert read(tmp_path, *rows).reason("ola") == "deceased"


def test_a_dead_patient_who_had_said_no_stays_out_where_the_dead_are_kept(tmp_path: Path) -> None:
    state = read(tmp_path, "ola,withdrawn,,,2026-01-01,,,", ages=AgeRules(deceased="keep"))
    assert state.reason("ola") == "withdrawn"


# --- Age

AGES = [
    ("2008-11-22", None),  # 18 today
    ("2008-11-23", "too-young"),
    ("2008", "too-young"),  # perhaps in December
    ("2008-11", "too-young"),
    ("2007", None),
    ("1901-01-01", None),
    ("", "age-unknown"),
    ("x", "age-unknown"),
    ("2027-01-01", "age-unknown"),
    ("2008-02-30", "age-unknown"),
]


@BOTH_RULES
@pytest.mark.parametrize(("born", "reason"), AGES)
def test_whoever_is_not_surely_old_enough_is_left_out(
    tmp_path: Path, rule: Rule, born: str, reason: str | None
) -> None:
    ages = AgeRules(min_age_years=18)
    assert read(tmp_path, f"ola,granted,,,,{born},,", rule=rule, ages=ages).reason("ola") == reason


@BOTH_RULES
def test_with_a_least_age_nobody_of_unknown_age_takes_part(tmp_path: Path, rule: Rule) -> None:
    ages = AgeRules(min_age_years=18)
    assert not read(tmp_path, rule=rule, ages=ages).includes("ola")
    header = ",".join(COLUMNS)
    assert not read(tmp_path, "ola,granted,", header=header, rule=rule, ages=ages).includes("ola")


def test_two_dates_of_birth_are_none(tmp_path: Path) -> None:
    rows = ("ola,granted,,,,1970-01-01,,", "ola,granted,,,,1971-01-01,,")
    assert read(tmp_path, *rows, ages=AgeRules(min_age_years=18)).reason("ola") == "age-unknown"
    assert read(tmp_path, *rows).includes("ola")  # where no age is asked for


@pytest.mark.parametrize(
    ("born", "today", "reason"),
    [("2008-02-29", "2026-02-28", "too-young"), ("2008-02-29", "2026-03-01", None)],
)
def test_a_leap_day_comes_late_where_age_lets_in(
    tmp_path: Path, born: str, today: str, reason: str | None
) -> None:
    path = tmp_path / "consent.csv"
    path.write_text(f"{ALL}\nola,granted,,,,{born},,\n", encoding="utf-8")
    now = NOW.fromisoformat(f"{today}T12:00:00+00:00")
    os.utime(path, (now.timestamp(),) * 2)
    ages = AgeRules(min_age_years=18)
    state = read_consent(path, rule="opt-in", max_age_hours=24, now=now, ages=ages)
    assert state.reason("ola") == reason


# --- Guardians

GUARDIANS = [
    ("2010-11-23,yes,", None),  # 16 tomorrow
    ("2010-11-22,yes,", "guardian-ended"),
    ("2010-11-22,yes,18", None),
    ("2008-11-22,yes,18", "guardian-ended"),
    ("2010-11-22,no,", None),
    ("2010-11-22,,", None),
    ("2010-11-22,maybe,", "unclear"),
    ("2010-11-22,Yes,", "unclear"),
    ("2015-01-01,yes,0", "unclear"),
    ("2015-01-01,yes,-1", "unclear"),
    ("2015-01-01,yes,sixteen", "unclear"),
    ("2015-01-01,yes,1e3", "unclear"),
    (",yes,", "age-unknown"),
    ("2010,yes,", "guardian-ended"),
    ("2011,yes,", None),
]


@BOTH_RULES
@pytest.mark.parametrize(("cells", "reason"), GUARDIANS)
def test_a_guardians_consent_ends_with_childhood(
    tmp_path: Path, rule: Rule, cells: str, reason: str | None
) -> None:
    assert read(tmp_path, f"ola,granted,,,,{cells}", rule=rule).reason("ola") == reason


def test_the_age_of_node_toml_holds_where_the_table_gives_none(tmp_path: Path) -> None:
    line = "ola,granted,,,,2010-11-22,yes,"
    assert read(tmp_path, line, ages=AgeRules(guardian_until_age=18)).includes("ola")


def test_ones_own_consent_after_a_guardians_lets_in_only_alone(tmp_path: Path) -> None:
    ended, own = "ola,granted,,,,2010-01-01,yes,", "ola,granted,,,,2010-01-01,,"
    assert not read(tmp_path, ended, own).includes("ola")
    assert read(tmp_path, own).includes("ola")


# --- Several reasons

WILL_FIRST = [
    ("ola,withdrawn,,,2026-01-01,,,", "ola,granted,2020-01-01,,,,,"),
    ("ola,granted,2020-01-01,,,,,", "ola,withdrawn,,,,,,"),
    ("ola,granted,,,2026-01-01,,,", "ola,refused,,,,,,"),
]


@BOTH_RULES
@pytest.mark.parametrize("rows", WILL_FIRST)
def test_a_withdrawal_is_the_reason_whatever_time_brings_besides(
    tmp_path: Path, rule: Rule, rows: tuple[str, str]
) -> None:
    """Notices go by the reason: who withdrew and died since has withdrawn."""
    assert read(tmp_path, *rows, rule=rule).reason("ola") == "withdrawn"
    assert read(tmp_path, *reversed(rows), rule=rule).reason("ola") == "withdrawn"


# --- The source


@pytest.mark.parametrize(
    ("size", "stops"), [(1_000, False), (10_000, False), (100_000, False), (3_000_000, True)]
)
def test_one_entry_has_a_limit_and_costs_no_more_memory_than_that(size: int, stops: bool) -> None:
    item = '{"resource": {"resourceType": "Basic", "x": [' + "[]," * size + "[]]}}"
    text = '{"resourceType": "Bundle", "type": "collection", "entry": [' + item + "]}"
    data = text.encode()
    tracemalloc.start()
    try:
        if stops:
            with pytest.raises(DataError):
                read_fhir(data, FhirSettings())
        else:
            assert read_fhir(data, FhirSettings()).records == ()
        assert tracemalloc.get_traced_memory()[1] < 200 * 1024**2
    finally:
        tracemalloc.stop()


def test_a_pipe_is_no_source(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "consent.csv")
    with pytest.raises(DataError, match="no file"):
        source_file.read_source_file(tmp_path / "consent.csv")


def test_a_source_that_is_written_to_while_it_is_read_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "consent.csv"
    path.write_text("patient_id,status,valid_until\nola,granted,\n", encoding="utf-8")
    real, seen = os.fstat, []

    def stat_then_append(handle: int) -> os.stat_result:
        found = real(handle)
        if not seen:
            seen.append(found)
            with path.open("a", encoding="utf-8") as file:
                file.write("ola,withdrawn,\n")
        return found

    monkeypatch.setattr(source_file.os, "fstat", stat_then_append)
    with pytest.raises(DataError, match="changed while it was read"):
        source_file.read_source_file(path)


def test_a_source_above_the_limit_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_file, "MAX_SOURCE_BYTES", 10)
    with pytest.raises(DataError, match="over 10 bytes"):
        read(tmp_path)


@BOTH_RULES
@pytest.mark.parametrize(
    "rows",
    [
        ('kari,granted,"2030-01-01', 'ola,withdrawn,"'),
        ('kari,"granted', 'ola,withdrawn",'),
        ('"kari', 'ola",withdrawn,'),
        ('kari,granted,"2030-01-01\rola,withdrawn,"',),
        ('kari,granted,"2030-01-01\r', 'ola,withdrawn,"'),
    ],
    ids=["last", "middle", "first", "cr", "crlf"],
)
def test_a_quote_that_is_left_open_hides_no_withdrawal(
    tmp_path: Path, rows: tuple[str, ...], rule: Rule
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, *rows, header=",".join(COLUMNS), rule=rule)
    assert caught.value.code == "SB-308"


def test_quotes_around_a_cell_change_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, '"ola","granted",""', header=",".join(COLUMNS)).includes("ola")


@pytest.mark.parametrize(
    "line",
    ['"ola\nnordmann",granted,,,,,,', "o" * 200_000 + ",granted,,,,,,", "ola\x00,granted,,,,,,"],
    ids=["line-break", "huge-cell", "nul"],
)
def test_odd_cells_end_in_a_state_or_a_stop(tmp_path: Path, line: str) -> None:
    try:
        state = read(tmp_path, line)
    except DataError:
        return
    assert not state.includes("ola")


def test_a_changed_byte_is_seen_though_size_and_time_stay(tmp_path: Path) -> None:
    assert read(tmp_path, "ola,granted,,,,,,").includes("ola")
    assert not read(tmp_path, "ola,grantez,,,,,,").includes("ola")
    assert read(tmp_path, "ola,granted,,,,,,").includes("ola")


def test_the_same_bytes_are_judged_by_todays_date(tmp_path: Path) -> None:
    """What is kept is what the source says, never who may take part."""
    path = tmp_path / "consent.csv"
    path.write_text("patient_id,status,valid_until\nola,granted,2026-11-22\n", encoding="utf-8")
    for hours, included in ((0, True), (11, True), (12, False)):
        now = NOW.replace(hour=12 + hours) if hours < 12 else NOW.replace(day=23, hour=0)
        os.utime(path, (now.timestamp(),) * 2)
        state = read_consent(path, rule="opt-in", max_age_hours=24, now=now)
        assert state.includes("ola") is included


def test_the_text_form_of_a_state_names_no_patient(tmp_path: Path) -> None:
    state = read(tmp_path, "SECRET-1,granted,,,,,,", "SECRET-2,withdrawn,,,,,,")
    assert "SECRET" not in repr(state)
    assert state.counts() == {"withdrawn": 1}
