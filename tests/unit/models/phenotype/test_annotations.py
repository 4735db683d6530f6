"""Public knowledge of diseases: how often each shows a term, and how much a term tells."""

import math
from pathlib import Path

import pytest

from phenotype_lab import real_release, small_ontology
from solblom_models.phenotype.annotations import (
    COLUMNS,
    MISSING_FREQUENCY,
    Annotations,
    Unread,
    frequency_of,
    read_annotations,
)
from solblom_models.phenotype.ontology import Ontology
from solblom_protocol.errors import ConfigurationError

HEAD = "#description: made up\n#version: 2025-01-16\n#hpo-version: http://x/hp/releases/2025-01-16/hp.json\n"
TITLES = "\t".join(COLUMNS) + "\n"


def row(
    disease: str, term: str, frequency: str = "", *, qualifier: str = "", aspect: str = "P"
) -> str:
    cells = (
        disease,
        "Made up",
        qualifier,
        term,
        "PMID:1",
        "PCS",
        "",
        frequency,
        "",
        "",
        aspect,
        "x",
    )
    return "\t".join(cells) + "\n"


@pytest.fixture
def ontology(tmp_path: Path) -> Ontology:
    return small_ontology(tmp_path)


def read(folder: Path, ontology: Ontology, *rows: str) -> Annotations:
    path = folder / "phenotype.hpoa"
    path.write_text(HEAD + TITLES + "".join(rows), encoding="utf-8")
    return read_annotations(path, ontology)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3/7", (3, 7)),
        ("0/7", (0, 7)),
        ("25%", 0.25),
        ("12.5%", 0.125),
        ("HP:0040280", 1.0),
        ("HP:0040284", 0.025),
        ("HP:0040285", 0.0),
        ("", None),
        ("8/7", None),
        ("0/0", None),
        ("101%", None),
        ("often", None),
        ("-1/7", None),
        ("HP:0000010", None),
    ],
)
def test_a_frequency_is_a_count_a_share_or_nothing(
    text: str, expected: tuple[int, int] | float | None
) -> None:
    assert frequency_of(text) == expected


def test_patients_of_several_papers_are_added_up(tmp_path: Path, ontology: Ontology) -> None:
    found = read(
        tmp_path, ontology, row("OMIM:1", "HP:0000010", "1/2"), row("OMIM:1", "HP:0000010", "0/8")
    )
    assert found.frequencies == {"OMIM:1": {"HP:0000010": 0.1}}


def test_counted_patients_outweigh_a_stated_share(tmp_path: Path, ontology: Ontology) -> None:
    rows = row("OMIM:1", "HP:0000010", "1/4"), row("OMIM:1", "HP:0000010", "90%")
    assert read(tmp_path, ontology, *rows).frequencies["OMIM:1"]["HP:0000010"] == 0.25


def test_nothing_stated_is_the_public_default(tmp_path: Path, ontology: Ontology) -> None:
    found = read(tmp_path, ontology, row("ORPHA:1", "HP:0000010"))
    assert found.frequencies == {"ORPHA:1": {"HP:0000010": MISSING_FREQUENCY}}


def test_an_unreadable_frequency_is_counted_and_taken_as_missing(
    tmp_path: Path, ontology: Ontology
) -> None:
    found = read(tmp_path, ontology, row("ORPHA:1", "HP:0000010", "often"))
    assert found.frequencies == {"ORPHA:1": {"HP:0000010": MISSING_FREQUENCY}}
    assert found.unread == {Unread.FREQUENCY: 1}


def test_not_and_never_seen_are_kept_apart_from_what_is_shown(
    tmp_path: Path, ontology: Ontology
) -> None:
    found = read(
        tmp_path,
        ontology,
        row("OMIM:1", "HP:0000010", "1/1"),
        row("OMIM:1", "HP:0000020", qualifier="NOT"),
        row("OMIM:1", "HP:0000011", "0/9"),
    )
    assert found.frequencies == {"OMIM:1": {"HP:0000010": 1.0}}
    assert found.absent == {"OMIM:1": {"HP:0000020", "HP:0000011"}}


def test_old_ids_become_current_ones(tmp_path: Path, ontology: Ontology) -> None:
    found = read(tmp_path, ontology, row("OMIM:1", "HP:0000910"), row("OMIM:1", "HP:0000030"))
    assert found.terms == {"HP:0000010"}


