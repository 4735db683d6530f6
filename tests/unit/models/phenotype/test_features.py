"""A case becomes a vector by public files alone, closed as a plain search would close it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phenotype_lab import ROOT, read_all, real_cases, real_release, small_ontology
from solblom_models.phenotype.annotations import Annotations
from solblom_models.phenotype.features import FeatureSpace, SparseVector, feature_space
from solblom_models.phenotype.ontology import Ontology
from solblom_models.phenotype.phenopacket import Case, CaseRules, Sex
from solblom_protocol.errors import ConfigurationError


def known(frequencies: Mapping[str, Mapping[str, float]]) -> Annotations:
    return Annotations(
        version="1",
        ontology_release="1",
        digest="",
        frequencies=frequencies,
        absent={},
        diseases={},
        lines=0,
        unread={},
    )


KNOWN = known({"OMIM:1": {"HP:0000013": 1.0}, "OMIM:2": {"HP:0000020": 0.5}})
FOCAL, FEBRILE, BOTH, SEIZURE, SHORT = (f"HP:00000{n}" for n in (11, 12, 13, 10, 20))


@pytest.fixture
def ontology(tmp_path: Path) -> Ontology:
    return small_ontology(tmp_path)


def space(ontology: Ontology, **changes: Any) -> FeatureSpace:
    return feature_space(ontology, KNOWN, **({"diseases": ["OMIM:2", "OMIM:1"]} | changes))


def case(observed: tuple[str, ...] = (), excluded: tuple[str, ...] = ()) -> Case:
    return Case("c", "p", None, None, observed, excluded, "OMIM:1", Sex.UNKNOWN, None)


def named(found: SparseVector, terms: tuple[str, ...]) -> dict[str, float]:
    """Return entries by term; a minus stands before an excluded one."""
    names = [*terms, *(f"-{term}" for term in terms)]
    return dict(zip([names[i] for i in found.indices], found.values.tolist(), strict=True))


def test_the_list_is_the_closure_of_what_annotates_any_disease(ontology: Ontology) -> None:
    found = space(ontology, diseases=["OMIM:2"])
    assert found.terms == (SEIZURE, FOCAL, FEBRILE, BOTH, SHORT)
    assert found.size == 10


def test_the_list_may_be_that_of_the_studys_diseases(ontology: Ontology) -> None:
    assert space(ontology, diseases=["OMIM:2"], terms="study").terms == (SHORT,)


def test_weights_are_information_or_ones(ontology: Ontology) -> None:
    assert space(ontology).weights.tolist() == pytest.approx([np.log(2)] * 5)
    assert space(ontology, weights="ones").weights.tolist() == [1.0] * 5


def test_an_observed_term_implies_what_it_is_a_kind_of(ontology: Ontology) -> None:
    found = space(ontology, weights="ones", unit=False)
    vector = found.vector(case(observed=(FOCAL,)))
    assert named(vector, found.terms) == {SEIZURE: 1.0, FOCAL: 1.0}


def test_an_excluded_term_stands_alone_by_default(ontology: Ontology) -> None:
    found = space(ontology, weights="ones", unit=False)
    vector = found.vector(case(excluded=(FOCAL,)))
    assert named(vector, found.terms) == {f"-{FOCAL}": 1.0}


def test_an_excluded_term_may_exclude_all_its_kinds(ontology: Ontology) -> None:
    found = space(ontology, weights="ones", unit=False, excluded="descendants")
    vector = found.vector(case(excluded=(FOCAL,)))
    assert named(vector, found.terms) == {f"-{FOCAL}": 1.0, f"-{BOTH}": 1.0}


def test_what_was_observed_is_not_excluded(ontology: Ontology) -> None:
    found = space(ontology, weights="ones", unit=False, excluded="descendants")
    vector = found.vector(case(observed=(FOCAL,), excluded=(SEIZURE,)))
    expected = {SEIZURE: 1.0, FOCAL: 1.0, f"-{FEBRILE}": 1.0, f"-{BOTH}": 1.0}
    assert named(vector, found.terms) == expected


def test_the_excluded_channel_is_scaled_or_left_out(ontology: Ontology) -> None:
    both = case(observed=(SHORT,), excluded=(FOCAL,))
    half = space(ontology, weights="ones", unit=False, excluded_scale=0.5)
    assert named(half.vector(both), half.terms) == {SHORT: 1.0, f"-{FOCAL}": 0.5}
    none = space(ontology, weights="ones", unit=False, excluded_scale=0.0)
    assert named(none.vector(both), none.terms) == {SHORT: 1.0}


def test_a_term_outside_the_list_leaves_its_ancestors_and_is_counted(ontology: Ontology) -> None:
    few = feature_space(
        ontology, known({"OMIM:1": {FOCAL: 1.0}}), diseases=["OMIM:1"], weights="ones"
    )
    new = case(observed=(BOTH, SHORT), excluded=(FEBRILE,))
    assert named(replace(few, unit=False).vector(new), few.terms) == {SEIZURE: 1.0, FOCAL: 1.0}
    assert few.outside(new) == 2


def test_a_case_without_any_listed_term_is_zero_and_not_a_number_is_nowhere(
    ontology: Ontology,
) -> None:
    found = space(ontology).vector(case())
    assert found.indices.size == 0
    assert found.dense().tolist() == [0.0] * 10


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"diseases": []}, "0 diseases"),
        ({"diseases": ["OMIM:9"], "terms": "study"}, "1 disease"),
        ({"excluded_scale": -1.0}, "-1"),
        ({"excluded_scale": float("nan")}, "nan"),
    ],
)
def test_a_space_that_cannot_be_is_refused(
    ontology: Ontology, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        space(ontology, **changes)
    assert caught.value.code == "SB-103"
    assert said in caught.value.message


def test_the_digest_changes_with_all_that_a_vector_depends_on(ontology: Ontology) -> None:
    whole = space(ontology)
    others = [
        replace(whole, excluded="descendants"),
        replace(whole, excluded_scale=0.5),
        replace(whole, unit=False),
        replace(whole, terms=whole.terms[:4], weights=whole.weights[:4]),
        replace(whole, weights=whole.weights * 2),
        replace(whole, diseases=("OMIM:1",)),
        replace(whole, ontology=replace(ontology, digest="sha256:other")),
    ]
    assert len({space.digest for space in [whole, *others]}) == 8
    assert space(ontology).digest == whole.digest


NAMES = [f"HP:{n + 1000:07}" for n in range(12)]


@given(
    graph=st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=12, max_size=12),
    listed=st.sets(st.sampled_from(NAMES), min_size=1),
    observed=st.sets(st.sampled_from(NAMES), max_size=4),
    excluded=st.sets(st.sampled_from(NAMES), max_size=4),
    rule=st.sampled_from(["term", "descendants"]),
)
@settings(max_examples=150, deadline=None)
def test_vectors_are_those_of_a_plain_search(
    graph: list[list[int]], listed: set[str], observed: set[str], excluded: set[str], rule: Any
) -> None:
    parents = {
        name: tuple(sorted({NAMES[p % i] for p in above} if i else ())) or (ROOT,)
        for i, (name, above) in enumerate(zip(NAMES, graph, strict=True))
    }
    whole = parents | {ROOT: ()}
    ontology = Ontology(release="1.0", digest="", names=dict.fromkeys(whole, "x"), parents=whole)
    found = feature_space(
        ontology,
        known({"OMIM:1": dict.fromkeys(listed, 1.0)}),
        diseases=["OMIM:1"],
        weights="ones",
        excluded=rule,
        unit=False,
    )
    above = {name: search(name, parents) for name in NAMES}
    closed = set().union(*(above[name] for name in listed))
    assert set(found.terms) == closed
    shown = set().union(*(above[name] for name in observed))
    below = {n for n in NAMES if above[n] & excluded} if rule == "descendants" else excluded
    expected = (shown & closed) | {f"-{n}" for n in (below - shown) & closed}
    vector = found.vector(case(tuple(sorted(observed)), tuple(sorted(excluded))))
    assert set(named(vector, found.terms)) == expected
    assert (np.diff(vector.indices) > 0).all()
    unit = replace(found, unit=True).vector(case(tuple(observed), tuple(excluded)))
    assert np.linalg.norm(unit.values) == pytest.approx(1.0 if expected else 0.0)


def search(start: str, parents: dict[str, tuple[str, ...]]) -> set[str]:
    """Return what a search finds that walks up from a term to the root."""
    if start == ROOT:
        return set()
    return {start}.union(*(search(parent, parents) for parent in parents[start]))


def test_all_published_cases_have_norm_1_over_12390_real_terms() -> None:
    ontology, annotations = real_release()
    found = feature_space(ontology, annotations, diseases=["OMIM:154700"])
    assert len(found.terms) == 12_390
    cases, _ = read_all(real_cases(), ontology, CaseRules(patient_scope="publication"))
    norms = [np.linalg.norm(found.vector(c).values) for c in cases[::40]]
    assert norms == pytest.approx([1.0] * len(norms))
