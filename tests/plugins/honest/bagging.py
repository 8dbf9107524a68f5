"""The mean of models that were trained on bootstrap samples."""

import numpy as np

from subpop import Defended


class Mean:
    def __init__(self, models):
        self.models = models

    def predict_proba(self, x):
        return np.mean([model.predict_proba(x) for model in self.models], axis=0)


def bagging(train, fit, know, *, seed):
    rng = np.random.default_rng(seed)
    return Defended(Mean([fit(train[rng.choice(train.ids, len(train))]) for _ in range(5)]))
