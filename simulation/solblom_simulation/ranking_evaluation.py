"""Exact evaluation of ranked diseases in a simulation: federated beside local-only, pooled and public knowledge alone.

All four rank the same test patients with the same read-out; local-only and pooled are fitted without noise. Left out in
turn, each hospital's patients are also ranked by what all others hold together, without noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_models.flat import load_weights
from solblom_models.phenotype.cases import AGE_BAND_NAMES, UNKNOWN, CaseUnits, age_band
from solblom_models.phenotype.knowledge import study_contract
from solblom_models.phenotype.net import Ranker
from solblom_models.phenotype.phenopacket import Sex
from solblom_models.ranking import Ranks, ranking_metrics, ranks_of
from solblom_models.task import RankingTask, Task, find_task
from solblom_protocol.studies.study import StudyDocument
from solblom_simulation.ranking_baselines import HOW, fitted, joined, shares_of

KINDS = ("prior", "local", "federated", "pooled")
RARE_BELOW = 5
"""A disease with fewer training patients than this in all hospitals together counts as rare in the report."""
SMALLEST_GROUP = 10  # patients of a subgroup that is shown


@dataclass(frozen=True)
class CaseData:
    """One hospital's patients as the simulation sees them."""

    site: str
    training: CaseUnits
    test: CaseUnits
    notes: dict[str, int] = field(default_factory=dict)  # what reading the data counted


@dataclass(frozen=True)
class _Ranked:
    """Ranks of one hospital's test patients by each kind of model."""

    site: CaseData
    ranks: dict[str, Ranks]
    without: Ranks | None  # by the patients of all other hospitals


def evaluate_rankings(
    document: StudyDocument, weights: bytes, sites: Sequence[CaseData]
) -> dict[str, Any]:
    """Return the exact report: recall and mean reciprocal rank with intervals, by hospital and over all.

    Args:
        document: the study.
        weights: the final model, flat little-endian float32.
        sites: training and test patients by hospital.
    """
    pooled = joined([site.training for site in sites])
    ranked = _rank(document, weights, sites, pooled)
    rare = _rare(pooled, diseases=len(study_contract(document).target.diseases))
    test = joined([site.test for site in sites])
    together = {kind: np.concatenate([entry.ranks[kind] for entry in ranked]) for kind in KINDS}
    return {
        "schema": "solblom.evaluation/1",
        "simulation": True,
        "measure": "ranking",
        "kind": "exact: one machine holds all data; outside epsilon",
        "baselines": HOW,
        "note": (
            "A rank counts every disease with at least the same score; intervals resample publications and "
            "families. Public annotations are curated partly from the papers whose patients may be tested"
        ),
        "rare": {"below_training_patients": RARE_BELOW, "diseases": len(rare)},
        "unseen_diseases": len(set(test.labels.tolist()) - set(pooled.labels.tolist())),
        "worst_site": _worst(ranked),
        "sites": [_site(entry, rare) for entry in ranked],
        "all": {kind: _metrics(together[kind], test, rare) for kind in KINDS},
        "subgroups": _subgroups(together["federated"], test),
        "notes": {site.site: dict(site.notes) for site in sites},
    }


def _rank(
    document: StudyDocument, weights: bytes, sites: Sequence[CaseData], pooled: CaseUnits
) -> list[_Ranked]:
    task = find_task(document.study.task.name)
    if not isinstance(task, RankingTask):
        raise TypeError(f"the task {task.name} ranks nothing")
    nets = {"prior": _net(task, document), "federated": _federated(task, document, weights)}
    nets["pooled"] = _fitted(task, document, [site.training for site in sites])
    found = []
    for site in sites:
        own = {**nets, "local": _fitted(task, document, [site.training])}
        others = [other.training for other in sites if other is not site]
        apart = _fitted(task, document, others) if others else None
        found.append(
            _Ranked(
                site,
                {kind: _ranks(task, own[kind], site.test) for kind in KINDS},
                None if apart is None else _ranks(task, apart, site.test),
            )
        )
    return found


def _fitted(task: Task, document: StudyDocument, parts: Sequence[CaseUnits]) -> Ranker:
    """Return the study's net, fitted to some hospitals' patients as their vaults would weigh them."""
    shares = shares_of(parts) if document.by_family else None
    return fitted(_net(task, document), joined(parts), shares)


def _net(task: Task, document: StudyDocument) -> Ranker:
    net = task.build(document)
    if not isinstance(net, Ranker):
        raise TypeError(f"the task {task.name} builds no ranker")
    return net


def _federated(task: Task, document: StudyDocument, weights: bytes) -> Ranker:
    net = _net(task, document)
    load_weights(net, weights, local=task.local_parameters(document))
    return net


def _ranks(task: RankingTask, net: Ranker, units: CaseUnits) -> Ranks:
    return ranks_of(task.rankings(net, units), units.labels)


def _rare(training: CaseUnits, *, diseases: int) -> frozenset[int]:
    counts = np.bincount(training.labels, minlength=diseases)
    return frozenset(int(index) for index in np.flatnonzero(counts < RARE_BELOW))


def _worst(ranked: Sequence[_Ranked]) -> dict[str, Any]:
    """Return the hospital whose patients the federated model ranks worst."""
    shares = [float((entry.ranks["federated"] == 1).mean()) for entry in ranked]
    share, site = min(zip(shares, [entry.site.site for entry in ranked], strict=True))
    return {"site": site, "top_1": round(share, 6)}


def _site(entry: _Ranked, rare: frozenset[int]) -> dict[str, Any]:
    site = entry.site
    found: dict[str, Any] = {
        "site": site.site,
        "training_patients": len(site.training.ids),
        "test_patients": len(site.test.ids),
        "metrics": {kind: _metrics(entry.ranks[kind], site.test, rare) for kind in KINDS},
    }
    if entry.without is not None:
        found["without_this_hospital"] = _metrics(entry.without, site.test, rare)
    return found


def _metrics(ranks: Ranks, units: CaseUnits, rare: frozenset[int]) -> dict[str, Any]:
    return ranking_metrics(ranks, units.labels, groups_of(units), rare=rare)


def groups_of(units: CaseUnits) -> list[str]:
    """Return what is resampled as one: a patient's publication, else the family, else the patient."""
    found = []
    for index, patient in enumerate(units.ids):
        named = [(kind, units.groups.get(kind, ())) for kind in ("publication", "family")]
        group = next((f"{kind} {of[index]}" for kind, of in named if of and of[index]), None)
        found.append(group or f"patient {patient}")
    return found


def _subgroups(ranks: Ranks, units: CaseUnits) -> dict[str, Any]:
    """Return the federated model's figures by sex and by age band; small groups are counted, not shown."""
    by: dict[str, tuple[list[str], tuple[str, ...]]] = {
        "sex": ([sex.value for sex in units.sexes], tuple(sex.value for sex in Sex)),
        "age_band": ([age_band(age) for age in units.ages], (*AGE_BAND_NAMES, UNKNOWN)),
    }
    return {name: _by_value(ranks, units, *values) for name, values in by.items()}


def _by_value(
    ranks: Ranks, units: CaseUnits, values: Sequence[str], order: Sequence[str]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    names: NDArray[np.str_] = np.array(values, dtype=str)
    for value in order:
        members = np.flatnonzero(names == value)
        if not len(members):
            continue
        part = units.select(members.tolist())
        shown = len(members) >= SMALLEST_GROUP
        found[value] = (
            _metrics(ranks[members], part, frozenset()) if shown else {"patients": len(members)}
        )
    return found
