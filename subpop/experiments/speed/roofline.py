"""How near a fleet comes to the arithmetic that it needs: its rate, and that of a matrix product of the same shapes.

Only matrix products count, so that everything else that a fleet does makes its rate smaller. The product runs in the same
session, on as many threads as there are cores, each with one thread of BLAS and matrices of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import joblib
import numpy as np

from subpop.runtime.threads import one_thread
from subpop.types import Array, FleetJob, Number
from subpop.victims.mlp_recipe import BATCH_SIZE, Task

SECONDS = 0.5
"""Time for which the matrix product is repeated on each thread."""
Shape = tuple[int, int, int]
"""(m, k, n) of a product of (m, k) and (k, n)."""


def share_of(operations: float, seconds: float, shape: Shape, dtype: type) -> list[Number]:
    """The rate of a fleet in GFLOP/s, and its share of that of the matrix product."""
    rate = operations / seconds
    return [Number("gflops", rate / 1e9), Number("share_of_matrix_product", rate / matrix_rate(shape, dtype))]


def matrix_rate(shape: Shape, dtype: type) -> float:
    """Floating-point operations a second of a matrix product, on all cores."""
    m, k, n = shape

    def repeat(seed: int) -> float:
        rng = np.random.default_rng(seed)
        a: Array = rng.random((m, k)).astype(dtype)
        b: Array = rng.random((k, n)).astype(dtype)
        out, times, begun = a @ b, 0, time.perf_counter()
        while (passed := time.perf_counter() - begun) < SECONDS:
            np.matmul(a, b, out=out)
            times += 1
        return times * 2.0 * math.prod(shape) / passed

    cores = joblib.cpu_count()
    with one_thread("blas"), ThreadPoolExecutor(cores) as pool:
        return sum(pool.map(repeat, range(cores)))


@dataclass
class Products:
    """The matrix products of a solve: (m, k, n) and precision of each."""

    done: list[tuple[Shape, type]] = field(default_factory=list)

    @property
    def operations(self) -> float:
        """Floating-point operations of all of them."""
        return sum(2.0 * math.prod(shape) for shape, _ in self.done)

    @property
    def typical(self) -> tuple[Shape, type]:
        """The product in the middle, if they are sorted by their operations and each counts as many times as it has some."""
        ordered = sorted(self.done, key=lambda each: math.prod(each[0]))
        sums = np.cumsum([math.prod(shape) for shape, _ in ordered])
        return ordered[int(np.searchsorted(sums, sums[-1] / 2))]


@contextmanager
def counted() -> Iterator[Products]:
    """Count the products of Newton's method with the shared rows; products with lists of other rows are not counted."""
    from subpop.victims.newton import Newton

    found = Products()

    def noting(method: Callable[..., Array], transposed: bool) -> Callable[..., Array]:
        def run(self: Any, problems: Array, values: Array) -> Array:
            rows = self.fleet.shared[values.dtype.type]
            count = len(problems) * values.shape[1]
            shape = (count, len(rows), rows.shape[1]) if transposed else (count, rows.shape[1], len(rows))
            found.done.append((shape, values.dtype.type))
            return method(self, problems, values)

        return run

    with (
        patch.object(Newton, "_products", noting(Newton._products, False)),
        patch.object(Newton, "_sums", noting(Newton._sums, True)),
    ):
        yield found


def of_solver(train: Callable[[], Any], seconds: float) -> list[Number]:
    """The rate of a fleet that Newton's method solves in these seconds; it is trained once more to count its products."""
    with counted() as products:
        train()
    return share_of(products.operations, seconds, *products.typical)


def of_network(tasks: Sequence[Task], epochs: Sequence[int], seconds: float) -> list[Number]:
    """The rate of a fleet of small networks, as if no input were zero.

    For each row and epoch there are two products with the first layer and three with the second, since the gradient of the inputs
    is not needed.
    """
    inputs, hidden = tasks[0].start.w1.shape
    outputs = tasks[0].start.w2.shape[1]
    each = 4.0 * inputs * hidden + 6.0 * hidden * outputs
    operations = sum(len(task) * n * each for task, n in zip(tasks, epochs, strict=True))
    return share_of(operations, seconds, (BATCH_SIZE, inputs, hidden), np.float32)


def tasks_of(jobs: Sequence[FleetJob], seeds: Sequence[int], hidden: int) -> tuple[Array, list[Task]]:
    """The rows and tasks of a fleet of small networks."""
    from subpop.victims.batch_order import BatchOrder
    from subpop.victims.batched_jobs import present, stacked
    from subpop.victims.linear_model import flat
    from subpop.victims.mlp_recipe import initial

    ordered = [present(job) for job in jobs]
    stack, rows = stacked(ordered)
    x, classes = flat(np.asarray(stack, np.float32)), jobs[0].pool.n_classes
    outputs = 1 if classes == 2 else classes
    return x, [
        Task(own, job.y.astype(np.int32), BatchOrder(seed, job.rows), initial(seed, x.shape[1], hidden, outputs))
        for job, own, seed in zip(ordered, rows, seeds, strict=True)
    ]


__all__ = ["counted", "matrix_rate", "of_network", "of_solver", "share_of", "tasks_of"]
