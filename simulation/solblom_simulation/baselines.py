"""What a model without federation or without privacy would reach: local-only and pooled logistic regression.

Both are trained without noise, on training patients only, with the strength of regularisation
chosen by cross-validation inside those patients. Possible in a simulation only, where one machine
holds all data.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score

STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # inverse L2 strength, scikit-learn's C
FOLDS = 5

Features = NDArray[np.float32]
Labels = NDArray[np.int64]


def fit_tuned(features: Features, labels: Labels, *, seed: int) -> LogisticRegression:
    """Return logistic regression with C chosen by cross-validated AUROC inside these patients.

    With fewer than two patients of a class in reach of cross-validation, C is 0.1.
    """
    smaller = int(min(np.bincount(labels, minlength=2)))
    strength = 0.1
    if smaller >= 2:
        folds = StratifiedKFold(min(FOLDS, smaller), shuffle=True, random_state=seed)
        scores = [
            cross_val_score(_model(c), features, labels, cv=folds, scoring="roc_auc").mean()
            for c in STRENGTHS
        ]
        strength = STRENGTHS[int(np.argmax(scores))]
    return _model(strength).fit(features, labels)


def predict(model: LogisticRegression, features: Features) -> NDArray[np.float64]:
    """Return the probability of yes, shape (N,)."""
    return np.asarray(model.predict_proba(features)[:, 1], dtype=np.float64)


def _model(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=2000)
