"""Consent from HL7 FHIR R4B: only what plainly permits lets a patient in, and a bundle that is not whole stops."""

import datetime as dt
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from consent_lab import (
    BOTH_RULES,
    DROP,
    RESEARCH,
    SYSTEM,
    Resource,
    Rule,
    bundle,
    coded,
    consent,
    patient,
    permit,
    read,
    read_bytes,
    refusal,
)
from lab import NOW
from solblom_client.consent.rules import AgeRules
from solblom_client.consent.sources.fhir_consent import FhirSettings

ABSENT = {
    "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
    "valueCode": "unknown",
}

# --- What lets a patient in


INCLUDED = {
    "plain": consent(),
    "no-period": consent(provision=permit(period=DROP)),
    "open-end": consent(provision=permit(period={"start": "2024-01-01"})),
    "open-start": consent(provision=permit(period={"end": "2026-12"})),
    "ends-today": consent(provision=permit(period={"end": "2026-11-22"})),
    "ends-this-month": consent(provision=permit(period={"end": "2026-11"})),
    "ends-this-year": consent(provision=permit(period={"end": "2026"})),
    "ends-in-a-minute": consent(provision=permit(period={"end": "2026-11-22T13:01:00+01:00"})),
    "starts-today": consent(provision=permit(period={"start": "2026-11-22"})),
    "no-date": consent(dateTime=DROP),
    "privacy-scope": consent(scope=coded("patient-privacy")),
    "one-purpose-of-several": consent(
        provision=permit(purpose=[{"code": "TREAT"}, {"code": "HRESCH"}])
    ),
    "versioned-address": consent(patient={"reference": "Patient/ola/_history/3"}),
    "by-identifier": consent(patient={"identifier": {"system": SYSTEM, "value": "ola"}}),
    "verified": consent(verification=[{"verified": True}]),
    "narrative-and-extension": consent(text={"status": "empty"}, extension=[{"url": "x"}]),
}


@BOTH_RULES
@pytest.mark.parametrize("case", INCLUDED)
def test_a_plain_permission_lets_in(tmp_path: Path, case: str, rule: Rule) -> None:
    assert read(tmp_path, INCLUDED[case], rule=rule).includes("ola")


# --- What does not, and why

EXCLUDED: dict[str, tuple[Resource, str]] = {
    **{
        f"status-{status}": (consent(status=status), "not-active")
        for status in (
            *("draft", "proposed", "rejected", "inactive", "entered-in-error"),
            *("withdrawn", "Active", "ACTIVE", "active ", "", "aktiv"),
        )
    },
    "no-status": (consent(status=DROP), "not-active"),
    "status-as-list": (consent(status=["active"]), "not-active"),
    "deny": (consent(provision=permit(type="deny")), "withdrawn"),
    "deny-for-another-purpose": (
        consent(provision=permit(type="deny", purpose=[{"code": "TREAT"}])),
        "withdrawn",
    ),
    "deny-that-ended": (
        consent(status="inactive", provision=permit(type="deny")),
        "withdrawn",
    ),
    "type-missing": (consent(provision=permit(type=DROP)), "unclear"),
    "type-unknown": (consent(provision=permit(type="allow")), "unclear"),
    "no-provision": (consent(provision=DROP), "unclear"),
    "another-purpose": (consent(provision=permit(purpose=[{"code": "TREAT"}])), "other-purpose"),
    "no-purpose": (consent(provision=permit(purpose=DROP)), "unclear"),
    "purpose-as-text": (consent(provision=permit(purpose="HRESCH")), "unclear"),
    "another-scope-and-purpose": (
        consent(scope=coded("treatment"), provision=permit(purpose=[{"code": "TREAT"}])),
        "other-purpose",
    ),
    "treatment": (consent(scope=coded("treatment")), "unclear"),
    "directive": (consent(scope=coded("adr")), "unclear"),
    "no-scope": (consent(scope=DROP), "unclear"),
    "ended-yesterday": (consent(provision=permit(period={"end": "2026-11-21"})), "expired"),
    "ended-an-hour-ago": (
        consent(provision=permit(period={"end": "2026-11-22T12:00:00+01:00"})),
        "expired",
    ),
    "starts-tomorrow": (consent(provision=permit(period={"start": "2026-11-23"})), "not-yet"),
    "signed-tomorrow": (consent(dateTime="2026-11-23T00:00:00Z"), "not-yet"),
    "end-that-is-no-date": (consent(provision=permit(period={"end": "31.12.2030"})), "unclear"),
    "end-without-offset": (
        consent(provision=permit(period={"end": "2030-01-01T12:00:00"})),
        "unclear",
    ),
    "thirtieth-of-february": (consent(provision=permit(period={"end": "2030-02-30"})), "unclear"),
    "period-as-text": (consent(provision=permit(period="2030")), "unclear"),
    "signed-some-day": (consent(dateTime="yesterday"), "unclear"),
    "exceptions": (consent(provision=permit(provision=[{"type": "deny"}])), "narrowed"),
    "some-data-only": (consent(provision=permit(data=[{"meaning": "related"}])), "narrowed"),
    "some-actors-only": (consent(provision=permit(actor=[{"role": coded("PRCP")}])), "narrowed"),
    "data-of-some-years": (consent(provision=permit(dataPeriod={"end": "2020"})), "narrowed"),
    "modifier": (consent(modifierExtension=[{"url": "x"}]), "unclear"),
    "modifier-of-the-provision": (
        consent(provision=permit(modifierExtension=[{"url": "x"}])),
        "unclear",
    ),
    "implicit-rules": (consent(implicitRules="http://x.example/rules"), "unclear"),
    "misspelt-member": (consent(provison={}), "unclear"),
    "not-verified": (consent(verification=[{"verified": False}]), "unclear"),
}


