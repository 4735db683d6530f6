"""What is publicly known before any patient is seen: a study's feature space and its diseases' profiles.

Everything here follows from the signed contract and two pinned public files. The annotations are curated partly
from the papers whose patients may be in a study: what the knowledge alone reaches on such patients flatters it.
"""

import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from solblom_models.phenotype.annotations import Annotations, read_annotations
from solblom_models.phenotype.features import FeatureSpace, feature_space
from solblom_models.phenotype.ontology import Ontology, read_ontology
from solblom_models.phenotype.release import ReleaseFiles, installed_release, release_in
from solblom_protocol.contracts.kinds import contract_as
from solblom_protocol.contracts.phenopackets import OntologyTable, PhenotypeContract
from solblom_protocol.studies.study import StudyDocument
from solblom_verify.canonical import canonical_json

FOLDER_VARIABLE = "SOLBLOM_HPO"
"""Environment variable: a folder with `hp.obo` and `phenotype.hpoa`; without it the installed package is used."""


@dataclass(frozen=True, eq=False)
class Knowledge:
    """A study's public knowledge.

    Attributes:
        profiles: share of patients of each disease who show each term or a kind of it, shape (K, T), K diseases and
            T terms of `space`; a row of zeros where nothing is known.
        names: of the diseases, in the order of `space.diseases`.
    """

    space: FeatureSpace
    profiles: NDArray[np.float64] = field(repr=False)
    names: tuple[str, ...] = field(repr=False)

    @property
    def annotated(self) -> NDArray[np.bool_]:
        """Which diseases anything is known of, shape (K,)."""
        return np.asarray(self.profiles.any(axis=1))


def study_contract(document: StudyDocument) -> PhenotypeContract:
    """Return the contract of a study on phenopackets.

    Raises:
        ConfigurationError: SB-106, it is one of something else.
    """
    return contract_as(PhenotypeContract, document.contract, task=document.study.task.name)


def knowledge_of(contract: PhenotypeContract) -> Knowledge:
    """Return the knowledge that a contract pins; read once for each contract.

    Raises:
        ConfigurationError: SB-115 to SB-118, the files are not there or not the pinned ones.
    """
    return _knowledge(canonical_json(contract.model_dump(mode="json")))


@lru_cache(maxsize=4)
def _knowledge(payload: bytes) -> Knowledge:
    contract = PhenotypeContract.model_validate_json(payload)
    ontology, annotations = release_of(contract.ontology)
    features = contract.features
    space = feature_space(
        ontology,
        annotations,
        diseases=[disease.id for disease in contract.target.diseases],
        terms=features.terms,
        weights=features.weights,
        excluded_scale=features.excluded_scale,
    )
    names = tuple(disease.name for disease in contract.target.diseases)
    return Knowledge(space, disease_profiles(space, annotations), names)


def disease_profiles(space: FeatureSpace, annotations: Annotations) -> NDArray[np.float64]:
    """Return shares of patients by disease and term, shape (K, T).

    A term's share is at least that of every kind of it (true path rule); how kinds overlap is not known, so the
    largest one is taken, which is the smallest share that fits.
    """
    position = {term: index for index, term in enumerate(space.terms)}
    profiles = np.zeros((len(space.diseases), len(space.terms)))
    for row, disease in enumerate(space.diseases):
        for term, share in annotations.frequencies.get(disease, {}).items():
            above = [position[a] for a in space.ontology.ancestors(term) if a in position]
            profiles[row, above] = np.maximum(profiles[row, above], share)
    return profiles


@lru_cache(maxsize=2)
def release_of(table: OntologyTable) -> tuple[Ontology, Annotations]:
    """Return the two public files that a contract pins; read once.

    Raises:
        ConfigurationError: SB-115 to SB-118, they are not there or not the pinned ones.
    """
    files = release_files()
    ontology = read_ontology(files.ontology, release=table.release, digest=table.ontology)
    return ontology, read_annotations(files.annotations, ontology, digest=table.annotations)


def release_files() -> ReleaseFiles:
    """Return the two public files: of the folder that SOLBLOM_HPO names, or of the installed package.

    Raises:
        ConfigurationError: SB-115, SB-116 or SB-118.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    return release_in(Path(folder)) if folder else installed_release()
