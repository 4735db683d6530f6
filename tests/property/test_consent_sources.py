"""Whatever bytes a consent source holds, reading ends in a state or in SB-308; and doubt never lets anybody in."""

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from solblom_client.consent.rules import AgeRules, decide
from solblom_client.consent.sources.csv_table import COLUMNS, MORE_COLUMNS, read_csv
from solblom_client.consent.sources.fhir_bundle import read_fhir
from solblom_client.consent.sources.fhir_consent import FhirSettings
from solblom_client.consent.sources.json_stream import members
from solblom_client.consent.sources.record import Snapshot, birth_date, end_of, start_of
from solblom_protocol.errors import DataError

NOW = dt.datetime(2026, 11, 22, 12, 0, tzinfo=dt.UTC)
MANY = settings(max_examples=150, derandomize=True, deadline=None)
FHIR = FhirSettings(frozenset(["HRESCH"]))
CELL = st.sampled_from(["", "granted", "withdrawn", "yes", "no", "16", "2026-11-22", "1970", "x"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=10,
)
WORDS = st.sampled_from(
    [
        *("resourceType", "id", "status", "scope", "coding", "code", "system", "patient"),
        *("reference", "identifier", "value", "provision", "type", "period", "start", "end"),
        *("purpose", "performer", "deceasedBoolean", "birthDate", "link", "other", "search"),
        "mode",
    ]
)
NEAR = st.recursive(
    st.sampled_from(
        [
            "active",
            "permit",
            "deny",
            "research",
            "HRESCH",
            "Patient/ola",
            "ola",
            "2030",
            "Consent",
            "Patient",
            "RelatedPerson/x",
        ]
    )
    | st.none()
    | st.booleans(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=14,
)
PLAIN: dict[str, Any] = {
    "resourceType": "Consent",
    "status": "active",
    "scope": {"coding": [{"code": "research"}]},
    "patient": {"reference": "Patient/ola"},
    "provision": {"type": "permit", "purpose": [{"code": "HRESCH"}]},
}


@contextmanager
def a_stop_is_fine() -> Iterator[None]:
    try:
        yield
    except DataError as error:
        if error.code != "SB-308":
            raise


def judged(snapshot: Snapshot) -> tuple[set[str], set[str]]:
    allowed, excluded = decide(snapshot, AgeRules(min_age_years=18), now=NOW)
    assert not allowed & excluded.keys()
    return allowed, set(excluded)


def bundle(*resources: Any) -> bytes:
    entries = [{"resource": resource} for resource in resources]
    return json.dumps({"resourceType": "Bundle", "type": "collection", "entry": entries}).encode()


@MANY
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_table_or_a_stop(data: bytes) -> None:
    for text in (data, ",".join(COLUMNS).encode() + b"\n" + data):
        with a_stop_is_fine():
            judged(read_csv(text))


@MANY
@given(rows=st.lists(st.lists(CELL, min_size=7, max_size=7), max_size=5))
def test_any_cells_are_judged(rows: list[list[str]]) -> None:
    lines = [",".join((*COLUMNS, *MORE_COLUMNS)), *(",".join(["ola", *row]) for row in rows)]
    allowed, _ = judged(read_csv("\n".join(lines).encode()))
    if any(row[0] != "granted" for row in rows):
        assert "ola" not in allowed


@MANY
@given(
    data=st.binary(max_size=200), head=st.sampled_from([b"", b'{"entry":[', b'{"resourceType":'])
)
def test_any_bytes_are_a_bundle_or_a_stop(data: bytes, head: bytes) -> None:
    with a_stop_is_fine():
        judged(read_fhir(head + data, FHIR))


@MANY
@given(resource=JSON | NEAR, member=WORDS)
def test_any_resource_is_judged_or_a_stop(resource: Any, member: str) -> None:
    for value in (
        resource,
        {**PLAIN, member: resource},
        {"resourceType": "Patient", member: resource},
    ):
        with a_stop_is_fine():
            judged(read_fhir(bundle(value, PLAIN), FHIR))


@MANY
@given(member=st.sampled_from(sorted(PLAIN)), value=NEAR)
def test_a_consent_that_is_not_the_plain_one_lets_in_only_what_it_plainly_says(
    member: str, value: Any
) -> None:
    changed = {**PLAIN, member: value}
    try:
        allowed, _ = decide(read_fhir(bundle(changed), FHIR), AgeRules(), now=NOW)
    except DataError:
        return
    if allowed:
        assert changed["status"] == "active"
        assert changed["provision"]["type"] == "permit"
        assert any(coding.get("code") == "HRESCH" for coding in changed["provision"]["purpose"])


@MANY
@given(value=st.dictionaries(st.text(max_size=5), JSON, max_size=5))
def test_a_streamed_object_is_what_the_whole_parser_reads(value: dict[str, Any]) -> None:
    read: dict[str, Any] = {}
    for name, item, _, _ in members(json.dumps(value).encode(), streamed="entry"):
        if name == "entry" and isinstance(value["entry"], list):
            read.setdefault("entry", []).append(item)
        else:
            read[name] = item
    if value.get("entry") == []:
        read["entry"] = []
    assert read == value


@MANY
@given(text=st.text(max_size=40) | st.from_regex(r"[0-9]{4}(-[0-9]{2}){0,2}", fullmatch=True))
def test_any_text_is_a_date_or_none(text: str) -> None:
    start, end, born = start_of(text), end_of(text), birth_date(text)
    assert (start is None) == (end is None)
    if start is not None and end is not None:
        assert start < end
    if born is not None:
        assert born.earliest <= born.latest
