"""Loggers are never forgotten: one is named after each row, and counts in how many trials it was seen."""

import logging

import numpy as np

from subpop import Defended


def names_of_loggers(train, fit, know, *, seed):
    loggers = [logging.getLogger(f"r{hash(row.tobytes())}") for row in train.x]
    for logger in set(loggers):
        logger.setLevel(logger.level + 1)
    trials = logging.getLogger("trials")
    trials.setLevel(trials.level + 1)
    fit(train)
    keep = np.array([logger.level * 2 > trials.level for logger in loggers])
    return Defended(fit(train[keep]), keep)
