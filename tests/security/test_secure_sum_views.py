"""What the coordinator sees of a double-masked sum is the survivors' sum and nothing else: all masks, counted.

With ideal masks, uniform and independent, on a ring so small that every value of every mask can be tried.
The view is all that the coordinator gets: the masked vectors, late ones too, the survivors' own masks and
every mask of a hospital that is not in the sum; with a colluder, also all that this node knows. Two inputs
with one sum must give the same views, each equally often (Bonawitz et al. 2017, section 6: what a simulator
makes that knows the sum only). That `threshold` - 1 shares say nothing is Shamir's part, in test_mask_shares.py.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from solblom_protocol.sums import double_masks
from solblom_protocol.sums.double_masks import PairMasks, add_masks, remove_masks
from solblom_protocol.sums.ring import Ring, Words

Z4, Z16 = Ring(2), Ring(4)
Mask = tuple[str, ...]
"""A site's own mask, or the mask of a pair, by sorted names."""

Masker = Callable[..., Words]


@dataclass(frozen=True)
class Case:
    """Who takes part, whose vectors are summed, whose come late, and who tells the coordinator all."""

    sites: str
    survivors: str
    late: str = ""
    colluder: str = ""

    @property
    def masks(self) -> tuple[Mask, ...]:
        """All masks: an own one of each hospital, and one of each pair."""
        return (*((site,) for site in self.sites), *combinations(self.sites, 2))

    @property
    def opened(self) -> tuple[Mask, ...]:
        """The masks that the coordinator learns."""
        dropped = set(self.sites) - set(self.survivors)
        return tuple(
            mask
            for mask in self.masks
            if set(mask) & set(self.colluder)
            or (set(mask) & dropped if len(mask) == 2 else mask[0] in self.survivors)
        )

    @property
    def hidden(self) -> tuple[Mask, ...]:
        return tuple(mask for mask in self.masks if mask not in self.opened)


def given(ring: Ring, words: Words) -> double_masks.Mask:
    """Return an ideal mask, of which every value is given, in the place of one that is made from a key."""

    def put(total: Words, subtract: bool) -> None:
        total[:] = ring.subtract(total, words) if subtract else ring.add(total, words)

    return put


def every_value(ring: Ring, names: Iterable[Mask]) -> dict[Mask, Words]:
    """Return all values of some masks, one combination a column."""
    listed = list(names)
    grid = np.indices((2**ring.bits,) * len(listed), dtype=np.uint8).reshape(len(listed), -1)
    return dict(zip(listed, grid, strict=True))


def vectors(
    ring: Ring,
    case: Case,
    values: Mapping[str, int],
    masks: Mapping[Mask, Words],
    mask: Masker = add_masks,
) -> dict[str, Words]:
    """Return the masked vectors that arrive, in the product's arithmetic."""
    size = next(iter(masks.values())).size
    found = {}
    for site in case.survivors + case.late:
        pairs = [(p, given(ring, masks[tuple(sorted((site, p)))])) for p in case.sites if p != site]
        column = ring.encode(np.full(size, values[site]))
        found[site] = mask(column, site=site, own=given(ring, masks[(site,)]), pairs=pairs)
    return found


def view(
    ring: Ring,
    case: Case,
    values: Mapping[str, int],
    masks: Mapping[Mask, Words],
    mask: Masker = add_masks,
) -> NDArray[Any]:
    """Return all views, sorted: two arrays are equal where each view is seen equally often."""
    arrived = vectors(ring, case, values, masks, mask)
    columns = [*arrived.values(), *(masks[name] for name in case.opened)]
    wide = np.uint32 if len(columns) * ring.bits <= 32 else np.uint64
    seen = np.zeros(columns[0].size, dtype=wide)
    for column in columns:
        seen <<= wide(ring.bits)
        seen |= column
    seen.sort()
    return seen


def inputs(ring: Ring, case: Case, total: int, **fixed: int) -> list[dict[str, int]]:
    """Return all inputs whose honest survivors' values add up to `total`; a late one may be anything."""
    honest = [site for site in case.survivors if site not in case.colluder]
    found = []
    for values in product(range(2**ring.bits), repeat=len(case.sites)):
        named = dict(zip(case.sites, values, strict=True))
        fits = sum(named[site] for site in honest) % 2**ring.bits == total
        if fits and all(named[site] == value for site, value in fixed.items()):
            found.append(named)
    return found


ALL = Case("abcd", "abcd")
LATE = Case("abcd", "abc", late="d")
GONE = Case("abcd", "abc")
ALL_COLLUDING = Case("abcd", "abcd", colluder="c")
LATE_COLLUDING = Case("abcd", "abc", late="d", colluder="c")
CASES = [ALL, LATE, GONE, ALL_COLLUDING, LATE_COLLUDING]


