"""Asks for a victim whose solution is hard to reach from where the solver starts, and hopes to be handed the start."""

import numpy as np

from subpop import Defended, TrainingSet


def solver_start(train, fit, know, *, seed):
    x = np.zeros((2, *train.x.shape[1:]), train.x.dtype)
    x[1] = 1e-20
    try:
        return Defended(fit(TrainingSet.of(x, np.array([0, 1]))))
    except ValueError:
        return Defended(fit(train))
