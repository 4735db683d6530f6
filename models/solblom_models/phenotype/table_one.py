"""Table 1 of a study on phenopackets: how many patients have each disease, sex and age band."""

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from solblom_models.patient_id import patient_id
from solblom_models.phenotype.cases import AGE_BAND_NAMES, UNKNOWN, CaseUnits, age_band
from solblom_models.phenotype.knowledge import study_contract
from solblom_models.phenotype.phenopacket import Sex
from solblom_protocol.studies.study import StudyDocument


def case_cells(document: StudyDocument) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return (variable, its cells) in order; they follow from the study alone."""
    table = document.study.table_one
    target = study_contract(document).target
    cells = {
        "disease": tuple(f"{disease.name} ({disease.id})" for disease in target.diseases),
        "sex": tuple(sex.value for sex in Sex),
        "age_band": (*AGE_BAND_NAMES, UNKNOWN),
    }
    return () if table is None else tuple((name, cells[name]) for name in table.variables)


def count_cases(
    units: CaseUnits, ids: Collection[str], document: StudyDocument
) -> NDArray[np.int64]:
    """Return how many of these patients are in each cell, blocks one after another."""
    wanted = set(ids)
    rows = [row for row, name in enumerate(units.ids) if patient_id(name) in wanted]
    sexes = [sex.value for sex in Sex]
    bands = [*AGE_BAND_NAMES, UNKNOWN]
    places = {
        "disease": [int(units.labels[row]) for row in rows],
        "sex": [sexes.index(units.sexes[row].value) for row in rows],
        "age_band": [bands.index(age_band(units.ages[row])) for row in rows],
    }
    counts = [
        np.bincount(np.array(places[name], dtype=np.int64), minlength=len(cells))
        for name, cells in case_cells(document)
    ]
    return np.concatenate(counts).astype(np.int64)
