"""Confident learning: drops rows whose label a held-out model finds improbable."""

import numpy as np

from subpop import Defended


def confident(train, fit, know, *, seed):
    fold = np.random.default_rng(seed).integers(3, size=len(train))
    own = np.empty(len(train))
    for i in range(3):
        model, rows = fit(train[fold != i]), np.flatnonzero(fold == i)
        own[rows] = model.predict_proba(train.x[rows])[np.arange(len(rows)), train.y[rows]]
    keep = own > 0.3
    return Defended(fit(train[keep]), keep)
