"""Frozen networks small enough to know everything about, for the training-set attack."""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from subpop.experiments.target_sets.ascent import Outcome, attack
from subpop.victims.top_layers.top_layer import TopLayer

DECAY = 0.001
SIDE = 4


class Curved:
    """Features tanh(A x + b) of pictures (n, 1, 4, 4), in float64, with derivatives; A = 0 past the first `seen` pixels."""

    device = "cpu"

    def __init__(self, d: int, seed: int = 0, seen: int = SIDE * SIDE, scale: float = 3.0) -> None:
        rng = np.random.default_rng(seed)
        self.a, self.b = rng.normal(size=(d, SIDE * SIDE)) / 255 / 2, rng.normal(size=d) / 2
        self.a[:, seen:] = 0
        self.scale = scale

    def features(self, pictures):
        pixels = np.reshape(pictures, (len(pictures), -1)).astype(float)
        return self.scale * np.tanh((pixels - 64) @ self.a.T + self.b)

    def features_and_pullback(self, pictures):
        found = self.features(pictures)
        slope = self.scale * (1 - (found / self.scale) ** 2)
        return found, lambda cotangents: ((cotangents * slope) @ self.a).reshape(pictures.shape).astype(np.float32)


class Pixels:
    """Features are pixels / 255."""

    device = "cpu"

    def features(self, pictures):
        return pictures.reshape(len(pictures), -1).astype(float) / 255

    def features_and_pullback(self, pictures):
        return self.features(pictures), lambda cotangents: (cotangents / 255).reshape(pictures.shape).astype(np.float32)


def pictures_of(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 1, SIDE, SIDE), dtype=np.uint8)


def gaussian(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping classes with a common mean, as features after a ReLU have."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    return rng.normal(size=(n, d)) + 1 + 0.3 * (2 * y[:, None] - 1) * (np.arange(d) < 3), y


class Case:
    """A curved backbone, 40 training pictures, and targets of class 0 that the clean top layer mostly gets right."""

    def __init__(self, d: int, seed: int = 0, n: int = 40, **options: float) -> None:
        self.backbone = Curved(d, seed, **options)
        self.pictures = pictures_of(n, seed)
        features = self.backbone.features(self.pictures)
        direction = np.random.default_rng(seed).normal(size=d)
        self.y = (features @ direction > np.median(features @ direction)).astype(np.int64)
        self.top = TopLayer.fit(features, self.y, DECAY)
        others = self.backbone.features(pictures_of(200, seed + 1))
        self.pool = others[self.top.margins(others) < 0]

    def retrained(self, image: int, picture: np.ndarray) -> TopLayer:
        features = self.top.features.copy()
        features[image] = self.backbone.features(picture[None])[0]
        return TopLayer.fit(features, self.y, DECAY)

    def attack(self, sets, images, schedules, **more) -> list[Outcome]:
        return attack(self.backbone, self.top, self.pictures, sets, 0, images=np.array(images), schedules=schedules, **more)


def loss_of(w: np.ndarray, targets: np.ndarray) -> float:
    """Mean log-loss of targets of class 0."""
    return float(np.logaddexp(0, targets @ w).mean())


def residual_of(w: np.ndarray, features: np.ndarray, y: np.ndarray, decay: float = DECAY) -> float:
    return float(np.linalg.norm((expit(features @ w) - y) @ features / len(y) + decay * w))


def dense_hessian(w: np.ndarray, features: np.ndarray, decay: float = DECAY) -> np.ndarray:
    chance = expit(features @ w)
    return (features * (chance * (1 - chance))[:, None]).T @ features / len(features) + decay * np.eye(features.shape[1])


SHAPES = [(60, 7), (30, 30), (25, 90)]
"""Rows and features."""
