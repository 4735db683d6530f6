"""What a model says of new cases: diseases in order, and the terms that speak for and against each."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.phenotype.cases import units_of
from solblom_models.phenotype.knowledge import Knowledge, knowledge_of, study_contract
from solblom_models.phenotype.net import Ranker, Trained
from solblom_models.phenotype.phenopacket import Case, CaseRules, read_cases
from solblom_models.phenotype.reading import Reading
from solblom_protocol.studies.study import StudyDocument

SHOWN_TERMS = 5
Floats = NDArray[np.float64]
NOTE = (
    "Scores put diseases in order and are no probabilities; they are not calibrated. The model knows only the "
    "diseases of its study: a patient with another disease gets a list all the same"
)


@dataclass(frozen=True)
class Contribution:
    """A term of the case and what it adds to one disease's score above the mean of all diseases."""

    term: str
    name: str
    excluded: bool
    points: float


@dataclass(frozen=True)
class RankedDisease:
    """One disease in a case's list; diseases with equal scores share the lower rank."""

    rank: int
    disease: str
    name: str
    score: float
    terms: tuple[Contribution, ...]


@dataclass(frozen=True)
class RankedCase:
    """One case's list. `unused_terms`: how many of its terms leave no trace in the score."""

    case: str
    used_terms: int
    unused_terms: int
    diseases: tuple[RankedDisease, ...]


def read_new_cases(path: Path, document: StudyDocument) -> tuple[list[Case], dict[str, int]]:
    """Return cases that need no diagnosis, and what reading them counted.

    Raises:
        DataError: SB-307.
        ConfigurationError: SB-115 to SB-118.
    """
    contract = study_contract(document)
    reading = Reading()
    rules = CaseRules(
        labels=contract.labels, patient_scope=contract.patients.scope, need_disease=False
    )
    ontology = knowledge_of(contract).space.ontology
    return list(read_cases(path, ontology, reading, rules=rules)), reading.summary()


def ranked_cases(net: Ranker, cases: Sequence[Case], *, top: int) -> list[RankedCase]:
    """Return each case's first diseases, best first; equal scores in the order of the label space."""
    units = units_of(cases, net.knowledge.space)
    scores, weights = net.scores(units), net.weights().numpy()
    return [
        RankedCase(
            case=case.id or case.patient,
            used_terms=len(case.observed) + len(case.excluded) - int(units.outside[index]),
            unused_terms=int(units.outside[index]),
            diseases=_first(net.knowledge, case, weights, scores[index], top),
        )
        for index, case in enumerate(cases)
    ]


def _first(
    knowledge: Knowledge, case: Case, weights: Floats, scores: Floats, top: int
) -> tuple[RankedDisease, ...]:
    order = np.argsort(-scores, kind="stable")[:top]
    terms = _contributions(knowledge, case, weights)
    space = knowledge.space
    return tuple(
        RankedDisease(
            rank=int((scores >= scores[index]).sum()),
            disease=space.diseases[index],
            name=knowledge.names[index],
            # Of no meaning by itself: shown as the distance from the mean of all diseases.
            score=float(scores[index] - scores.mean()),
            terms=_named(knowledge, case, terms, int(index)),
        )
        for index in order
    )


def _contributions(knowledge: Knowledge, case: Case, weights: Floats) -> Floats:
    """Return what each entry of the case's vector adds, above the mean of diseases, shape (K, F).

    Of a perceptron only the linear part can be told apart term by term: the public profiles.
    """
    vector = knowledge.space.vector(case)
    whole = np.zeros_like(weights)
    whole[:, vector.indices] = weights[:, vector.indices] * vector.values
    centred: Floats = whole - whole.mean(axis=0)
    return centred


def _named(
    knowledge: Knowledge, case: Case, points: Floats, disease: int
) -> tuple[Contribution, ...]:
    """Return the case's own terms with the largest effect; a term's share of each ancestor is counted to it.

    The closure gives the points to ancestors too: each entry is shared evenly between the terms that imply it.
    """
    space, terms = knowledge.space, len(knowledge.space.terms)
    implied: dict[int, list[tuple[str, bool]]] = {}
    for excluded, named in ((False, case.observed), (True, case.excluded)):
        for term in named:
            for place in space.places(term, excluded=excluded):
                implied.setdefault(place + terms * excluded, []).append((term, excluded))
    totals: dict[tuple[str, bool], float] = {}
    for place, named_terms in implied.items():
        for key in named_terms:
            totals[key] = totals.get(key, 0.0) + float(points[disease, place]) / len(named_terms)
    strongest = sorted(totals.items(), key=lambda item: (-abs(item[1]), item[0]))[:SHOWN_TERMS]
    names = space.ontology.names
    return tuple(
        Contribution(term, names.get(term, term), excluded, round(value, 4))
        for (term, excluded), value in strongest
    )


def as_json(ranked: RankedCase) -> dict[str, Any]:
    """Return a case's list as JSON."""
    return {
        "case": ranked.case,
        "used_terms": ranked.used_terms,
        "unused_terms": ranked.unused_terms,
        "diseases": [
            {
                "rank": entry.rank,
                "disease": entry.disease,
                "name": entry.name,
                "score": round(entry.score, 6),
                "terms": [
                    {"term": t.term, "name": t.name, "excluded": t.excluded, "points": t.points}
                    for t in entry.terms
                ],
            }
            for entry in ranked.diseases
        ],
    }


def pheval_rows(ranked: RankedCase) -> str:
    """Return a case's list as the tab-separated columns of PhEval's disease results."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter="\t", lineterminator="\n")
    writer.writerow(["rank", "score", "disease_name", "disease_identifier"])
    for entry in ranked.diseases:
        writer.writerow([entry.rank, f"{entry.score:.6f}", entry.name, entry.disease])
    return buffer.getvalue()


def explains_terms(net: Ranker) -> bool:
    """Tell whether a term's points are all that it adds to a score."""
    return not (isinstance(net, Trained) and net.hidden is not None)
