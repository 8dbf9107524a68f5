"""The last layer of a frozen network as the released scripts train it: twelve epochs of Adam, a fleet at a time.

*Source*: the paper's "LL" victims: a softmax head on frozen features, the penalty 0.01 * sum(W^2) on its kernel, Adam at 1e-3
(Keras: epsilon 1e-7), batches of 32, 12 epochs, mean cross-entropy; kernel Glorot uniform, intercepts 0; float32.
*Deviations*: none known. It stops short of the optimum that `last_layer` solves for, which is why both are offered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
from numpy.typing import NDArray

from subpop.runtime.threads import one_thread
from subpop.types import Array, BadInput, FleetJob, Floats, Model, TrainingSet
from subpop.victims.batched_jobs import Batches, Recipe, longest_first, present_jobs, stacked, stretches
from subpop.victims.last_layer import KERNEL_PENALTY, LastLayerModel
from subpop.victims.linear_model import flat

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
_BUDGET = 2 << 20
"""Bytes that heads trained together take, about a core's share of the cache. Fixed: it decides a fleet's chunks."""


class LastLayerAsReleased:
    """Softmax heads on a pool of features. Weights of a job may be 0 or 1."""

    exact = False

    def __init__(self, epochs: int = 12, learning_rate: float = 1e-3, batch_size: int = 32) -> None:
        if epochs < 1:
            raise BadInput(f"epochs={epochs}; it must be at least 1")
        self.recipe = Recipe(epochs, learning_rate, batch_size)

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """One `LastLayerModel` a job; refuses different pools, features that are not finite, and weights other than 0 and 1."""
        jobs = present_jobs(jobs, seeds)
        if not jobs:
            return []
        x, rows = stacked(jobs)
        features, classes = with_ones(x), jobs[0].pool.n_classes

        def fleet(chunk: slice) -> Floats:
            own = zip(jobs[chunk], rows[chunk], seeds[chunk], strict=True)
            batches = [self._batches(job, places, seed) for job, places, seed in own]
            return train(features, batches, _starts(seeds[chunk], features.shape[1], classes), self.recipe)

        chunks = list(self._chunks(len(jobs), features.shape[1], classes))
        with one_thread("blas"), ThreadPoolExecutor(min(len(chunks), joblib.cpu_count())) as pool:
            return [LastLayerModel(_coef(head)) for heads in pool.map(fleet, chunks) for head in heads]

    def _batches(self, job: FleetJob, rows: NDArray[np.int64], seed: int) -> Batches:
        return Batches.of(job.rows, rows, job.y, seed, self.recipe.epochs, self.recipe.batch_size)

    def _chunks(self, count: int, d: int, classes: int) -> Iterator[slice]:
        """Cut the jobs, in order, by the budget."""
        size = max(1, _BUDGET // (4 * d * (self.recipe.batch_size + 5 * classes)))
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))


def train_head(
    model: LastLayerModel, train_set: TrainingSet, *, epochs: int, learning_rate: float, batch_size: int, seed: int
) -> NDArray[np.float64]:
    """The coefficients, (d + 1, K'), of a head trained on from those of `model` by Adam; masked channels do not take part."""
    x, y = model.features(train_set.x), train_set.y
    if not len(y) or y.min() < 0 or y.max() >= model.n_classes:
        raise BadInput(f"{len(y)} rows with labels {set(y.tolist())}; give at least one, all of the model's classes")
    every = np.arange(len(y))
    batches = Batches.of(every, every, y, seed, epochs, batch_size)
    # Two classes keep only W_1 - W_0, of which the least penalised pair is the symmetric one.
    start = np.hstack([-model.coef / 2, model.coef / 2]) if model.coef.shape[1] == 1 else model.coef
    recipe = Recipe(epochs, learning_rate, batch_size)
    return _coef(train(with_ones(x), [batches], start.T[None].astype(np.float32), recipe)[0])


def with_ones(x: Array) -> Floats:
    """(n, d + 1) float32: features, and a last column of ones for the intercept."""
    rows = flat(x)
    out = np.ones((len(rows), rows.shape[1] + 1), np.float32)
    out[:, :-1] = rows
    if not np.isfinite(out).all():
        raise BadInput("the features hold NaN or infinite values; remove or impute them")
    return out


def _starts(seeds: Sequence[int], d: int, classes: int) -> Floats:
    """(M, classes, d) kernels drawn from each seed alone, with intercepts of 0 in the last column."""
    heads = np.zeros((len(seeds), classes, d), np.float32)
    bound = np.sqrt(6 / (d - 1 + classes))
    for head, seed in zip(heads, seeds, strict=True):
        head[:, :-1] = np.random.default_rng([seed, 0]).uniform(-bound, bound, (d - 1, classes)).T
    return heads


def _coef(head: Floats) -> NDArray[np.float64]:
    """As `LinearModel` has it: of two classes, only the difference."""
    wide = head.T.astype(np.float64)
    return wide[:, 1:] - wide[:, :1] if wide.shape[1] == 2 else wide


def train(x: Floats, batches: Sequence[Batches], starts: Floats, recipe: Recipe) -> Floats:
    """(M, C, d) trained heads: x (N, d) features with a column of ones, starts (M, C, d)."""
    order = longest_first(batches)
    ordered = [batches[i] for i in order]
    heads = starts[order]
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
    """Heads that take their steps together; heads and moments (M, C, d) are changed in place. done: steps taken before."""

    def __init__(self, x: Floats, heads: Floats, mean: Floats, square: Floats, recipe: Recipe, done: int) -> None:
        self.x, self.heads, self.mean, self.square, self.recipe, self.done = x, heads, mean, square, recipe, done
        self.inputs = np.empty((len(heads), recipe.batch_size, x.shape[1]), np.float32)
        self.gradient, self.scratch = np.empty_like(heads), np.empty_like(heads)
        self.classes, self.places = np.arange(heads.shape[1]), np.arange(recipe.batch_size)

    def step(self, rows: NDArray[np.int32], labels: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
        """One step of Adam: rows and labels (M, B), of which the first counts (M,) are there."""
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
