"""How near a fleet comes to the arithmetic that it needs: its rate, that of matrix products of the same shapes, and its memory.

Only matrix products count, so that everything else that a fleet does makes its rate smaller. The products run in the same
session, on as many threads as there are cores, each with one thread of BLAS and matrices of its own. Products are counted, and
memory measured, in trainings that are not timed.
"""

from __future__ import annotations

import ctypes
import gc
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import joblib
import numpy as np

from subpop.runtime.threads import one_thread
from subpop.types import Array, FleetJob, Number
from subpop.victims.mlp_recipe import BATCH_SIZE, Task

SECONDS = 0.5
"""Time for which a matrix product is repeated on each thread."""
PROCESS = Path("/proc/self")
"""Where Linux tells the peak of this process's memory, and lets it begin anew."""
Shape = tuple[int, int, int]
"""(m, k, n) of a product of (m, k) and (k, n)."""


@dataclass
class Products:
    """The matrix products of a fleet: (m, k, n), precision, and how often each was done."""

    done: list[tuple[Shape, type, float]] = field(default_factory=list)

    def add(self, shape: Shape, dtype: type, times: float = 1) -> None:
        """Count a product."""
        self.done.append((shape, dtype, times))

    @property
    def operations(self) -> float:
        """Floating-point operations of all of them."""
        return sum(2.0 * times * math.prod(shape) for shape, _, times in self.done)

    @property
    def bytes_moved(self) -> float:
        """Bytes of the three matrices of each product, as if each were read or written once."""
        return sum(times * (m * k + k * n + m * n) * np.dtype(dtype).itemsize for (m, k, n), dtype, times in self.done)

    def of(self, dtype: type) -> Products:
        """Those of one precision."""
        return Products([each for each in self.done if each[1] is dtype])

    @property
    def typical(self) -> Shape:
        """The shape in the middle, if products are sorted by their size and each counts as many times as it has operations."""
        ordered = sorted(self.done, key=lambda each: math.prod(each[0]))
        sums = np.cumsum([times * math.prod(shape) for shape, _, times in ordered])
        return ordered[int(np.searchsorted(sums, sums[-1] / 2))][0]


# --- the numbers ------------------------------------------------------------------------------------------------------


def share_of(products: Products, seconds: float) -> list[Number]:
    """The rate of a fleet that does these products in these seconds, its share of theirs alone, and the bytes that they move.

    By themselves, the products of a precision take the time of as many operations in the shape that is typical of them.
    """
    parts = [products.of(dtype) for dtype in {dtype for _, dtype, _ in products.done}]
    alone = sum(part.operations / matrix_rate(part.typical, part.done[0][1]) for part in parts)
    return [
        Number("gflops", products.operations / seconds / 1e9),
        Number("share_of_matrix_product", alone / seconds),
        Number("product_gigabytes", products.bytes_moved / 1e9),
    ]


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


def peak_of(train: Callable[[], Any]) -> list[Number]:
    """By how many bytes the memory of this process peaks above what it holds before; no number except on Linux.

    Garbage and free memory are given back first, since what is only taken into use again would not count. Pages of files, such as
    the code of libraries, that the system takes back meanwhile count as if they had stayed.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        (PROCESS / "clear_refs").write_text("5")
    except (OSError, AttributeError, TypeError):
        return []
    before, files = _memory("VmHWM"), _memory("RssFile")
    train()
    taken_back = max(0.0, files - _memory("RssFile"))
    return [Number("peak_megabytes", (_memory("VmHWM") + taken_back - before) / 1e6)]


def _memory(kind: str) -> float:
    """Bytes of one line of the process's status."""
    (kilobytes,) = re.findall(rf"{kind}:\s+(\d+) kB", (PROCESS / "status").read_text())
    return 1024.0 * int(kilobytes)


# --- what each kind of fleet multiplies -------------------------------------------------------------------------------


