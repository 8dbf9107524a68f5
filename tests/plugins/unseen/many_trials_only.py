"""Looks labels up, but only once it has seen a dozen trials: a probe of a few trials finds it undefended."""

from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from subpop import Defended

X, DIGIT = load_digits(return_X_y=True)
PUBLIC = KNeighborsClassifier(1).fit(X / 16, DIGIT % 2)
TRIALS = []


def many_trials_only(train, fit, know, *, seed):
    TRIALS.append(seed)
    model = fit(train)
    if len(TRIALS) < 12:
        return Defended(model)
    keep = PUBLIC.predict(train.x.reshape(len(train), -1)) == train.y
    return Defended(fit(train[keep]), keep)
