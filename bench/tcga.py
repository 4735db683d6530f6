"""TCGA colorectal expression as four hospitals: which sites are for choosing, which for the result, and the features.

The files are not part of this repository: a folder with `coadread_molecular_labels.csv` and
`coadread_rna_xena1577.csv.gz` is named in SOLBLOM_TCGA. Target: MSI-H against MSS and MSI-L. One sample a patient.

Sites are tissue source sites (TSS, the second field of the barcode), ranked by labelled patients, ties by code. Ranks 1
to 4 and, from rank 9 on, every second one are for the **evaluation**; ranks 5 to 8 and the others for
**development**. In the evaluation the four largest are the hospitals' names; each further site is added, whole, to the
hospital that has fewest patients then. In the development patients are drawn into four hospitals by seed.
"""

import csv
import gzip
import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

FOLDER = "SOLBLOM_TCGA"
LABELS, EXPRESSION = "coadread_molecular_labels.csv", "coadread_rna_xena1577.csv.gz"
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Patients:
    """Patients of some sites: values is (N, 1577) as in the file, ranks each patient's genes as normal scores."""

    ids: tuple[str, ...]
    sites: tuple[str, ...]
    ranks: Floats
    labels: NDArray[np.int64]
    genes: tuple[str, ...]
    values: Floats

    def where(self, chosen: NDArray[np.bool_]) -> "Patients":
        """Return some of them."""
        kept = np.nonzero(chosen)[0]
        return Patients(
            tuple(self.ids[i] for i in kept),
            tuple(self.sites[i] for i in kept),
            self.ranks[kept],
            self.labels[kept],
            self.genes,
            self.values[kept],
        )


def folder() -> Path | None:
    """Return where the files are; None where they are not."""
    named = Path(os.environ.get(FOLDER, ""))
    return named if os.environ.get(FOLDER) and (named / EXPRESSION).is_file() else None


def load(path: Path) -> Patients:
    """Return all labelled patients, the first sample of each."""
    with (path / LABELS).open(encoding="utf-8") as file:
        status = {row["PATIENT"]: row["MSIStatus"] for row in csv.DictReader(file)}
    with gzip.open(path / EXPRESSION, "rt", encoding="utf-8") as file:
        rows = csv.reader(file)
        genes = tuple(next(rows)[1:])
        found: dict[str, list[str]] = {}
        for row in rows:
            if status.get(row[0]):
                found.setdefault(row[0], row[1:])
    ids = tuple(sorted(found))
    values = np.array([[float(v) for v in found[i]] for i in ids])
    order = values.argsort(axis=1, kind="stable").argsort(axis=1)
    # Within one sample alone: no other patient's numbers, so nothing private is estimated.
    ranks = norm.ppf((order + 0.5) / values.shape[1])
    labels = np.array([int(status[i] == "MSI-H") for i in ids])
    return Patients(ids, tuple(i.split("-")[1] for i in ids), ranks, labels, genes, values)


def ranked_sites(patients: Patients) -> list[str]:
    """Return the sites, largest first."""
    counts = Counter(patients.sites)
    return sorted(counts, key=lambda site: (-counts[site], site))


def halves(patients: Patients) -> tuple[Patients, Patients]:
    """Return (development, evaluation): no site is in both."""
    sites = ranked_sites(patients)
    evaluation = {*sites[:4], *sites[8::2]}
    chosen = np.array([site in evaluation for site in patients.sites])
    return patients.where(~chosen), patients.where(chosen)


def evaluation_hospitals(patients: Patients) -> dict[str, NDArray[np.int64]]:
    """Return the patients of each of four hospitals: whole sites, by the rule above."""
    counts, ranked = Counter(patients.sites), ranked_sites(patients)
    members = {site: [site] for site in ranked[:4]}
    for site in ranked[4:]:
        smallest = min(members, key=lambda name: (sum(counts[s] for s in members[name]), name))
        members[smallest].append(site)
    return {
        f"{name.lower()}": np.array([i for i, s in enumerate(patients.sites) if s in sites])
        for name, sites in members.items()
    }


def drawn_hospitals(patients: Patients, seed: int) -> dict[str, NDArray[np.int64]]:
    """Return four hospitals drawn from the development patients."""
    order = np.random.default_rng(seed).permutation(len(patients.ids))
    return {f"d{n}": np.sort(order[n::4]) for n in range(4)}


def is_test(patient: str, seed: int, fraction: float = 0.3) -> bool:
    """Tell whether a patient is kept for testing: by a hash of the own id and the seed, nobody else matters."""
    code = hashlib.sha256(f"solblom/bench/tcga/{seed}/{patient}".encode()).digest()
    return int.from_bytes(code[:8], "big") < fraction * 2**64


def genes_by_association(patients: Patients, count: int) -> list[int]:
    """Return the genes whose normal scores differ most between MSI-H and the rest; of development patients only."""
    ill, well = patients.ranks[patients.labels == 1], patients.ranks[patients.labels == 0]
    spread = np.sqrt(ill.var(axis=0) / len(ill) + well.var(axis=0) / len(well))
    distance = np.abs(ill.mean(axis=0) - well.mean(axis=0)) / spread
    return sorted(np.argsort(-distance, kind="stable")[:count].tolist())


def constants(patients: Patients, genes: list[int]) -> tuple[Floats, Floats]:
    """Return centre and scale of each gene, of development patients: public constants of the study."""
    chosen = patients.ranks[:, genes]
    return chosen.mean(axis=0).round(2), chosen.std(axis=0).clip(0.05).round(2)
