"""Any scikit-learn classifier as a victim, one at a time on all cores through joblib.

Deviations: no fleet, so a table costs as much as it always did. `features` are the inputs themselves: a defense that reads
the last layer's input (SEVER) sees rows, as it would for a linear model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from subpop.types import Array, BadInput, FleetJob, Floats, Model, content_order


class SklearnVictim:
    """A victim from a scikit-learn estimator or its class: `SklearnVictim(RandomForestClassifier(50))`.

    A `random_state` parameter, where there is one, is set to the trial's seed. `exact`: the result does not depend on it.
    """

    def __init__(self, estimator: Any, exact: bool | None = None, n_jobs: int = -1) -> None:
        self._make = estimator if isinstance(estimator, type) else _cloner(estimator)
        self._n_jobs = n_jobs
        parameters = self._make().get_params()
        self.exact = "random_state" not in parameters if exact is None else exact

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """One estimator a job, in parallel processes; refuses estimators without `predict_proba` or `decision_function`."""
        from joblib import Parallel, delayed

        tasks = [delayed(_fit_one)(self._make(), job.canonical(), seed) for job, seed in zip(jobs, seeds, strict=True)]
        models: list[Model] = Parallel(n_jobs=self._n_jobs)(tasks)
        return models


def _cloner(estimator: Any) -> Callable[[], Any]:
    from sklearn.base import clone

    return lambda: clone(estimator)


def _fit_one(estimator: Any, job: FleetJob, seed: int) -> SklearnModel:
    if len(np.unique(job.y)) == 1:  # many estimators refuse one class; the answer is known
        return SklearnModel(None, job.pool.n_classes, only_class=int(job.y[0]))
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=seed % 2**32)
    # Not in canonical order, which puts poison last: who breaks ties by row order (k-NN, trees) would see which rows are poison.
    x = job.x.reshape(len(job), -1)
    order = content_order(x, job.y)
    weights = {} if job.weights is None else {"sample_weight": job.weights[order]}
    estimator.fit(x[order], job.y[order], **weights)
    return SklearnModel(estimator, job.pool.n_classes)


class SklearnModel:
    """A fitted scikit-learn classifier behind the Model protocol."""

    def __init__(self, estimator: Any, n_classes: int, only_class: int | None = None) -> None:
        if estimator is not None and not hasattr(estimator, "predict_proba") and not hasattr(estimator, "decision_function"):
            name = type(estimator).__name__
            raise BadInput(f"{name} has neither predict_proba nor decision_function; wrap it in CalibratedClassifierCV")
        self._estimator, self._n_classes, self._only_class = estimator, n_classes, only_class

    def predict_proba(self, x: Array) -> Floats:
        """(n, C) float32; decision values pass through a logistic or softmax where the estimator has no probabilities."""
        flat = np.asarray(x).reshape(len(x), -1)
        out = np.zeros((len(flat), self._n_classes), np.float32)
        if self._only_class is not None:
            out[:, self._only_class] = 1
            return out
        out[:, self._estimator.classes_] = self._class_probabilities(flat)
        return out

    def _class_probabilities(self, flat: Array) -> Array:
        if hasattr(self._estimator, "predict_proba"):
            return np.asarray(self._estimator.predict_proba(flat))
        from scipy.special import expit, softmax

        decision = np.asarray(self._estimator.decision_function(flat))
        if decision.ndim == 1:
            return np.column_stack([expit(-decision), expit(decision)])
        return np.asarray(softmax(decision, axis=1))

    def features(self, x: Array) -> Floats:
        """(n, d) float32: the inputs, flattened."""
        return np.asarray(x, np.float32).reshape(len(x), -1)
