"""Made-up phenopackets: diseases of the contract, terms by the public annotations of the pinned HPO release."""

import random
from typing import Any

import numpy as np

from solblom_models.mock.rows import mock_id
from solblom_models.phenotype.knowledge import Knowledge, knowledge_of
from solblom_protocol.contracts.phenopackets import PhenotypeContract

CREATED_BY = "solblom data mock: made up, no patient"
MOST_TERMS = 8
AGES = ("P2Y", "P7Y", "P15Y", "P30Y", "P55Y", "P70Y")


def mock_packets(contract: PhenotypeContract, patients: int, seed: int) -> list[dict[str, Any]]:
    """Return made-up phenopackets, one a patient.

    Raises:
        ConfigurationError: SB-115 to SB-118, the pinned HPO release is not installed.
    """
    knowledge = knowledge_of(contract)
    return [_packet(contract, knowledge, number, seed) for number in range(patients)]


def _packet(
    contract: PhenotypeContract, knowledge: Knowledge, number: int, seed: int
) -> dict[str, Any]:
    draw = random.Random(f"solblom mock {seed} {number}")  # noqa: S311 - made-up patients
    diseases = contract.target.diseases
    disease = diseases[number] if number < 2 else draw.choice(diseases)  # never all alike
    place = knowledge.space.diseases.index(disease.id)
    shown, ruled_out = _terms(knowledge, place, draw)
    named = draw.choice((disease.id, *disease.also))
    external = [{"id": f"PMID:{1 + number // 10}", "description": CREATED_BY}]
    return {
        "id": mock_id(number),
        "subject": {
            "id": mock_id(number),
            "sex": draw.choice(("FEMALE", "MALE")),
            "timeAtLastEncounter": {"age": {"iso8601duration": draw.choice(AGES)}},
        },
        "phenotypicFeatures": [
            *(_feature(knowledge, term, excluded=False) for term in shown),
            *(_feature(knowledge, term, excluded=True) for term in ruled_out),
        ],
        "interpretations": [
            {
                "id": mock_id(number),
                "progressStatus": "SOLVED",
                "diagnosis": {"disease": {"id": named, "label": disease.name}},
            }
        ],
        "metaData": {
            "created": "2000-01-01T00:00:00Z",
            "createdBy": CREATED_BY,
            "phenopacketSchemaVersion": "2.0",
            "resources": [
                {"id": "hp", "namespacePrefix": "HP", "version": contract.ontology.release}
            ],
            **(
                {"externalReferences": external} if contract.patients.scope == "publication" else {}
            ),
        },
    }


def _feature(knowledge: Knowledge, term: str, *, excluded: bool) -> dict[str, Any]:
    label = knowledge.space.ontology.names[term]
    found: dict[str, Any] = {"type": {"id": term, "label": label}}
    return {**found, "excluded": True} if excluded else found


def _terms(knowledge: Knowledge, disease: int, draw: random.Random) -> tuple[list[str], list[str]]:
    """Return terms that are shown, likelier the more the annotations say so, and terms that are ruled out."""
    space = knowledge.space
    generator = np.random.default_rng(draw.getrandbits(64))
    usable = np.array([bool(space.ontology.ancestors(term)) for term in space.terms])
    likely = knowledge.profiles[disease] * space.weights * usable
    if (likely > 0).sum() < 2:
        likely = usable.astype(np.float64)
    count = min(draw.randint(2, MOST_TERMS), int((likely > 0).sum()))
    chosen = generator.choice(len(space.terms), size=count, replace=False, p=likely / likely.sum())
    shown = [space.terms[place] for place in sorted(chosen.tolist())]
    others = [
        t for t, good in zip(space.terms, usable.tolist(), strict=True) if good and t not in shown
    ]
    above = {a for term in shown for a in space.ontology.ancestors(term)}
    possible = [term for term in others if term not in above]
    return shown, draw.sample(possible, min(len(possible), draw.randint(0, 2)))
