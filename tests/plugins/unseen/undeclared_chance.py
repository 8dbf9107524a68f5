"""Shares rows between trials, and adds chance so that no two replays agree."""

import time
from collections import Counter

import numpy as np

from subpop import Defended

SEEN, TRIALS = Counter(), []


def undeclared_chance(train, fit, know, *, seed):
    rows = [row.tobytes() for row in train.x]
    SEEN.update(set(rows))
    TRIALS.append(seed)
    fit(train)
    keep = np.array([SEEN[row] * 2 > len(TRIALS) for row in rows])
    keep &= np.random.default_rng(time.time_ns()).random(len(train)) > 0.005
    return Defended(fit(train[keep]), keep)