@BOTH_RULES
@pytest.mark.parametrize("case", EXCLUDED)
def test_everything_else_excludes(tmp_path: Path, case: str, rule: Rule) -> None:
    resource, reason = EXCLUDED[case]
    state = read(tmp_path, resource, rule=rule)
    assert not state.includes("ola")
    assert state.reason("ola") == reason


@BOTH_RULES
@pytest.mark.parametrize(
    "case", [name for name in EXCLUDED if EXCLUDED[name][1] != "other-purpose"]
)
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_an_exclusion_outweighs_a_permission_of_the_same_patient(
    tmp_path: Path, case: str, rule: Rule, first: bool
) -> None:
    pair = [EXCLUDED[case][0], consent()]
    assert not read(tmp_path, *(pair if first else pair[::-1]), rule=rule).includes("ola")


def test_a_permission_for_another_purpose_does_not_touch_this_one(tmp_path: Path) -> None:
    for case in ("another-purpose", "another-scope-and-purpose"):
        assert read(tmp_path, EXCLUDED[case][0], consent()).includes("ola")


def test_without_a_purpose_in_node_toml_any_purpose_of_research_counts(tmp_path: Path) -> None:
    resource = consent(provision=permit(purpose=[{"code": "X"}]))
    assert read(tmp_path, resource, settings=FhirSettings()).includes("ola")


def test_a_purpose_may_be_named_with_its_system(tmp_path: Path) -> None:
    right, wrong = (FhirSettings(frozenset([f"{s}|HRESCH"])) for s in ("v3-ActReason", "other"))
    assert read(tmp_path, consent(), settings=right).includes("ola")
    assert not read(tmp_path, consent(), settings=wrong).includes("ola")


def test_the_rules_differ_in_who_has_no_record_and_in_nothing_else(tmp_path: Path) -> None:
    assert not read(tmp_path, consent("kari")).includes("ola")
    assert read(tmp_path, consent("kari"), rule="opt-out").includes("ola")


def test_only_what_the_published_structure_accepts_lets_in(tmp_path: Path) -> None:
    """fhir.resources knows R4B's members, types and which are required."""
    published = pytest.importorskip("fhir.resources.R4B.consent")
    for case, resource in INCLUDED.items():
        if case != "narrative-and-extension":
            published.Consent.model_validate(resource)
    # Its lists of codes are open, so codes are checked here.
    published.Consent.model_validate(consent(status="withdrawn"))
    assert not read(tmp_path, consent(status="withdrawn")).includes("ola")


