"""Exact evaluation of tables and bags in a simulation: federated beside local-only and pooled, same test patients.

Beside them: the federated model with each hospital's own intercept, fitted on its training patients, and, for each
hospital, what all others hold together would reach there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_client.training.local_parameters import load_local
from solblom_models.flat import load_weights
from solblom_models.metrics import (
    accuracy,
    auroc_with_interval,
    average_precision_with_interval,
    brier,
    calibration_error,
)
from solblom_models.recalibration import fit_recalibration
from solblom_models.slide_mil.bags import BagUnits
from solblom_models.tabular.data import TableUnits
from solblom_models.task import Task, find_task
from solblom_protocol.studies.study import StudyDocument
from solblom_simulation.baselines import fit_tuned, predict
from solblom_simulation.ranking_evaluation import SMALLEST_GROUP
from solblom_simulation.site_differences import distances

Scores = NDArray[np.float64]
_HOW = "logistic regression without noise, L2 by cross-validation inside the training patients"
_OF_BAGS = ", on the mean of each patient's tiles"


@dataclass(frozen=True)
class SiteData:
    """One hospital's patients as the simulation sees them; baselines see a bag as the mean of its tiles.

    Attributes:
        site: name.
        training, test: its patients.
        local: parameters that stay there, as the vault keeps them; empty where all are shared.
        cells: for each variable of `evaluation.subgroups`, each test patient's cell.
    """

    site: str
    training: TableUnits | BagUnits
    test: TableUnits | BagUnits
    local: bytes = b""
    cells: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class SiteScores:
    """Scores by kind of model and hospital.

    Attributes:
        test: of the test patients.
        training: of the training patients, for what a hospital chooses on them.
        apart: of the test patients by what all other hospitals hold together; None without others.
    """

    test: dict[str, list[Scores]]
    training: dict[str, list[Scores]]
    apart: list[Scores | None]


def evaluate(document: StudyDocument, weights: bytes, sites: Sequence[SiteData]) -> dict[str, Any]:
    """Return the exact report: areas with intervals, Brier score, calibration error and accuracy.

    Args:
        document: the study.
        weights: the final model, flat little-endian float32.
        sites: training and test patients by hospital.
    """
    return report_of(document, site_scores(document, weights, sites), sites)


def report_of(
    document: StudyDocument, found: SiteScores, sites: Sequence[SiteData]
) -> dict[str, Any]:
    """Return the report that these scores make."""
    scores = found.test
    labels = [site.test.labels for site in sites]
    apart = distances([site.training.features for site in sites])
    return {
        "schema": "solblom.evaluation/1",
        "simulation": True,
        "kind": "exact: one machine holds all data; outside epsilon",
        "baselines": _HOW + _OF_BAGS * isinstance(sites[0].training, BagUnits),
        "note": (
            "Over all hospitals, local-only and own_intercept mix models that each know their own hospital's "
            "prevalence; compare hospital by hospital. own_intercept: the federated model with an intercept fitted "
            "on each hospital's training patients, without noise; it never leaves"
        ),
        "worst_site": _worst(scores["federated"], labels, sites),
        "sites": [
            {
                "site": site.site,
                "training_patients": len(site.training.ids),
                "test_patients": len(site.test.ids),
                "apart_from_others": apart[i],
                "metrics": {
                    kind: metrics_of(labels[i], scores[kind][i]) for kind in sorted(scores)
                },
                "without_this_hospital": _without(labels[i], found.apart[i]),
            }
            for i, site in enumerate(sites)
        ],
        "all": {
            kind: metrics_of(np.concatenate(labels), np.concatenate(scores[kind]))
            for kind in sorted(scores)
        },
        "subgroups": _subgroups(document, np.concatenate(scores["federated"]), sites),
    }


def site_scores(document: StudyDocument, weights: bytes, sites: Sequence[SiteData]) -> SiteScores:
    """Fit the baselines on training patients, and return every model's scores.

    Args:
        document: the study.
        weights: the final model, flat little-endian float32.
        sites: training and test patients by hospital.
    """
    seed = document.study.training.seed % 2**32
    task = find_task(document.study.task.name)
    nets = [_federated(task, document, weights, site) for site in sites]
    pooled = fit_tuned(*_joined(sites), seed=seed)
    alone = [fit_tuned(s.training.features, s.training.labels, seed=seed) for s in sites]

    def scored(part: Callable[[SiteData], TableUnits | BagUnits]) -> dict[str, list[Scores]]:
        return {
            "federated": [task.scores(n, part(s)) for n, s in zip(nets, sites, strict=True)],
            "local": [predict(m, part(s).features) for m, s in zip(alone, sites, strict=True)],
            "pooled": [predict(pooled, part(s).features) for s in sites],
        }

    test, training = scored(lambda site: site.test), scored(lambda site: site.training)
    test["own_intercept"] = [
        fit_recalibration(known, site.training.labels).apply(raw)
        for known, raw, site in zip(training["federated"], test["federated"], sites, strict=True)
    ]
    return SiteScores(test, training, [_by_others(site, sites, seed=seed) for site in sites])


def _joined(sites: Collection[SiteData]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return (
        np.concatenate([site.training.features for site in sites]),
        np.concatenate([site.training.labels for site in sites]),
    )


def _by_others(site: SiteData, sites: Sequence[SiteData], *, seed: int) -> Scores | None:
    others = [other for other in sites if other is not site]
    if not others:
        return None
    return predict(fit_tuned(*_joined(others), seed=seed), site.test.features)


def _federated(task: Task, document: StudyDocument, weights: bytes, site: SiteData) -> Any:
    net, names = task.build(document), task.local_parameters(document)
    load_weights(net, weights, local=names)
    load_local(net, names, site.local)
    return net


def _without(labels: NDArray[np.int64], scores: Scores | None) -> dict[str, Any] | None:
    return None if scores is None else metrics_of(labels, scores)


def _subgroups(
    document: StudyDocument, scores: Scores, sites: Sequence[SiteData]
) -> dict[str, dict[str, Any]]:
    """Return the federated model's figures by cell of each variable; small groups are counted, not shown."""
    labels = np.concatenate([site.test.labels for site in sites])
    found: dict[str, dict[str, Any]] = {}
    for name in document.study.evaluation.subgroups:
        cells = np.array([cell for site in sites for cell in site.cells.get(name, ())], dtype=str)
        if len(cells) != len(labels):
            continue
        groups = {cell: np.flatnonzero(cells == cell) for cell in dict.fromkeys(cells.tolist())}
        found[name] = {
            cell: {"patients": len(members)}
            | (
                metrics_of(labels[members], scores[members])
                if len(members) >= SMALLEST_GROUP
                else {}
            )
            for cell, members in groups.items()
        }
    return found


