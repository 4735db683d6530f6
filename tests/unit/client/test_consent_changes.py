"""A bundle that has changed says the same read with what is known of the last one as read from scratch.

Every test reads each bundle in both ways. Time saved is no reason to use a patient who said no.
"""

import contextlib
import datetime as dt
import gc
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from consent_changes_lab import (
    HERE,
    MANY,
    NEW,
    NO,
    PEOPLE,
    SETTINGS,
    USUAL,
    allowed,
    in_both_ways,
    text,
    usual,
    whole,
)
from consent_lab import RESEARCH, SYSTEM, consent, patient, permit
from lab import NOW
from solblom_client.consent.join import read_consent
from solblom_client.consent.sources import fhir_bundle, fhir_changes
from solblom_client.consent.sources.fhir_bundle import read_bundle
from solblom_client.consent.sources.fhir_consent import FhirSettings
from solblom_protocol.errors import DataError

OLA, OLAS, KARI, KARIS = range(4)
DENIED = text(consent("ola", provision=permit(type="deny")))


@pytest.fixture(autouse=True, scope="module", params=[0.25, 2.0], ids=["as-used", "always"])
def share_that_may_change(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `always` even a bundle of which everything changed is put together from its parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fhir_changes, "_MOST_CHANGED", request.param)
        yield


# --- Hostile changes


def put(place: int, *entries: str) -> list[str]:
    return [*USUAL[:place], *entries, *USUAL[place:]]


def without(*places: int) -> list[str]:
    return [entry for number, entry in enumerate(USUAL) if number not in places]


def instead(place: int, entry: str) -> list[str]:
    return [*USUAL[:place], entry, *USUAL[place + 1 :]]


KNOWN_IN_A_STRING = text({"resourceType": "Basic", "text": USUAL[OLAS]})
CHANGED: dict[str, tuple[list[str], set[str]]] = {
    "withdrawn": (instead(OLAS, NO), {"ola"}),
    "withdrawn-beside-the-old-permission": (put(len(USUAL), NO), {"ola"}),
    "withdrawn-before-the-old-permission": (put(0, NO), {"ola"}),
    "withdrawn-twice": (put(3, NO, NO), {"ola"}),
    "denied-between-two-copies": (put(4, USUAL[OLAS], DENIED, USUAL[OLAS]), {"ola"}),
    "permission-thrice": (put(9, *[USUAL[OLAS]] * 2), set()),
    "record-gone": (without(OLAS), {"ola"}),
    "patient-gone": (without(OLA), set()),
    "both-gone": (without(OLA, OLAS), {"ola"}),
    "everything-but-one-gone": (USUAL[:2], set(PEOPLE) - {"ola"}),
    "everything-gone": ([], set(PEOPLE)),
    "moved-to-the-end": ([*without(OLAS), USUAL[OLAS]], set()),
    "turned-around": (USUAL[::-1], set()),
    "second-half-first": ([*USUAL[8:], *USUAL[:8]], set()),
    "died": (instead(OLA, text(patient("ola", deceasedBoolean=True))), {"ola"}),
    "died-in-a-second-entry": (put(7, text(patient("ola", deceasedDateTime="x"))), {"ola"}),
    "id-becomes-anothers": (instead(OLA, text(patient("kari", id="kari"))), set()),
    "name-taken-by-another": (
        put(16, text(patient("new", identifier=[{"value": "kari"}]))),
        {"kari"},
    ),
    "two-made-one-by-a-consent": (
        put(5, text(consent(patient={"reference": "Patient/ola", "identifier": {"value": "per"}}))),
        {"ola", "per"},
    ),
    "withdrawn-under-a-new-identifier": (
        [
            *instead(OLA, text(patient("ola", identifier=[{"value": "4711"}]))),
            text(consent(patient={"identifier": {"value": "4711"}}, status="inactive")),
        ],
        {"ola"},
    ),
    "consent-now-anothers": (
        instead(OLAS, text(consent("kari", status="inactive"))),
        {"ola", "kari"},
    ),
    "merged-with-another": (
        instead(OLA, text(patient("ola", link=[{"other": {"reference": "Patient/kari"}}]))),
        {"ola", "kari"},
    ),
    "known-entry-inside-a-string": (put(2, KNOWN_IN_A_STRING), set()),
    "known-entry-only-inside-a-string": (instead(OLAS, KNOWN_IN_A_STRING), {"ola"}),
    "known-entry-inside-an-entry": (
        instead(OLAS, '{"resource": {"resourceType": "Basic"}, "x": ' + USUAL[OLAS] + "}"),
        {"ola"},
    ),
    "known-entry-as-an-extension": (
        put(2, '{"x": [' + USUAL[OLAS] + "," + USUAL[OLA] + '], "resource": {}}'),
        set(),
    ),
    "known-entry-and-one-member-more": (instead(OLAS, USUAL[OLAS][:-1] + ', "x": 1}'), set()),
    "known-entry-and-an-address": (
        instead(OLAS, USUAL[OLAS][:-1] + f', "fullUrl": "{HERE}/Consent/1"}}'),
        set(),
    ),
    "same-words-other-space": ([entry.replace(": ", " :\n ") for entry in USUAL], set()),
    "same-words-escaped": ([entry.replace("ola", "\\u006fla") for entry in USUAL], set()),
    "one-word-changed": (instead(OLAS, USUAL[OLAS].replace("active", "aktive")), {"ola"}),
    "last-letter-changed": (instead(OLAS, USUAL[OLAS].replace("HRESCH", "HRESCI")), {"ola"}),
    "ends-yesterday": (
        instead(OLAS, text(consent(provision=permit(period={"end": "2026-11-21"})))),
        {"ola"},
    ),
}


