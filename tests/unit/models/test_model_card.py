"""The model card: valid front matter, every section, gaps that are marked, and no text from outside that is more."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from artefact_lab import STUDIES, contents_of, write
from lab import study_document
from ranking_lab import ranking_contract, ranking_document, write_release
from solblom_models.artefact import ArtefactContents, EarlierVersion
from solblom_models.card_text import TO_FILL, code, plain, quoted, table
from solblom_models.technical_card import PLACES
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.canonical import digest

SECTIONS = (
    "Intended use",
    "Provider and version",
    "Interaction with other software and hardware",
    "How it was made",
    "Data",
    "Training",
    "Privacy",
    "Evaluation",
    "Limitations",
    "Known biases",
    "Human oversight",
    "Changes",
    "Cybersecurity",
    "Risk management",
    "Monitoring and logs",
    "Standards",
    "For a medical device",
    "Where it goes in a technical file",
    "Check it",
)
HOSTILE = "x](https://evil.example) <img src=x> | `rm` # *b*\n\n# A new heading"

Card = Callable[..., str]


@pytest.fixture
def card(tmp_path: Path) -> Card:
    def make(document: StudyDocument, **changes: Any) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        write(folder, contents_of(document, **changes))
        return (folder / "README.md").read_text(encoding="utf-8")

    return make


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("kind", STUDIES)
def test_a_card_has_every_section_once(card: Card, kind: str) -> None:
    text = card(STUDIES[kind]())
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(SECTIONS)


def test_a_card_of_rankings_has_every_section_once(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = write_release(tmp_path / "hpo", monkeypatch)
    text = card(ranking_document(ranking_contract(release)))
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(SECTIONS)
    assert "HPO 2025-01-16" in text


@pytest.mark.parametrize(
    "title", ["Plain", 'A "quoted": title', "Blåbær – 東京 😀", "tab\tand\x07bell\x85", "- x: {"]
)
def test_the_front_matter_is_yaml(card: Card, title: str) -> None:
    text = card(study_document(study={"title": title}))
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "solblom"
    assert front["license"] == "other"
    assert front["tags"] == [
        "federated-learning",
        "differential-privacy",
        "tabular-classification",
    ]
    assert front["model_name"] == json.loads(quoted(title))


def test_what_a_run_cannot_know_is_marked_in_every_section_that_needs_it(card: Card) -> None:
    text = card(STUDIES["logistic"]())
    for heading in (
        "Intended use",
        "Provider and version",
        "Interaction with other software and hardware",
        "How it was made",
        "Data",
        "Known biases",
        "Human oversight",
        "Changes",
        "Cybersecurity",
        "Risk management",
        "Monitoring and logs",
        "Standards",
        "For a medical device",
    ):
        assert TO_FILL in section(text, heading), heading


def test_a_card_claims_no_conformity(card: Card) -> None:
    text = card(STUDIES["logistic"]())
    assert "**no claim of conformity**" in " ".join(text.split())
    assert "This card declares none." in text
    assert re.findall(r"\b(complies|compliant|CE mark\w*|certified)\b", text) == []


def test_every_point_of_the_annexes_leads_to_a_section_or_a_file_that_is_there(
    card: Card, tmp_path: Path
) -> None:
    text = card(STUDIES["logistic"]())
    folder = next(path.parent for path in tmp_path.rglob("README.md"))
    for _, places in PLACES:
        for place in re.split(r"[;,] ", places):
            if place.startswith("`"):
                assert (folder / place.strip("`")).exists(), place
            else:
                assert re.search(rf"^## {place}", text, re.MULTILINE), place


def test_the_card_says_bands_and_the_code_of_nodes(card: Card) -> None:
    data = section(card(STUDIES["logistic"]()), "Data")
    assert re.search(r"\| north \| 50-99 \| `sha256:[0-9a-f]{12}…` \|", data)
    assert re.search(r"\| south \| 100-199 \| `sha256:[0-9a-f]{12}…` \|", data)


def test_the_card_says_the_settings_of_the_study(card: Card) -> None:
    made = section(card(STUDIES["table-mlp"]()), "How it was made")
    assert "kind mlp" in made
    assert "| rounds | 3 |" in made
    assert "fedavg, 1 local step a round, learning rate 0.5" in made
    assert "clipped to norm 1" in made


@pytest.mark.parametrize("member", ["title", "purpose", "legal_basis"])
def test_text_of_the_study_stays_text(card: Card, member: str) -> None:
    value = [HOSTILE] if member == "legal_basis" else HOSTILE
    text = card(study_document(study={member: value}))
    body = text.split("---\n", 2)[2]
    assert re.findall(r"^## (.+)$", body, re.MULTILINE) == list(SECTIONS)
    assert len(re.findall(r"^# ", body, re.MULTILINE)) == 1
    assert re.search(r"(?<!\\)\]\(", body) is None
    assert re.search(r"(?<!\\)<img", body) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a|b", r"a\|b"), ("a\nb", "a b"), ("[x](y)", r"\[x\](y)"), ("<b>", r"\<b\>")],
)
def test_marks_of_markdown_are_shown_as_they_stand(text: str, shown: str) -> None:
    assert plain(text) == shown


def test_code_cannot_end_early() -> None:
    assert code("a`b|c\nd") == "`a'b/c d`"


def test_a_table_without_rows_is_none() -> None:
    assert table(("a",), []) == ""


def earlier(contents: ArtefactContents, folder: Path) -> EarlierVersion:
    manifest = (folder / "manifest.json").read_bytes()
    return EarlierVersion(digest(manifest), manifest, (folder / "training/study.json").read_bytes())


def test_a_second_version_says_what_it_supersedes_and_what_changed(tmp_path: Path) -> None:
    first = contents_of(study_document())
    write(tmp_path / "v1", first)
    second = contents_of(study_document(training={"learning_rate": 0.25, "rounds": 5}))
    north = {"north": second.sites["north"]}
    second = dataclasses.replace(
        second,
        supersedes=earlier(first, tmp_path / "v1"),
        sites=north,
        rounds=[
            dataclasses.replace(
                second.rounds[0], receipts={"north": second.rounds[0].receipts["north"]}
            )
        ],
    )
    write(tmp_path / "v2", second, version="v2")
    manifest = json.loads((tmp_path / "v2/manifest.json").read_bytes())
    (entry,) = manifest["supersedes"]
    assert entry["artefact"] == digest((tmp_path / "v1/manifest.json").read_bytes())
    assert entry["version"] == "v1"
    assert "study.training.rounds: 3 → 5" in entry["changes"]
    assert "study.training.learning_rate: 0.5 → 0.25" in entry["changes"]
    assert "hospital south no longer takes part" in entry["changes"]
    text = section((tmp_path / "v2/README.md").read_text(encoding="utf-8"), "Provider and version")
    assert "It supersedes v1" in text
    assert "3 → 5" in text


def test_the_same_study_again_says_that_nothing_changed(tmp_path: Path) -> None:
    first = contents_of(study_document())
    write(tmp_path / "v1", first)
    again = contents_of(study_document(), supersedes=earlier(first, tmp_path / "v1"))
    write(tmp_path / "v2", again, version="v2")
    (entry,) = json.loads((tmp_path / "v2/manifest.json").read_bytes())["supersedes"]
    assert entry["changes"] == [
        "Nothing but the work itself: the same study, hospitals and environment"
    ]


@pytest.mark.parametrize(
    "damage",
    [
        lambda e: dataclasses.replace(e, study=b"{}"),
        lambda e: dataclasses.replace(e, manifest=b"{}"),
        lambda e: dataclasses.replace(e, manifest=b"not JSON"),
        lambda e: dataclasses.replace(e, manifest=b"[]"),
        lambda e: dataclasses.replace(e, artefact="sha256:" + "0" * 64),
        lambda e: dataclasses.replace(e, study=b""),
    ],
)
def test_a_damaged_earlier_version_is_not_believed(
    tmp_path: Path, damage: Callable[[EarlierVersion], EarlierVersion]
) -> None:
    first = contents_of(study_document())
    write(tmp_path / "v1", first)
    damaged = damage(earlier(first, tmp_path / "v1"))
    write(tmp_path / "v2", contents_of(study_document(), supersedes=damaged), version="v2")
    (entry,) = json.loads((tmp_path / "v2/manifest.json").read_bytes())["supersedes"]
    assert entry["artefact"] == damaged.artefact
    assert entry["changes"] == [
        "The earlier version's files do not fit its manifest: what changed is not known"
    ]


def test_a_model_names_what_it_was_made_of(tmp_path: Path) -> None:
    contents = contents_of(STUDIES["contrast"]())
    write(tmp_path / "v1", contents)
    manifest = json.loads((tmp_path / "v1/manifest.json").read_bytes())
    assert manifest["supersedes"] == []
    assert {p["role"]: p["digest"] for p in manifest["parents"]} == {
        "study": contents.document.digest,
        "initial model": contents.rounds[0].base,
        "encoder of tiles": "sha256:" + "0" * 64,
    }
