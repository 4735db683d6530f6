"""Consent from FHIR where a record is in doubt: an older permission never wins, and no name of a patient is missed."""

import itertools
import json
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
from solblom_client.consent.rules import AgeRules
from solblom_client.consent.sources.fhir_consent import FhirSettings

HERE, ELSEWHERE = "https://here.example/fhir", "https://elsewhere.example/fhir"
A1 = {"system": SYSTEM, "value": "A1"}
TREAT = [{"system": "v3-ActReason", "code": "TREAT"}]
ONLY_SYSTEM = FhirSettings(RESEARCH.purposes, SYSTEM)


def at(address: str, resource: Resource) -> Resource:
    return {"fullUrl": address, "resource": resource}


def of_entries(*entries: Resource) -> bytes:
    return json.dumps(bundle(entry=list(entries))).encode()


# --- Whether it is about another purpose

NESTED = [{"type": "deny", "purpose": [{"code": "HRESCH"}]}]
NOT_SURELY_ANOTHER: dict[str, Resource] = {
    "nested-deny-under-any-purpose": consent(provision=permit(purpose=DROP, provision=NESTED)),
    "nested-deny-under-another": consent(provision=permit(purpose=TREAT, provision=NESTED)),
    "nested-object": consent(provision=permit(purpose=TREAT, provision=NESTED[0])),
    "nested-nothing": consent(provision=permit(purpose=TREAT, provision=None)),
    "rejected-for-any-purpose": consent(status="rejected", provision=permit(purpose=DROP)),
    "rejected-purpose-an-object": consent(
        status="rejected", provision=permit(purpose={"code": "HRESCH"})
    ),
    "rejected-purpose-empty": consent(status="rejected", provision=permit(purpose=[])),
    "rejected-purpose-without-code": consent(
        status="rejected", provision=permit(purpose=[*TREAT, {"display": "research"}])
    ),
    "rejected-purpose-in-lower-case": consent(
        status="rejected", provision=permit(purpose=[{"code": "hresch"}])
    ),
    "inactive-scope-unreadable": consent(status="inactive", scope=5),
    "inactive-scope-as-text": consent(
        status="inactive", scope={"text": "research"}, provision=permit(purpose=TREAT)
    ),
    "inactive-no-scope": consent(status="inactive", scope=DROP, provision=permit(purpose=TREAT)),
    "inactive-research-under-treatment": consent(status="inactive", scope=coded("treatment")),
    "any-purpose": consent(provision=permit(purpose=DROP)),
    "modifier": consent(modifierExtension=[{"url": "x"}], provision=permit(purpose=TREAT)),
    "modifier-of-the-provision": consent(
        provision=permit(purpose=TREAT, modifierExtension=[{"url": "x"}])
    ),
}


@BOTH_RULES
@pytest.mark.parametrize("case", NOT_SURELY_ANOTHER)
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_record_that_is_not_surely_about_another_purpose_outweighs_an_older_permission(
    tmp_path: Path, case: str, rule: Rule, first: bool
) -> None:
    pair = [NOT_SURELY_ANOTHER[case], consent()]
    assert not read(tmp_path, *(pair if first else pair[::-1]), rule=rule).includes("ola")


SURELY_ANOTHER = {
    "active": consent(provision=permit(purpose=TREAT)),
    "rejected": consent(status="rejected", provision=permit(purpose=TREAT)),
    "with-limits": consent(provision=permit(purpose=TREAT, actor=[{"role": coded("PRCP")}])),
    "by-an-unknown": consent(performer=[{}], provision=permit(purpose=TREAT)),
}


@pytest.mark.parametrize("case", SURELY_ANOTHER)
def test_a_record_that_is_plainly_about_another_purpose_does_not(tmp_path: Path, case: str) -> None:
    assert read(tmp_path, SURELY_ANOTHER[case], consent()).includes("ola")
    assert read(tmp_path, SURELY_ANOTHER[case]).reason("ola") == "other-purpose"


