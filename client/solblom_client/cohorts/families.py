"""Who counts as one unit of privacy where it is the family: whose contributions are averaged, who is counted.

A family's contribution to a step is the mean of its members' clipped gradients. Each is at most C long, so the mean
is: a family more or less moves the sum by at most C. So does a patient whose family stays: with shares w of m members
and w' of m - 1, |w g + (w - w') S| <= w C + (w' - w)(m - 1) C <= C, S being the others' sum (docs/adr/0021). Of counts,
one member of each family is counted.

The family is the one that the data set names; a patient of none is a family of one, for whom nothing of this changes
anything.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.patient_id import SEVERAL_FAMILIES, patient_id
from solblom_models.task import GroupedUnits, NotedUnits, Units
from solblom_protocol.errors import DataError
from solblom_verify.wording import counted

FAMILY = "family"


def group_ids(units: Units, ids: Sequence[str], by: str) -> list[str]:
    """Return each patient's group in its one spelling, marked with its kind; the own id of a patient of none.

    Raises:
        DataError: SB-310, the data set names no such groups.
    """
    groups = units.groups if isinstance(units, GroupedUnits) else {}
    if by not in groups:
        raise DataError("SB-310", f"The study splits by {by}, and the data set names none")
    named = [None if group is None else patient_id(group) for group in groups[by]]
    # Another prefix for each kind: a publication's code says nothing about a patient of the same name.
    return [f"{by}\0{group}" if group else own for own, group in zip(ids, named, strict=True)]


def check_families_are_clear(units: Units) -> None:
    """Refuse data in which a patient is of several families: such a patient would be of no unit.

    Raises:
        DataError: SB-314.
    """
    notes = units.notes if isinstance(units, NotedUnits) else {}
    several = notes.get(SEVERAL_FAMILIES, 0)
    if several:
        raise DataError(
            "SB-314",
            f"{counted(several, 'patient is', 'patients are')} of several families; a study by family needs one each",
        )


@dataclass(frozen=True)
class Families:
    """Families of some patients, in the order of their first member.

    Attributes:
        members: positions of each family's patients, ascending.
        shares: of each patient in the family's contribution, shape (patients,) float32.
    """

    members: tuple[tuple[int, ...], ...]
    shares: NDArray[np.float32]

    @classmethod
    def of(cls, units: Units) -> "Families":
        """Return the families of these patients: who is not among them, takes no share.

        Raises:
            DataError: SB-310, the data set names no families.
        """
        found: dict[str, list[int]] = {}
        ids = [patient_id(text) for text in units.ids]
        for index, name in enumerate(group_ids(units, ids, FAMILY)):
            found.setdefault(name, []).append(index)
        shares = np.ones(len(ids), dtype=np.float32)
        for family in found.values():
            shares[family] = share_of(len(family))
        return cls(tuple(tuple(family) for family in found.values()), shares)

    def drawn(self, chosen: Sequence[int]) -> tuple[Sequence[int], torch.Tensor]:
        """Return whom a draw of families takes in, ascending, and the share of each."""
        patients = sorted(index for family in chosen for index in self.members[family])
        return patients, torch.from_numpy(self.shares[patients])


def share_of(members: int) -> np.float32:
    """Return the largest float32 of which `members` together are not above 1: rounding must not pass the norm."""
    share = np.float32(1.0 / members)
    return share if float(share) * members <= 1.0 else np.nextafter(share, np.float32(0.0))


def one_of_each(units: Units, split_key: bytes) -> Units:
    """Return one member of each family, the one whose id has the lowest code under the hospital's split key.

    A family more or less is one patient more or less in a count. Who it is depends on the members' ids alone.

    Raises:
        DataError: SB-310, the data set names no families.
    """
    codes = [
        hmac.digest(
            split_key, b"counted\0" + patient_id(text).encode("utf-8", "surrogatepass"), "sha256"
        )
        for text in units.ids
    ]
    families = Families.of(units).members
    return units.select(sorted(min(family, key=codes.__getitem__) for family in families))
