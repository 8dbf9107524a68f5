"""Neural networks with one hidden layer of ReLU units, trained in fleets.

*Source*: `MLPClassifier` of scikit-learn at its defaults, with the 10 units of the paper's Adult experiments: Adam, learning rate
1e-3, batches of 200, L2 penalty 1e-4, Glorot uniform initialisation; training stops after more than 10 consecutive epochs that
improve the training loss by less than 1e-4, or after 200 epochs.
*Deviations*: float32 throughout, as in scikit-learn for float32 rows. Each epoch's order is drawn independently, not by
shuffling the previous one. With more than two classes the softmax is over all classes of the pool, including those missing from
a training set. As in scikit-learn, inputs are not scaled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, softmax

from subpop.types import Array, BadInput, FleetJob, Floats, Ints, Model
from subpop.victims.batched_jobs import check_jobs, present, stacked
from subpop.victims.mlp_recipe import Parameters, Task, Trained, initial

_BUDGET = 256 << 20
"""Maximum bytes of row numbers, labels, orders and rows outside the pool in memory at a time."""
_SAMPLE_BYTES = 28


class MLP:
    """`hidden` ReLU units, trained for at most `max_epochs`, always on the CPU, even with `--device cuda`.

    enough: training also stops after an epoch whose mean training loss, with the penalty, is at most this.
    """

    exact = False

    def __init__(self, hidden: int = 10, max_epochs: int = 200, enough: float = 0.0) -> None:
        for name, value in (("hidden", hidden), ("max_epochs", max_epochs)):
            if value < 1:
                raise BadInput(f"{name}={value}; it must be at least 1")
        if not 0 <= enough < float("inf"):
            raise BadInput(f"enough={enough}; it must be a training loss of at least 0, and 0 never stops training")
        self.hidden, self.max_epochs, self.enough = hidden, max_epochs, enough

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """Train one `MLPModel` per job. Raises BadInput for invalid jobs, and for weights other than 0 and 1."""
        return self.fit_for(jobs, seeds, [self.max_epochs] * len(jobs))

    def fit_for(self, jobs: Sequence[FleetJob], seeds: Sequence[int], max_epochs: Sequence[int]) -> list[Model]:
        """Train one `MLPModel` per job, each for its own number of epochs at most. Raises BadInput as `fit_many` does."""
        from subpop.victims.mlp_narrow import train

        check_jobs(jobs, seeds)
        if len(max_epochs) != len(jobs) or min(max_epochs, default=1) < 1:
            raise BadInput(f"max_epochs={list(max_epochs)} for {len(jobs)} jobs; give one number of at least 1 per job")
        models: list[Model] = []
        for chunk in _chunks(jobs):
            ordered = [present(job) for job in jobs[chunk]]
            stack, rows = stacked(ordered)
            x = _flat(stack)
            if not np.isfinite(x).all():
                raise BadInput("the rows hold NaN or infinite values; remove or impute them")
            tasks = [self._task(x, *each) for each in zip(ordered, rows, seeds[chunk], strict=True)]
            models += [_model(trained) for trained in train(x, tasks, max_epochs[chunk], self.enough)]
        return models

    def _task(self, x: Floats, job: FleetJob, rows: Ints, seed: int) -> Task:
        from subpop.victims.batch_order import BatchOrder

        classes = job.pool.n_classes
        start = initial(seed, x.shape[1], self.hidden, 1 if classes == 2 else classes)
        return Task(rows, job.y.astype(np.int32), BatchOrder(seed, job.rows), start)


def _chunks(jobs: Sequence[FleetJob]) -> Iterator[slice]:
    """Split the jobs, in order, so that each chunk's own data fits into the budget."""
    start, held = 0, 0
    for i, job in enumerate(jobs):
        size = len(job) * _SAMPLE_BYTES + (0 if job.extra_x is None else job.extra_x.size * 4)
        if i > start and held + size > _BUDGET:
            yield slice(start, i)
            start, held = i, 0
        held += size
    if jobs:
        yield slice(start, len(jobs))


def _flat(x: Array) -> Floats:
    """(n, d) float32 rows, flattened."""
    if x.dtype.kind not in "fiub":
        raise BadInput(f"inputs are {x.dtype}; the MLP victim takes numbers")
    return np.ascontiguousarray(x.reshape(len(x), int(np.prod(x.shape[1:]))), dtype=np.float32)


def _model(trained: Trained) -> MLPModel:
    if not all(np.isfinite(part).all() for part in trained.parameters):
        raise BadInput(f"training diverged in epoch {trained.n_epochs} (loss {trained.final_loss}); scale the features down")
    return MLPModel(*trained.parameters, trained.n_epochs, trained.final_loss)


@dataclass(frozen=True, eq=False)
class MLPModel:
    """A trained network: w1 (d, hidden), b1 (hidden,), w2 (hidden, k), b2 (k,) float32; k = 1 for two classes, else k = C.

    final_loss: mean training loss of the last epoch, including the penalty.
    """

    w1: Floats
    b1: Floats
    w2: Floats
    b2: Floats
    n_epochs: int
    final_loss: float

    def features(self, x: Array) -> Floats:
        """(n, hidden) float32 activations; raises BadInput for rows of another width than d."""
        rows = _flat(np.asarray(x))
        if rows.shape[1] != len(self.w1):
            raise BadInput(f"inputs have {rows.shape[1]} features a row; this model was trained on {len(self.w1)}")
        return np.asarray(np.maximum(rows @ self.w1 + self.b1, 0), dtype=np.float32)

    def predict_proba(self, x: Array) -> Floats:
        """(n, C) float32, rows sum to 1."""
        outputs = self.features(x) @ self.w2 + self.b2
        if outputs.shape[1] > 1:
            return np.asarray(softmax(outputs, axis=1), dtype=np.float32)
        return np.asarray(np.hstack([expit(-outputs), expit(outputs)]), dtype=np.float32)

    def state(self) -> dict[str, Array]:
        """Plain arrays that `from_state` turns back into this model."""
        numbers = {"n_epochs": np.array(self.n_epochs), "final_loss": np.array(self.final_loss)}
        return {"w1": self.w1, "b1": self.b1, "w2": self.w2, "b2": self.b2, **numbers}

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> MLPModel:
        weights = Parameters(*(np.asarray(state[name], dtype=np.float32) for name in Parameters._fields))
        return cls(*weights, n_epochs=int(state["n_epochs"]), final_loss=float(state["final_loss"]))
