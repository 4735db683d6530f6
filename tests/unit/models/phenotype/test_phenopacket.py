"""Cases from phenopackets: what is taken, and that whatever is not is counted by name."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phenotype_lab import (
    HEAD,
    TERMS,
    feature,
    packet,
    read_all,
    real_cases,
    real_release,
    small_ontology,
    write_lines,
    write_ontology,
)
from solblom_models.phenotype.ontology import Ontology, read_ontology
from solblom_models.phenotype.phenopacket import Case, CaseRules, Sex, case_of, disease_id
from solblom_models.phenotype.reading import (
    DOCUMENT_REASONS,
    FEATURE_REASONS,
    KEPT_PLACES,
    Reading,
    Reason,
    Tally,
)


@pytest.fixture
def ontology(tmp_path: Path) -> Ontology:
    return small_ontology(tmp_path)


def one(folder: Path, ontology: Ontology, document: Any, **rules: Any) -> tuple[Case, Reading]:
    cases, reading = read_all(write_lines(folder, document), ontology, CaseRules(**rules))
    assert len(cases) == 1
    return cases[0], reading


def reason(folder: Path, ontology: Ontology, document: Any, **rules: Any) -> Reason:
    """Return why a document gives no case; the reading counts that reason once, at line 1."""
    cases, reading = read_all(write_lines(folder, document), ontology, CaseRules(**rules))
    assert cases == []
    found = [r for r in DOCUMENT_REASONS if reading.counts[r]]
    assert len(found) == 1
    assert (reading.documents, reading.counts[found[0]]) == (1, 1)
    assert reading.places[found[0]] == [1]
    return found[0]


def details(folder: Path, ontology: Ontology, document: Any) -> dict[Reason, int]:
    return dict(one(folder, ontology, document)[1].counts)


def diagnosis(disease: str, status: str = "SOLVED") -> dict[str, Any]:
    return {"progressStatus": status, "diagnosis": {"disease": {"id": disease}}}


def test_a_case_holds_what_the_packet_says(tmp_path: Path, ontology: Ontology) -> None:
    case, reading = one(tmp_path, ontology, packet())
    assert case == Case(
        id="packet-1",
        patient="patient-1",
        family=None,
        publication="PMID:1",
        observed=("HP:0000011",),
        excluded=("HP:0000020",),
        disease="OMIM:1",
        sex=Sex.FEMALE,
        age_years=3.5,
    )
    assert reading.summary() == {"documents": 1, "cases": 1, "features": 2, "used features": 2}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"subject": None, "phenotypicFeatures": None, "metaData": None}, Reason.NOT_PHENOPACKET),
        ({"members": []}, Reason.NOT_PHENOPACKET),
        ({"metaData": None}, Reason.SCHEMA_VERSION),
        ({"metaData": {"phenopacketSchemaVersion": "1.0.0"}}, Reason.SCHEMA_VERSION),
        ({"metaData": {"phenopacketSchemaVersion": 2}}, Reason.SCHEMA_VERSION),
        ({"metaData": {"phenopacketSchemaVersion": "20"}}, Reason.SCHEMA_VERSION),
        ({"subject": None}, Reason.NO_PATIENT),
        ({"subject": {"id": "  "}}, Reason.NO_PATIENT),
        ({"subject": {"id": 7}}, Reason.NO_PATIENT),
        ({"interpretations": None}, Reason.NO_DISEASE),
        ({"interpretations": [{}]}, Reason.NO_DISEASE),
        ({"interpretations": {"diagnosis": 1}}, Reason.NO_DISEASE),
        ({"interpretations": [diagnosis("OMIM:1", "UNSOLVED")]}, Reason.NO_DISEASE),
        ({"interpretations": [diagnosis("OMIM:1"), diagnosis("OMIM:2")]}, Reason.SEVERAL_DISEASES),
        ({"phenotypicFeatures": None}, Reason.NO_TERM),
        ({"phenotypicFeatures": []}, Reason.NO_TERM),
        ({"phenotypicFeatures": {"type": {"id": "HP:0000011"}}}, Reason.NO_TERM),
        ({"phenotypicFeatures": [feature("HP:7777777")]}, Reason.NO_TERM),
    ],
)
def test_a_packet_without_a_case_is_named(
    tmp_path: Path, ontology: Ontology, changes: dict[str, Any], expected: Reason
) -> None:
    assert reason(tmp_path, ontology, packet(**changes)) is expected


@pytest.mark.parametrize("version", ["2", "2.0", "2.0.2"])
def test_any_schema_version_2_is_read(tmp_path: Path, ontology: Ontology, version: str) -> None:
    changed = packet()["metaData"] | {"phenopacketSchemaVersion": version}
    assert one(tmp_path, ontology, packet(metaData=changed))[0].disease == "OMIM:1"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (b'{"id": "a"', Reason.TRUNCATED),
        (b"hello", Reason.NOT_JSON),
        (b'{"id": "a", "id": "b"}', Reason.DUPLICATE_KEY),
        (b'{"id": NaN}', Reason.NOT_FINITE),
        (b"\xff", Reason.NOT_UTF8),
        (b"[" * 100_000, Reason.TOO_DEEP),
        (b'"' + b"x" * 9_000_000 + b'"', Reason.TOO_LARGE),
    ],
)
def test_a_document_that_is_no_json_object_is_counted(
    tmp_path: Path, ontology: Ontology, document: bytes, expected: Reason
) -> None:
    assert reason(tmp_path, ontology, document) is expected


def test_a_million_features_are_refused_unread(tmp_path: Path, ontology: Ontology) -> None:
    whole = json.dumps(packet(phenotypicFeatures="@")).replace('"@"', "[" + "{}," * 999_999 + "{}]")
    assert reason(tmp_path, ontology, whole.encode()) is Reason.TOO_MANY_FEATURES


def test_one_feature_over_the_limit_is_too_many(tmp_path: Path, ontology: Ontology) -> None:
    assert one(tmp_path, ontology, packet(), max_features=2)
    assert reason(tmp_path, ontology, packet(), max_features=1) is Reason.TOO_MANY_FEATURES


def test_the_disease_is_the_diagnosis_before_the_list(tmp_path: Path, ontology: Ontology) -> None:
    listed = [{"term": {"id": "OMIM:9"}}]
    assert one(tmp_path, ontology, packet(diseases=listed))[0].disease == "OMIM:1"


def test_without_a_diagnosis_the_listed_disease_that_is_not_excluded_counts(
    tmp_path: Path, ontology: Ontology
) -> None:
    listed = [{"term": {"id": "OMIM:8"}, "excluded": True}, {"term": {"id": "OMIM:9"}}]
    case, _ = one(tmp_path, ontology, packet(interpretations=None, diseases=listed))
    assert case.disease == "OMIM:9"


def test_an_open_interpretation_is_no_label_and_is_counted(
    tmp_path: Path, ontology: Ontology
) -> None:
    both = [diagnosis("OMIM:2", "IN_PROGRESS"), diagnosis("OMIM:1")]
    case, reading = one(tmp_path, ontology, packet(interpretations=both))
    assert case.disease == "OMIM:1"
    assert reading.counts == {Reason.UNSOLVED: 1}


def test_the_same_disease_twice_is_one(tmp_path: Path, ontology: Ontology) -> None:
    both = [diagnosis("Orphanet:5"), diagnosis("ORPHA:5")]
    assert one(tmp_path, ontology, packet(interpretations=both))[0].disease == "ORPHA:5"


def test_a_disease_outside_the_label_space_is_named(tmp_path: Path, ontology: Ontology) -> None:
    labels = {"OMIM:2": "OMIM:2"}
    assert reason(tmp_path, ontology, packet(), labels=labels) is Reason.UNMAPPED_DISEASE


def test_a_disease_becomes_the_studys_id(tmp_path: Path, ontology: Ontology) -> None:
    assert one(tmp_path, ontology, packet(), labels={"OMIM:1": "MONDO:1"})[0].disease == "MONDO:1"


def test_one_disease_inside_and_one_outside_the_study_are_several(
    tmp_path: Path, ontology: Ontology
) -> None:
    both = packet(interpretations=[diagnosis("OMIM:1"), diagnosis("OMIM:2")])
    found = reason(tmp_path, ontology, both, labels={"OMIM:1": "OMIM:1"})
    assert found is Reason.SEVERAL_DISEASES


def test_a_case_to_predict_needs_no_disease(tmp_path: Path, ontology: Ontology) -> None:
    case, _ = one(tmp_path, ontology, packet(interpretations=None), need_disease=False)
    assert case.disease is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("omim:154700", "OMIM:154700"),
        ("MIM: 154700", "OMIM:154700"),
        ("Orphanet:558", "ORPHA:558"),
        (" MONDO:0007947 ", "MONDO:0007947"),
    ],
)
def test_a_disease_id_has_one_spelling(text: str, expected: str) -> None:
    assert disease_id(text) == expected


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        (feature("HP:7777777"), Reason.UNKNOWN_TERM),
        (feature("HP:0000032"), Reason.OBSOLETE_TERM),
        (feature("HP:0000005"), Reason.OUTSIDE_ROOT),
        (feature("HP:0000118"), Reason.OUTSIDE_ROOT),
        (feature("SNOMED:1"), Reason.OTHER_VOCABULARY),
        (feature("seizure"), Reason.OTHER_VOCABULARY),
        (feature("HP:0000011"), Reason.REPEATED_TERM),
        (feature("HP:0000010", excluded=True), Reason.EXCLUDED_ABOVE),
        (feature("HP:0000013", excluded="true"), Reason.UNREADABLE_FEATURE),
        ({"type": {"label": "x"}}, Reason.UNREADABLE_FEATURE),
        ("HP:0000013", Reason.UNREADABLE_FEATURE),
        (None, Reason.UNREADABLE_FEATURE),
    ],
)
def test_a_feature_that_is_not_used_is_named_and_the_others_are_used(
    tmp_path: Path, ontology: Ontology, added: Any, expected: Reason
) -> None:
    changed = packet(phenotypicFeatures=[*packet()["phenotypicFeatures"], added])
    case, reading = one(tmp_path, ontology, changed)
    assert (case.observed, case.excluded) == (("HP:0000011",), ("HP:0000020",))
    assert reading.counts == {expected: 1}
    assert (reading.features, reading.used_features) == (3, 2)


def test_null_is_what_is_left_out(tmp_path: Path, ontology: Ontology) -> None:
    terms = [feature("HP:0000011", excluded=None)]
    case, reading = one(tmp_path, ontology, packet(phenotypicFeatures=terms, diseases=None))
    assert case.observed == ("HP:0000011",)
    assert not reading.counts


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("HP:0000910", {Reason.ALTERNATIVE_TERM: 1}),
        ("HP:0000030", {Reason.REPLACED_TERM: 1}),
        ("hp:0000010", {}),
        (" HP:0000010 ", {}),
    ],
)
def test_an_old_or_odd_spelling_becomes_the_current_term(
    tmp_path: Path, ontology: Ontology, named: str, expected: dict[Reason, int]
) -> None:
    case, reading = one(tmp_path, ontology, packet(phenotypicFeatures=[feature(named)]))
    assert case.observed == ("HP:0000010",)
    assert reading.counts == expected


def test_a_term_both_observed_and_excluded_is_used_as_neither(
    tmp_path: Path, ontology: Ontology
) -> None:
    terms = [feature("HP:0000010"), feature("HP:0000910", excluded=True), feature("HP:0000020")]
    case, reading = one(tmp_path, ontology, packet(phenotypicFeatures=terms))
    assert (case.observed, case.excluded) == (("HP:0000020",), ())
    assert reading.counts == {Reason.CONTRADICTORY: 2, Reason.ALTERNATIVE_TERM: 1}


def test_a_kind_of_an_observed_term_may_be_excluded(tmp_path: Path, ontology: Ontology) -> None:
    terms = [feature("HP:0000010"), feature("HP:0000011", excluded=True)]
    case, reading = one(tmp_path, ontology, packet(phenotypicFeatures=terms))
    assert (case.observed, case.excluded) == (("HP:0000010",), ("HP:0000011",))
    assert not reading.counts


def test_excluded_terms_alone_are_a_case_and_counted(tmp_path: Path, ontology: Ontology) -> None:
    only = packet(phenotypicFeatures=[feature("HP:0000010", excluded=True)])
    assert details(tmp_path, ontology, only) == {Reason.NO_OBSERVED_TERM: 1}


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ({"sex": "female"}, {Reason.UNREADABLE_SEX: 1}),
        ({"sex": ["FEMALE"]}, {Reason.UNREADABLE_SEX: 1}),
        ({"sex": 2}, {}),
        ({"sex": None, "timeAtLastEncounter": None}, {}),
        ({}, {}),
        ({"timeAtLastEncounter": {"age": {"iso8601duration": "3"}}}, {Reason.UNREADABLE_AGE: 1}),
        ({"timeAtLastEncounter": "P3Y"}, {Reason.UNREADABLE_AGE: 1}),
        ({"time_at_last_encounter": {"age": {"iso8601duration": "P3Y"}}}, {}),
    ],
)
def test_sex_and_age_that_cannot_be_read_are_counted(
    tmp_path: Path, ontology: Ontology, subject: dict[str, Any], expected: dict[Reason, int]
) -> None:
    assert details(tmp_path, ontology, packet(subject={"id": "p"} | subject)) == expected


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([{"namespacePrefix": "HP", "version": "2025-11-24"}], {Reason.OTHER_RELEASE: 1}),
        ([{"id": "hp", "version": "http://x/hp/releases/2025-01-16/hp.json"}], {}),
        ([{"id": "omim", "version": "2025-11-24"}], {Reason.NO_RELEASE: 1}),
        ([{"namespacePrefix": ["HP"]}], {Reason.NO_RELEASE: 1}),
        (None, {Reason.NO_RELEASE: 1}),
    ],
)
def test_a_case_coded_with_another_release_is_counted(
    tmp_path: Path, ontology: Ontology, resources: Any, expected: dict[Reason, int]
) -> None:
    changed = packet(metaData=packet()["metaData"] | {"resources": resources})
    assert details(tmp_path, ontology, changed) == expected


def test_of_several_publications_the_first_is_taken_and_that_is_counted(
    tmp_path: Path, ontology: Ontology
) -> None:
    named = [{"id": "DOI:1"}, {"id": "pmid:5"}, {"id": "PMID:4"}, {"id": "PMID:5"}]
    changed = packet(metaData=packet()["metaData"] | {"externalReferences": named})
    case, reading = one(tmp_path, ontology, changed)
    assert case.publication == "PMID:5"
    assert reading.counts == {Reason.SEVERAL_PUBLICATIONS: 1}


def test_names_as_in_the_protobuf_file_are_read_too(tmp_path: Path, ontology: Ontology) -> None:
    old = packet()
    meta = {
        "phenopacket_schema_version": "2.0",
        "external_references": [{"id": "PMID:1"}],
        "resources": [{"namespace_prefix": "HP", "version": "2025-01-16"}],
    }
    snake = {
        "id": old["id"],
        "subject": old["subject"],
        "phenotypic_features": old["phenotypicFeatures"],
        "interpretations": old["interpretations"],
        "meta_data": meta,
    }
    assert one(tmp_path, ontology, snake)[0] == one(tmp_path, ontology, old)[0]


def test_a_family_message_gives_its_proband_and_counts_relatives(
    tmp_path: Path, ontology: Ontology
) -> None:
    proband = packet()
    family = {
        "id": "family-1",
        "proband": proband,
        "relatives": [packet(id="packet-2")],
        "pedigree": {"persons": [{"familyId": "F1"}, {"familyId": "F1"}]},
    }
    case, reading = one(tmp_path, ontology, family)
    assert (case.family, case.patient) == ("F1", "patient-1")
    assert reading.counts == {Reason.RELATIVE: 1}


def test_a_patient_who_came_by_before_is_counted_and_left_out(
    tmp_path: Path, ontology: Ontology
) -> None:
    # One name in two spellings that look the same.
    first, second = packet(subject={"id": "p\u00e5"}), packet(subject={"id": "pa\u030a "})
    cases, reading = read_all(write_lines(tmp_path, first, second), ontology)
    assert len(cases) == 1
    assert reading.counts == {Reason.SAME_PATIENT: 1}
    assert reading.places == {Reason.SAME_PATIENT: [2]}


def test_a_packet_without_a_case_does_not_use_up_its_patient(
    tmp_path: Path, ontology: Ontology
) -> None:
    path = write_lines(tmp_path, packet(interpretations=None), packet())
    assert [case.disease for case in read_all(path, ontology)[0]] == ["OMIM:1"]


def test_papers_count_their_own_patients_under_that_scope(
    tmp_path: Path, ontology: Ontology
) -> None:
    other = packet(metaData=packet()["metaData"] | {"externalReferences": [{"id": "PMID:2"}]})
    path = write_lines(tmp_path, packet(), other, other)
    cases, reading = read_all(path, ontology, CaseRules(patient_scope="publication"))
    assert [case.patient for case in cases] == ["PMID:1 patient-1", "PMID:2 patient-1"]
    assert reading.counts == {Reason.SAME_PATIENT: 1}


def test_a_summary_has_counts_only(tmp_path: Path, ontology: Ontology) -> None:
    secret = packet(subject={"id": "Kari Nordmann"}, phenotypicFeatures=[feature("HP:7777777")])
    _, reading = read_all(write_lines(tmp_path, secret), ontology)
    text = json.dumps(reading.summary())
    assert not any(word in text for word in ("Kari", "7777777", "packet-1", "OMIM", "PMID"))
    assert all(isinstance(count, int) for count in reading.summary().values())


def test_line_numbers_are_kept_up_to_a_limit_and_counts_beyond(
    tmp_path: Path, ontology: Ontology
) -> None:
    _, reading = read_all(write_lines(tmp_path, *[b"x"] * (KEPT_PLACES + 5)), ontology)
    assert reading.counts[Reason.NOT_JSON] == KEPT_PLACES + 5
    assert reading.places[Reason.NOT_JSON] == list(range(1, KEPT_PLACES + 1))


def test_files_lines_and_folders_give_the_same_case(tmp_path: Path, ontology: Ontology) -> None:
    whole = tmp_path / "case.json"
    whole.write_text(json.dumps(packet(), indent=2))
    expected = [one(tmp_path, ontology, packet())[0]]
    assert read_all(whole, ontology)[0] == expected
    folder = tmp_path / "cases"
    folder.mkdir()
    whole.rename(folder / "case.json")
    assert read_all(folder, ontology)[0] == expected


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 5)
    | st.sampled_from(["", "HP:0000011", "P1Y", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "type", "excluded", "age", "disease", "term", "diagnosis", "start"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
PARTS = (
    "subject",
    "phenotypicFeatures",
    "interpretations",
    "diseases",
    "metaData",
    "proband",
    "relatives",
)


@pytest.fixture(scope="module")
def shared_ontology(tmp_path_factory: pytest.TempPathFactory) -> Ontology:
    return read_ontology(write_ontology(tmp_path_factory.mktemp("hpo"), HEAD + TERMS))


@given(st.dictionaries(st.sampled_from(PARTS), JSON, max_size=3), st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_shape_of_json_makes_the_reader_fail_or_lose_count(
    shared_ontology: Ontology, changes: dict[str, Any], need_disease: bool
) -> None:
    tally = Tally()
    rules = CaseRules(need_disease=need_disease)
    found = case_of(packet(**changes), shared_ontology, tally, rules=rules)
    assert isinstance(found, Case) or found in DOCUMENT_REASONS
    lost = sum(tally.counts[r] for r in FEATURE_REASONS)
    assert tally.features == tally.used_features + lost


TERM_IDS = st.sampled_from([f"HP:00000{n}" for n in (10, 11, 12, 13, 20, 30, 31, 32, 40)] + ["X:1"])


@given(st.lists(st.tuples(TERM_IDS, st.booleans()), max_size=12))
@settings(max_examples=300, deadline=None)
def test_every_feature_is_used_or_counted(
    shared_ontology: Ontology, terms: list[tuple[str, bool]]
) -> None:
    tally = Tally()
    features = [feature(term, excluded=excluded) for term, excluded in terms]
    found = case_of(packet(phenotypicFeatures=features), shared_ontology, tally)
    assert tally.features == len(terms)
    assert len(terms) == tally.used_features + sum(tally.counts[r] for r in FEATURE_REASONS)
    if isinstance(found, Case):
        assert tally.used_features == len(found.observed) + len(found.excluded)
        assert not set(found.observed) & set(found.excluded)


def test_8378_published_cases_are_read_and_what_is_not_used_is_this() -> None:
    ontology, _ = real_release()
    cases, reading = read_all(real_cases(), ontology, CaseRules(patient_scope="publication"))
    assert len({case.patient for case in cases}) == len(cases) == 8_377
    assert reading.documents == 8_378
    assert {
        reason: reading.counts[reason] for reason in DOCUMENT_REASONS if reading.counts[reason]
    } == {Reason.NO_TERM: 1}
    assert reading.counts[Reason.UNKNOWN_TERM] == 220  # packets are newer than the pinned release
    assert reading.counts[Reason.EXCLUDED_ABOVE] == 17
    lost = reading.total(FEATURE_REASONS)
    assert (reading.features, reading.used_features) == (178_854, 178_854 - lost)
    assert lost == 237