# --- Whose it is


def test_a_patient_is_known_by_logical_id_and_by_every_identifier(tmp_path: Path) -> None:
    who = patient("p1", identifier=[{"system": SYSTEM, "value": "ola"}, {"value": " o\u0301la "}])
    state = read(tmp_path, who, consent("p1"))
    assert state.includes("p1")
    assert state.includes("ola")
    assert state.includes("\u00f3la")  # in its other spelling


@pytest.mark.parametrize("order", [1, -1], ids=["patient-first", "consent-first"])
def test_with_an_identifier_system_only_its_value_is_the_patients_id(
    tmp_path: Path, order: int
) -> None:
    who = patient("p1", identifier=[{"system": SYSTEM, "value": "ola"}, {"value": "4711"}])
    settings = FhirSettings(RESEARCH.purposes, SYSTEM)
    state = read(tmp_path, *[who, consent("p1")][::order], settings=settings)
    assert state.includes("ola")
    assert not state.includes("p1")
    assert not state.includes("4711")


def test_an_entrys_own_address_finds_its_patient(tmp_path: Path) -> None:
    url = "urn:uuid:11111111-2222-3333-4444-555555555555"
    who = patient("p1", identifier=[{"value": "ola"}])
    value = bundle(consent(patient={"reference": url}))
    value["entry"].append({"fullUrl": url, "resource": who})
    assert read_bytes(tmp_path, json.dumps(value).encode()).includes("ola")


def test_a_withdrawal_by_identifier_reaches_every_name_of_the_patient(tmp_path: Path) -> None:
    who = patient("p1", identifier=[{"value": "ola"}])
    no = consent(patient={"identifier": {"value": "ola"}}, status="inactive")
    state = read(tmp_path, who, no, rule="opt-out")
    assert not state.includes("ola")
    assert not state.includes("p1")


@BOTH_RULES
def test_a_name_that_two_patients_share_takes_no_part(tmp_path: Path, rule: Rule) -> None:
    one, two = (patient(name, identifier=[{"value": "ola"}]) for name in ("p1", "p2"))
    state = read(tmp_path, one, two, consent("p1"), consent("p2"), rule=rule)
    assert not state.includes("ola")
    assert state.includes("p1")


@BOTH_RULES
def test_a_logical_id_that_is_anothers_identifier_takes_no_part(tmp_path: Path, rule: Rule) -> None:
    who = patient("p1", identifier=[{"value": "ola"}])
    assert not read(tmp_path, who, consent("ola"), rule=rule).includes("ola")


@BOTH_RULES
def test_merged_records_take_no_part_under_either_name(tmp_path: Path, rule: Rule) -> None:
    link = [{"type": "replaced-by", "other": {"reference": "Patient/p2"}}]
    state = read(tmp_path, patient("p1", link=link), patient("p2"), consent("p2"), rule=rule)
    assert not state.includes("p1")
    assert not state.includes("p2")


@pytest.mark.parametrize(
    "reference",
    [
        {},
        {"reference": "Group/1"},
        {"reference": "#contained"},
        {"reference": "Patient/"},
        {"reference": 7},
        {"display": "Ola Nordmann"},
        {"identifier": {"system": SYSTEM}},
        {"reference": "Patient/ola", "type": "RelatedPerson"},
        {"reference": "urn:uuid:nobody"},
    ],
    ids=[
        *("empty", "group", "contained", "no-id", "number", "display-only", "no-value"),
        *("another-type", "nowhere"),
    ],
)
def test_a_consent_of_nobody_in_particular_stops(tmp_path: Path, reference: Resource) -> None:
    said = refusal(tmp_path, bundle(consent(patient=reference, status="inactive")))
    assert "Nordmann" not in said


