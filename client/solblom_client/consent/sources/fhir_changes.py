"""Whose each Consent is in a bundle that has changed: put together anew where it has to do with what changed.

`resolve` brings entries together only by a key that they share, or by a chain of shared keys. Entries that no
chain leads to from one that is new, gone or moved say what they said before.
"""

from bisect import bisect
from collections.abc import Sequence
from itertools import chain, compress, pairwise
from typing import NamedTuple

from solblom_client.consent.sources.fhir_consent import FhirSettings
from solblom_client.consent.sources.fhir_patients import Resolved, Said, resolve

Keys = Sequence[tuple[str, ...]]
"""What `keys_of` returns, for each entry of a bundle; of one that says nothing about consent, none."""

_MOST_CHANGED = (
    0.25  # share of entries above which everything is put together anew: it takes no longer
)
_MOST_LINKS = 16  # of a chain; longer ones are made up, or one patient of everybody
_MOST_RUNS = 10_000  # out of order


class Kept(NamedTuple):
    """Entries with the bytes of earlier ones, in a row in both: by their numbers now and before."""

    place: int
    first: int
    length: int


def resolve_again(
    before: Resolved,
    keys_before: Keys,
    keys: Keys,
    said: Sequence[Said | None],
    *,
    kept: Sequence[Kept],
    settings: FhirSettings,
) -> Resolved:
    """Return what `resolve` says of all of `said`, from what it said of the bundle before.

    Records of one patient stand in the order of the bundle.

    Args:
        before: what it said of the bundle before.
        keys_before: of each entry of the bundle before.
        keys: of each entry now.
        said: by each entry now.
        kept: which entries have the bytes of earlier ones.
        settings: those of both bundles.

    Raises:
        DataError: SB-308, as `resolve`.
    """
    reached = _reached(keys_before, keys, _in_order(kept))
    if reached is None:
        return resolve(filter(None, said), settings)
    touched, near = reached
    part = resolve(filter(None, (said[number] for number in near)), settings)
    # Every entry that says anything of a touched name is among those, now as before.
    people = dict(before.people)
    for name in touched:
        people.pop(name, None)
    people.update(part.people)
    return Resolved(
        (*[record for record in before.records if record[0] not in touched], *part.records),
        people,
        (before.doubtful - touched) | part.doubtful,
    )


def _in_order(kept: Sequence[Kept]) -> Sequence[Kept]:
    """Return those that follow each other in both bundles, the longest first: others moved, which is a change."""
    if all(one.first + one.length <= other.first for one, other in pairwise(kept)):
        return kept
    found: list[Kept] = []
    for run in sorted(kept[:_MOST_RUNS], key=lambda run: -run.length):
        at = bisect(found, run)
        after_others = at == 0 or found[at - 1].first + found[at - 1].length <= run.first
        before_others = at == len(found) or run.first + run.length <= found[at].first
        if after_others and before_others:
            found.insert(at, run)
    return found


def _reached(
    keys_before: Keys, keys: Keys, kept: Sequence[Kept]
) -> tuple[set[str], list[int]] | None:
    """Return all keys to which a chain leads from an entry that changed, and the numbers of entries that have one.

    None: more than is worth the search.
    """
    gone, new = bytearray(b"\1") * len(keys_before), bytearray(b"\1") * len(keys)
    for place, first, length in kept:
        new[place : place + length] = gone[first : first + length] = bytes(length)
    if gone.count(1) + new.count(1) > _MOST_CHANGED * (len(gone) + len(new)):
        return None
    touched = set(chain.from_iterable(compress(keys_before, gone)))
    touched.update(chain.from_iterable(compress(keys, new)))
    for _ in range(_MOST_LINKS):
        size = len(touched)
        near = [number for number, own in enumerate(keys) if not touched.isdisjoint(own)]
        touched.update(*(keys[number] for number in near))
        if len(touched) == size:
            return touched, near
    return None
