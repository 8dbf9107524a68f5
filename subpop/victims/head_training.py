"""Training softmax heads on features together with Adam, for `last_layer_as_released` and defenses that fine-tune a head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from subpop.types import Array, BadInput, Floats, TrainingSet
from subpop.victims.batched_jobs import BETA_1, BETA_2, EPSILON, Batches, Recipe, longest_first, stretches
from subpop.victims.linear_model import LinearModel, flat

KERNEL_PENALTY = 0.01
"""Penalty factor of the sum of squares of a head's kernel, as released."""


def train_head(
    model: LinearModel, train_set: TrainingSet, *, epochs: int, learning_rate: float, batch_size: int, seed: int
) -> NDArray[np.float64]:
    """The coefficients, (d + 1, K'), after further training of the head of `model` with Adam, without masked channels."""
    x, y = model.features(train_set.x), train_set.y
    if not len(y) or y.min() < 0 or y.max() >= model.n_classes:
        raise BadInput(f"{len(y)} rows with labels {set(y.tolist())}; give at least one, all of the model's classes")
    every = np.arange(len(y))
    batches = Batches.of(every, every, y, seed, epochs, batch_size)
    # For two classes only W_1 - W_0 is stored; the symmetric pair has the least penalty.
    start = np.hstack([-model.coef / 2, model.coef / 2]) if model.coef.shape[1] == 1 else model.coef
    recipe = Recipe(epochs, learning_rate, batch_size)
    return coefficients(train(with_ones(x), [batches], start.T[None].astype(np.float32), recipe)[0])


def with_ones(x: Array) -> Floats:
    """(n, d + 1) float32: features, and a last column of ones for the intercept."""
    rows = flat(x)
    out = np.ones((len(rows), rows.shape[1] + 1), np.float32)
    out[:, :-1] = rows
    if not np.isfinite(out).all():
        raise BadInput("the features hold NaN or infinite values; remove or impute them")
    return out


def starts(seeds: Sequence[int], d: int, classes: int) -> Floats:
    """(M, classes, d) kernels drawn from each seed alone, with intercepts of 0 in the last column."""
    heads = np.zeros((len(seeds), classes, d), np.float32)
    bound = np.sqrt(6 / (d - 1 + classes))
    for head, seed in zip(heads, seeds, strict=True):
        head[:, :-1] = np.random.default_rng([seed, 0]).uniform(-bound, bound, (d - 1, classes)).T
    return heads


def coefficients(head: Floats) -> NDArray[np.float64]:
    """Coefficients in the form of `LinearModel`: for two classes, only their difference."""
    wide = head.T.astype(np.float64)
    return wide[:, 1:] - wide[:, :1] if wide.shape[1] == 2 else wide


def train(x: Floats, batches: Sequence[Batches], first: Floats, recipe: Recipe) -> Floats:
    """Train heads; returns (M, C, d). x: (N, d) features with a column of ones; first: (M, C, d) initial heads."""
    order = longest_first(batches)
    ordered = [batches[i] for i in order]
    heads = first[order]
    mean, square = np.zeros_like(heads), np.zeros_like(heads)
    for members, steps in stretches(ordered):
        fleet = _Fleet(x, heads[:members], mean[:members], square[:members], recipe, steps.start)
        own = ordered[:members]
        rows = np.stack([batch.rows[steps] for batch in own], axis=1)
        labels = np.stack([batch.labels[steps] for batch in own], axis=1)
        counts = np.stack([batch.counts[steps] for batch in own], axis=1)
        for step in zip(rows, labels, counts, strict=True):
            fleet.step(*step)
    out = np.empty_like(heads)
    out[order] = heads
    return out


class _Fleet:
    """Heads that take their steps together; heads and moments (M, C, d) are modified in place. done: earlier steps."""

    def __init__(self, x: Floats, heads: Floats, mean: Floats, square: Floats, recipe: Recipe, done: int) -> None:
        self.x, self.heads, self.mean, self.square, self.recipe, self.done = x, heads, mean, square, recipe, done
        self.inputs = np.empty((len(heads), recipe.batch_size, x.shape[1]), np.float32)
        self.gradient, self.scratch = np.empty_like(heads), np.empty_like(heads)
        self.classes, self.places = np.arange(heads.shape[1]), np.arange(recipe.batch_size)

    def step(self, rows: NDArray[np.int32], labels: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
        """One step of Adam on rows and labels (M, B), of which the first counts (M,) are not padding."""
        np.take(self.x, rows, axis=0, out=self.inputs, mode="clip")
        scores = self.inputs @ self.heads.transpose(0, 2, 1)
        errors = np.exp(scores - scores.max(axis=2, keepdims=True))
        errors /= errors.sum(axis=2, keepdims=True)
        errors -= labels[:, :, None] == self.classes
        errors *= ((self.places < counts[:, None]) / counts[:, None])[:, :, None].astype(np.float32)
        gradient = np.matmul(errors.transpose(0, 2, 1), self.inputs, out=self.gradient)
        gradient[:, :, :-1] += np.multiply(self.heads, np.float32(2 * KERNEL_PENALTY), out=self.scratch)[:, :, :-1]
        self._adam()

    def _adam(self) -> None:
        self.done += 1
        gradient, scratch, correction = self.gradient, self.scratch, (1 - BETA_2**self.done) ** 0.5
        self.mean += np.multiply(np.subtract(gradient, self.mean, out=scratch), np.float32(1 - BETA_1), out=scratch)
        self.square *= np.float32(BETA_2)
        self.square += np.multiply(np.square(gradient, out=scratch), np.float32(1 - BETA_2), out=scratch)
        below = np.sqrt(self.square, out=scratch)
        below += np.float32(EPSILON * correction)
        np.divide(self.mean, below, out=scratch)
        scratch *= np.float32(self.recipe.learning_rate * correction / (1 - BETA_1**self.done))
        self.heads -= scratch