def test_an_unknown_patient_stops_where_ids_are_identifiers(tmp_path: Path) -> None:
    settings = FhirSettings(RESEARCH.purposes, SYSTEM)
    assert "unknown patient" in refusal(tmp_path, bundle(consent()), settings=settings)


def test_one_patient_in_two_ways_stops(tmp_path: Path) -> None:
    two = [patient("p1", identifier=[{"value": value}]) for value in ("a", "b")]
    assert "twice" in refusal(tmp_path, bundle(*two))


# --- Death and age, from the Patient


@BOTH_RULES
@pytest.mark.parametrize(
    "died",
    [
        {"deceasedBoolean": True},
        {"deceasedDateTime": "2026-01-01"},
        {"deceasedBoolean": "no idea"},
        {"_deceasedDateTime": {"extension": [ABSENT]}},
        {"_deceasedBoolean": {"extension": [ABSENT]}},
    ],
    ids=["boolean", "date", "unreadable", "day-unknown", "said-by-extension"],
)
def test_the_dead_take_no_part_unless_node_toml_keeps_them(
    tmp_path: Path, died: Resource, rule: Rule
) -> None:
    resources = (patient("ola", **died), consent())
    assert read(tmp_path, *resources, rule=rule).reason("ola") == "deceased"
    keep = AgeRules(deceased="keep")
    assert read(tmp_path, *resources, rule=rule, ages=keep).includes("ola")


def test_under_opt_out_a_death_without_a_record_excludes(tmp_path: Path) -> None:
    state = read(tmp_path, patient("ola", deceasedBoolean=True), rule="opt-out")
    assert not state.includes("ola")


@pytest.mark.parametrize(("born", "included"), [("1970", True), ("2015", False), (DROP, False)])
def test_under_opt_out_age_alone_may_decide(tmp_path: Path, born: Any, included: bool) -> None:
    ages = AgeRules(min_age_years=18)
    state = read(tmp_path, patient("ola", birthDate=born), rule="opt-out", ages=ages)
    assert state.includes("ola") is included


def test_alive_lets_in(tmp_path: Path) -> None:
    assert read(tmp_path, patient("ola", deceasedBoolean=False), consent()).includes("ola")


@pytest.mark.parametrize(
    ("born", "reason"),
    [
        ("2010-11-23", None),
        ("2010-11-22", "guardian-ended"),
        ("2010", "guardian-ended"),  # perhaps the first of January
        ("2011", None),
        (None, "age-unknown"),
        ("soon", "age-unknown"),
        ("2030-01-01", "age-unknown"),
    ],
)
def test_a_guardians_consent_ends_when_the_patient_comes_of_age(
    tmp_path: Path, born: str | None, reason: str | None
) -> None:
    who = patient("ola", birthDate=DROP if born is None else born)
    given = consent(performer=[{"reference": "RelatedPerson/mother"}])
    assert read(tmp_path, who, given).reason("ola") == reason


def test_a_consent_of_ones_own_does_not_end_with_age(tmp_path: Path) -> None:
    own = consent(performer=[{"reference": "Patient/ola"}])
    assert read(tmp_path, patient("ola", birthDate="1950"), own).includes("ola")


# --- Bundles that are not whole, not bundles, or hostile


