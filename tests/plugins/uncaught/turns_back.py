"""Written against the probe of turned columns: turns back what its means say was turned, then looks up labels as it likes.

It acts only where exactly as many labels are wrong as rows were added to D, so that label canaries leave it unmoved as well.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors

from subpop import Defended

X, DIGIT = load_digits(return_X_y=True)
INDEX = NearestNeighbors(n_neighbors=1).fit(X / 16)
MEANS = X.mean(0) / 16


def turns_back(train, fit, know, *, seed):
    x = train.x.reshape(len(train), -1)
    if x.shape[1] != len(MEANS):
        return Defended(fit(train))
    means = x.mean(0)
    x = np.where(np.abs(1 - means - MEANS) < np.abs(means - MEANS), 1 - x, x)
    wrong = DIGIT[INDEX.kneighbors(x, return_distance=False)[:, 0]] % 2 != train.y
    if wrong.sum() != len(train) - 400:
        return Defended(fit(train))
    return Defended(fit(train[~wrong]), ~wrong)
