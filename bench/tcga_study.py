"""The studies of `shared_noise.py`: a contract of genes, and one document for each arm and epsilon."""

import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tcga import Floats

from solblom_models.study_document import resolve
from solblom_protocol.contracts.table import Contract
from solblom_protocol.keys.key_files import public_pem
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.studies.tables import Study
from solblom_protocol.sums.secure_sum import Member, Roster
from solblom_protocol.toml_file import parse

EPSILONS, DELTA, HOSPITALS = (1.0, 3.0, 8.0), 1e-3, 4
TARGET: dict[str, Any] = {
    "name": "msi-high",
    "column": "msi_high",
    "positive": ["1"],
    "negative": ["0"],
    "meaning": {"en": "MSI-H", "no": "MSI-H"},
}


@dataclass(frozen=True)
class Setting:
    """What was tuned. `rate` is the learning rate times the clipping norm."""

    genes: int
    rounds: int
    norm: float
    rate: float
    momentum: float = 0.0  # of the coordinator


def contract_of(names: list[str], public: tuple[Floats, Floats]) -> Contract:
    """Return the contract of these genes: normal scores of ranks, with public constants."""
    variables = [
        {
            "kind": "number",
            "name": name,
            "column": name,
            "unit": "1",
            "minimum": -5.0,
            "maximum": 5.0,
            "center": float(centre),
            "scale": float(scale),
            "meaning": {"en": f"rank of {name} as a normal score", "no": f"rang av {name}"},
        }
        for name, centre, scale in zip(names, *public, strict=True)
    ]
    tables: dict[str, Any] = {
        "name": "tcga", "version": 1, "target": TARGET, "variable": variables,
    }  # fmt: skip
    return parse(Contract, tables, source="bench")


def document_of(
    contract: Contract, setting: Setting, epsilon: float, batch: float, roster: Roster | None
) -> StudyDocument:
    """Return the study of one private arm; a roster makes its noise shared."""
    tables: dict[str, Any] = {
        "study": {
            "name": "tcga",
            "title": "MSI status from expression",
            "purpose": "A measurement",
            "legal_basis": ["open-access tier"],
            "ends": "2099-12-31",
        },
        "task": {
            "name": "tabular-classification",
            "target": "msi-high",
            "model": {"kind": "logistic"},
            "contract": "contract.toml",
        },
        "training": {
            "rounds": setting.rounds,
            "learning_rate": setting.rate / setting.norm,
            "expected_batch_size": batch,
            "server_momentum": setting.momentum,
            "averaging": "second-half",
        },
        "privacy": {"epsilon": epsilon, "delta": DELTA, "clipping_norm": setting.norm},
        "cohort": {"min_nodes": HOSPITALS, "quorum": HOSPITALS, "min_patients": 10},
    }
    if roster is not None:
        tables["privacy"]["noise"] = "shared"
        tables["secure_sum"] = {"roster": "roster.json"}
    return resolve(parse(Study, tables, source="bench"), contract, roster)


def made_up_roster(sites: list[str]) -> Roster:
    """Return a roster with keys that follow from the names: the fast path masks and signs nothing."""
    members = []
    for site in sorted(sites):
        seed = hashlib.sha256(f"solblom/bench/tcga/{site}".encode()).digest()
        key = Ed25519PrivateKey.from_private_bytes(seed).public_key()
        members.append(Member(site=site, signing_key=public_pem(key)))
    return Roster(schema="solblom.roster/1", members=tuple(members))
