"""What the utility benches compare with: tuned pooled references, AUROC two ways, and tables with false labels.

Two public feature codings, fixed beforehand, since neither is obviously the better one for the
reference: the contract's own, and plain one-hot 0/1 with yes/no as ±1. The reference is the coding
with the higher mean *inner* cross-validated AUROC; test patients have no say in it.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score

from solblom_models.tabular.data import encode
from solblom_models.tabular.table_file import read_csv
from solblom_protocol.contracts.table import Contract, NumberVariable
from solblom_protocol.studies.study import StudyDocument
from solblom_simulation.baselines import fit_tuned, predict
from solblom_simulation.table_evaluation import SiteData

CODINGS = ("contract coding", "0/1 coding")
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # scikit-learn's C = 1 / L2
FOLDS = 5
LABELS = ("num", "death_180")  # the last column of heart disease and of SUPPORT2
MIN_CLASS = 5  # a hospital with fewer test patients of a class is skipped

Scores = NDArray[np.float64]
Labels = NDArray[np.int64]

LOCAL = "each hospital alone, tuned"


@dataclass(frozen=True)
class PooledReference:
    """Pooled logistic regression, tuned inside the training patients of one seed."""

    scores: list[Scores]  # of the test patients, by hospital
    inner_auroc: float
    strength: float


def pooled_references(
    sites: Sequence[SiteData], contract: Contract, tables: Iterable[Path], *, seed: int
) -> dict[str, PooledReference]:
    """Return the tuned pooled reference of each coding."""
    labels = np.concatenate([site.training.labels for site in sites])
    plain = _plain_rows(contract, tables)
    found: dict[str, PooledReference] = {}
    for coding in CODINGS:
        if coding == "contract coding":
            training = [site.training.features for site in sites]
            test = [site.test.features for site in sites]
        else:
            training = [np.stack([plain[i] for i in site.training.ids]) for site in sites]
            test = [np.stack([plain[i] for i in site.test.ids]) for site in sites]
        found[coding] = _tuned(np.concatenate(training), labels, test, seed)
    return found


def reference_rows(
    sites: list[SiteData],
    contract: Contract,
    tables: Iterable[Path],
    *,
    seed: int,
    fit: Callable[..., LogisticRegression] = fit_tuned,
) -> dict[str, Any]:
    """Return what a method is compared with: pooled by each coding, each hospital alone, and sizes.

    `fit` trains one hospital alone; a bench that fits the same hospitals again may remember it.
    """
    result: dict[str, Any] = {
        "training": {site.site: len(site.training.ids) for site in sites},
        "test": {site.site: len(site.test.ids) for site in sites},
    }
    for coding, found in pooled_references(sites, contract, tables, seed=seed).items():
        inner = {"inner_auroc": found.inner_auroc, "strength": found.strength}
        result[f"pooled, {coding}"] = measure(sites, found.scores) | inner
    alone = [
        predict(fit(s.training.features, s.training.labels, seed=seed), s.test.features)
        for s in sites
    ]
    result[LOCAL] = measure(sites, alone)
    return result


def numpy_federation(sites: Sequence[SiteData], document: StudyDocument) -> list[Scores]:
    """Return test scores (log odds) of the study's training without noise, written anew in numpy.

    Full batch, one step a round, clipped per patient, mean over hospitals, mean of the later
    models. It sees training patients only: where the product agrees, no test patient has helped.
    """
    training, clip = document.study.training, document.study.privacy.clipping_norm
    if (training.local_steps, document.study.privacy.sampling_rate) != (1, 1.0):
        raise RuntimeError("written for full-batch studies with one local step")
    data = [(_with_one(site.training.features), site.training.labels) for site in sites]
    weights, later = np.zeros(data[0][0].shape[1]), []
    for number in range(1, training.rounds + 1):
        total = np.zeros_like(weights)
        for features, labels in data:
            gradients = (1 / (1 + np.exp(-features @ weights)) - labels)[:, None] * features
            norms = np.linalg.norm(gradients, axis=1)
            factors = np.minimum(1.0, clip / (norms + 1e-6))
            total += (gradients * factors[:, None]).sum(axis=0) / training.expected_batch_size
        weights = weights - training.learning_rate * total / len(data)
        if number > training.rounds // 2:
            later.append(weights)
    return [_with_one(site.test.features) @ np.mean(later, axis=0) for site in sites]


def auroc(labels: Labels, scores: Scores) -> float:
    """Return AUROC by scikit-learn."""
    return float(roc_auc_score(labels, scores))


def measure(sites: Sequence[SiteData], scores: Sequence[Scores]) -> dict[str, Any]:
    """Return AUROC over all test patients, over pairs of the same hospital, and by hospital."""
    labels = [site.test.labels for site in sites]
    return {
        "all": auroc(np.concatenate(labels), np.concatenate(scores)),
        "within": within_hospital_auroc(labels, scores),
        "sites": hospital_aurocs(sites, scores),
    }


def within_hospital_auroc(labels: Sequence[Labels], scores: Sequence[Scores]) -> float:
    """Return the share of ordered (ill, well) pairs *of the same hospital*; all such pairs weigh the same.

    Differences between hospitals in how common the disease is cannot help here.
    """
    ordered, pairs = 0.0, 0
    for truth, score in zip(labels, scores, strict=True):
        count = int(truth.sum()) * int((1 - truth).sum())
        if count:
            ordered += count * auroc(truth, score)
            pairs += count
    return ordered / pairs


def hospital_aurocs(sites: Sequence[SiteData], scores: Sequence[Scores]) -> dict[str, float | None]:
    """Return AUROC by hospital; None where the test set has fewer than five of a class."""
    return {
        site.site: auroc(site.test.labels, score)
        if min(np.bincount(site.test.labels, minlength=2)) >= MIN_CLASS
        else None
        for site, score in zip(sites, scores, strict=True)
    }


def relabelled_tables(
    folder: Path,
    sites: Sequence[SiteData],
    sources: Mapping[str, Path],
    *,
    coins: bool,
    seed: int,
) -> dict[str, Path]:
    """Write `sources` with false labels for the training patients; test patients keep theirs.

    The id stands in the first column, the label in the last.

    `coins` False: the labels permuted within each hospital, so that its share of ill patients
    stays. True: a fair coin per patient; swapping ill and well then turns every weight round, so
    that the expected AUROC is exactly one half.
    """
    rng = np.random.default_rng([seed, int(coins)])
    folder.mkdir(parents=True)
    written: dict[str, Path] = {}
    for site in sites:
        rows = _read(sources[site.site])
        chosen = [number for number, row in enumerate(rows) if row[0] in set(site.training.ids)]
        labels = [rows[number][-1] for number in chosen]
        new = (
            [str(coin) for coin in rng.integers(2, size=len(labels))]
            if coins
            else [labels[i] for i in rng.permutation(len(labels))]
        )
        for number, label in zip(chosen, new, strict=True):
            rows[number][-1] = label
        written[site.site] = folder / f"{site.site}.csv"
        with written[site.site].open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows(rows)
    return written


def _tuned(
    features: NDArray[np.float32], labels: Labels, test: Sequence[NDArray[np.float32]], seed: int
) -> PooledReference:
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    inner = [
        float(cross_val_score(_model(c), features, labels, cv=folds, scoring="roc_auc").mean())
        for c in STRENGTHS
    ]
    best = int(np.argmax(inner))
    model = _model(STRENGTHS[best]).fit(features, labels)
    scores = [np.asarray(model.predict_proba(rows)[:, 1], dtype=np.float64) for rows in test]
    return PooledReference(scores, inner[best], STRENGTHS[best])


def _with_one(features: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.column_stack([features, np.ones(len(features))]).astype(np.float64)


def _model(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=5000)


def _plain_rows(contract: Contract, tables: Iterable[Path]) -> dict[str, NDArray[np.float32]]:
    """Return every patient by id: one-hot 0/1, yes/no ±1, numbers as in the contract."""
    variables = [
        v if isinstance(v, NumberVariable) else v.model_copy(update={"scale": 1.0})
        for v in contract.variable
    ]
    plain = contract.model_copy(update={"variable": tuple(variables)})
    rows: dict[str, NDArray[np.float32]] = {}
    for path in tables:
        table = read_csv(path, id_column="patient_id")
        rows |= dict(zip(table.ids, encode(table, plain), strict=True))
    return rows


def _read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    if rows[0][0] != "patient_id" or rows[0][-1] not in LABELS:
        raise RuntimeError("the tables have other columns than expected")
    return rows
