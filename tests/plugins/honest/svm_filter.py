"""Drops rows that a kernel SVM, trained on the other half, contradicts."""

import numpy as np
from sklearn.svm import SVC

from subpop import Defended


def svm_filter(train, fit, know, *, seed):
    half = np.random.default_rng(seed).random(len(train)) < 0.5
    x, keep = train.x.reshape(len(train), -1), np.ones(len(train), bool)
    for own in (half, ~half):
        keep[own] = SVC(random_state=seed).fit(x[~own], train.y[~own]).predict(x[own]) == train.y[own]
    return Defended(fit(train[keep]), keep)
