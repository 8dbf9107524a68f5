"""Rows and learners whose reaction to one inserted row is known: what ensembles are tested on."""

from __future__ import annotations

import numpy as np

from subpop.defenses.ensembles import content_hash
from subpop.types import TrainingSet

TRIGGER = 100.0


class Triggered:
    """Predicts class 0 everywhere, or class 1 if it saw a single row with a first coordinate of at least `TRIGGER`."""

    def __init__(self, train):
        self.label = int((train.x[:, 0] >= TRIGGER).any())

    def predict_proba(self, x):
        return np.eye(2, dtype=np.float32)[np.full(len(x), self.label)]

    features = predict_proba


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 2)).astype(np.float32)


def training_set(n=400, extra=None):
    """Rows of two classes, and rows that trigger."""
    x = rows(n) if extra is None else np.concatenate([rows(n), extra])
    return TrainingSet.of(x, np.arange(len(x)) % 2)


def triggers(k, parts):
    """One row that triggers in each of these parts."""
    candidates = np.stack([TRIGGER + np.arange(1000), np.zeros(1000)], axis=1).astype(np.float32)
    own = (content_hash(candidates) % np.uint64(k)).astype(int)
    return np.stack([candidates[np.flatnonzero(own == part)[0]] for part in parts])
