"""The Human Phenotype Ontology from a pinned OBO file: current terms, their closure, what became of old ones.

Only what a study needs is read of OBO 1.4: `data-version`, and of each term `id`, `name`, `is_a`,
`alt_id`, `is_obsolete`, `replaced_by`, `consider`. A file that is not whole is refused, never read in part:
a missing branch would silently change every patient's features.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from solblom_protocol.errors import ConfigurationError
from solblom_verify.wording import counted

PHENOTYPIC_ABNORMALITY = "HP:0000118"
MAX_BYTES = 256 * 2**20  # hp.obo has 10 MB; a file of another kind shall not fill the memory
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_]*:[0-9]+")
_RELEASE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]+(?:\.[0-9]+)+")


class Resolved(StrEnum):
    """How an id was found in a release, or why it was not."""

    CURRENT = "current term"
    ALTERNATIVE = "alternative id of a current term"
    REPLACED = "obsolete term with one replacement"
    OBSOLETE = "obsolete term without a single replacement"
    UNKNOWN = "term unknown in this release"


@dataclass(frozen=True)
class Resolution:
    """The current id, None where there is none, and why."""

    id: str | None
    reason: Resolved


@dataclass(frozen=True)
class Ontology:
    """One release of an ontology.

    Attributes:
        release: its tag, as in `data-version`, such as 2025-01-16.
        digest: `sha256:` of the file.
        names: current terms and their names.
        parents: current terms and the terms that they are kinds of (`is_a`).
        alternatives: alternative ids and the current term of each.
        obsolete: obsolete ids and what `replaced_by` says of each, perhaps nothing.
        consider: obsolete ids and what a person might use instead; never followed by itself.
        root: closures hold only what lies below this term.
    """

    release: str
    digest: str
    names: Mapping[str, str] = field(repr=False)
    parents: Mapping[str, tuple[str, ...]] = field(repr=False)
    alternatives: Mapping[str, str] = field(repr=False, default_factory=dict)
    obsolete: Mapping[str, tuple[str, ...]] = field(repr=False, default_factory=dict)
    consider: Mapping[str, tuple[str, ...]] = field(repr=False, default_factory=dict)
    root: str = PHENOTYPIC_ABNORMALITY

    def resolve(self, term: str) -> Resolution:
        """Return the current id of a term and how it was found."""
        if term in self.names:
            return Resolution(term, Resolved.CURRENT)
        if term in self.obsolete:
            current = self._replacement(term)
            reason = Resolved.OBSOLETE if current is None else Resolved.REPLACED
            return Resolution(current, reason)
        if term in self.alternatives:
            return Resolution(self.alternatives[term], Resolved.ALTERNATIVE)
        return Resolution(None, Resolved.UNKNOWN)

    def ancestors(self, term: str) -> tuple[str, ...]:
        """Return a current term and all that it is a kind of, strictly below the root, sorted.

        Empty for the root itself and for what does not lie below it, such as modes of inheritance.
        """
        return self._ancestors.get(term, ())

    def descendants(self, term: str) -> tuple[str, ...]:
        """Return a current term and all kinds of it, where they lie strictly below the root, sorted."""
        if term == self.root:
            return self.terms
        return self._descendants.get(term, ())

    @cached_property
    def terms(self) -> tuple[str, ...]:
        """All current terms strictly below the root, sorted."""
        return tuple(sorted(term for term, found in self._ancestors.items() if found))

    @cached_property
    def _ancestors(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for term in _in_order(self.parents):
            above = {a for parent in self.parents[term] for a in found[parent]}
            if term == self.root:
                found[term] = ()
            elif above or self.root in self.parents[term]:
                found[term] = tuple(sorted(above | {term}))
            else:
                found[term] = ()
        return found

    @cached_property
    def _descendants(self) -> dict[str, tuple[str, ...]]:
        below: dict[str, list[str]] = {}
        for term in self.terms:  # sorted, so each list is too
            for ancestor in self._ancestors[term]:
                below.setdefault(ancestor, []).append(term)
        return {term: tuple(found) for term, found in below.items()}

    def _replacement(self, term: str) -> str | None:
        seen = {term}
        while term in self.obsolete:
            named = self.obsolete[term]
            # Two replacements are a person's choice, as `consider` is.
            if len(named) != 1 or named[0] in seen:
                return None
            term = named[0]
            seen.add(term)
        return term if term in self.names else self.alternatives.get(term)


@dataclass
class _Stanza:
    """A term as the file has it."""

    id: str = ""
    name: str = ""
    parents: list[str] = field(default_factory=list)
    alternatives: list[str] = field(default_factory=list)
    replaced_by: list[str] = field(default_factory=list)
    consider: list[str] = field(default_factory=list)
    obsolete: bool = False


def read_ontology(
    path: Path,
    *,
    release: str | None = None,
    digest: str | None = None,
    root: str = PHENOTYPIC_ABNORMALITY,
) -> Ontology:
    """Read a whole OBO file, and check that it is the pinned one where `release` or `digest` say which.

    Raises:
        ConfigurationError: SB-115 the file is not a whole ontology, SB-116 it is not the pinned one.
    """
    data = _bytes(path)
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if digest is not None and found != digest:
        raise ConfigurationError(
            "SB-116", f"The ontology has digest {found[:19]}…; the study pins {digest[:19]}…"
        )
    text = _text(data)
    head, *stanzas = text.split("\n[")
    tag = _release(head)
    if release is not None and tag != release:
        raise ConfigurationError(
            "SB-116", f"The ontology is of release {tag}; the study pins {release}"
        )
    terms = [_stanza(body[6:]) for body in stanzas if body.startswith("Term]\n")]
    return _ontology(terms, release=tag, digest=found, root=root)


def _bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _refused(f"The ontology has {size} bytes; at most {MAX_BYTES} are read")
        return path.read_bytes()
    except OSError:
        raise _refused("The ontology cannot be read") from None


def _text(data: bytes) -> str:
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise _refused(f"The ontology is not UTF-8 at byte {error.start}: not OBO") from None
    if not text.startswith("format-version:"):
        raise _refused("The ontology does not begin with format-version: not OBO")
    if not text.endswith("\n"):
        raise _refused(
            f"The ontology ends inside line {text.count(chr(10)) + 1}: it is truncated after "
            f"{len(data)} bytes"
        )
    return text


def _release(head: str) -> str:
    named = [line[13:].strip() for line in head.split("\n") if line.startswith("data-version:")]
    match = _RELEASE.search(named[0]) if len(named) == 1 else None
    if match is None:
        raise _refused(
            f"The ontology names no release: {counted(len(named), 'data-version line')} in its head, and "
            "one with a date or a version number is needed"
        )
    return match[0]


def _stanza(body: str) -> _Stanza:
    stanza = _Stanza()
    lists = {
        "is_a": stanza.parents,
        "alt_id": stanza.alternatives,
        "replaced_by": stanza.replaced_by,
        "consider": stanza.consider,
    }
    for line in body.split("\n"):
        tag, _, value = line.partition(": ")
        if tag in lists:
            # What follows the id is a comment or a modifier: `HP:0001507 ! Growth abnormality`.
            lists[tag].append(value.split(None, 1)[0] if value.strip() else "")
        elif tag == "id":
            # A second id in one stanza would hide a term.
            stanza.id = value.strip() if not stanza.id else "!"
        elif tag == "name":
            stanza.name = value.strip()
        elif tag == "is_obsolete":
            stanza.obsolete = value.startswith("true")
    return stanza


def _ontology(terms: list[_Stanza], *, release: str, digest: str, root: str) -> Ontology:
    current = {stanza.id: stanza for stanza in terms if not stanza.obsolete}
    _check_ids(terms)
    _check_parents(current, root)
    alternatives: dict[str, str] = {}
    for stanza in current.values():
        for old in stanza.alternatives:
            if alternatives.setdefault(old, stanza.id) != stanza.id:
                raise _refused("An alternative id belongs to two terms: the ontology is ambiguous")
    both = sum(1 for old in alternatives if old in current)
    if both:
        raise _refused(f"{counted(both, 'id is', 'ids are')} both a current term and an old name")
    old_terms = [stanza for stanza in terms if stanza.obsolete]
    ontology = Ontology(
        release=release,
        digest=digest,
        names={stanza.id: stanza.name for stanza in current.values()},
        parents={stanza.id: tuple(dict.fromkeys(stanza.parents)) for stanza in current.values()},
        alternatives=alternatives,
        obsolete={stanza.id: tuple(stanza.replaced_by) for stanza in old_terms},
        consider={stanza.id: tuple(stanza.consider) for stanza in old_terms if stanza.consider},
        root=root,
    )
    if not ontology.terms:
        raise _refused("No term lies below the root")
    return ontology


def _check_ids(terms: list[_Stanza]) -> None:
    if not terms:
        raise _refused("The ontology has no terms")
    wrong = sum(1 for stanza in terms if not _ID.fullmatch(stanza.id))
    if wrong:
        raise _refused(
            f"{counted(wrong, 'term has', 'terms have')} no id of the form PREFIX:NUMBER"
        )
    twice = len(terms) - len({stanza.id for stanza in terms})
    if twice:
        raise _refused(
            f"{counted(twice, 'id stands', 'ids stand')} on more than one of {len(terms)} terms"
        )
    nameless = sum(1 for stanza in terms if not stanza.name)
    if nameless:
        raise _refused(
            f"{counted(nameless, 'term has', 'terms have')} no name: the ontology may be truncated"
        )


def _check_parents(current: Mapping[str, _Stanza], root: str) -> None:
    if root not in current:
        raise _refused(f"The root {root} is not among {counted(len(current), 'current term')}")
    missing = {p for stanza in current.values() for p in stanza.parents if p not in current}
    if missing:
        raise _refused(
            f"{counted(len(missing), 'parent is', 'parents are')} missing among "
            f"{counted(len(current), 'current term')}: the ontology may be truncated"
        )
    tops = sum(1 for stanza in current.values() if not stanza.parents)
    if tops > 1:
        raise _refused(f"{tops} current terms have no parent, and one may: it may be truncated")
    parents = {term: tuple(stanza.parents) for term, stanza in current.items()}
    placed = sum(1 for _ in _in_order(parents))
    if placed < len(parents):
        raise _refused(f"{len(parents) - placed} terms lie on or below a cycle of is_a")


def _in_order(parents: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield each term after all its parents; what lies on or below a cycle is left out (Kahn 1962)."""
    waiting = {term: len(set(above)) for term, above in parents.items()}
    children: dict[str, list[str]] = {}
    for term, above in parents.items():
        for parent in set(above):
            children.setdefault(parent, []).append(term)
    ready = [term for term, count in waiting.items() if count == 0]
    while ready:
        term = ready.pop()
        yield term
        for child in children.get(term, ()):
            waiting[child] -= 1
            if waiting[child] == 0:
                ready.append(child)


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError("SB-115", message)