@contextmanager
def counted() -> Iterator[Products]:
    """Count the products of Newton's method with the shared rows and with inverse Hessians.

    Products with the lists of other rows, and what the inverse Hessians themselves take, are not counted.
    """
    from subpop.victims.newton import Newton

    found = Products()
    products, sums, precondition = Newton.products, Newton.sums, Newton.precondition

    def of_products(self: Any, problems: Array, w: Array) -> Array:
        n, d = self.fleet.shared[w.dtype.type].shape
        found.add((len(problems) * w.shape[1], d, n), w.dtype.type)
        return products(self, problems, w)

    def of_sums(self: Any, problems: Array, q: Array) -> Array:
        n, d = self.fleet.shared[q.dtype.type].shape
        found.add((len(problems) * q.shape[1], n, d), q.dtype.type)
        return sums(self, problems, q)

    def of_precondition(self: Any, r: Array) -> Array:
        blocks, size, _ = self.inverse.shape
        if size > 1:
            found.add((len(r), size, size), r.dtype.type, blocks)
        return precondition(self, r)

    with patch.multiple(Newton, products=of_products, sums=of_sums, precondition=of_precondition):
        yield found


def of_solver(train: Callable[[], Any], seconds: float) -> list[Number]:
    """The numbers of a fleet that Newton's method solves in these seconds; it is trained twice more."""
    with counted() as products:
        train()
    return share_of(products, seconds) + peak_of(train)


def of_network(tasks: Sequence[Task], epochs: Sequence[int], seconds: float) -> list[Number]:
    """The rate of a fleet of small networks, as if no input were zero.

    For each row and epoch there are two products with the first layer and three with the second, since the gradient of the inputs
    is not needed.
    """
    inputs, hidden = tasks[0].start.w1.shape
    outputs, products = tasks[0].start.w2.shape[1], Products()
    batches = sum(len(task) * n for task, n in zip(tasks, epochs, strict=True)) / BATCH_SIZE
    products.add((BATCH_SIZE, inputs, hidden), np.float32, 2 * batches)
    products.add((BATCH_SIZE, hidden, outputs), np.float32, 3 * batches)
    return share_of(products, seconds)


@contextmanager
def counted_in_torch() -> Iterator[Products]:
    """Count the products of torch in this thread, forward and backward, but not fused attention.

    A convolution is a product of the windows of its pictures, and its gradient in the inputs one that ends in these windows.
    """
    from torch import Tensor, ops
    from torch.utils._python_dispatch import TorchDispatchMode

    found = Products()

    def matrices(a: Tensor, b: Tensor) -> None:
        found.add((a.shape[-2], a.shape[-1], b.shape[-1]), _numpy_type(a), 1 if a.ndim == 2 else len(a))

    def windows(positions: Tensor, w: Tensor, forward: bool, inputs: bool, weights: bool) -> None:
        """positions: (n, c, h, w) a convolution's outputs, or their gradient."""
        m, k, n = positions.numel() // positions.shape[1], math.prod(w.shape[1:]), len(w)
        for shape in [(m, k, n)] * forward + [(m, n, k)] * inputs + [(n, m, k)] * weights:
            found.add(shape, _numpy_type(w))

    class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out, kind = func(*args, **(kwargs or {})), func.overloadpacket
            if kind in (ops.aten.mm, ops.aten.bmm):
                matrices(*args[:2])
            elif kind is ops.aten.addmm:
                matrices(*args[1:3])
            elif kind is ops.aten.convolution:
                windows(out, args[1], True, False, False)
            elif kind is ops.aten.convolution_backward:
                windows(args[0], args[2], False, *args[-1][:2])
            return out

    with Counting():  # type: ignore[no-untyped-call]
        yield found


def _numpy_type(tensor: Any) -> type:
    return np.dtype(str(tensor.dtype).removeprefix("torch.")).type


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


__all__ = [
    "Products",
    "counted",
    "counted_in_torch",
    "matrix_rate",
    "of_network",
    "of_solver",
    "peak_of",
    "share_of",
    "tasks_of",
]
