"""From a case to numbers: observed and excluded terms as two channels over one public list of terms.

The true path rule holds both ways. Who shows a term shows all that it is a kind of, so the observed channel is
closed upwards. Who does not show a term shows no kind of it, so the excluded channel may be closed downwards
(`descendants`). It is not by default: one general term ruled out would set thousands of rare, heavily weighted
entries that nobody looked for, and drown what was observed. The term alone (`term`) also says what somebody
thought worth looking for. `bench/phenopackets.py` measures both. What the observed terms imply is never
excluded: seeing is surer than not having looked everywhere.

List, order and weights follow from public files and the study alone, never from patients: they cost no privacy
and are the same at every hospital, which `digest` lets them compare.
"""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from solblom_models.phenotype.annotations import Annotations
from solblom_models.phenotype.ontology import Ontology
from solblom_models.phenotype.phenopacket import Case
from solblom_protocol.errors import ConfigurationError
from solblom_verify.wording import counted

ExcludedRule = Literal["descendants", "term"]
_NOWHERE: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class SparseVector:
    """The entries of a vector that are not 0.

    Attributes:
        indices: positions, rising, shape (K,) int64.
        values: shape (K,) float64.
        size: of the whole vector.
    """

    indices: NDArray[np.int64]
    values: NDArray[np.float64]
    size: int

    def dense(self) -> NDArray[np.float64]:
        """Return the whole vector, shape (size,)."""
        whole = np.zeros(self.size)
        whole[self.indices] = self.values
        return whole


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """A public list of terms, and how a case becomes a vector over it.

    Attributes:
        terms: sorted; for each, what it is a kind of is there too.
        weights: of the terms, shape (T,), not negative.
        diseases: the label space, sorted.
        excluded: which terms an excluded one rules out.
        excluded_scale: what the excluded channel counts beside the observed one; 0 leaves it out.
        unit: whether a case's vector has L2 norm 1, so that no patient counts more than another.
    """

    ontology: Ontology = field(repr=False)
    terms: tuple[str, ...] = field(repr=False)
    weights: NDArray[np.float64] = field(repr=False)
    diseases: tuple[str, ...] = field(repr=False)
    excluded: ExcludedRule = "term"
    excluded_scale: float = 1.0
    unit: bool = True

    @property
    def size(self) -> int:
        """Length of a case's vector: the observed channel, then the excluded one."""
        return 2 * len(self.terms)

    @cached_property
    def digest(self) -> str:
        """`sha256:` of all that a vector depends on, to compare between hospitals."""
        running = hashlib.sha256()
        settings = f"{self.excluded} {float(self.excluded_scale).hex()} {self.unit}"
        for line in (self.ontology.digest, settings, *self.diseases, "", *self.terms):
            running.update(f"{line}\n".encode())
        running.update(self.weights.astype("<f8").tobytes())
        return f"sha256:{running.hexdigest()}"

    def positions(self, case: Case) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return positions in `terms`, rising: what is shown, and what is ruled out and not shown."""
        shown = _union(self._above(term) for term in case.observed)
        ruled_out = _union(self._below(term) for term in case.excluded)
        return shown, np.setdiff1d(ruled_out, shown, assume_unique=True)

    def places(self, term: str, *, excluded: bool) -> NDArray[np.int64]:
        """Return where a term of a case leaves its trace in `terms`: upwards if observed, by the rule if excluded."""
        return self._below(term) if excluded else self._above(term)

    def vector(self, case: Case) -> SparseVector:
        """Return the case as weights at its positions, excluded terms after all observed ones.

        All zero where no term of the case has a weight; nothing can give that a norm of 1.
        """
        shown, ruled_out = self.positions(case)
        indices = np.concatenate([shown, ruled_out + len(self.terms)])
        scaled = self.excluded_scale * self.weights[ruled_out]
        values = np.concatenate([self.weights[shown], scaled])
        kept = values != 0
        indices, values = indices[kept], values[kept]
        norm = float(np.linalg.norm(values))
        if self.unit and norm > 0:
            values = values / norm
        return SparseVector(indices, values, self.size)

    def outside(self, case: Case) -> int:
        """Return how many of a case's terms leave no trace in its vector, to be counted, never dropped."""
        seen = sum(1 for term in case.observed if not self._above(term).size)
        return seen + sum(1 for term in case.excluded if not self._below(term).size)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {term: index for index, term in enumerate(self.terms)}

    @cached_property
    def _cache(self) -> dict[tuple[str, str], NDArray[np.int64]]:
        return {}

    def _above(self, term: str) -> NDArray[np.int64]:
        return self._positions("above", term, self.ontology.ancestors(term))

    def _below(self, term: str) -> NDArray[np.int64]:
        if self.excluded == "term":
            return self._positions("term", term, (term,))
        return self._positions("below", term, self.ontology.descendants(term))

    def _positions(self, kind: str, term: str, found: tuple[str, ...]) -> NDArray[np.int64]:
        """Return where terms stand; kept, at most two arrays for each term of the ontology."""
        key = (kind, term)
        if key not in self._cache:
            here = sorted(self._position[other] for other in found if other in self._position)
            if not here:
                return _NOWHERE
            self._cache[key] = np.array(here, dtype=np.int64)
        return self._cache[key]


def feature_space(
    ontology: Ontology,
    annotations: Annotations,
    *,
    diseases: Collection[str],
    terms: Literal["all", "study"] = "all",
    weights: Literal["information", "ones"] = "information",
    excluded: ExcludedRule = "term",
    excluded_scale: float = 1.0,
    unit: bool = True,
) -> FeatureSpace:
    """Return the space of a study: the closure of all terms that annotate any disease, or one of its own.

    Raises:
        ConfigurationError: SB-103 no disease, no annotated one, or a scale that is no number from 0.
    """
    if not diseases:
        raise ConfigurationError("SB-103", "The study's label space has 0 diseases")
    if not (math.isfinite(excluded_scale) and excluded_scale >= 0):
        raise ConfigurationError(
            "SB-103", f"excluded_scale must be 0 or more, got {excluded_scale}"
        )
    named: Iterable[str] = annotations.terms
    if terms == "study":
        named = {t for disease in diseases for t in annotations.frequencies.get(disease, ())}
    closed = tuple(sorted({a for term in named for a in ontology.ancestors(term)}))
    if not closed:
        raise ConfigurationError(
            "SB-103",
            f"No term annotates the study's {counted(len(diseases), 'disease')}: use the terms of all diseases",
        )
    found: Mapping[str, float] = (
        annotations.information(ontology)
        if weights == "information"
        else dict.fromkeys(closed, 1.0)
    )
    return FeatureSpace(
        ontology=ontology,
        terms=closed,
        weights=np.array([found[term] for term in closed]),
        diseases=tuple(sorted(diseases)),
        excluded=excluded,
        excluded_scale=excluded_scale,
        unit=unit,
    )


def _union(found: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    arrays = list(found)
    return np.unique(np.concatenate(arrays)) if arrays else _NOWHERE
