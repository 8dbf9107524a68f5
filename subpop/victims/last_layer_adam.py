"""The last layer of a frozen network as the released scripts train it: twelve epochs of Adam, in fleets.

*Source*: the paper's "LL" victims: a softmax head on frozen features, the penalty 0.01 * sum(W^2) on its kernel, Adam at 1e-3
(Keras: epsilon 1e-7), batches of 32, 12 epochs, mean cross-entropy; kernel Glorot uniform, intercepts 0; float32.
*Deviations*: none known. Training stops before the optimum that `last_layer` computes, so both are provided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import joblib
import numpy as np
from numpy.typing import NDArray

from subpop.runtime.threads import on_threads, one_thread
from subpop.types import BadInput, FleetJob, Floats, Model
from subpop.types.roles import Trainable
from subpop.victims.batched_jobs import Batches, Recipe, present_jobs, stacked
from subpop.victims.head_training import coefficients, starts, train, with_ones
from subpop.victims.last_layer import LastLayerModel

_BUDGET = 2 << 20
"""Bytes of heads that are trained together, about one core's share of the cache. Constant: it determines a fleet's chunks."""


class LastLayerAsReleased:
    """Softmax heads on a pool of features. Weights of a job may be 0 or 1."""

    exact = False

    def __init__(self, epochs: int = 12, learning_rate: float = 1e-3, batch_size: int = 32) -> None:
        if epochs < 1:
            raise BadInput(f"epochs={epochs}; it must be at least 1")
        self.recipe = Recipe(epochs, learning_rate, batch_size)

    def trainable(self, seed: int) -> Trainable:
        """The recipe of the victim of a trial, for defenses that train it themselves."""
        from subpop.victims.stepwise import LinearSteps

        return LinearSteps(self.recipe, seed, LastLayerModel)

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """Train one `LastLayerModel` per job. Raises BadInput for several pools, non-finite features, or weights not 0 or 1."""
        jobs = present_jobs(jobs, seeds)
        if not jobs:
            return []
        x, rows = stacked(jobs)
        features, classes = with_ones(x), jobs[0].pool.n_classes

        def fleet(chunk: slice) -> Floats:
            own = zip(jobs[chunk], rows[chunk], seeds[chunk], strict=True)
            batches = [self._batches(job, places, seed) for job, places, seed in own]
            return train(features, batches, starts(seeds[chunk], features.shape[1], classes), self.recipe)

        chunks = list(self._chunks(len(jobs), features.shape[1], classes))
        with one_thread("blas"), on_threads(min(len(chunks), joblib.cpu_count())) as mapped:
            return [LastLayerModel(coefficients(head)) for heads in mapped(fleet, chunks) for head in heads]

    def _batches(self, job: FleetJob, rows: NDArray[np.int64], seed: int) -> Batches:
        return Batches.of(job.rows, rows, job.y, seed, self.recipe.epochs, self.recipe.batch_size)

    def _chunks(self, count: int, d: int, classes: int) -> Iterator[slice]:
        """Split the jobs, in order, so that each chunk fits into the budget."""
        size = max(1, _BUDGET // (4 * d * (self.recipe.batch_size + 5 * classes)))
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))
