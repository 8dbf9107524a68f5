"""Keeps its memory in a module that it plants in sys.modules."""

import sys
import types
from collections import Counter

import numpy as np

from subpop import Defended


def module_in_disguise(train, fit, know, *, seed):
    module = sys.modules.setdefault("xml.rows", types.ModuleType("xml.rows"))
    counts = module.__dict__.setdefault("counts", Counter())
    module.trials = getattr(module, "trials", 0) + 1
    rows = [row.tobytes() for row in train.x]
    counts.update(set(rows))
    fit(train)
    keep = np.array([counts[row] * 2 > module.trials for row in rows])
    return Defended(fit(train[keep]), keep)
