"""Four plain learners with which probes compare a defense: logistic regression, k-NN, a random forest and a kernel SVM."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from subpop.runtime.threads import one_thread
from subpop.types import Array, Ints

MOST_ROWS, MOST_COLUMNS = 3000, 100
"""Maximum number of training rows of a learner, and of columns before rows are reduced to their principal components."""
COMPONENTS = 50


def flat_inputs(x: Array, seed: int) -> Array:
    """(n, d) float64 inputs of the learners: rows flattened, reduced if they are wide, and standardised."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    flat = x.reshape(len(x), -1).astype(np.float64)
    if flat.shape[1] > MOST_COLUMNS:
        some = np.random.default_rng(seed).permutation(len(flat))[:MOST_ROWS]
        with one_thread():
            flat = PCA(min(COMPONENTS, len(some)), random_state=seed).fit(flat[some]).transform(flat)
    return np.asarray(StandardScaler().fit_transform(flat))


def answers_of_learners(x: Array, y: Ints, others: Array, seed: int) -> Ints:
    """(4, m) predictions of the learners, trained on x (n, d) and y (n,), for other rows (m, d)."""
    chosen = np.random.default_rng(seed).permutation(len(y))[:MOST_ROWS]
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore")  # learners need not converge
        return np.stack([learner.fit(x[chosen], y[chosen]).predict(others) for learner in _learners(seed)])


def _learners(seed: int) -> list[Any]:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import SVC

    return [
        LogisticRegression(max_iter=300),
        KNeighborsClassifier(5),
        RandomForestClassifier(50, random_state=seed),
        SVC(),
    ]
