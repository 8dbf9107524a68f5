"""An object with `fit(x, y)` and a method that predicts, such as a torch module, as an estimator of scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone

from subpop.types import Array, Ints

PREDICTS = ("predict_proba", "decision_function", "predict")


class PlainEstimator(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Trains a copy of `own`, which receives (n, d) float32 arrays that it may change, and labels 0, 1, ... as (n,) int64."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def fit(self, x: Array, y: Ints) -> PlainEstimator:
        """Train a copy of the object."""
        self.own_ = clone(self.own, safe=False)
        self.own_.fit(np.array(x, np.float32), np.array(y, np.int64))
        return self

    def __getattr__(self, name: str) -> Any:
        """The methods by which the object predicts."""
        own = vars(self).get("own_", vars(self).get("own"))
        if name not in PREDICTS or not hasattr(own, name):
            raise AttributeError(f"{type(own).__name__} has no {name}")
        return lambda x: getattr(own, name)(np.array(x, np.float32))