@pytest.mark.parametrize("case", CHANGED)
@pytest.mark.parametrize("between", [", ", ",", "\n,\t"])
def test_a_changed_bundle_says_the_same_read_again_or_from_scratch(case: str, between: str) -> None:
    entries, out = CHANGED[case]
    before = usual()
    after = in_both_ways(whole(entries, between=between), before)
    assert allowed(after) & set(PEOPLE) == set(PEOPLE) - out
    back = in_both_ways(whole(USUAL), after)
    assert allowed(back) == set(PEOPLE)


TWO_WAYS = text(patient("ola", identifier=[{"value": "another"}]))
STOPS: dict[str, bytes] = {
    "cut-in-an-entry": whole(USUAL)[:-40],
    "cut-after-an-entry": whole(USUAL)[:-2],
    "cut-before-the-last-brace": whole(USUAL)[:-1],
    "cut-after-the-first-entry": whole(USUAL[:1])[:-2],
    "comma-after-the-last": whole(USUAL).replace(b"]}", b",]}"),
    "garbage-after-a-known-entry": whole(put(2, "x")),
    "no-comma-after-a-known-entry": whole([USUAL[0] + " " + USUAL[1], *USUAL[2:]]),
    "two-commas": whole(put(2, "")),
    "letters-after-a-known-entry": whole([USUAL[0] + "true", *USUAL[1:]]),
    "brace-after-a-known-entry": whole([USUAL[0] + "}", *USUAL[1:]]),
    "bracket-for-a-brace": whole(USUAL)[:-1] + b"]",
    "more-after-the-bundle": whole(USUAL) + whole(USUAL),
    "known-entries-twice-by-name": whole(USUAL)[:-1] + b', "entry": [' + USUAL[0].encode() + b"]}",
    "not-utf-8-between": whole(USUAL, between=",").replace(b"},{", b"},\xff{", 1),
    "not-utf-8-in-an-entry": whole(USUAL).replace("Å".encode(), b"\xc5"),
    "not-utf-8-in-the-last": whole([*USUAL, '{"resource": {"x": "y"}}']).replace(b"y", b"\xff"),
    "name-twice": whole(instead(OLAS, USUAL[OLAS].replace('"active"', '"inactive", "status": "active"'))),
    "known-entry-and-a-name-twice": whole(instead(OLAS, USUAL[OLAS][:-1] + ', "resource": {}}')),
    "nan": whole([*USUAL, '{"resource": {"x": NaN}}']),
    "nested": whole(USUAL)[:-2] + b"," + b"[" * 100_000,
    "number-for-an-entry": whole(put(1, "7")),
    "string-for-an-entry": whole(put(1, json.dumps(USUAL[1]))),
    "list-of-known-entries": whole(put(1, "[" + USUAL[1] + "]")),
    "patient-in-two-ways": whole(put(16, TWO_WAYS)),
    "consent-of-nobody": whole(put(16, text(consent(patient={})))),
    "address-in-no-entry": whole(put(16, text(consent(patient={"reference": "urn:uuid:1"})))),
    "server-error": whole(put(16, text({"resourceType": "OperationOutcome"}))),
    "another-version": whole(put(16, text(consent(decision="permit")))),
    "another-page": whole(USUAL, head='"link": [{"relation": "next"}], '),
    "fewer-than-total": whole(USUAL[:-1], head=f'"total": {len(USUAL)}, '),
    "two-servers": whole(put(16, text(consent("ola"), fullUrl=f"{HERE}/Consent/1"), text(consent("ola"), fullUrl="https://there.example/Consent/1"))),
}  # fmt: skip


