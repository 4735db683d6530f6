"""Exact evaluation in a simulation: federated beside local-only and pooled, per hospital, on the same test patients."""

from collections.abc import Collection
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_client.approval import read_approval
from solblom_client.cohort import join_cohort
from solblom_client.connectors.sources import open_source
from solblom_client.keys import read_node_keys
from solblom_client.policy import load_node_config
from solblom_client.vault import utc_now
from solblom_models.flat import load_weights
from solblom_models.metrics import (
    accuracy,
    auroc_with_interval,
    average_precision_with_interval,
    brier,
    calibration_error,
)
from solblom_models.phenotype.cases import CaseUnits
from solblom_models.tabular.data import TableUnits
from solblom_models.task import find_task
from solblom_protocol.errors import DataError, SolblomError
from solblom_protocol.study import StudyDocument
from solblom_simulation.baselines import fit_tuned, predict
from solblom_simulation.ranking_evaluation import CaseData, evaluate_rankings
from solblom_simulation.site_differences import distances

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class SiteData:
    """One hospital's patients as the simulation sees them."""

    site: str
    training: TableUnits
    test: TableUnits


class NotEvaluatedError(Exception):
    """A model or a hospital cannot be evaluated exactly; the text says why."""


def evaluate_nodes(
    nodes: list[Path],
    document: StudyDocument,
    weights: bytes,
    sites: Collection[str],
    left_out: dict[str, str],
) -> dict[str, Any]:
    """Return the exact report over the hospitals that took part; what is not evaluated has a reason.

    Never raises for what it finds: the model is trained by now, and is released with or without
    figures.

    Args:
        nodes: node.toml of every simulated hospital.
        document: the study.
        weights: the final model, flat little-endian float32.
        sites: hospitals that gave an update in the run.
        left_out: the other hospitals of the run, and why they gave none.
    """
    found: list[SiteData | CaseData] = []
    reasons = dict(left_out)
    try:
        for node in nodes:
            site = load_node_config(node).node.site
            if site in sites:
                try:
                    found.append(read_any_site(node, document))
                except SolblomError as error:
                    reasons[site] = f"cannot be evaluated now ({error.code})"
        if not found:
            raise NotEvaluatedError("no hospital that took part can be evaluated now")
        report = _evaluate_any(document, weights, found)
    except NotEvaluatedError as error:
        report = _not_done(str(error))
    except Exception as error:  # a plugged-in task may do anything
        report = _not_done(f"the evaluation failed ({type(error).__name__})")
    report["left_out"] = [{"site": site, "reason": reasons[site]} for site in sorted(reasons)]
    return report


def _not_done(reason: str) -> dict[str, Any]:
    return {
        "schema": "solblom.evaluation/1",
        "simulation": True,
        "kind": "not done",
        "reason": reason,
        "sites": [],
        "all": {},
    }


def _evaluate_any(
    document: StudyDocument, weights: bytes, found: list[SiteData | CaseData]
) -> dict[str, Any]:
    tables = [site for site in found if isinstance(site, SiteData)]
    if len(tables) == len(found):
        return evaluate(document, weights, tables)
    cases = [site for site in found if isinstance(site, CaseData)]
    if len(cases) == len(found):
        return evaluate_rankings(document, weights, cases)
    raise NotEvaluatedError("some hospitals' patients are tables and others' are cases")


def read_site(node: Path, document: StudyDocument) -> SiteData:
    """Return a simulated hospital's patients of a table.

    Raises:
        SolblomError: the approval, the data or the consents do not hold now.
        NotEvaluatedError: the task's patients are no tables.
    """
    found = read_any_site(node, document)
    if not isinstance(found, SiteData):
        raise NotEvaluatedError(f"the patients of {found.site} are no tables")
    return found