def test_the_code_of_another_system_is_a_doubt(tmp_path: Path) -> None:
    settings = FhirSettings(frozenset(["v3-ActReason|HRESCH"]))
    for purpose in ({"code": "HRESCH"}, {"system": "http://v3-ActReason", "code": "HRESCH"}):
        other = consent(status="rejected", provision=permit(purpose=[purpose]))
        assert not read(tmp_path, other, consent(), settings=settings).includes("ola")


def test_without_a_purpose_in_node_toml_the_scope_tells_what_a_record_is_about(
    tmp_path: Path,
) -> None:
    for changes, included in (
        ({"scope": coded("treatment")}, True),
        ({"scope": coded("research")}, False),
        ({"scope": DROP}, False),
        ({"scope": coded("treatment"), "provision": permit(purpose=DROP)}, False),
    ):
        other = consent(status="rejected", **changes)
        state = read(tmp_path, other, consent(), settings=FhirSettings())
        assert state.includes("ola") is included


# --- Who gave it

NOT_RECOGNISED: dict[str, Any] = {
    "address-of-an-entry": [{"reference": "urn:uuid:9f"}],
    "contained": [{"reference": "#g"}],
    "identifier-alone": [{"identifier": {"value": "x"}}],
    "an-object": {"reference": "RelatedPerson/9"},
    "nothing": None,
    "a-text": "RelatedPerson/9",
    "empty": [{}],
    "display": [{"display": "the mother"}],
    "a-device": [{"reference": "Device/1"}],
    "two-kinds": [{"reference": "Patient/ola", "type": "RelatedPerson"}],
    "one-of-two": [{"reference": "Patient/ola"}, {"reference": "#g"}],
    "type-as-list": [{"reference": "Patient/ola", "type": ["Patient"]}],
    "another-patient": [{"reference": "Patient/mother"}],
    "another-patients-identifier": [
        {"type": "Patient", "identifier": {"value": "mother"}},
    ],
}


@BOTH_RULES
@pytest.mark.parametrize("case", NOT_RECOGNISED)
def test_a_consent_of_somebody_who_is_not_recognised_lets_nobody_in(
    tmp_path: Path, case: str, rule: Rule
) -> None:
    whose = {"identifier": {"value": "ola"}} if "identifier" in case else DROP
    changes: Resource = {} if whose is DROP else {"patient": whose}
    given = consent(performer=NOT_RECOGNISED[case], **changes)
    given["contained"] = [{"resourceType": "RelatedPerson", "id": "g"}]
    mother = at("urn:uuid:9f", {"resourceType": "RelatedPerson", "id": "9"})
    data = of_entries({"resource": given}, mother, {"resource": patient(birthDate="1990")})
    assert read_bytes(tmp_path, data, rule=rule).reason("ola") == "unclear"


GUARDIANS: dict[str, Resource] = {
    "relative": {"reference": "RelatedPerson/9"},
    "versioned": {"reference": "RelatedPerson/9/_history/2"},
    "absolute": {"reference": f"{HERE}/RelatedPerson/9"},
    "by-type": {"type": "RelatedPerson", "identifier": {"value": "x"}},
    "address-and-type": {"reference": "urn:uuid:9f", "type": "RelatedPerson"},
}


@pytest.mark.parametrize("case", GUARDIANS)
def test_a_guardian_is_recognised_by_path_or_type(tmp_path: Path, case: str) -> None:
    given = consent(performer=[{"reference": "Practitioner/1"}, GUARDIANS[case]])
    assert read(tmp_path, patient(birthDate="1990"), given).reason("ola") == "guardian-ended"
    assert read(tmp_path, patient(birthDate="2015"), given).includes("ola")


OWN: dict[str, Resource] = {
    "patient": {"reference": "Patient/ola"},
    "patient-by-address": {"reference": f"{HERE}/Patient/ola"},
    "patient-by-type": {"type": "Patient", "display": "Ola"},
    "practitioner": {"reference": "Practitioner/1"},
    "role": {"reference": "PractitionerRole/1"},
    "organization": {"type": "Organization", "identifier": {"value": "4"}},
}