def _worst(
    scores: list[Scores], labels: list[NDArray[np.int64]], sites: Sequence[SiteData]
) -> dict[str, Any] | None:
    """Return the hospital whose patients the federated model tells apart worst; None where none can be shown."""
    areas = [auroc_with_interval(*pair).value for pair in zip(labels, scores, strict=True)]
    known = [(area, site.site) for area, site in zip(areas, sites, strict=True) if area is not None]
    if not known:
        return None
    area, site = min(known)
    return {"site": site, "auroc": _rounded(area)}


def metrics_of(labels: NDArray[np.int64], scores: Scores) -> dict[str, Any]:
    """Return the figures of a table's report, one row a patient, shapes (N,)."""
    found = auroc_with_interval(labels, scores)
    shown = found.shown
    precision = average_precision_with_interval(labels, scores)
    return {
        "auroc": _rounded(found.value),
        "auroc_interval": [_rounded(found.low), _rounded(found.high)] if shown else None,
        "reason": None
        if shown
        else found.not_shown_because(positive="with disease", negative="without disease"),
        "auprc": None if precision is None else [_rounded(value) for value in astuple(precision)],
        "calibration_error": _rounded(calibration_error(labels, scores)),
        "brier": _rounded(brier(labels, scores)),
        "accuracy": _rounded(accuracy(labels, scores)),
    }


def _rounded(value: float | None) -> float | None:
    # Six decimals: far finer than the interval, and the same on machines that round the last bit otherwise.
    return None if value is None else round(value, 6)
