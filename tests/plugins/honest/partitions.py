"""Deep partition aggregation: the parts' models vote."""

import numpy as np

from subpop import Defended


class Vote:
    def __init__(self, models):
        self.models = models

    def predict_proba(self, x):
        votes = [model.predict_proba(x) for model in self.models]
        votes = sum(np.eye(v.shape[1])[v.argmax(1)] for v in votes)
        return votes / votes.sum(1, keepdims=True)


def partitions(train, fit, know, *, seed):
    part = np.random.default_rng(seed).permutation(len(train)) % 5
    return Defended(Vote([fit(train[part == i]) for i in range(5)]))
