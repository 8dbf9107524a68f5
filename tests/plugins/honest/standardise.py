"""Trains on standardised columns."""

import numpy as np

from subpop import Defended, TrainingSet


class Standardised:
    def __init__(self, model, mean, scale):
        self.model, self.mean, self.scale = model, mean, scale

    def predict_proba(self, x):
        return self.model.predict_proba(((x - self.mean) / self.scale).astype(np.float32))


def standardise(train, fit, know, *, seed):
    mean, scale = train.x.mean(0), train.x.std(0) + 1e-6
    model = fit(TrainingSet.of(((train.x - mean) / scale).astype(np.float32), train.y))
    return Defended(Standardised(model, mean, scale))
