"""The arms of `shared_noise.py` on one split: without noise, each hospital alone, local noise, shared noise.

The private arms are the product's own training, grid, noise shares and optimiser. Noise follows from the seed and the
arm's name alone, not from the study's digest, so a bench run again gives the same figures.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tcga import Floats, Patients, is_test
from tcga_study import Setting

from solblom_client.keys import derive
from solblom_client.masks.noise_share import on_grid, with_noise_share
from solblom_client.training.dp_sgd import TrainingSettings, clipped_sum, train
from solblom_client.training.keystream import KeyStream
from solblom_models.aggregation.opened_sum import mean_update
from solblom_models.aggregation.optimisers import ServerState, step
from solblom_models.flat import flatten, layout_of, load_flat
from solblom_models.tabular.data import TableUnits
from solblom_models.tabular.task import TabularClassification
from solblom_protocol.messages.layout import unpack
from solblom_protocol.studies.study import StudyDocument
from solblom_protocol.sums.ring import Ring
from solblom_protocol.sums.secure_sum import largest_value

Group = dict[str, tuple[Floats, NDArray[np.int64]]]  # features and labels by hospital


@dataclass(frozen=True)
class Split:
    """One split of the hospitals' patients."""

    train: Group
    test: Group


def split_of(
    patients: Patients,
    hospitals: dict[str, NDArray[np.int64]],
    genes: list[int],
    public: Any,
    seed: int,
) -> Split:
    """Return training and test patients of each hospital, features by public constants alone."""
    centre, scale = public
    features = np.clip((patients.ranks[:, genes] - centre) / scale, -3.0, 3.0)
    held = np.array([is_test(patient, seed) for patient in patients.ids])
    parts: list[Group] = [{}, {}]
    for name, index in hospitals.items():
        for part, chosen in zip(parts, (index[~held[index]], index[held[index]]), strict=True):
            part[name] = (features[chosen], patients.labels[chosen])
    return Split(*parts)


@dataclass(frozen=True)
class Found:
    """AUROC over all hospitals' test patients, and the mean of hospitals whose test patients have both labels."""

    union: float
    within: float


def found_of(scores: Floats, group: Group) -> Found:
    """Return both AUROCs of scores in the order of the group's hospitals."""
    labels = [y for _, y in group.values()]
    parts = np.split(scores, np.cumsum([len(y) for y in labels])[:-1])
    own = [roc_auc_score(y, s) for y, s in zip(labels, parts, strict=True) if len(set(y)) == 2]
    union = float(roc_auc_score(np.concatenate(labels), scores))
    return Found(union, float(np.mean(own)) if own else math.nan)


def scores_of(weights: Floats, group: Group) -> Floats:
    """Return logits; the last weight is the intercept."""
    return np.concatenate([x @ weights[:-1] + weights[-1] for x, _ in group.values()])


def without_noise(split: Split, l2: float) -> Found:
    """Return what logistic regression over all training patients reaches."""
    x = np.concatenate([x for x, _ in split.train.values()])
    y = np.concatenate([y for _, y in split.train.values()])
    model = LogisticRegression(C=1.0 / (l2 * len(y)), max_iter=2000).fit(x, y)
    weights = np.append(model.coef_[0], model.intercept_[0])
    return found_of(scores_of(weights, split.test), split.test)


def alone(split: Split, l2: float) -> Found:
    """Return what is reached where each hospital scores its test patients with its own model."""
    scores = []
    for name, (x, y) in split.train.items():
        tested = split.test[name][0]
        if len(set(y.tolist())) < 2:
            scores.append(np.zeros(len(tested)))
            continue
        model = LogisticRegression(C=1.0 / (l2 * len(y)), max_iter=2000).fit(x, y)
        scores.append(model.decision_function(tested))
    return found_of(np.concatenate(scores), split.test)


def plain_sum(x: Floats, y: NDArray[np.int64], weights: Floats, norm: float) -> Floats:
    """Return the sum of clipped gradients in plain numpy; x has a last column of ones."""
    gradients = (1.0 / (1.0 + np.exp(-x @ weights)) - y)[:, None] * x
    norms = np.linalg.norm(gradients, axis=1)
    gradients *= np.minimum(1.0, norm / np.maximum(norms, 1e-12))[:, None]
    return np.asarray(gradients.sum(axis=0))


