"""What a reading of cases used and did not use, each reason named and counted.

    documents = cases + documents that a reason of DOCUMENT_REASONS counts
    features  = used_features + features that a reason of FEATURE_REASONS counts

Both hold after every reading, so nothing is dropped in silence. Line numbers stay in `places`, inside the
hospital; `summary` has counts alone. Counts are exact and may be small: what leaves is for the export gate.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from solblom_models.patient_id import SEVERAL_FAMILIES

KEPT_PLACES = 1_000  # line numbers a reason, so that a million bad lines do not fill the memory


class Reason(StrEnum):
    """Why a document, a feature or a detail was not used as it stands."""

    UNREADABLE_FILE = "file or folder cannot be read"
    TOO_LARGE = "document larger than the limit"
    NOT_UTF8 = "not UTF-8"
    NOT_JSON = "not JSON"
    TRUNCATED = "JSON that ends too early"
    TOO_DEEP = "JSON nested too deep"
    DUPLICATE_KEY = "a key stands twice in one object"
    NOT_FINITE = "NaN or infinity, which JSON does not have"
    NOT_PHENOPACKET = "JSON, but no phenopacket"
    SCHEMA_VERSION = "schema version is not 2.x"
    TOO_MANY_FEATURES = "more features than the limit"
    NO_PATIENT = "no subject id"
    NO_DISEASE = "no disease"
    SEVERAL_DISEASES = "several diseases"
    UNMAPPED_DISEASE = "disease outside the study's label space"
    NO_TERM = "no usable HPO term"
    SAME_PATIENT = "patient seen before"

    UNREADABLE_FEATURE = "feature without a term, or excluded is not true or false"
    OTHER_VOCABULARY = "term of another vocabulary than HPO"
    UNKNOWN_TERM = "term unknown in this release"
    OBSOLETE_TERM = "obsolete term without a single replacement"
    OUTSIDE_ROOT = "HPO term that is no phenotypic abnormality"
    REPEATED_TERM = "term repeated in one case"
    CONTRADICTORY = "term both observed and excluded; neither is used"
    EXCLUDED_ABOVE = "term excluded though a kind of it is observed"

    REPLACED_TERM = "obsolete term, replaced"
    ALTERNATIVE_TERM = "alternative id, replaced"
    UNSOLVED = "interpretation not solved, its disease not taken"
    RELATIVE = "relative in a family message"
    SEVERAL_PUBLICATIONS = "several publications, the first taken"
    SEVERAL_FAMILIES = SEVERAL_FAMILIES
    NO_OBSERVED_TERM = "case with excluded terms only"
    UNREADABLE_SEX = "sex unreadable, taken as unknown"
    UNREADABLE_AGE = "age unreadable or without a middle, taken as missing"
    OTHER_RELEASE = "case coded with another HPO release"
    NO_RELEASE = "case names no HPO release"
    OTHER_FILE = "file in the folder that is not JSON by its name"


_ALL = tuple(Reason)
DOCUMENT_REASONS = frozenset(_ALL[: _ALL.index(Reason.UNREADABLE_FEATURE)])
"""The document gave no case."""
FEATURE_REASONS = frozenset(
    _ALL[_ALL.index(Reason.UNREADABLE_FEATURE) : _ALL.index(Reason.REPLACED_TERM)]
)
"""A phenotypic feature of a case was not used."""
DETAIL_REASONS = frozenset(_ALL[_ALL.index(Reason.REPLACED_TERM) :])
"""Used, but not as it stands; or something beside the case."""


@dataclass
class Reading:
    """Counts of one reading, filled while cases stream by.

    Attributes:
        documents: lines or files with something in them.
        cases: documents that gave a case.
        features: phenotypic features of those cases, and of documents where none was usable.
        used_features: of them, how many stand in a case.
        counts: how often each reason occurred.
        places: the first line numbers (file numbers in a folder) of each reason; never leave the hospital.
    """

    documents: int = 0
    cases: int = 0
    features: int = 0
    used_features: int = 0
    counts: Counter[Reason] = field(default_factory=Counter)
    places: dict[Reason, list[int]] = field(default_factory=dict, repr=False)

    def note(self, reason: Reason, place: int, count: int = 1) -> None:
        """Count a reason at a line number."""
        self.counts[reason] += count
        kept = self.places.setdefault(reason, [])
        if len(kept) < KEPT_PLACES and (not kept or kept[-1] != place):
            kept.append(place)

    def total(self, reasons: Iterable[Reason]) -> int:
        """Return how often these reasons occurred together."""
        return sum(self.counts[reason] for reason in reasons)

    def summary(self) -> dict[str, int]:
        """Return the counts by name, in a fixed order, without what did not occur."""
        found = {
            "documents": self.documents,
            "cases": self.cases,
            "features": self.features,
            "used features": self.used_features,
        }
        return found | {str(r): self.counts[r] for r in Reason if self.counts[r]}


@dataclass
class Tally:
    """What one case's parts came to, before it is known whether the case is used."""

    features: int = 0
    used_features: int = 0
    counts: Counter[Reason] = field(default_factory=Counter)

    def add_to(self, reading: Reading, place: int) -> None:
        """Add these counts to a reading."""
        reading.features += self.features
        reading.used_features += self.used_features
        for reason, count in self.counts.items():
            reading.note(reason, place, count)
