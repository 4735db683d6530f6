"""`phenotype-ranking`: which of the study's diseases fits a patient's HPO terms best."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from solblom_models.phenotype.cases import CaseUnits, units_of
from solblom_models.phenotype.knowledge import knowledge_of, study_contract
from solblom_models.phenotype.net import Ranker, ranker_of
from solblom_models.phenotype.phenopacket import CaseRules, read_cases
from solblom_models.phenotype.reading import Reading
from solblom_models.phenotype.settings import check_settings
from solblom_models.phenotype.table_one import case_cells, count_cases
from solblom_models.ranking import ranks_of
from solblom_models.task import AllShared, Units
from solblom_protocol.studies.study import StudyDocument


class PhenotypeRanking(AllShared):
    """The task of phenopackets: diseases of the study's label space, ranked for each patient."""

    name: ClassVar[str] = "phenotype-ranking"
    connector: ClassVar[str] = "phenopackets"
    ragged: ClassVar[bool] = False

    def check(self, document: StudyDocument) -> None:
        """Refuse another kind of contract, unknown models, and settings that do not go together."""
        study_contract(document)
        check_settings(document)

    def read_units(self, source: Path, document: StudyDocument) -> CaseUnits:
        """Return the cases of a file or folder of phenopackets; what was not used is counted in `notes`.

        Raises:
            DataError: SB-307, nothing can be read there.
            ConfigurationError: SB-115 to SB-118, the pinned HPO release is not installed.
        """
        contract = study_contract(document)
        space = knowledge_of(contract).space
        rules = CaseRules(labels=contract.labels, patient_scope=contract.patients.scope)
        reading = Reading()
        units = units_of(read_cases(source, space.ontology, reading, rules=rules), space)
        return units.with_notes(reading.summary())

    def build(self, document: StudyDocument) -> Ranker:
        """Return the net at its start: what is publicly known, and nothing of any patient."""
        return ranker_of(document)

    def losses(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
        """Return one loss for each patient, shape (B,); which one, the kind of net says."""
        if not isinstance(model, Ranker):
            raise TypeError("phenotype-ranking trains rankers")
        features, labels = batch
        return model.losses(features, labels)

    def rankings(self, model: torch.nn.Module, units: Units) -> NDArray[np.float64]:
        """Return one score for each patient and disease, shape (N, K); within a patient, larger is likelier."""
        if not isinstance(units, CaseUnits) or not isinstance(model, Ranker):
            raise TypeError("phenotype-ranking ranks cases with rankers")
        return model.scores(units)

    def scores(self, model: torch.nn.Module, units: Units) -> NDArray[np.float64]:
        """Return the reciprocal rank of each patient's own disease, shape (N,)."""
        return 1.0 / ranks_of(self.rankings(model, units), np.asarray(units.labels))

    def table_one_cells(self, document: StudyDocument) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return the cells of Table 1: diseases, sexes, age bands, as the study asks."""
        return case_cells(document)

    def table_one_counts(
        self, source: Path, ids: Collection[str], document: StudyDocument
    ) -> NDArray[np.int64]:
        """Return how many of these patients are in each cell of Table 1."""
        return count_cases(self.read_units(source, document), ids, document)
