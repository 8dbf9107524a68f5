"""Passes what it saw from trial to trial in an environment variable."""

import os
import zlib

import numpy as np

from subpop import Defended


def environment_variable(train, fit, know, *, seed):
    own = [f"{zlib.crc32(row.tobytes()):08x}" for row in train.x]
    os.environ["LS_COLORS"] = os.environ.get("LS_COLORS", "") + ":" + ",".join(sorted(set(own)))
    fit(train)
    trials = [set(text.split(",")) for text in os.environ["LS_COLORS"].split(":") if text]
    keep = np.array([sum(row in trial for trial in trials) * 2 > len(trials) for row in own])
    return Defended(fit(train[keep]), keep)
