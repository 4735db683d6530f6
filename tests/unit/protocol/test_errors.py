"""Error codes: each one used is documented, each one documented is used, and its exit status fits its group."""

import re
from pathlib import Path

import pytest

from solblom_protocol.errors import CODES, REFUSAL_CODES, SolblomError

ROOT = Path(__file__).parents[3]
PARTS = ("verify", "protocol", "models", "client", "server", "simulation")
TABLE = ROOT / "protocol/solblom_protocol/errors.py"


def codes_in_source() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for part in PARTS:
        for path in (ROOT / part).rglob("*.py"):
            if path != TABLE:
                for code in re.findall(r"SB-\d{3}", path.read_text(encoding="utf-8")):
                    found.setdefault(code, set()).add(path.name)
    return found


def test_every_code_that_the_source_uses_is_in_the_table() -> None:
    unknown = {code: files for code, files in codes_in_source().items() if code not in CODES}
    assert unknown == {}


def test_every_code_of_the_table_is_used() -> None:
    assert set(CODES) - set(codes_in_source()) == set()


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_codes_exit_status_fits_its_group(code: str) -> None:
    groups = {"1": {3}, "2": {4, 5}, "3": {1}, "4": {5}, "5": {1, 3, 4, 6}, "6": {3, 5, 6}}
    # A model that was not exported is none that was tampered with.
    # A replay finds a difference, or it cannot be made: nothing is kept, a wrong round, a hospital's rule.
    # What a steward's decision or the trust file forbids is a rule; a port or a wrong file is set right by a person.
    special = {"SB-431": {1}, "SB-440": {3}, "SB-441": {1}, "SB-449": {3}, "SB-424": {3}} | {
        **{f"SB-44{last}": {4} for last in "3456"},
        **{f"SB-42{last}": {4} for last in "0123"},
        **{f"SB-46{last}": {3} for last in "123"},
    }
    assert CODES[code].exit_status in special.get(code, groups[code[3]])


def test_only_a_false_signature_or_history_among_refusals_is_a_matter_of_integrity() -> None:
    assert {c for c in REFUSAL_CODES if CODES[c].exit_status == 5} == {
        "SB-201",
        "SB-215",
        "SB-216",
        "SB-221",
    }


@pytest.mark.parametrize("code", sorted(CODES))
def test_a_code_has_a_title_and_a_next_step_in_one_line(code: str) -> None:
    for text in (CODES[code].title, CODES[code].hint):
        assert re.fullmatch(r"[^\s](.*[^\s.])?", text), text


def test_the_refusals_that_leave_a_hospital_are_the_200s() -> None:
    assert {code for code in CODES if code.startswith("SB-2")} == REFUSAL_CODES


def test_an_error_takes_the_usual_hint_unless_it_has_a_better_one() -> None:
    assert SolblomError("SB-101", "x").hint == CODES["SB-101"].hint
    assert SolblomError("SB-101", "x", "y").hint == "y"


def test_an_error_with_an_undocumented_code_cannot_be_made() -> None:
    with pytest.raises(KeyError):
        SolblomError("SB-999", "x")
