"""Drops rows that the majority of their k-means cluster contradicts."""

import numpy as np
from sklearn.cluster import KMeans

from subpop import Defended


def clusters(train, fit, know, *, seed):
    group = KMeans(30, n_init=1, random_state=seed).fit_predict(train.x.reshape(len(train), -1))
    keep = np.ones(len(train), bool)
    for g in range(30):
        own = np.flatnonzero(group == g)
        keep[own] = train.y[own] == np.bincount(train.y[own], minlength=1).argmax() if len(own) else True
    return Defended(fit(train[keep]), keep)