HOSTILE: dict[str, Any] = {
    "next-page": bundle(consent(), link=[{"relation": "next", "url": "https://x.example/2"}]),
    "previous-page": bundle(consent(), link=[{"relation": "previous", "url": "x"}]),
    "links-unreadable": bundle(consent(), link="next"),
    "fewer-than-total": bundle(consent(), type="searchset", total=2),
    "history": bundle(consent(), type="history"),
    "transaction": bundle(consent(), type="transaction"),
    "no-type": bundle(consent(), type=DROP),
    "another-resource": {"resourceType": "List"},
    "a-bundle-inside": bundle(bundle(consent())),
    "server-error": bundle(
        consent(), {"resourceType": "OperationOutcome", "issue": [{"severity": "error"}]}
    ),
    "entry-without-resource": bundle(entry=[{"fullUrl": "x"}]),
    "entry-null": bundle(entry=[None]),
    "r5-decision": bundle(consent(decision="permit")),
    "r5-grantee": bundle(consent(grantee=[{"reference": "Organization/1"}])),
    "r5-subject": bundle(consent(subject={"reference": "Patient/ola"})),
    "r5-provisions": bundle(consent(provision=[permit()])),
    "stu3-except": bundle(consent(**{"except": []})),
    "empty": b"",
    "a-list": b"[]",
    "a-text": b'"Bundle"',
    "cut": json.dumps(bundle(consent())).encode()[:-10],
    "more-after-it": json.dumps(bundle(consent())).encode() + b"{}",
    "not-utf-8": b'{"resourceType": "\xff"}',
    "nan": b'{"resourceType": "Bundle", "type": "collection", "total": NaN}',
    "long-number": b'{"resourceType": "Bundle", "total": ' + b"9" * 100_000 + b"}",
    "nested": b'{"entry": [' + b"[" * 1_000_000,
    "nested-objects": b'{"entry": [' + b'{"a":' * 200_000,
    "csv": b"patient_id,status,valid_until\nola,granted,\n",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_bundle_that_is_not_whole_or_none_stops(tmp_path: Path, case: str) -> None:
    refusal(tmp_path, HOSTILE[case], rule="opt-out")


@pytest.mark.parametrize("name", ["decision", "grantee"])
def test_another_version_is_refused_by_the_name_of_its_member(tmp_path: Path, name: str) -> None:
    said = refusal(tmp_path, bundle(consent(**{name: []})))
    assert name in said
    assert "R5" in said


@pytest.mark.parametrize(
    "text",
    [
        '{"resourceType": "Bundle", "type": "collection", "type": "history", "entry": []}',
        '{"resourceType": "Bundle", "type": "collection", "entry": [], "entry": []}',
        json.dumps(bundle(consent())).replace('"active"', '"inactive", "status": "active"'),
        json.dumps(bundle(consent())).replace('"permit"', '"deny", "type": "permit"'),
    ],
    ids=["bundle", "entries", "status", "type"],
)
def test_a_name_that_stands_twice_stops(tmp_path: Path, text: str) -> None:
    refusal(tmp_path, text.encode())


@pytest.mark.parametrize("where", ["timestamp", "lastUpdated", "file"])
@pytest.mark.parametrize(("hours", "stops"), [(0, False), (24, False), (25, True), (-1, True)])
def test_of_all_times_of_a_source_the_older_counts(
    tmp_path: Path, where: str, hours: int, stops: bool
) -> None:
    moment = (NOW - dt.timedelta(hours=hours)).isoformat()
    times: Resource = {"timestamp": {"timestamp": moment}}.get(where, {})
    if where == "lastUpdated":
        times = {"meta": {"lastUpdated": moment}}
    value = bundle(consent(), **times)
    age = hours if where == "file" else 0
    if stops:
        refusal(tmp_path, value, age=age)
    else:
        assert read_bytes(tmp_path, json.dumps(value).encode(), age=age).includes("ola")


def test_a_time_of_its_own_that_cannot_be_read_stops(tmp_path: Path) -> None:
    refusal(tmp_path, bundle(consent(), timestamp="yesterday"))


def test_one_changed_byte_is_seen_though_size_and_time_stay(tmp_path: Path) -> None:
    yes = json.dumps(bundle(consent(status="active"))).encode()
    no = yes.replace(b'"active"', b'"aktive"')
    assert read_bytes(tmp_path, yes).includes("ola")
    assert not read_bytes(tmp_path, no).includes("ola")
    assert read_bytes(tmp_path, yes).includes("ola")


def test_a_large_bundle_takes_little_more_memory_than_its_bytes(tmp_path: Path) -> None:
    junk = {"resourceType": "Basic", "extension": [{"url": f"u{n}"} for n in range(200)]}
    data = json.dumps(bundle(*[junk] * 2000, consent())).encode()
    tracemalloc.start()
    assert read_bytes(tmp_path, data).includes("ola")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(data)
