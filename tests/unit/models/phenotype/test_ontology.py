"""An ontology is read whole or not at all, and an old id ends at a current term or at a named reason."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phenotype_lab import (
    HEAD,
    INHERITANCE,
    ROOT,
    TERMS,
    real_release,
    small_ontology,
    write_ontology,
)
from solblom_models.phenotype.ontology import Ontology, Resolution, Resolved, read_ontology
from solblom_protocol.errors import ConfigurationError


@pytest.fixture
def ontology(tmp_path: Path) -> Ontology:
    return small_ontology(tmp_path)


def refusal(folder: Path, text: str | bytes) -> ConfigurationError:
    path = folder / "hp.obo"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError) as caught:
        read_ontology(path)
    return caught.value


def term(number: int, *lines: str) -> str:
    return "\n".join([f"\n[Term]\nid: HP:{number:07}", "name: made up", *lines, ""])


def test_release_and_digest_are_the_files(tmp_path: Path) -> None:
    path = write_ontology(tmp_path)
    found = read_ontology(path)
    assert found.release == "2025-01-16"
    assert found.digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def test_ancestors_hold_the_term_itself_and_stop_below_the_root(ontology: Ontology) -> None:
    above = ("HP:0000010", "HP:0000011", "HP:0000012", "HP:0000013")
    assert ontology.ancestors("HP:0000013") == above


def test_descendants_hold_the_term_itself(ontology: Ontology) -> None:
    assert ontology.descendants("HP:0000011") == ("HP:0000011", "HP:0000013")


def test_the_root_stands_for_all_below_it_and_is_in_no_closure(ontology: Ontology) -> None:
    assert ontology.descendants(ROOT) == ontology.terms
    assert ontology.ancestors(ROOT) == ()
    assert ROOT not in ontology.terms


@pytest.mark.parametrize("outside", [INHERITANCE, "HP:0000001", "HP:0000030", "HP:9999999"])
def test_what_is_not_below_the_root_has_no_closure(ontology: Ontology, outside: str) -> None:
    assert ontology.ancestors(outside) == ()
    assert ontology.descendants(outside) == ()


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("HP:0000010", Resolution("HP:0000010", Resolved.CURRENT)),
        ("HP:0000910", Resolution("HP:0000010", Resolved.ALTERNATIVE)),
        ("HP:0000031", Resolution("HP:0000010", Resolved.REPLACED)),
        ("HP:0000030", Resolution("HP:0000010", Resolved.REPLACED)),
        ("HP:0000032", Resolution(None, Resolved.OBSOLETE)),
        ("HP:7777777", Resolution(None, Resolved.UNKNOWN)),
    ],
)
def test_a_term_resolves_to_its_current_id_or_a_reason(
    ontology: Ontology, named: str, expected: Resolution
) -> None:
    assert ontology.resolve(named) == expected


def test_what_a_person_might_consider_is_kept_and_not_followed(ontology: Ontology) -> None:
    assert ontology.consider == {"HP:0000032": ("HP:0000010", "HP:0000020")}


def test_two_replacements_are_no_replacement(tmp_path: Path) -> None:
    text = term(40, "is_obsolete: true", "replaced_by: HP:0000010", "replaced_by: HP:0000020")
    found = read_ontology(write_ontology(tmp_path, HEAD + TERMS + text))
    assert found.resolve("HP:0000040") == Resolution(None, Resolved.OBSOLETE)


def test_replacements_that_go_round_end(tmp_path: Path) -> None:
    text = term(40, "is_obsolete: true", "replaced_by: HP:0000041")
    text += term(41, "is_obsolete: true", "replaced_by: HP:0000040")
    found = read_ontology(write_ontology(tmp_path, HEAD + TERMS + text))
    assert found.resolve("HP:0000040") == Resolution(None, Resolved.OBSOLETE)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not OBO"),
        ("<rdf:RDF/>\n", "not OBO"),
        ("format-version: 1.2\n" + TERMS, "names no release: 0 data-version lines"),
        (HEAD.replace("hp/releases/2025-01-16", "latest") + TERMS, "names no release: 1"),
        (HEAD, "has no terms"),
        (HEAD + TERMS + term(40, "is_a: HP:0000041"), "1 parent is missing"),
        (HEAD + TERMS + term(40), "2 current terms have no parent"),
        (
            HEAD
            + TERMS
            + term(40, "is_a: HP:0000041")
            + term(41, "is_a: HP:0000040", f"is_a: {ROOT}"),
            "2 terms lie on or below a cycle",
        ),
        (HEAD + TERMS + term(20, f"is_a: {ROOT}"), "1 id stands on more than one of 12 terms"),
        (HEAD + TERMS + term(30, f"is_a: {ROOT}"), "1 id stands on more than one of 12 terms"),
        (HEAD + TERMS + term(40, "id: HP:0000041", f"is_a: {ROOT}"), "1 term has no id"),
        (HEAD + TERMS + "\n[Term]\nid: HP:0000040\n", "1 term has no name"),
        (HEAD + TERMS.replace(ROOT, "HP:0000119"), "root HP:0000118 is not among"),
        (HEAD + TERMS + term(40, f"is_a: {ROOT}", "alt_id: HP:0000910"), "belongs to two terms"),
        (HEAD + TERMS + term(40, f"is_a: {ROOT}", "alt_id: HP:0000020"), "1 id is both"),
        ((HEAD + TERMS).encode() + b"\xff\n", "not UTF-8"),
    ],
)
def test_a_file_that_is_not_a_whole_ontology_is_refused(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    error = refusal(tmp_path, text)
    assert error.code == "SB-115"
    assert said in error.message


def test_a_file_cut_inside_a_line_is_refused_with_the_line(tmp_path: Path) -> None:
    error = refusal(tmp_path, (HEAD + TERMS)[:-5])
    assert error.code == "SB-115"
    assert "truncated" in error.message
    assert f"line {(HEAD + TERMS)[:-5].count(chr(10)) + 1}" in error.message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_ontology(tmp_path / "none.obo")
    assert caught.value.code == "SB-115"


@pytest.mark.parametrize("pin", [{"release": "2025-01-15"}, {"digest": "sha256:" + "0" * 64}])
def test_another_release_than_the_pinned_one_is_refused(
    tmp_path: Path, pin: dict[str, str]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_ontology(
            write_ontology(tmp_path), release=pin.get("release"), digest=pin.get("digest")
        )
    assert caught.value.code == "SB-116"


def test_lines_that_end_as_on_windows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "hp.obo"
    path.write_bytes((HEAD + TERMS).replace("\n", "\r\n").encode())
    assert read_ontology(path).terms == small_ontology(tmp_path).terms


@given(st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_closures_are_those_that_a_plain_search_finds(graph: list[list[int]]) -> None:
    # Term i may be a kind of terms before it; none given means a child of the root.
    parents = {
        f"HP:{i + 1000:07}": tuple(sorted({f"HP:{p % i + 1000:07}" for p in above} if i else ()))
        or (ROOT,)
        for i, above in enumerate(graph)
    }
    parents |= {ROOT: ("HP:0000001",), "HP:0000001": ()}
    found = Ontology(release="1.0", digest="", names=dict.fromkeys(parents, "x"), parents=parents)
    expected = {t: above(t, parents) for t in parents}
    assert {t: set(found.ancestors(t)) for t in parents} == expected
    below = {t: {d for d in parents if t in expected[d]} for t in parents if t != ROOT}
    assert {t: set(found.descendants(t)) for t in below} == below


def above(start: str, parents: dict[str, tuple[str, ...]]) -> set[str]:
    """Return what a search finds that walks up from a term, without the root and what is above it."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        here = waiting.pop()
        if here not in (ROOT, "HP:0000001"):
            found.add(here)
            waiting.extend(parents[here])
    return found


def test_release_2025_01_16_has_19484_terms_of_which_450_are_obsolete() -> None:
    ontology, _ = real_release()
    assert len(ontology.names) + len(ontology.obsolete) == 19_484
    assert len(ontology.obsolete) == 450
    assert len(ontology.terms) == 18_386


def test_a_real_closure_is_the_one_that_the_hpo_browser_shows() -> None:
    ontology, _ = real_release()
    # HP:0000003 multicystic kidney dysplasia, up to the abnormality of the genitourinary system.
    assert ontology.ancestors("HP:0000003") == (
        *("HP:0000003", "HP:0000077", "HP:0000079", "HP:0000107"),
        *("HP:0000119", "HP:0010935", "HP:0012210"),
    )
