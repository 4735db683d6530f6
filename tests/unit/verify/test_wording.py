"""Numbers as people read them."""

import pytest

from solblom_verify.wording import counted, format_delta


@pytest.mark.parametrize(
    ("delta", "shown"),
    [(1e-5, "1e-5"), (2.5e-07, "2.5e-7"), (1e-10, "1e-10"), (0.0001, "0.0001"), (0.01, "0.01")],
)
def test_delta_has_one_shortest_spelling(delta: float, shown: str) -> None:
    assert format_delta(delta) == shown
    assert float(shown) == delta


@pytest.mark.parametrize(("number", "shown"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows")])
def test_one_is_no_plural(number: int, shown: str) -> None:
    assert counted(number, "row") == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(1, "1 entry"), (3, "3 entries")], ids=["one", "three"]
)
def test_a_plural_may_be_given(number: int, shown: str) -> None:
    assert counted(number, "entry", "entries") == shown
