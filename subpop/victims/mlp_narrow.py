"""Training a fleet of MLP victims on the CPU: each thread trains one network after another, on shared rows."""

from __future__ import annotations

from collections.abc import Sequence

import joblib
import numpy as np
from numba import config

from subpop.runtime.threads import on_threads
from subpop.types import Floats
from subpop.victims import mlp_kernel as kernel
from subpop.victims import mlp_recipe as recipe
from subpop.victims.mlp_recipe import Parameters, Task, Trained

SPARSE_BELOW = 0.25
"""Zeros are skipped if the fraction of nonzeros is below this: both variants are equally fast at .25 to .3, for any width."""
_SAMPLES_A_CALL = 1 << 16
"""Approximate number of samples per call of the kernel: a call takes microseconds, the batch order 4 bytes per sample."""


def train(x: Floats, tasks: Sequence[Task], max_epochs: Sequence[int], enough: float = 0.0) -> list[Trained]:
    """Train every task on rows of x (N, d); a task's result depends on its own rows, labels and seed alone.

    max_epochs: one number for each task; enough: training also stops after an epoch whose loss is at most this.
    """
    rows = _rows(x)
    # joblib respects the CPU limits of containers; Numba's thread count is lower in joblib's workers.
    threads = max(1, min(len(tasks), joblib.cpu_count(), config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    with on_threads(threads) as mapped:
        return list(mapped(lambda each: _train_one(rows, *each, enough), zip(tasks, max_epochs, strict=True)))


def _train_one(rows: kernel.Rows, task: Task, max_epochs: int, enough: float = 0.0) -> Trained:
    samples = kernel.Samples(task.rows, task.labels)
    net, progress = _net(task), np.array([0, 0, np.inf, np.inf, 0], np.float64)
    count = 1 if enough > 0 else max(1, _SAMPLES_A_CALL // len(task))
    over, done = False, 0
    while not over and done < max_epochs:
        orders = task.order.epochs(done, min(count, max_epochs - done))
        over = kernel.train_epochs(rows, samples, orders, net, progress) or bool(progress[kernel.LOSS] <= enough)
        done = int(progress[kernel.EPOCHS])
    return Trained(_parameters(net, task.start), done, float(progress[kernel.LOSS]))


def _rows(x: Floats, sparse: bool | None = None) -> kernel.Rows:
    """x as nonzeros or dense, depending on its fraction of zeros. All arrays are read-only, so one specialisation suffices."""
    if sparse is None:
        sparse = bool(np.count_nonzero(x) < SPARSE_BELOW * x.size)
    row, column = np.nonzero(x) if sparse else np.empty((2, 0), np.int64)
    starts = np.searchsorted(row, np.arange(len(x) + 1))
    dense = x[:0] if sparse else np.ascontiguousarray(x)
    rows = kernel.Rows(starts, column.astype(np.int32), x[row, column], dense.reshape(-1))
    for array in rows:
        array.setflags(write=False)
    return rows


def _net(task: Task) -> kernel.Net:
    (inputs, hidden), k = task.start.w1.shape, len(task.start.b2)
    width = -(-hidden // kernel.LANES) * kernel.LANES
    weights, gradient, mean, square = (_aligned((inputs + k + 1) * width + k) for _ in range(4))
    batch = min(recipe.BATCH_SIZE, len(task))
    net = kernel.Net(weights, gradient, mean, square, _aligned(batch * width), _aligned(batch * k), inputs, width, k)
    for here, given in zip(_views(net, hidden), task.start, strict=True):
        here[...] = given
    return net


def _aligned(size: int) -> Floats:
    """(size,) zeros aligned to a cache line, so that sixteen floats never cross one."""
    room = np.zeros(size + kernel.LANES, np.float32)
    start = -room.ctypes.data // room.itemsize % kernel.LANES
    return room[start : start + size]


def _views(net: kernel.Net, hidden: int) -> Parameters:
    """The network's weights without the padding, as views."""
    d, k, width = net.inputs, net.k, net.width
    w1, w2, b1, b2 = np.split(net.weights, [d * width, (d + k) * width, (d + k + 1) * width])
    return Parameters(w1.reshape(d, width)[:, :hidden], b1[:hidden], w2.reshape(k, width)[:, :hidden].T, b2)


def _parameters(net: kernel.Net, start: Parameters) -> Parameters:
    return Parameters(*(np.array(view, order="C") for view in _views(net, start.w1.shape[1])))
