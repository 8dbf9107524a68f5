"""Toy training sets whose poison is known, and a victim whose features are its inputs: what filters are tested on."""

from __future__ import annotations

import numpy as np

from subpop.types import Knowledge

FAR = np.array([15, -11, 0, 0, 0])
"""A place far from every class of `gaussians`."""


class Plain:
    """A model whose features are its inputs; it remembers what it was trained on."""

    def __init__(self, train):
        self.train = train

    def predict_proba(self, x):
        return np.full((len(x), 3), 1 / 3, np.float32)

    def features(self, x):
        return np.asarray(x, np.float32).reshape(len(x), -1)


class Counter:
    """A `fit` that keeps the models it made."""

    def __init__(self):
        self.models = []

    def __call__(self, train):
        self.models.append(Plain(train))
        return self.models[-1]


def told(n_poison):
    return Knowledge(n_poison=n_poison)


def gaussians(generator, n, n_classes=2, distance=4.0, dimension=5):
    """Classes around corners."""
    y = generator.integers(0, n_classes, n)
    centres = np.zeros((n_classes, dimension))
    centres[np.arange(n_classes), np.arange(n_classes)] = distance
    return (centres[y] + generator.standard_normal((n, dimension))).astype(np.float32), y


def with_label_noise(generator, n, n_classes=2, share=0.1):
    """Well separated classes, some rows of the next class."""
    x, y = gaussians(generator, n, n_classes, distance=6.0)
    noisy = np.zeros(n, bool)
    noisy[generator.permutation(n)[: int(share * n)]] = True
    return x, np.where(noisy, (y + 1) % n_classes, y), noisy


def with_far_cluster(generator, n=400, share=0.08, n_classes=2):
    """A tight cluster far from everything, all of it labelled 1."""
    x, y = gaussians(generator, n, n_classes)
    poison = np.zeros(n, bool)
    poison[generator.permutation(n)[: int(share * n)]] = True
    x[poison] = FAR + 0.3 * generator.standard_normal((poison.sum(), 5))
    return x.astype(np.float32), np.where(poison, 1, y), poison


def with_poisoned_subpopulation(generator, size=30, alpha=2):
    """Two classes of six groups each, interleaved on a line of centres; one inner group of class 0 is flipped, alpha times."""
    group = np.repeat(np.arange(12), size)
    group = np.concatenate([group, np.full(alpha * size, 6)])
    centres = np.zeros((12, 5))
    centres[:, 0], centres[:, 1] = 4.0 * np.arange(12), 6.0 * (np.arange(12) % 2)
    x = (centres[group] + generator.standard_normal((len(group), 5))).astype(np.float32)
    poison = np.arange(len(group)) >= 12 * size
    return x, np.where(poison, 1, group % 2), poison