@pytest.mark.parametrize("case", STOPS)
def test_what_stops_from_scratch_stops_with_an_earlier_bundle_too(case: str) -> None:
    assert in_both_ways(STOPS[case], usual()) is None


def test_a_change_reaches_what_is_only_joined_to_it_by_others() -> None:
    """Each entry shares a name with the next one alone: the first is what changed, the last is a withdrawal."""
    ids = [{"value": "4711"}]
    tie = {"reference": "Patient/p1", "identifier": {"value": "0815"}}
    chain = [
        text(consent("p1")),
        text(patient("p1", identifier=ids)),
        text(consent(patient={"identifier": {"value": "4711"}})),
        text(consent(patient=tie)),
        text(consent(patient={"identifier": {"value": "0815"}}, status="inactive")),
    ]
    before = in_both_ways(whole([*USUAL, *chain]), None)
    assert allowed(before) == set(PEOPLE)
    for place in range(len(chain)):
        other = chain[place].replace('"resourceType"', ' "resourceType"')
        after = in_both_ways(whole([*USUAL, *chain[:place], other, *chain[place + 1 :]]), before)
        assert allowed(after) == set(PEOPLE)
        less = in_both_ways(whole([*USUAL, *chain[:place], *chain[place + 1 :]]), before)
        assert ("p1" in allowed(less)) is (place in (3, 4))


def test_an_address_whose_patient_left_stops() -> None:
    url = "urn:uuid:11111111-2222-3333-4444-555555555555"
    far = [text(patient("p1"), fullUrl=url), text(consent(patient={"reference": url}))]
    before = in_both_ways(whole([*USUAL, *far]), None)
    assert "p1" in allowed(before)
    assert in_both_ways(whole([*USUAL, far[1]]), before) is None


def test_an_unknown_patient_stops_where_ids_are_identifiers() -> None:
    only_system, ids = SETTINGS[1], [{"system": SYSTEM, "value": "4711"}]
    both = [text(patient("p1", identifier=ids)), text(consent("p1"))]
    before = in_both_ways(whole(both), None, only_system)
    assert allowed(before) == {"4711"}
    assert in_both_ways(whole(both[1:]), before, only_system) is None
    other = consent(patient={"identifier": {"system": "x", "value": "7"}})
    assert in_both_ways(whole([*both, text(other)]), before, only_system) is None


