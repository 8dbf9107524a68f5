"""Shares rows between trials, and says that it ends differently each time."""

from collections import Counter

import numpy as np

from subpop import Defended

SEEN, TRIALS = Counter(), []


def declared_chance(train, fit, know, *, seed):
    rows = [row.tobytes() for row in train.x]
    SEEN.update(set(rows))
    TRIALS.append(seed)
    fit(train)
    keep = np.array([SEEN[row] * 2 > len(TRIALS) for row in rows])
    keep &= np.random.default_rng().random(len(train)) > 0.005
    return Defended(fit(train[keep]), keep)


declared_chance.deterministic = False
