"""What a model without federation or without privacy would reach: local-only and pooled logistic regression.

Both are trained without noise, on training patients only, with the strength of regularisation
chosen by cross-validation inside those patients. Possible in a simulation only, where one machine
holds all data.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_score

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # inverse L2 strength, scikit-learn's C
FOLDS = 5

Features = NDArray[np.float32]
Labels = NDArray[np.int64]
Split = tuple[NDArray[np.int64], NDArray[np.int64]]


def fit_tuned(
    features: Features, labels: Labels, *, seed: int, patients: NDArray[np.int64] | None = None
) -> LogisticRegression:
    """Return logistic regression with C chosen by cross-validated AUROC inside these patients.

    With fewer than two patients of a class in reach of cross-validation, C is 0.1.

    Args:
        features: shape (N, D).
        labels: 0 or 1, shape (N,).
        seed: of the folds.
        patients: whose each row is, shape (N,), so that no patient's rows lie in two folds; None where each row is
            a patient.
    """
    folds = (
        _folds(features, labels, seed) if patients is None else _by_patient(labels, patients, seed)
    )
    strength = 0.1
    if folds:
        scores = [
            cross_val_score(_model(c), features, labels, cv=folds, scoring="roc_auc").mean()
            for c in STRENGTHS
        ]
        strength = STRENGTHS[int(np.argmax(scores))]
    return _model(strength).fit(features, labels)


def _folds(features: Features, labels: Labels, seed: int) -> list[Split]:
    smaller = int(min(np.bincount(labels, minlength=2)))
    if smaller < 2:
        return []
    folds = StratifiedKFold(min(FOLDS, smaller), shuffle=True, random_state=seed)
    return list(folds.split(features, labels))


def _by_patient(labels: Labels, patients: NDArray[np.int64], seed: int) -> list[Split]:
    """Return folds of whole patients; one without both classes on either side tells nothing, and is left out."""
    smaller = min(len(np.unique(patients[labels == label])) for label in (0, 1))
    if smaller < 2:
        return []
    folds = StratifiedGroupKFold(min(FOLDS, smaller), shuffle=True, random_state=seed)
    found = folds.split(np.zeros(len(labels)), labels, patients)
    return [pair for pair in found if all(len(np.unique(labels[part])) == 2 for part in pair)]


def predict(model: LogisticRegression, features: Features) -> NDArray[np.float64]:
    """Return the probability of yes, shape (N,)."""
    return np.asarray(model.predict_proba(features)[:, 1], dtype=np.float64)


def _model(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=2000)