def test_other_settings_read_everything_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    before, read = usual(), counted(monkeypatch)
    other = in_both_ways(whole(USUAL), before, FhirSettings(frozenset(["TREAT"])))
    assert allowed(other) == set()
    assert len(read) == 2 * len(USUAL)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list to which every entry is added that is read."""
    seen: list[Any] = []
    real = fhir_bundle.read_entry

    def read_entry(entry: Any, with_settings: FhirSettings) -> Any:
        seen.append(entry)
        return real(entry, with_settings)

    monkeypatch.setattr(fhir_bundle, "read_entry", read_entry)
    return seen


# --- Through the file of a source


def of_file(path: Path, entries: list[str], moment: dt.datetime) -> set[str]:
    path.write_bytes(whole(entries))
    os.utime(path, (moment.timestamp(), moment.timestamp()))
    state = read_consent(
        path, rule="opt-in", max_age_hours=24, now=moment, kind="fhir", fhir=RESEARCH
    )
    return {who for who in PEOPLE if state.includes(who)}


def test_the_day_counts_though_no_byte_changed(tmp_path: Path) -> None:
    path, tomorrow = tmp_path / "consent.json", NOW + dt.timedelta(days=1)
    entries = instead(OLAS, text(consent("ola", provision=permit(period={"end": "2026-11-22"}))))
    assert of_file(path, USUAL, NOW) == set(PEOPLE)
    assert of_file(path, entries, NOW) == set(PEOPLE)
    assert of_file(path, entries, tomorrow) == set(PEOPLE) - {"ola"}
    assert of_file(path, [*entries, text(patient("x"))], tomorrow) == set(PEOPLE) - {"ola"}


def test_after_a_source_that_stopped_the_next_one_is_held_against_the_last_good_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "consent.json"
    assert of_file(path, USUAL, NOW) == set(PEOPLE)
    with pytest.raises(DataError):
        of_file(path, put(16, text(consent(patient={}))), NOW)
    assert of_file(path, put(16, NO), NOW) == set(PEOPLE) - {"ola"}
    assert of_file(path, USUAL, NOW) == set(PEOPLE)


@pytest.mark.parametrize("running", [True, False])
def test_the_search_for_cycles_goes_on_as_before_whatever_was_read(
    tmp_path: Path, running: bool
) -> None:
    was = gc.isenabled()
    try:
        (gc.enable if running else gc.disable)()
        for entries in (USUAL, ["{"], USUAL[:4]):
            with contextlib.suppress(DataError):
                of_file(tmp_path / "consent.json", entries, NOW)
            assert gc.isenabled() is running
    finally:
        (gc.enable if was else gc.disable)()


# --- What is read again


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (lambda e: e, 0),
        (lambda e: [*e[:7], NO, *e[8:]], 1),
        (lambda e: [*NEW, *e[:300], *NEW, *e[300:], *NEW], 6),
        (lambda e: [*e[:100], *e[102:]], 0),
        (lambda e: [*e[:100], *e[200:]], 6),
        (lambda e: [*e[300:], *e[:300]], 20),
        (lambda e: [*e[:20], *e[400:420], *e[20:400], *e[420:]], 40),
        (lambda e: [entry for n, entry in enumerate(e) if n % 20], 0),
    ],
    ids=[
        *("nothing", "one", "inserted", "a-patient-gone", "many-gone", "turned", "moved"),
        "one-in-twenty-gone",
    ],
)
def test_what_has_the_same_bytes_is_not_read_again(
    change: Callable[[list[str]], list[str]], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_bundle(whole(MANY), RESEARCH, None)
    read = counted(monkeypatch)
    again = read_bundle(whole(change(MANY)), RESEARCH, before)
    assert len(read) <= most
    assert in_both_ways(whole(change(MANY)), before) is not None
    assert again.snapshot.people.keys() >= {"p299"}


def test_a_bundle_of_one_entry_many_times_is_read_in_little_time() -> None:
    """Each copy is found among the others, and nothing is learnt twice."""
    one = [text({"resourceType": "Basic", "n": n % 2}) for n in range(20_000)]
    before = read_bundle(whole(one), RESEARCH, None)
    start = time.process_time()
    read_bundle(whole([*one[1:], *one[:7]] + [text({"x": "y"})] * 20_000), RESEARCH, before)
    assert time.process_time() - start < 10  # a second at most where nothing else runs


def test_too_many_entries_stop_whether_they_are_known_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = usual()
    for name, most in (("MAX_RECORDS", len(PEOPLE)), ("MAX_ENTRIES", len(USUAL))):
        with monkeypatch.context() as patch:
            patch.setattr(fhir_bundle, name, most)
            assert in_both_ways(whole(USUAL), before) is not None
            assert in_both_ways(whole([*USUAL, *NEW]), before) is None
            assert in_both_ways(whole([*USUAL, *USUAL]), before) is None