def test_every_line_that_is_not_used_is_counted_by_name(tmp_path: Path, ontology: Ontology) -> None:
    found = read(
        tmp_path,
        ontology,
        row("DECIPHER:1", "HP:0000010"),
        row("OMIM:1", "HP:0000010", aspect="I"),
        row("HGNC:1", "HP:0000010"),
        row("OMIM:1", "HP:7777777"),
        row("OMIM:1", "HP:0000005"),
        "OMIM:1\tshort\n",
    )
    assert found.lines == 6
    reasons = (Unread.ASPECT, Unread.DISEASE, Unread.TERM, Unread.OUTSIDE, Unread.COLUMNS)
    assert found.unread == dict.fromkeys(reasons, 1)
    assert set(found.frequencies) == {"DECIPHER:1"}


def test_information_is_minus_the_log_of_the_share_of_diseases(
    tmp_path: Path, ontology: Ontology
) -> None:
    found = read(
        tmp_path,
        ontology,
        row("OMIM:1", "HP:0000013"),
        row("OMIM:2", "HP:0000011"),
        row("OMIM:3", "HP:0000020"),
        row("OMIM:4", "HP:0000010"),
    )
    information = found.information(ontology)
    assert information["HP:0000010"] == pytest.approx(-math.log(3 / 4))
    assert information["HP:0000011"] == pytest.approx(-math.log(2 / 4))
    assert information["HP:0000012"] == pytest.approx(-math.log(1 / 4))


def test_a_term_that_annotates_nothing_tells_as_much_as_one_of_one_disease(
    tmp_path: Path, ontology: Ontology
) -> None:
    found = read(tmp_path, ontology, row("OMIM:1", "HP:0000010"), row("OMIM:2", "HP:0000010"))
    assert found.information(ontology)["HP:0000020"] == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no version"),
        (TITLES + row("OMIM:1", "HP:0000010"), "no version"),
        (HEAD + row("OMIM:1", "HP:0000010"), "12 columns"),
        (HEAD + TITLES, "no usable line among 0"),
        (HEAD + TITLES + row("OMIM:1", "HP:7777777"), "no usable line among 1"),
        (HEAD + TITLES + row("OMIM:1", "HP:0000010")[:-3], "end inside line 5"),
        (HEAD + "#" + "x" * 70_000 + "\n", "Line 4 of the annotations is over"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(
    tmp_path: Path, ontology: Ontology, text: str, said: str
) -> None:
    path = tmp_path / "phenotype.hpoa"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        read_annotations(path, ontology)
    assert caught.value.code == "SB-117"
    assert said in caught.value.message


def test_bytes_that_are_not_utf8_are_refused_with_the_line(
    tmp_path: Path, ontology: Ontology
) -> None:
    path = tmp_path / "phenotype.hpoa"
    path.write_bytes((HEAD + TITLES).encode() + b"\xff\n")
    with pytest.raises(ConfigurationError) as caught:
        read_annotations(path, ontology)
    assert "Line 5 of the annotations is not UTF-8" in caught.value.message


def test_another_file_than_the_pinned_one_is_refused(tmp_path: Path, ontology: Ontology) -> None:
    read(tmp_path, ontology, row("OMIM:1", "HP:0000010"))
    with pytest.raises(ConfigurationError) as caught:
        read_annotations(tmp_path / "phenotype.hpoa", ontology, digest="sha256:" + "0" * 64)
    assert caught.value.code == "SB-116"


def test_the_real_file_annotates_12679_diseases_and_leaves_out_what_it_says() -> None:
    ontology, found = real_release()
    # The file's own head says 8359 OMIM, 47 DECIPHER and 4283 ORPHANET; ten have no phenotypic abnormality.
    assert len(found.frequencies) == 12_679
    assert (found.version, found.ontology_release) == ("2025-01-16", ontology.release)
    assert found.unread == {Unread.ASPECT: 17_081, Unread.OUTSIDE: 8}
    assert found.lines == 271_702


def test_a_rarer_kind_of_a_term_tells_at_least_as_much_in_the_real_files() -> None:
    ontology, found = real_release()
    information = found.information(ontology)
    for term in ontology.terms:
        assert all(information[a] <= information[term] for a in ontology.ancestors(term))
