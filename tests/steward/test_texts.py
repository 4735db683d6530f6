"""The page's words: complete in every language, and none that nobody uses."""

import datetime as dt
import re
import string
from pathlib import Path

import pytest

import solblom_server.steward as package
from solblom_protocol.errors import CODES
from solblom_server.steward import blocks
from solblom_server.steward.blocks import English, Told
from solblom_server.steward.findings import check_words, coded, limit
from solblom_server.steward.languages import LANGUAGES, Language, language_of, texts
from solblom_server.steward.rendering import environment
from solblom_server.steward.scene import Scene, bad_notice
from solblom_server.steward.verification import Judgement, Verifier
from solblom_verify import artefact
from solblom_verify.artefact import Check

FOLDER = Path(package.__file__).parent
# Texts whose key is put together from a record's word: every one of the section has its place.
BUILT = (
    "asked", "column", "entry", "kind", "measure", "role", "run_status", "state",
    "statement", "status", "tab", "unit",
)  # fmt: skip


def places(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_language_has_the_same_texts_with_the_same_places() -> None:
    english = texts("en").entries
    for language in LANGUAGES:
        found = texts(language).entries
        assert found.keys() == english.keys()
        assert {k: places(v) for k, v in found.items()} == {
            k: places(v) for k, v in english.items()
        }
        assert all(value.strip() for value in found.values())


def test_norwegian_is_not_english() -> None:
    english, norwegian = texts("en").entries, texts("no").entries
    same = [key for key, value in norwegian.items() if value == english[key]]
    assert len(same) < 0.1 * len(norwegian)


def test_no_text_is_left_over() -> None:
    sources = "".join(
        path.read_text() for path in [*FOLDER.glob("*.py"), *(FOLDER / "templates").glob("*.html")]
    )
    unused = [
        key
        for key in texts("en").entries
        if key.partition(".")[0] not in BUILT
        and f'"{key}"' not in sources
        and f"'{key}'" not in sources
        and not _is_built(key, sources)
    ]
    assert unused == []


def _is_built(key: str, sources: str) -> bool:
    """Tell whether a key ends or begins with a part that is filled in: `updates.{what}_alt`, `dpo.unknown_{name}`."""
    section, _, name = key.partition(".")
    return (
        any(
            re.fullmatch(re.sub(r"\\\{[^}]*\\\}", ".+", re.escape(pattern)), key)
            for pattern in re.findall(r'f"([a-z_.{}]+)"', sources)
            if "{" in pattern and pattern != "{key}_alt"
        )
        or (section == "curve" and name.startswith(("measured", "moved")))
        or _is_counted(key, sources)
    )


def _is_counted(key: str, sources: str) -> bool:
    return f'"{key.removesuffix("_one").removesuffix("_many")}"' in sources


@pytest.mark.parametrize(
    ("asked", "accept", "expected"),
    [
        (None, "", "en"),
        ("no", "en", "no"),
        ("nb", "en", "no"),
        ("xx", "nn;q=0.9, en;q=0.8", "no"),
        (None, "de, en;q=0.5, nb;q=0.7", "no"),
        (None, "en-GB,nb;q=0.9", "en"),
        (None, "nb;q=x, \x00, ;;;=", "en"),
        ("../../etc", "", "en"),
        (None, ",".join(["nb"] * 10_000), "no"),
    ],
)
def test_a_reader_gets_the_language_that_was_asked_for(
    asked: str | None, accept: str, expected: Language
) -> None:
    assert language_of(asked, accept) == expected


def test_every_kind_of_block_and_cell_has_its_place_in_the_template() -> None:
    template = (FOLDER / "templates" / "blocks.html").read_text()
    kinds = [*blocks.Block.__args__, *blocks.Cell.__args__]  # type: ignore[attr-defined]
    for kind in kinds:
        assert kind is str or f'"{kind.__name__}"' in template


def test_templates_escape() -> None:
    assert environment().autoescape is True
    sources = "".join(path.read_text() for path in (FOLDER / "templates").glob("*.html"))
    assert "safe" not in re.findall(r"\|\s*(\w+)", sources)


def test_the_pages_codes_are_documented() -> None:
    assert {"SB-461", "SB-462", "SB-463"} <= CODES.keys()


# What verifier and codes say


def test_every_code_and_every_limit_and_check_of_the_verifier_has_norwegian_words() -> None:
    found = texts("no").findings
    assert {f"code.{code}" for code in CODES} <= found.keys()
    assert {f"limit.{code}" for code in artefact._NEVER_CHECKED} <= found.keys()
    sometimes = re.findall(r'yield "([a-z-]+)", _', Path(artefact.__file__).read_text())
    assert sometimes
    assert {f"limit.{code}" for code in sometimes} <= found.keys()
    names = {name for name, _, _ in artefact._CHECKS}
    assert {f"{result}.{name}" for name in names for result in ("passed", "failed")} <= found.keys()


def test_norwegian_words_are_for_findings_that_there_are() -> None:
    found = texts("no").findings
    codes = {key.partition(".")[2] for key in found if key.startswith("code.")}
    assert codes <= CODES.keys()
    assert texts("en").findings == {}


def test_a_finding_is_chosen_by_its_code_and_not_by_its_wording() -> None:
    norwegian = texts("no")
    assert limit(norwegian, "rounds", "reworded") == norwegian.findings["limit.rounds"]
    assert limit(norwegian, "of tomorrow", "New words.") == English("New words.")
    assert limit(texts("en"), "rounds", "The rounds: …") == English("The rounds: …")


def test_the_verifiers_details_stand_behind_our_words_as_they_are() -> None:
    failed = Check("files", ok=False, reason="changed file: <b>README.md</b>")
    assert check_words(texts("no"), failed) == Told(
        "En fil er endret, mangler, eller er kommet til etter signeringen", failed.reason
    )
    assert check_words(texts("en"), failed) == English(failed.reason)
    unknown = Check("of tomorrow", ok=False, reason="no")
    assert check_words(texts("no"), unknown) == English("no")


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("SB-507: 3 refused", Told("For mange sykehus avslo", "SB-507: 3 refused")),
        ("SB-999: new", English("SB-999: new")),
        ("no code", English("no code")),
    ],
)
def test_why_a_run_stopped_is_said_by_its_code(reason: str, expected: object) -> None:
    assert coded(texts("no"), reason) == expected
    assert coded(texts("en"), reason) == English(reason)


def test_a_version_that_only_waits_for_witnesses_is_not_called_tampered_with(
    tmp_path: Path,
) -> None:
    def notice(*failed: str) -> str:
        checks = tuple(Check(name, name not in failed, "") for name, _, _ in artefact._CHECKS)
        verdict = artefact.Verdict(
            False, checks, (), None, None, None, (), None, "withdrawn", (), ()
        )
        now = dt.datetime(2026, 11, 29, tzinfo=dt.UTC)
        scene = Scene(tmp_path, Verifier(tmp_path / "trust.json"), texts("en"))
        return " ".join(map(str, bad_notice(scene, Judgement(verdict, "", now, 0.1)).lines))

    assert "too few hospitals" in notice("witnesses")
    assert "too few hospitals" in notice("witnesses", "status")
    assert "find out who changed it" in notice("witnesses", "files")
    assert "find out who changed it" in notice("files")