@pytest.mark.parametrize("case", OWN)
def test_a_consent_of_ones_own_or_taken_by_the_hospital_lets_in(tmp_path: Path, case: str) -> None:
    given = consent(performer=[OWN[case]])
    assert read(tmp_path, patient(birthDate="1950"), given).includes("ola")


# --- Names that belong together

TIES = consent(patient={"reference": "Patient/xyz", "identifier": A1})
DENIED = permit(type="deny")


def orders(*resources: Resource) -> list[tuple[Resource, ...]]:
    return list(itertools.permutations(resources))


@BOTH_RULES
@pytest.mark.parametrize(
    "no",
    [
        consent(patient={"identifier": A1}, provision=DENIED),
        consent("xyz", provision=DENIED),
        consent(patient={"identifier": A1}, status="inactive"),
        consent("xyz", provision=permit(period={"end": "2020"})),
    ],
    ids=["deny-by-identifier", "deny-by-id", "inactive", "expired"],
)
def test_an_exclusion_under_one_name_holds_under_all_that_a_consent_ties_to_it(
    tmp_path: Path, no: Resource, rule: Rule
) -> None:
    for resources in orders(TIES, no):
        state = read(tmp_path, *resources, rule=rule)
        assert [state.includes(name) for name in ("xyz", "A1")] == [False, False]


def test_names_are_tied_over_several_consents(tmp_path: Path) -> None:
    more = consent(patient={"reference": "Patient/xyz", "identifier": {"value": "B2"}})
    no = consent(patient={"identifier": {"value": "B2"}}, provision=DENIED)
    for resources in orders(TIES, more, no):
        state = read(tmp_path, *resources, rule="opt-out")
        assert not any(state.includes(name) for name in ("xyz", "A1", "B2"))


def test_with_an_identifier_system_two_identifiers_are_tied_by_the_reference(
    tmp_path: Path,
) -> None:
    more = consent(
        patient={"reference": "Patient/xyz", "identifier": {"system": SYSTEM, "value": "B2"}},
        provision=DENIED,
    )
    for resources in orders(TIES, more):
        assert not read(tmp_path, *resources, settings=ONLY_SYSTEM).includes("A1")


def test_a_permission_under_one_name_holds_under_all_where_nothing_speaks_against_it(
    tmp_path: Path,
) -> None:
    for resources in orders(TIES, consent(patient={"identifier": A1})):
        state = read(tmp_path, *resources)
        assert [state.includes(name) for name in ("xyz", "A1")] == [True, True]


@BOTH_RULES
def test_a_death_holds_under_a_name_that_stands_in_the_consent_alone(
    tmp_path: Path, rule: Rule
) -> None:
    for resources in orders(TIES, patient("xyz", deceasedBoolean=True)):
        assert read(tmp_path, *resources, rule=rule).reason("A1") == "deceased"


def test_a_birthday_holds_under_a_name_that_stands_in_the_consent_alone(tmp_path: Path) -> None:
    ages = AgeRules(min_age_years=18)
    state = read(tmp_path, TIES, patient("xyz", birthDate="2015"), ages=ages)
    assert state.reason("A1") == "too-young"


@BOTH_RULES
def test_a_merged_record_takes_no_part_under_a_name_that_stands_in_a_consent_alone(
    tmp_path: Path, rule: Rule
) -> None:
    link = [{"type": "replaced-by", "other": {"reference": "Patient/other"}}]
    state = read(tmp_path, TIES, patient("xyz", link=link), rule=rule)
    assert not state.includes("A1")


@BOTH_RULES
@pytest.mark.parametrize(
    "other",
    [
        {"reference": "Patient/p2"},
        {"reference": "Patient/p2/_history/1"},
        {"reference": f"{HERE}/Patient/p2"},
        {"identifier": {"value": "kari"}},
    ],
    ids=["id", "versioned", "address", "identifier"],
)
def test_a_merge_reaches_the_other_record_however_the_link_names_it(
    tmp_path: Path, other: Resource, rule: Rule
) -> None:
    one = patient("p1", link=[{"type": "replaces", "other": other}])
    two = patient("p2", identifier=[{"value": "kari"}])
    state = read(tmp_path, one, two, consent("p1"), consent("p2"), rule=rule)
    assert not any(state.includes(name) for name in ("p1", "p2", "kari"))


