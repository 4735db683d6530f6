"""A made-up HPO release, three made-up diseases, and studies that rank them."""

import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from phenotype_lab import HEAD, TERMS, feature, packet
from solblom_models.phenotype.annotations import COLUMNS
from solblom_models.phenotype.knowledge import FOLDER_VARIABLE
from solblom_models.study_document import resolve
from solblom_protocol.contracts.phenopackets import PhenotypeContract
from solblom_protocol.studies.checks import check_study
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.studies.tables import Study
from solblom_protocol.sums.secure_sum import Roster
from solblom_protocol.toml_file import parse

DISEASES = ("OMIM:1", "OMIM:2", "OMIM:3")
SEIZURE, FOCAL, FEBRILE, BOTH, SHORT = (f"HP:00000{n}" for n in (10, 11, 12, 13, 20))
ANNOTATED = (
    ("OMIM:1", FOCAL, "9/10"),
    ("OMIM:1", SHORT, "1/10"),
    ("OMIM:2", FEBRILE, "8/10"),
    ("OMIM:2", SHORT, "2/10"),
)
"""Nothing is known of the third disease."""


def write_release(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the release into a folder and let SOLBLOM_HPO name it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hp.obo").write_text(HEAD + TERMS, encoding="utf-8")
    lines = [
        f"{disease}\tMade up {disease}\t\t{term}\tPMID:1\tPCS\t\t{share}\t\t\tP\tHPO:made"
        for disease, term, share in ANNOTATED
    ]
    head = "#version: 2025-01-16\n#hpo-version: http://x/hp/releases/2025-01-16/hp.json\n"
    text = head + "\t".join(COLUMNS) + "\n" + "".join(f"{line}\n" for line in lines)
    (folder / "phenotype.hpoa").write_text(text, encoding="utf-8")
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder


def contract_tables(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the contract of the three diseases, pinned to the release in a folder."""
    digests = {
        name: "sha256:" + hashlib.sha256((folder / file).read_bytes()).hexdigest()
        for name, file in (("ontology", "hp.obo"), ("annotations", "phenotype.hpoa"))
    }
    tables: dict[str, Any] = {
        "kind": "phenopackets",
        "name": "made-up",
        "version": 1,
        # Of two annotated diseases, a term of both would have no information at all.
        "features": {"weights": "ones"},
        "ontology": {"release": "2025-01-16", **digests},
        "target": {
            "name": "disease",
            "meaning": {"en": "made up", "no": "oppdiktet"},
            "diseases": [{"id": d, "name": f"Made up {d}"} for d in DISEASES],
        },
    }
    return tables | changes


def ranking_contract(folder: Path, **changes: Any) -> PhenotypeContract:
    return parse(PhenotypeContract, contract_tables(folder, **changes), source="contract.toml")


def study_tables(**changes: dict[str, Any]) -> dict[str, Any]:
    """Return study.toml of one sum over three hospitals; changes go into its tables."""
    tables: dict[str, Any] = {
        "study": {
            "name": "made-up",
            "title": "Made up",
            "purpose": "A test",
            "legal_basis": ["none"],
            "ends": dt.date(2099, 12, 31),
        },
        "task": {
            "name": "phenotype-ranking",
            "target": "disease",
            "model": {"kind": "prototypes"},
            "contract": "contract.toml",
        },
        "training": {
            "rounds": 1,
            "learning_rate": 50.0,
            "expected_batch_size": 50.0,
            "server_learning_rate": 3.0,
        },
        "privacy": {"epsilon": "off", "clipping_norm": 1.0308},
        "cohort": {"min_nodes": 3, "min_patients": 2, "quorum": 3},
        "evaluation": {"split": {"by": "publication", "test_fraction": 0.3}},
    }
    for name, values in changes.items():
        tables[name] = tables.get(name, {}) | values
    return tables


def ranking_document(
    contract: PhenotypeContract, roster: Roster | None = None, **changes: dict[str, Any]
) -> StudyDocument:
    """Return the resolved study; refused as `study check` would refuse it."""
    study = parse(Study, study_tables(**changes), source="study.toml")
    check_study(study, contract)
    return resolve(study, contract, roster)


def made_up_case(number: int, disease: str, *, publication: str | None = None) -> dict[str, Any]:
    """Return a phenopacket of a patient; which terms they show follows from number and disease."""
    terms = {"OMIM:1": [FOCAL], "OMIM:2": [FEBRILE], "OMIM:3": [SHORT]}[disease]
    more = [SHORT] if number % 3 == 0 and disease != "OMIM:3" else []
    features = [feature(term) for term in terms + more]
    if number % 2 == 0:
        features.append(feature(BOTH, excluded=True))
    paper = publication if publication is not None else f"PMID:{1000 + number}"
    return packet(
        id=f"case-{number}",
        subject={"id": f"patient-{number}", "sex": "MALE" if number % 2 else "FEMALE"},
        phenotypicFeatures=features,
        interpretations=[
            {
                "id": "i",
                "progressStatus": "SOLVED",
                "diagnosis": {"disease": {"id": disease, "label": "made up"}},
            }
        ],
        metaData={
            "phenopacketSchemaVersion": "2.0.2",
            "resources": [{"id": "hp", "namespacePrefix": "HP", "version": "2025-01-16"}],
            "externalReferences": [{"id": paper}] if paper else [],
        },
    )


def write_cases(
    path: Path, count: int, *, first: int = 0, papers_of: int = 1, families_of: int = 0
) -> Path:
    """Write cases of all three diseases in turn; so many patients share each publication and, if any, each family."""
    lines = [
        made_up_case(n, DISEASES[n % 3], publication=f"PMID:{1000 + n // papers_of}")
        for n in range(first, first + count)
    ]
    if families_of:
        lines = [
            {
                "id": f"message-{n}",
                "proband": line,
                "pedigree": {"persons": [{"familyId": f"F{n // families_of}"}]},
                "metaData": line["metaData"],
            }
            for n, line in enumerate(lines)
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
