"""Exact evaluation of labelled tiles in a simulation: figures per tile, intervals over patients.

Federated beside local-only and pooled, same test patients. The two baselines are logistic regression on the tiles'
features without noise; every tile counts the same there, while the federated model counts every patient the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from solblom_models.flat import load_weights
from solblom_models.metrics import Scores, auroc_with_interval
from solblom_models.task import find_task
from solblom_models.tile_classification.task import tile_scores
from solblom_models.tile_classification.tiles import TileUnits
from solblom_protocol.study import StudyDocument
from solblom_simulation.baselines import fit_tuned, predict
from solblom_simulation.decision_report import (
    KINDS,
    OF_TILES,
    THRESHOLDS,
    Answers,
    Scored,
    by_scanner,
    gain,
    tile_figures,
    together,
)
from solblom_simulation.site_differences import distances

_HOW = (
    "logistic regression on each tile's features without noise, L2 by cross-validation inside the training patients, "
    "a patient's tiles in one fold"
)
_NOTE = (
    "All is per tile, and a patient with more tiles counts more; intervals resample patients with all their tiles. "
    "Over all hospitals, local-only mixes models that each know their own hospital's prevalence; compare hospital by "
    "hospital. likeliest_tile: per patient, whether any tile is positive, by the score of the likeliest"
)


@dataclass(frozen=True)
class TileData:
    """One hospital's patients and their tiles as the simulation sees them."""

    site: str
    training: TileUnits
    test: TileUnits


def evaluate_tiles(
    document: StudyDocument, weights: bytes, sites: Sequence[TileData]
) -> dict[str, Any]:
    """Return the exact report of tiles.

    Args:
        document: the study.
        weights: the final model, flat little-endian float32.
        sites: training and test patients by hospital.
    """
    scored = _scored(document, weights, sites)
    answers = {kind: [of.answers() for of in scored[kind]] for kind in KINDS}
    whole = {kind: together(answers[kind]) for kind in KINDS}
    apart = distances([_means(site.training) for site in sites])
    entries = [
        {
            "site": site.site,
            "training_patients": len(site.training.ids),
            "test_patients": len(site.test.ids),
            "training_tiles": len(site.training.tile_labels),
            "test_tiles": len(site.test.tile_labels),
            "apart_from_others": apart[i],
            "metrics": {
                kind: {"threshold": round(scored[kind][i].threshold, 6)}
                | _figures(answers[kind][i])
                for kind in KINDS
            },
            "federated_minus_local": gain(answers["federated"][i], answers["local"][i], OF_TILES),
        }
        for i, site in enumerate(sites)
    ]
    scanners = [(site.test.scanners, len(site.test.ids)) for site in sites]
    groups = by_scanner(whole["federated"], scanners, _figures)
    return {
        "schema": "solblom.evaluation/1",
        "simulation": True,
        "measure": "tiles",
        "kind": "exact: one machine holds all data; outside epsilon",
        "baselines": _HOW,
        "note": _NOTE,
        "thresholds": THRESHOLDS,
        "worst_site": _worst(entries),
        "sites": entries,
        "all": {kind: _figures(whole[kind]) for kind in KINDS},
        "subgroups": {"scanner": groups} if groups else {},
    }


def _scored(
    document: StudyDocument, weights: bytes, sites: Sequence[TileData]
) -> dict[str, list[Scored]]:
    """Return each kind of model's scores by hospital; baselines are fitted on training patients."""
    task = find_task(document.study.task.name)
    net, seed = task.build(document), document.study.training.seed % 2**32
    load_weights(net, weights, local=task.local_parameters(document))
    pooled = _by_baseline(_fitted([site.training for site in sites], seed=seed))
    federated = _by_net(net)
    return {
        "federated": [_of(federated, site) for site in sites],
        "local": [_of(_by_baseline(_fitted([s.training], seed=seed)), s) for s in sites],
        "pooled": [_of(pooled, site) for site in sites],
    }


_Scorer = Callable[[TileUnits], Scores]


def _by_net(net: torch.nn.Module) -> _Scorer:
    return lambda units: tile_scores(net, units)


def _by_baseline(model: LogisticRegression) -> _Scorer:
    return lambda units: predict(model, units.tiles)


def _of(score: _Scorer, site: TileData) -> Scored:
    return Scored(
        training=score(site.training),
        training_labels=site.training.tile_labels,
        test=score(site.test),
        test_labels=site.test.tile_labels,
        test_patients=_whose(site.test),
    )


def _fitted(parts: Sequence[TileUnits], *, seed: int) -> LogisticRegression:
    firsts = np.cumsum([0, *(len(part.ids) for part in parts)])
    whose = [_whose(part) + first for part, first in zip(parts, firsts[:-1], strict=True)]
    return fit_tuned(
        np.concatenate([part.tiles for part in parts]),
        np.concatenate([part.tile_labels for part in parts]),
        seed=seed,
        patients=np.concatenate(whose),
    )


def _whose(units: TileUnits) -> NDArray[np.int64]:
    """Return the place of the patient of each tile, shape (T,)."""
    return np.repeat(np.arange(len(units.ids)), np.diff(units.starts))


def _means(units: TileUnits) -> NDArray[np.float32]:
    """Return the mean of each patient's tiles, shape (N, D)."""
    return np.stack([units.tiles[units.part(i)].mean(axis=0) for i in range(len(units.ids))])


def _figures(answers: Answers) -> dict[str, Any]:
    return tile_figures(answers) | {"likeliest_tile": _of_patients(answers)}


def _of_patients(answers: Answers) -> dict[str, Any]:
    """Return how well the likeliest tile tells patients with a positive tile from those without; DeLong's interval."""
    order = np.argsort(answers.patients, kind="stable")
    _, starts = np.unique(answers.patients[order], return_index=True)
    ends = [*starts.tolist(), len(order)]
    labels, scores = answers.labels[order], answers.scores[order]
    found = auroc_with_interval(
        np.array([labels[a:b].max() for a, b in pairwise(ends)]),
        np.array([scores[a:b].max() for a, b in pairwise(ends)]),
    )
    if found.value is None or found.low is None or found.high is None:
        words = ("patients with a positive tile", "patients without one")
        why = found.not_shown_because(positive=words[0], negative=words[1])
        return {"auroc": None, "auroc_interval": None, "reason": why}
    low, high = round(found.low, 6), round(found.high, 6)
    return {"auroc": round(found.value, 6), "auroc_interval": [low, high], "reason": None}


def _worst(entries: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the hospital whose tiles the federated model tells apart worst; None where none can be shown."""
    areas = [(entry["metrics"]["federated"]["auroc"], entry["site"]) for entry in entries]
    known = [pair for pair in areas if pair[0] is not None]
    if not known:
        return None
    area, site = min(known)
    return {"site": site, "auroc": area}