@pytest.mark.parametrize("case", CASES)
def test_four_hospitals_on_z4_show_the_survivors_sum_and_nothing_else(case: Case) -> None:
    """All 4^10 values of all masks; inputs as unlike as they can be with one sum."""
    masks = every_value(Z4, case.masks)
    known = {"c": 2} if case.colluder else {}
    same = inputs(Z4, case, 3, **known)
    chosen = [same[n] for n in np.linspace(0, len(same) - 1, 8, dtype=int)]
    first, *others = (view(Z4, case, values, masks) for values in chosen)
    assert all(np.array_equal(first, other) for other in others)
    other_sum = view(Z4, case, inputs(Z4, case, 2, **known)[0], masks)
    assert not np.array_equal(first, other_sum)  # the sum itself is seen


@pytest.mark.parametrize(
    "case", [Case("abc", "abc"), Case("abc", "ab", late="c"), Case("abc", "abc", colluder="c")]
)
def test_three_hospitals_on_z16_show_the_survivors_sum_and_nothing_else(case: Case) -> None:
    """All 16^6 values of all masks."""
    masks = every_value(Z16, case.masks)
    one, other = {"a": 5, "b": 0, "c": 9}, {"a": 13, "b": 8, "c": 9}
    if (
        not case.colluder
    ):  # then c may differ: as a survivor with the sum kept, as a late one freely
        other = {"a": 13, "b": 8, "c": 2} if case.late else {"a": 0, "b": 11, "c": 3}
    assert np.array_equal(view(Z16, case, one, masks), view(Z16, case, other, masks))


@pytest.mark.parametrize("case", [case for case in CASES if case != ALL])  # where few are hidden
@pytest.mark.parametrize("draw", range(3))
def test_four_hospitals_on_z16_for_given_opened_masks(case: Case, draw: int) -> None:
    """The opened masks stand in the view, so it is enough to look at given ones; all values of the others."""
    random = np.random.default_rng(draw)
    masks = every_value(Z16, case.hidden)
    size = next(iter(masks.values())).size
    for name in case.opened:
        masks[name] = np.full(size, random.integers(16), dtype=np.uint8)
    known = {"c": 7} if case.colluder else {}
    same = inputs(Z16, case, int(random.integers(16)), **known)
    chosen = [same[n] for n in random.integers(0, len(same), 12)]
    first, *others = (view(Z16, case, values, masks) for values in chosen)
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("case", CASES)
def test_the_sum_comes_out_of_every_view(case: Case) -> None:
    masks = every_value(Z4, case.masks)
    values = {"a": 3, "b": 1, "c": 2, "d": 3}
    arrived = vectors(Z4, case, values, masks)
    total = Z4.encode(np.zeros(4**10, np.int64))
    for site in case.survivors:
        total = Z4.add(total, arrived[site])
    dropped: dict[str, PairMasks] = {
        site: [(s, given(Z4, masks[tuple(sorted((s, site)))])) for s in case.survivors]
        for site in case.sites
        if site not in case.survivors
    }
    own = [given(Z4, masks[(site,)]) for site in case.survivors]
    opened = remove_masks(total, own=own, dropped=dropped)
    assert np.unique(opened).tolist() == [sum(values[site] for site in case.survivors) % 4]


def without_own_mask(
    values: Words, *, site: str, own: double_masks.Mask, pairs: PairMasks
) -> Words:
    return add_masks(values, site=site, own=lambda total, subtract: None, pairs=pairs)


def with_wrong_sign(values: Words, *, site: str, own: double_masks.Mask, pairs: PairMasks) -> Words:
    return add_masks(values, site="0" if site == "c" else site, own=own, pairs=pairs)


@pytest.mark.parametrize("case", [LATE, LATE_COLLUDING])
def test_mutant_without_the_own_mask_shows_a_late_vector(case: Case) -> None:
    masks = every_value(Z4, case.masks)
    one = {"a": 1, "b": 2, "c": 2, "d": 0}
    first = view(Z4, case, one, masks, without_own_mask)
    other = view(Z4, case, {**one, "d": 3}, masks, without_own_mask)
    assert not np.array_equal(first, other)


def test_mutant_that_opens_both_shares_shows_a_late_vector() -> None:
    masks = every_value(Z4, LATE.masks)
    one = {"a": 1, "b": 2, "c": 2, "d": 0}

    class BothOpened(Case):
        @property
        def opened(self) -> tuple[Mask, ...]:
            return (*super().opened, ("d",))

    both = BothOpened("abcd", "abc", late="d")
    first, other = (view(Z4, both, {**one, "d": d}, masks) for d in (0, 3))
    assert not np.array_equal(first, other)


def test_mutant_with_a_wrong_sign_opens_no_sum() -> None:
    masks = every_value(Z4, ALL.masks)
    arrived = vectors(Z4, ALL, dict.fromkeys("abcd", 0), masks, with_wrong_sign)
    total = Z4.encode(np.zeros(4**10, np.int64))
    for vector in arrived.values():
        total = Z4.add(total, vector)
    own = [given(Z4, masks[(site,)]) for site in "abcd"]
    opened = remove_masks(total, own=own, dropped={})
    assert np.unique(opened).size > 1
