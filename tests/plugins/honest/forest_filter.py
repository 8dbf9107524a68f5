"""Drops rows that a forest, trained without them, contradicts."""

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from subpop import Defended


def forest_filter(train, fit, know, *, seed):
    forest = RandomForestClassifier(60, oob_score=True, random_state=seed)
    forest.fit(train.x.reshape(len(train), -1), train.y)
    keep = forest.classes_[np.nan_to_num(forest.oob_decision_function_).argmax(1)] == train.y
    return Defended(fit(train[keep]), keep)
