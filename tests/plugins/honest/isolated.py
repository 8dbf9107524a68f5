"""Drops what an isolation forest finds unusual."""

from sklearn.ensemble import IsolationForest

from subpop import Defended


def isolated(train, fit, know, *, seed):
    keep = IsolationForest(n_estimators=50, contamination=0.1, random_state=seed).fit_predict(train.x.reshape(len(train), -1)) > 0
    return Defended(fit(train[keep]), keep)
