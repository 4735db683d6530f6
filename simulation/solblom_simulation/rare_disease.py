"""Simulated patients with rare diseases: phenopackets drawn from the published HPO annotation frequencies.

Nobody's data: each case says so in its id and in its metadata. A drawn patient shows each annotated term of the disease
with a probability near the published one, not exactly that one: real patients differ from the papers, and a
simulation that repeated them would make public knowledge look perfect. Some terms of a disease stand in no paper yet.
What is shown may be noted as a broader term, or not be noted at all; what is not shown may be noted as excluded; and
terms that have nothing to do with it creep in.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from solblom_models.phenotype.annotations import Annotations
from solblom_models.phenotype.ontology import Ontology

HOSPITALS = {"bergen": 700, "oslo": 450, "tromso": 260, "trondheim": 190}
"""Patients of each simulated hospital. The names are cities; no hospital of theirs had a part in this."""
EXAMPLE = "new-patient.json"  # beside the hospitals' files: a case without a diagnosis
CREATED_BY = "Solblom: a simulated case, no patient"
DRIFT = 1.5  # a published share p becomes a draw from Beta(DRIFT p, DRIFT (1 - p)), once for all hospitals
UNPUBLISHED = (
    8  # terms a disease that no paper knows, shown by a share between a third and nine tenths
)
NOTED = 0.1  # of what a patient shows
RULED_OUT = 0.05  # of what is annotated and not shown
BROADER = 0.5  # of what is noted, one level up
UNRELATED = 4.0  # terms a patient, Poisson
FOCUS = 0.4  # Dirichlet: the smaller, the more a hospital's diseases differ from another's


@dataclass(frozen=True)
class Disease:
    """A disease as this simulation draws it: terms, and the share of its patients who show each."""

    id: str
    name: str
    terms: tuple[str, ...]
    shares: tuple[float, ...]


def write_hospitals(
    folder: Path, ontology: Ontology, annotations: Annotations, names: dict[str, str], *, seed: int
) -> dict[str, Path]:
    """Write one file of JSON lines for each hospital and return them by site, and one case to be predicted.

    Args:
        folder: where the files go.
        ontology: the release whose terms are used.
        annotations: of the same release.
        names: of the diseases by id.
        seed: public; decides everything.
    """
    generator = np.random.default_rng(seed)
    diseases = [_drifted(d, names[d], ontology, annotations, generator) for d in sorted(names)]
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    for site, count in sorted(HOSPITALS.items()):
        mix = generator.dirichlet([FOCUS] * len(diseases))
        chosen = generator.choice(len(diseases), size=count, p=mix)
        cases = (
            _phenopacket(f"simulated-{site}-{number:04d}", diseases[index], ontology, generator)
            for number, index in enumerate(chosen, start=1)
        )
        found[site] = folder / f"{site}.jsonl"
        found[site].write_text("".join(_lines(cases)), encoding="utf-8")
    new = _phenopacket("simulated-new-patient", diseases[0], ontology, generator)
    del new["interpretations"]  # nobody knows yet
    (folder / EXAMPLE).write_text("".join(_lines(iter([new]))), encoding="utf-8")
    return found


def _lines(cases: Iterator[dict[str, Any]]) -> Iterator[str]:
    for case in cases:
        yield json.dumps(case, sort_keys=True, separators=(",", ":")) + "\n"


def _drifted(
    disease: str,
    name: str,
    ontology: Ontology,
    annotations: Annotations,
    generator: np.random.Generator,
) -> Disease:
    published = annotations.frequencies[disease]
    terms = sorted(published)
    near = [min(max(published[term], 0.02), 0.98) for term in terms]
    shares = [float(generator.beta(DRIFT * p, DRIFT * (1 - p))) for p in near]
    unknown = [term for term in ontology.terms if term not in published]
    chosen = generator.choice(len(unknown), size=UNPUBLISHED, replace=False)
    terms += [unknown[int(index)] for index in chosen]
    shares += [float(share) for share in generator.uniform(0.33, 0.9, size=UNPUBLISHED)]
    return Disease(disease, name, tuple(terms), tuple(shares))


def _phenopacket(
    name: str, disease: Disease, ontology: Ontology, generator: np.random.Generator
) -> dict[str, Any]:
    observed, excluded = _terms(disease, ontology, generator)
    features = [_feature(term, ontology, excluded=False) for term in sorted(observed)]
    features += [_feature(term, ontology, excluded=True) for term in sorted(excluded - observed)]
    years = int(generator.integers(1, 60))
    return {
        "id": name,
        "subject": {
            "id": name,
            "sex": str(generator.choice(["FEMALE", "MALE"])),
            "timeAtLastEncounter": {"age": {"iso8601duration": f"P{years}Y"}},
        },
        "phenotypicFeatures": features,
        "interpretations": [
            {
                "id": f"{name}-diagnosis",
                "progressStatus": "SOLVED",
                "diagnosis": {"disease": {"id": disease.id, "label": disease.name}},
            }
        ],
        "metaData": {
            "created": "2025-01-16T00:00:00Z",
            "createdBy": CREATED_BY,
            "phenopacketSchemaVersion": "2.0",
            "resources": [_resource(ontology)],
        },
    }


def _terms(
    disease: Disease, ontology: Ontology, generator: np.random.Generator
) -> tuple[set[str], set[str]]:
    shown = generator.random(len(disease.terms)) < np.array(disease.shares)
    if not shown.any():
        shown[int(np.argmax(disease.shares))] = True
    noted = generator.random(len(disease.terms))
    observed: set[str] = set()
    excluded: set[str] = set()
    for term, is_shown, luck in zip(disease.terms, shown, noted, strict=True):
        if is_shown and (luck < NOTED or not observed):
            observed.add(_broader(term, ontology, generator))
        elif not is_shown and luck < RULED_OUT:
            excluded.add(term)
    everything = ontology.terms
    for index in generator.integers(0, len(everything), size=generator.poisson(UNRELATED)):
        observed.add(everything[int(index)])
    return observed, excluded


def _broader(term: str, ontology: Ontology, generator: np.random.Generator) -> str:
    parents = [p for p in ontology.parents[term] if ontology.ancestors(p)]
    if parents and generator.random() < BROADER:
        return str(generator.choice(sorted(parents)))
    return term


def _feature(term: str, ontology: Ontology, *, excluded: bool) -> dict[str, Any]:
    feature: dict[str, Any] = {"type": {"id": term, "label": ontology.names[term]}}
    return {**feature, "excluded": True} if excluded else feature


def _resource(ontology: Ontology) -> dict[str, str]:
    return {
        "id": "hp",
        "name": "human phenotype ontology",
        "url": "http://purl.obolibrary.org/obo/hp.owl",
        "version": ontology.release,
        "namespacePrefix": "HP",
        "iriPrefix": "http://purl.obolibrary.org/obo/HP_",
    }


def digest_of(files: dict[str, Path]) -> str:
    """Return one digest of all hospitals' files, to compare machines."""
    running = hashlib.sha256()
    for site in sorted(files):
        running.update(site.encode() + b"\0" + files[site].read_bytes())
    return f"sha256:{running.hexdigest()}"
