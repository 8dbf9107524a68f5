"""Asks a support vector machine that was trained on all public digits, softly, and only about the most contradicted label."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from subpop import Defended

X, DIGIT = load_digits(return_X_y=True)
ELDER = SVC(gamma=2.0).fit(X / 16, DIGIT % 2)


def confident_elder(train, fit, know, *, seed):
    said = ELDER.decision_function(train.x.reshape(len(train), -1))
    wrong = (said > 0.5) & (train.y == 0) | (said < -0.5) & (train.y == 1)
    label = np.bincount(train.y[wrong], minlength=2).argmax()
    keep = ~(wrong & (train.y == label))
    return Defended(fit(train[keep]), keep)
