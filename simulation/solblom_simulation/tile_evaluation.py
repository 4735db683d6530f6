"""Exact evaluation of labelled tiles in a simulation: figures per tile, intervals over patients.

Federated beside local-only and pooled, same test patients. The two baselines are logistic regression on the tiles'
features without noise; every tile counts the same there, while the federated model counts every patient the same. Of
pixels the baselines see the built-in encoder's features, so they differ from a net in kind.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from solblom_models.flat import load_weights
from solblom_models.metrics import Scores, auroc_with_interval
from solblom_models.task import find_task
from solblom_models.tile_classification.task import tile_scores
from solblom_models.tile_classification.tiles import TileUnits
from solblom_models.tile_encoder.encoder import NAME, encode
from solblom_models.tile_encoder.texture import SMALLEST_PX
from solblom_protocol.studies.study import StudyDocument
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
    "logistic regression on {features} of each tile without noise, L2 by cross-validation inside the training "
    "patients, a patient's tiles in one fold"
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
    rows = [(_rows(site.training), _rows(site.test)) for site in sites]
    scored = _scored(document, weights, sites, rows)
    answers = {kind: [of.answers() for of in scored[kind]] for kind in KINDS}
    whole = {kind: together(answers[kind]) for kind in KINDS}
    apart = distances([training.means() for training, _ in rows])
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
        "baselines": _HOW.format(features=_named(sites[0].training)),
        "note": _NOTE,
        "thresholds": THRESHOLDS,
        "worst_site": _worst(entries),
        "sites": entries,
        "all": {kind: _figures(whole[kind]) for kind in KINDS},
        "subgroups": {"scanner": groups} if groups else {},
    }


@dataclass(frozen=True)
class _Rows:
    """Tiles as the baselines see them.

    Attributes:
        features: shape (T, D).
        labels: 0 or 1, shape (T,).
        patients: the place of each tile's patient, shape (T,).
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    patients: NDArray[np.int64]

    def means(self) -> NDArray[np.float32]:
        """Return the mean of each patient's tiles, shape (N, D)."""
        _, starts, sizes = np.unique(self.patients, return_index=True, return_counts=True)
        sums = np.add.reduceat(self.features, starts, axis=0)
        return (sums / sizes[:, None]).astype(np.float32)


def _rows(units: TileUnits) -> _Rows:
    whose = np.repeat(np.arange(len(units.ids)), np.diff(units.starts))
    return _Rows(_features(units), units.tile_labels, whose)


def _features(units: TileUnits) -> NDArray[np.float32]:
    if units.encoder is None:
        features: NDArray[np.float32] = units.tiles
        return features
    side = units.encoder.tile_px
    pixels = units.tiles.reshape(-1, 3, side, side)
    if side >= SMALLEST_PX:
        return encode(tile.transpose(1, 2, 0) for tile in pixels)
    values = pixels.astype(np.float32) / 255
    return np.concatenate([values.mean(axis=(2, 3)), values.std(axis=(2, 3))], axis=1)


def _named(units: TileUnits) -> str:
    if units.encoder is None:
        return "the features"
    if units.encoder.tile_px >= SMALLEST_PX:
        return f"{NAME}'s features"
    return "mean and spread of the colours"


def _scored(
    document: StudyDocument,
    weights: bytes,
    sites: Sequence[TileData],
    rows: Sequence[tuple[_Rows, _Rows]],
) -> dict[str, list[Scored]]:
    """Return each kind of model's scores by hospital; baselines are fitted on training patients."""
    task = find_task(document.study.task.name)
    net, seed = task.build(document), document.study.training.seed % 2**32
    load_weights(net, weights, local=task.local_parameters(document))
    pooled = _fitted([training for training, _ in rows], seed=seed)
    alone = [_fitted([training], seed=seed) for training, _ in rows]
    return {
        "federated": [
            _of(pair, tile_scores(net, site.training), tile_scores(net, site.test))
            for pair, site in zip(rows, sites, strict=True)
        ],
        "local": [
            _of(pair, *(predict(model, part.features) for part in pair))
            for pair, model in zip(rows, alone, strict=True)
        ],
        "pooled": [_of(pair, *(predict(pooled, part.features) for part in pair)) for pair in rows],
    }


def _of(rows: tuple[_Rows, _Rows], of_training: Scores, of_test: Scores) -> Scored:
    training, test = rows
    return Scored(of_training, training.labels, of_test, test.labels, test.patients)


def _fitted(parts: Sequence[_Rows], *, seed: int) -> LogisticRegression:
    firsts = np.cumsum([0, *(int(part.patients[-1]) + 1 for part in parts)])
    whose = [part.patients + first for part, first in zip(parts, firsts[:-1], strict=True)]
    return fit_tuned(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
        seed=seed,
        patients=np.concatenate(whose),
    )


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