@BOTH_RULES
def test_two_patients_whom_a_consent_makes_one_take_no_part(tmp_path: Path, rule: Rule) -> None:
    people = [patient("xyz"), patient("p2", identifier=[A1])]
    for resources in orders(TIES, *people):
        state = read(tmp_path, *resources, rule=rule)
        assert not any(state.includes(name) for name in ("xyz", "p2", "A1"))


@BOTH_RULES
def test_a_withdrawal_by_an_identifier_of_two_patients_reaches_both(
    tmp_path: Path, rule: Rule
) -> None:
    people = [patient(name, identifier=[A1]) for name in ("p1", "p2")]
    no = consent(patient={"identifier": A1}, provision=DENIED)
    state = read(tmp_path, *people, consent("p1"), consent("p2"), no, rule=rule)
    assert not any(state.includes(name) for name in ("p1", "p2", "A1"))


def test_a_permission_by_an_identifier_of_two_patients_lets_neither_in(tmp_path: Path) -> None:
    people = [patient(name, identifier=[A1]) for name in ("p1", "p2")]
    state = read(tmp_path, *people, consent(patient={"identifier": A1}))
    assert not any(state.includes(name) for name in ("p1", "p2", "A1"))


def test_a_logical_id_has_one_spelling(tmp_path: Path) -> None:
    dead = patient("17 ", deceasedBoolean=True)
    assert read(tmp_path, dead, rule="opt-out").reason("17") == "deceased"
    assert read(
        tmp_path, patient("o\u0301"), consent(patient={"identifier": {"value": "\u00f3"}})
    ).includes("\u00f3")


# --- Addresses


@BOTH_RULES
@pytest.mark.parametrize(
    "reference",
    [
        f"{ELSEWHERE}/Patient/17",
        f"{ELSEWHERE}/Patient/17/_history/1",
        "urn:uuid:17",
        f"{HERE}/Group/Patient/17",
        "HTTPS://here.example/fhir/Patient/17",
        "/Patient/17",
        "x/Patient/17",
    ],
)
def test_an_address_that_no_entry_has_stops(tmp_path: Path, reference: str, rule: Rule) -> None:
    who = at(f"{HERE}/Patient/17", patient("17"))
    for whose in ({"reference": reference}, {"reference": reference, "identifier": A1}):
        given = {"resource": consent(patient=whose)}
        refusal(tmp_path, of_entries(who, given), rule=rule)


def test_an_address_without_any_patient_in_the_bundle_stops(tmp_path: Path) -> None:
    given = consent(patient={"reference": f"{HERE}/Patient/ola"})
    assert "address is in no entry" in refusal(tmp_path, bundle(given))


@pytest.mark.parametrize("version", ["", "/_history/3"])
def test_the_address_of_an_entry_finds_its_patient(tmp_path: Path, version: str) -> None:
    given = consent(patient={"reference": f"{HERE}/Patient/17{version}"})
    for entries in orders(at(f"{HERE}/Patient/17", patient("17")), {"resource": given}):
        assert read_bytes(tmp_path, of_entries(*entries)).includes("17")


def test_a_relative_reference_is_read_from_the_address_of_its_own_entry(tmp_path: Path) -> None:
    who = at(f"{HERE}/Patient/17", patient("17"))
    here, elsewhere = (at(f"{base}/Consent/1", consent("17")) for base in (HERE, ELSEWHERE))
    assert read_bytes(tmp_path, of_entries(who, here)).includes("17")
    for entries in ((who, elsewhere), (elsewhere, who), (here, elsewhere)):
        assert "two servers" in refusal(tmp_path, of_entries(*entries))


def test_one_logical_id_at_two_servers_stops(tmp_path: Path) -> None:
    both = [at(f"{base}/Patient/17", patient("17")) for base in (HERE, ELSEWHERE)]
    assert "in two ways" in refusal(tmp_path, of_entries(*both))
    assert read_bytes(tmp_path, of_entries(both[0], both[0], {"resource": consent("17")})).includes(
        "17"
    )