def quick(split: Split, setting: Setting, noise: float, rng: np.random.Generator) -> float:
    """Return the AUROC over all test patients of a plain rewrite of the training, for tuning only."""
    x = np.concatenate(
        [np.pad(x, ((0, 0), (0, 1)), constant_values=1.0) for x, _ in split.train.values()]
    )
    y = np.concatenate([y for _, y in split.train.values()])
    weights, velocity, kept = np.zeros(x.shape[1]), np.zeros(x.shape[1]), []
    for number in range(1, setting.rounds + 1):
        total = plain_sum(x, y, weights, setting.norm)
        total += rng.normal(0.0, noise * setting.norm, len(weights))
        velocity = setting.momentum * velocity - setting.rate / setting.norm * total / len(y)
        weights = weights + velocity
        if number > setting.rounds // 2:
            kept.append(weights)
    labels = np.concatenate([y for _, y in split.test.values()])
    return float(roc_auc_score(labels, scores_of(np.mean(kept, axis=0), split.test)))


def units_of(group: Group) -> dict[str, TableUnits]:
    """Return the patients as the product's training takes them."""
    return {
        name: TableUnits(
            tuple(f"{name}-{i}" for i in range(len(y))), x.astype(np.float32), y.astype(np.int64)
        )
        for name, (x, y) in group.items()
    }


def private(document: StudyDocument, split: Split, *, key: str, noise: bool = True) -> Found:
    """Return what the product's private training reaches; the document says which noise."""
    weights = private_weights(document, units_of(split.train), key=key, noise=noise)
    return found_of(scores_of(weights, split.test), split.test)


def private_weights(
    document: StudyDocument, units: dict[str, TableUnits], *, key: str, noise: bool = True
) -> Floats:
    """Return the final model of the product's private training, the intercept last.

    Without noise, a study of shared noise gives the same clipped sums, rounded to the same grid.
    """
    task = TabularClassification()
    net = task.build(document)
    layout = layout_of(net, local=task.local_parameters(document))
    state = ServerState.initial(unpack(flatten(net, layout), layout).copy())
    for number in range(1, document.study.training.rounds + 1):
        load_flat(net, layout, state.model)
        fresh = f"{key}/{number}"
        if document.secure_sum is None:
            mean = _local_round(document, task, net, layout, units, fresh)
        else:
            mean = _shared_round(document, task, net, layout, units, fresh if noise else None)
        state = step(state, mean, document.study.training, round_number=number)
    return state.final_model().astype(np.float64)


def difference_to_plain_sum(document: StudyDocument, split: Split) -> float:
    """Return how far the product's clipped sums are from `plain_sum`, over the clipping norm, at weights not zero."""
    task, settings = TabularClassification(), TrainingSettings.of(document)
    net = task.build(document)
    layout = layout_of(net, local=task.local_parameters(document))
    weights = np.random.default_rng(0).normal(0.0, 0.1, layout.size).astype(np.float32)
    load_flat(net, layout, weights)
    worst = 0.0
    for name, units in units_of(split.train).items():
        sums, _ = clipped_sum(task, net, units, settings)
        flat = np.concatenate([sums[t.name].double().numpy().reshape(-1) for t in layout.tensors])
        x, y = split.train[name]
        ones = np.pad(x, ((0, 0), (0, 1)), constant_values=1.0)
        plain = plain_sum(ones, y, weights.astype(np.float64), settings.clipping_norm)
        worst = max(worst, float(np.abs(flat - plain).max()) / settings.clipping_norm)
    return worst


def _stream(purpose: Any, site: str, key: str) -> KeyStream:
    return KeyStream(derive(site.encode().ljust(32, b"."), purpose, key))


def _local_round(
    document: StudyDocument,
    task: Any,
    net: Any,
    layout: Any,
    units: dict[str, TableUnits],
    key: str,
) -> Floats:
    settings = TrainingSettings.of(document)
    before = unpack(flatten(net, layout), layout).copy()
    moved = []
    for site, patients in units.items():
        load_flat(net, layout, before)
        noise, coins = _stream("noise", site, key), _stream("sampling", site, key)
        train(task, net, patients, settings, coins=coins, noise=noise)
        after = unpack(flatten(net, layout), layout)
        moved.append(after.astype(np.float64) - before)
    return np.asarray(np.mean(moved, axis=0))


def _shared_round(
    document: StudyDocument,
    task: Any,
    net: Any,
    layout: Any,
    units: dict[str, TableUnits],
    key: str | None,
) -> Floats:
    plan, settings = document.secure_sum, TrainingSettings.of(document)
    if plan is None:
        raise ValueError("the study has no secure sum")
    largest = largest_value(Ring(32), nodes=len(units), share=plan.training_share)
    total = np.zeros(layout.size, dtype=np.int64)
    for site, patients in units.items():
        sums, _ = clipped_sum(task, net, patients, settings)
        flat = np.concatenate([sums[t.name].double().numpy().reshape(-1) for t in layout.tensors])
        grid = on_grid(flat, fractional_bits=plan.fractional_bits, largest=largest)
        if key is not None:
            stream = _stream("noise", site, key)
            grid = with_noise_share(grid, share=plan.training_share, largest=largest, stream=stream)
        total += grid
    return mean_update(document, total, hospitals=len(units))
