"""Gives every row the label of most of its neighbours."""

import numpy as np
from sklearn.neighbors import NearestNeighbors

from subpop import Defended


def knn_relabel(train, fit, know, *, seed):
    x = train.x.reshape(len(train), -1)
    near = NearestNeighbors(n_neighbors=7).fit(x).kneighbors(x, return_distance=False)
    votes = np.stack([(train.y[near] == label).sum(1) for label in range(train.n_classes)])
    return Defended(fit(train.relabel(votes.argmax(0))))
