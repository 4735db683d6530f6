"""Patients as sparse vectors over a study's terms, with what splits and reports need to know of each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.phenotype.features import FeatureSpace
from solblom_models.phenotype.phenopacket import Case, Sex

UNKNOWN = "unknown"
_Number = TypeVar("_Number", np.int64, np.float32)
AGE_BANDS = (1.0, 6.0, 12.0, 18.0, 40.0, 65.0)
"""Years at which the next band begins: infant, young child, child, adolescent, adult, middle age, old age."""


@dataclass(frozen=True)
class CaseUnits:
    """The patients of one hospital. Row i holds `indices[starts[i]:starts[i+1]]` of a vector of `size` entries.

    Attributes:
        labels: position of the patient's disease in the study's label space; -1 where it is to be predicted.
        groups: by kind (`publication`, `family`), what each patient belongs to, or None.
        outside: terms of each patient that leave no trace in the vector.
        notes: what a reading counted, by reason; empty for a part of the patients.
    """

    ids: tuple[str, ...]
    labels: NDArray[np.int64]
    starts: NDArray[np.int64] = field(repr=False)
    indices: NDArray[np.int64] = field(repr=False)
    values: NDArray[np.float32] = field(repr=False)
    size: int
    sexes: tuple[Sex, ...] = field(repr=False)
    ages: tuple[float | None, ...] = field(repr=False)
    groups: dict[str, tuple[str | None, ...]] = field(repr=False, default_factory=dict)
    outside: NDArray[np.int64] = field(repr=False, default_factory=lambda: np.zeros(0, np.int64))
    notes: dict[str, int] = field(repr=False, default_factory=dict)

    def dense(self, indices: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Return whole vectors, shape (B, size): of these patients, or of all."""
        chosen = range(len(self.ids)) if indices is None else indices
        whole = np.zeros((len(chosen), self.size), dtype=np.float32)
        for row, index in enumerate(chosen):
            part = slice(self.starts[index], self.starts[index + 1])
            whole[row, self.indices[part]] = self.values[part]
        return whole

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors (B, size) and labels (B,) of these patients."""
        chosen = np.asarray(indices, dtype=np.int64)
        return torch.from_numpy(self.dense(chosen.tolist())), torch.from_numpy(self.labels[chosen])

    def select(self, indices: Sequence[int]) -> "CaseUnits":
        """Return these patients only."""
        parts = [slice(self.starts[i], self.starts[i + 1]) for i in indices]
        lengths = [part.stop - part.start for part in parts]
        return CaseUnits(
            ids=tuple(self.ids[i] for i in indices),
            labels=self.labels[list(indices)],
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            indices=_joined([self.indices[part] for part in parts], np.int64),
            values=_joined([self.values[part] for part in parts], np.float32),
            size=self.size,
            sexes=tuple(self.sexes[i] for i in indices),
            ages=tuple(self.ages[i] for i in indices),
            groups={kind: tuple(of[i] for i in indices) for kind, of in self.groups.items()},
            outside=self.outside[list(indices)],
        )

    def with_notes(self, notes: dict[str, int]) -> "CaseUnits":
        """Return the same patients with what a reading counted."""
        return replace(self, notes=dict(notes))

    def row_bytes(self, index: int) -> bytes:
        """Return the patient's vector, label and groups as bytes."""
        part = slice(self.starts[index], self.starts[index + 1])
        groups = "\0".join(f"{kind}\0{of[index] or ''}" for kind, of in sorted(self.groups.items()))
        return b"".join(
            (
                int(self.labels[index]).to_bytes(8, "little", signed=True),
                self.indices[part].astype("<i8").tobytes(),
                self.values[part].astype("<f4").tobytes(),
                groups.encode("utf-8", "surrogatepass"),
            )
        )


def units_of(cases: Iterable[Case], space: FeatureSpace) -> CaseUnits:
    """Return cases as units, in their order."""
    kept, vectors, outside = [], [], []
    position = {disease: index for index, disease in enumerate(space.diseases)}
    for case in cases:
        vectors.append(space.vector(case))
        outside.append(space.outside(case))
        # The terms stand in the vector; they would take most of the memory.
        kept.append(
            (case.patient, case.disease, case.sex, case.age_years, case.publication, case.family)
        )
    patients, diseases, sexes, ages, publications, families = (
        list(column) for column in (zip(*kept, strict=True) if kept else ([],) * 6)
    )
    return CaseUnits(
        ids=tuple(patients),
        labels=np.array([position.get(disease, -1) for disease in diseases], dtype=np.int64),
        starts=np.concatenate([[0], np.cumsum([len(v.indices) for v in vectors])]).astype(np.int64),
        indices=_joined([vector.indices for vector in vectors], np.int64),
        values=_joined([vector.values.astype(np.float32) for vector in vectors], np.float32),
        size=space.size,
        sexes=tuple(sexes),
        ages=tuple(ages),
        groups={"publication": tuple(publications), "family": tuple(families)},
        outside=np.array(outside, dtype=np.int64),
    )


def age_band(age_years: float | None) -> str:
    """Return the name of the band that an age lies in."""
    if age_years is None:
        return UNKNOWN
    below = sum(age_years >= limit for limit in AGE_BANDS)
    return AGE_BAND_NAMES[below]


AGE_BAND_NAMES = tuple(
    [f"below {AGE_BANDS[0]:g}"]
    + [f"{low:g} to {high:g}" for low, high in pairwise(AGE_BANDS)]
    + [f"{AGE_BANDS[-1]:g} or more"]
)


def _joined(parts: Sequence[NDArray[_Number]], dtype: type[_Number]) -> NDArray[_Number]:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=dtype)
