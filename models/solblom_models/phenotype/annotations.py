"""What is publicly known of diseases: `phenotype.hpoa`, the annotations of the Human Phenotype Ontology.

Each line says that a disease shows a term, how often, and by which reference. Lines of one disease and
term are joined: patients counted in several papers (`3/7`) are added up; without any count the mean of what
the lines state; without any statement `missing`, a public constant. Only aspect P (phenotypic abnormality)
counts; inheritance, onset, course and modifiers are left out. Lines with NOT are kept apart as `absent`.

All of this is public and the same for every hospital, so weights made from it cost no privacy.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from sys import intern

from solblom_models.phenotype.ontology import Ontology
from solblom_protocol.errors import ConfigurationError

MAX_LINE_BYTES = 64 * 2**10
# Nothing is known between never and always, and the middle is wrong by half at most.
MISSING_FREQUENCY = 0.5
COLUMNS = (
    *("database_id", "disease_name", "qualifier", "hpo_id", "reference", "evidence", "onset"),
    *("frequency", "sex", "modifier", "aspect", "biocuration"),
)
# Middle of the range in each term's definition: very frequent is 80 to 99 per cent, and so on.
FREQUENCY_TERMS = {
    "HP:0040280": 1.0,  # obligate
    "HP:0040281": 0.895,  # very frequent
    "HP:0040282": 0.545,  # frequent
    "HP:0040283": 0.17,  # occasional
    "HP:0040284": 0.025,  # very rare
    "HP:0040285": 0.0,  # excluded
}
_DISEASE = re.compile(r"(OMIM|ORPHA|DECIPHER|MONDO):[0-9]+")
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]+)?)%")
_COUNT = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


class Unread(StrEnum):
    """Why a line of the annotations was not used."""

    ASPECT = "another aspect than phenotypic abnormality"
    COLUMNS = "another number of columns"
    DISEASE = "not a disease id"
    TERM = "term unknown or obsolete in the ontology"
    OUTSIDE = "term outside the root"
    FREQUENCY = "frequency unreadable, taken as missing"


@dataclass(frozen=True)
class Annotations:
    """Public knowledge of diseases.

    Attributes:
        version: of the file.
        ontology_release: that the file says it was made with.
        digest: `sha256:` of the file.
        frequencies: disease, term and share of patients who show it, above 0.
        absent: disease and terms that it is known not to show.
        diseases: names.
        lines: lines with data.
        unread: reasons and the number of lines.
    """

    version: str
    ontology_release: str
    digest: str
    frequencies: Mapping[str, Mapping[str, float]] = field(repr=False)
    absent: Mapping[str, frozenset[str]] = field(repr=False)
    diseases: Mapping[str, str] = field(repr=False)
    lines: int
    unread: Mapping[Unread, int]

    @cached_property
    def terms(self) -> frozenset[str]:
        """All terms that annotate any disease, without their ancestors."""
        return frozenset(term for terms in self.frequencies.values() for term in terms)

    def information(self, ontology: Ontology) -> dict[str, float]:
        """Return each term's information content in nats (Resnik 1995, eq. 1).

        It is minus the log of the share of diseases annotated with the term or a kind of it. A term that
        annotates none has the value of one that annotates a single disease: rarer cannot be told.
        """
        counts: Counter[str] = Counter()
        for terms in self.frequencies.values():
            counts.update({a for term in terms for a in ontology.ancestors(term)})
        whole = max(len(self.frequencies), 1)
        return {term: math.log(whole / max(counts[term], 1)) for term in ontology.terms}


@dataclass(slots=True)
class _Evidence:
    """What the lines of one disease and term say."""

    shown: int = 0
    looked_at: int = 0
    stated: list[float] = field(default_factory=list)

    def frequency(self, missing: float) -> float:
        if self.looked_at:
            return self.shown / self.looked_at
        return sum(self.stated) / len(self.stated) if self.stated else missing


@dataclass
class _Gathered:
    """What was read so far."""

    evidence: dict[str, dict[str, _Evidence]] = field(default_factory=dict)
    absent: dict[str, set[str]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    terms: dict[str, str | Unread] = field(default_factory=dict)
    unread: Counter[Unread] = field(default_factory=Counter)
    lines: int = 0


def read_annotations(
    path: Path,
    ontology: Ontology,
    *,
    digest: str | None = None,
    missing: float = MISSING_FREQUENCY,
) -> Annotations:
    """Read `phenotype.hpoa`, line by line, with terms as the ontology's current ones.

    Raises:
        ConfigurationError: SB-117 not a whole file of annotations, SB-116 not the pinned one.
    """
    if not 0 < missing <= 1:
        raise ConfigurationError(
            "SB-103", f"A missing frequency must be in (0, 1], got {missing:g}"
        )
    running = hashlib.sha256()
    lines = _lines(path, running)
    head = _head(lines)
    gathered = _Gathered()
    for cells in lines:
        gathered.lines += 1
        _take(cells.split("\t"), gathered, ontology)
    if not gathered.evidence:
        raise _refused(f"The annotations have no usable line among {gathered.lines}")
    found = f"sha256:{running.hexdigest()}"
    if digest is not None and found != digest:
        raise ConfigurationError(
            "SB-116", f"The annotations have digest {found[:19]}…; the study pins {digest[:19]}…"
        )
    return Annotations(
        version=head.get("version", ""),
        ontology_release=_date(head.get("hpo-version", "")),
        digest=found,
        frequencies=_frequencies(gathered, missing),
        absent={disease: frozenset(terms) for disease, terms in gathered.absent.items()},
        diseases=gathered.names,
        lines=gathered.lines,
        unread=dict(gathered.unread),
    )


def frequency_of(text: str) -> tuple[int, int] | float | None:
    """Return a frequency as (shown, looked at) or as a share; None where it says nothing readable."""
    if count := _COUNT.fullmatch(text):
        shown, looked_at = int(count[1]), int(count[2])
        return (shown, looked_at) if 0 < looked_at >= shown else None
    if percent := _PERCENT.fullmatch(text):
        share = float(percent[1]) / 100
        return share if share <= 1 else None
    return FREQUENCY_TERMS.get(text)


def _lines(path: Path, running: "hashlib._Hash") -> Iterator[str]:
    number = 0
    line = b"\n"
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                running.update(line)
                if len(line) > MAX_LINE_BYTES:
                    raise _refused(
                        f"Line {number} of the annotations is over {MAX_LINE_BYTES} bytes"
                    )
                if not line.endswith(b"\n"):
                    raise _refused(f"The annotations end inside line {number}: they are truncated")
                yield line.decode("utf-8").rstrip("\r\n")
    except OSError:
        raise _refused("The annotations cannot be read") from None
    except UnicodeDecodeError:
        raise _refused(f"Line {number} of the annotations is not UTF-8") from None


def _head(lines: Iterator[str]) -> dict[str, str]:
    head: dict[str, str] = {}
    for line in lines:
        if not line.startswith("#"):
            if tuple(line.split("\t")) != COLUMNS:
                raise _refused(
                    f"The annotations do not have the {len(COLUMNS)} columns of an HPOA file"
                )
            break
        key, _, value = line[1:].partition(":")
        head[key.strip()] = value.strip()
    if not head.get("version"):
        raise _refused("The annotations name no version")
    return head


def _date(text: str) -> str:
    match = re.search(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text)
    return match[0] if match else ""


def _take(cells: list[str], gathered: _Gathered, ontology: Ontology) -> None:
    if len(cells) != len(COLUMNS):
        gathered.unread[Unread.COLUMNS] += 1
        return
    disease, name, qualifier, term = cells[:4]
    if cells[10] != "P":
        gathered.unread[Unread.ASPECT] += 1
        return
    if not _DISEASE.fullmatch(disease):
        gathered.unread[Unread.DISEASE] += 1
        return
    current = gathered.terms.get(term)
    if current is None:
        current = gathered.terms[term] = _current(term, ontology)
    if isinstance(current, Unread):
        gathered.unread[current] += 1
        return
    gathered.names.setdefault(intern(disease), name)
    if qualifier == "NOT":
        gathered.absent.setdefault(intern(disease), set()).add(current)
        return
    terms = gathered.evidence.setdefault(intern(disease), {})
    _add(terms.setdefault(current, _Evidence()), cells[7], gathered)


def _current(term: str, ontology: Ontology) -> str | Unread:
    found = ontology.resolve(term).id
    if found is None:
        return Unread.TERM
    return intern(found) if ontology.ancestors(found) else Unread.OUTSIDE


def _add(evidence: _Evidence, text: str, gathered: _Gathered) -> None:
    stated = frequency_of(text)
    if isinstance(stated, tuple):
        evidence.shown += stated[0]
        evidence.looked_at += stated[1]
    elif stated is not None:
        evidence.stated.append(stated)
    elif text:
        gathered.unread[Unread.FREQUENCY] += 1


def _frequencies(gathered: _Gathered, missing: float) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for disease, terms in gathered.evidence.items():
        shares = {term: evidence.frequency(missing) for term, evidence in terms.items()}
        seen = {term: share for term, share in shares.items() if share > 0}
        # Looked for and never found is knowledge too.
        never = shares.keys() - seen.keys()
        if never:
            gathered.absent.setdefault(disease, set()).update(never)
        if seen:
            found[disease] = seen
    return found


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError("SB-117", message)
