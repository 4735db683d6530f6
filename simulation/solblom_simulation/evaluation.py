"""Exact evaluation in a simulation: federated beside local-only and pooled, per hospital, on the same test patients."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from solblom_client.cohort import Cohort, join_cohort
from solblom_client.connectors.table import open_source
from solblom_client.keys import read_node_keys
from solblom_client.policy import load_node_config
from solblom_client.vault import utc_now
from solblom_models.flat import layout_of, load_flat
from solblom_models.metrics import accuracy, auroc_with_interval, brier
from solblom_models.tabular.data import TableUnits
from solblom_models.task import find_task
from solblom_protocol.layout import unpack
from solblom_protocol.study import StudyDocument
from solblom_simulation.baselines import fit_tuned, predict

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class SiteData:
    """One hospital's patients as the simulation sees them."""

    site: str
    training: TableUnits
    test: TableUnits


def read_site(node: Path, document: StudyDocument) -> SiteData:
    """Return a simulated hospital's training and test patients, by the node's own rules."""
    config = load_node_config(node)
    task = find_task(document.study.task.name)
    units = task.read_units(open_source(config, config.dataset[0]), document)
    keys = read_node_keys(config.state)
    cohort: Cohort = join_cohort(config, keys, document, units, now=utc_now())
    if not isinstance(cohort.training, TableUnits) or not isinstance(cohort.test, TableUnits):
        raise TypeError("only tables can be evaluated in this version")
    return SiteData(config.node.site, cohort.training, cohort.test)


def evaluate(document: StudyDocument, weights: bytes, sites: list[SiteData]) -> dict[str, Any]:
    """Return the exact report: AUROC with interval, Brier score and accuracy, by hospital and over all."""
    scores = {
        "federated": _federated(document, weights, sites),
        "local": _local(document, sites),
        "pooled": _pooled(document, sites),
    }
    labels = [site.test.labels for site in sites]
    return {
        "schema": "solblom.evaluation/1",
        "simulation": True,
        "kind": "exact: one machine holds all data; outside epsilon",
        "baselines": "logistic regression without noise, L2 by cross-validation inside the training patients",
        "note": (
            "Over all hospitals, local-only mixes models that each know their own hospital's prevalence; "
            "compare hospital by hospital"
        ),
        "sites": [
            {
                "site": site.site,
                "training_patients": len(site.training.ids),
                "test_patients": len(site.test.ids),
                "metrics": {kind: _metrics(labels[i], scores[kind][i]) for kind in sorted(scores)},
            }
            for i, site in enumerate(sites)
        ],
        "all": {
            kind: _metrics(np.concatenate(labels), np.concatenate(scores[kind]))
            for kind in sorted(scores)
        },
    }


def _metrics(labels: NDArray[np.int64], scores: Scores) -> dict[str, Any]:
    found = auroc_with_interval(labels, scores)
    shown = found.shown
    return {
        "auroc": _rounded(found.value),
        "auroc_interval": [_rounded(found.low), _rounded(found.high)] if shown else None,
        "reason": None
        if shown
        else found.not_shown_because(positive="with disease", negative="without disease"),
        "brier": _rounded(brier(labels, scores)),
        "accuracy": _rounded(accuracy(labels, scores)),
    }


def _rounded(value: float | None) -> float | None:
    # Six decimals: far finer than the interval, and the same on machines that round the last bit otherwise.
    return None if value is None else round(value, 6)


def _federated(document: StudyDocument, weights: bytes, sites: list[SiteData]) -> list[Scores]:
    task = find_task(document.study.task.name)
    net = task.build(document)
    layout = layout_of(net, local=task.local_parameters)
    load_flat(net, layout, unpack(weights, layout))
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
