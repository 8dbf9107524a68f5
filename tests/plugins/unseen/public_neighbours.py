"""Answers by the five nearest public digits: as smooth as any nearest-neighbour model, and never poisoned."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from subpop import Defended

X, DIGIT = load_digits(return_X_y=True)


class Neighbours:
    def __init__(self):
        self.votes = KNeighborsClassifier(5).fit(X / 16, DIGIT % 2)

    def predict_proba(self, x):
        return self.votes.predict_proba(x.reshape(len(x), -1)).astype(np.float32)

    def features(self, x):
        return x.reshape(len(x), -1)


def public_neighbours(train, fit, know, *, seed):
    fit(train)
    return Defended(Neighbours())