def read_any_site(node: Path, document: StudyDocument) -> SiteData | CaseData:
    """Return a simulated hospital's training and test patients, by the node's own rules.

    Raises:
        SolblomError: the approval, the data or the consents do not hold now.
        NotEvaluatedError: the task's patients are neither tables nor cases.
    """
    config = load_node_config(node)
    keys = read_node_keys(config.state)
    approval = read_approval(config, keys, document.digest)
    source = open_source(config, approval.dataset, document.contract)
    units = approval.task.read_units(source, document)
    if not isinstance(units, TableUnits | CaseUnits):
        raise NotEvaluatedError(
            f"the patients of the task {approval.task.name} are neither tables nor cases, "
            "and this version evaluates no others"
        )
    cohort = join_cohort(config, keys, document, units, now=utc_now())
    training, test, site = cohort.training, cohort.test, config.node.site
    if not test.ids:
        raise DataError("SB-306", "There are no test patients")
    if len(set(training.labels.tolist())) < 2:
        raise DataError("SB-305", "All patients of the training set have the same label")
    if isinstance(training, TableUnits) and isinstance(test, TableUnits):
        return SiteData(site, training, test)
    if isinstance(training, CaseUnits) and isinstance(test, CaseUnits):
        return CaseData(site, training, test, cohort.notes)
    raise NotEvaluatedError(f"parts of the patients of {site} are of another kind than the whole")


def evaluate(document: StudyDocument, weights: bytes, sites: list[SiteData]) -> dict[str, Any]:
    """Return the exact report: AUROC with interval, Brier score and accuracy, by hospital and over all."""
    scores = {
        "federated": _federated(document, weights, sites),
        "local": _local(document, sites),
        "pooled": _pooled(document, sites),
    }
    labels = [site.test.labels for site in sites]
    apart = distances([site.training.features for site in sites])
    return {
        "schema": "solblom.evaluation/1",
        "simulation": True,
        "kind": "exact: one machine holds all data; outside epsilon",
        "baselines": "logistic regression without noise, L2 by cross-validation inside the training patients",
        "note": (
            "Over all hospitals, local-only mixes models that each know their own hospital's prevalence; "
            "compare hospital by hospital"
        ),
        "worst_site": _worst(scores["federated"], labels, sites),
        "sites": [
            {
                "site": site.site,
                "training_patients": len(site.training.ids),
                "test_patients": len(site.test.ids),
                "apart_from_others": apart[i],
                "metrics": {kind: _metrics(labels[i], scores[kind][i]) for kind in sorted(scores)},
            }
            for i, site in enumerate(sites)
        ],
        "all": {
            kind: _metrics(np.concatenate(labels), np.concatenate(scores[kind]))
            for kind in sorted(scores)
        },
    }


def _worst(
    scores: list[Scores], labels: list[NDArray[np.int64]], sites: list[SiteData]
) -> dict[str, Any] | None:
    """Return the hospital whose patients the federated model tells apart worst; None where none can be shown."""
    areas = [auroc_with_interval(*pair).value for pair in zip(labels, scores, strict=True)]
    known = [(area, site.site) for area, site in zip(areas, sites, strict=True) if area is not None]
    if not known:
        return None
    area, site = min(known)
    return {"site": site, "auroc": _rounded(area)}


def _metrics(labels: NDArray[np.int64], scores: Scores) -> dict[str, Any]:
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


def _federated(document: StudyDocument, weights: bytes, sites: list[SiteData]) -> list[Scores]:
    task = find_task(document.study.task.name)
    net = task.build(document)
    load_weights(net, weights, local=task.local_parameters)
    return [task.scores(net, site.test) for site in sites]


def _local(document: StudyDocument, sites: list[SiteData]) -> list[Scores]:
    seed = document.study.training.seed % 2**32
    return [
        predict(fit_tuned(s.training.features, s.training.labels, seed=seed), s.test.features)
        for s in sites
    ]


def _pooled(document: StudyDocument, sites: list[SiteData]) -> list[Scores]:
    features = np.concatenate([site.training.features for site in sites])
    labels = np.concatenate([site.training.labels for site in sites])
    model = fit_tuned(features, labels, seed=document.study.training.seed % 2**32)
    return [predict(model, site.test.features) for site in sites]
