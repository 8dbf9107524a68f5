"""Drops all copies of equal rows but one, and rows whose rounded copies disagree."""

import numpy as np

from subpop import Defended


def ties(train, fit, know, *, seed):
    flat = np.round(train.x.reshape(len(train), -1), 1)
    _, first, group = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    keep = np.isin(np.arange(len(train)), first) | (train.y == train.y[first][group])
    return Defended(fit(train[keep]), keep)
