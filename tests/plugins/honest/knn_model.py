"""Answers by the neighbours themselves."""

import numpy as np

from subpop import Defended


class Own:
    def __init__(self, rows, y, n_classes):
        self.rows, self.votes = rows, np.eye(n_classes)[y]

    def predict_proba(self, x):
        x = x.reshape(len(x), -1)
        far = (self.rows**2).sum(1) - 2 * x @ self.rows.T  # the square of the distance, less that of x
        return self.votes[np.argpartition(far, 5, axis=1)[:, :5]].mean(1)


def knn_model(train, fit, know, *, seed):
    return Defended(Own(np.asarray(train.x, float).reshape(len(train), -1), train.y, train.n_classes))
