"""Drops a tenth at random."""

import numpy as np

from subpop import Defended


def drop_some(train, fit, know, *, seed):
    keep = np.random.default_rng(seed).random(len(train)) > 0.1
    return Defended(fit(train[keep]), keep)
