"""Limiting the kernels of numpy, scipy and scikit-learn to one thread, so that results do not depend on the number of cores."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from threadpoolctl import ThreadpoolController

Part = TypeVar("Part")
Found = TypeVar("Found")
_ONE_CALL = threading.RLock()


def one_thread(user_api: str | None = None) -> Any:
    """A context in which the kernels of all loaded libraries run on one thread; with user_api "blas", only those of BLAS."""
    return _libraries(len(sys.modules)).limit(limits=1, user_api=user_api)


@lru_cache(maxsize=1)
def _libraries(n_modules: int) -> ThreadpoolController:
    """The loaded libraries, searched again only after an import: each search takes a millisecond to ten."""
    return ThreadpoolController()


class Mapped(Protocol):
    """Like `map`: yields results in order."""

    def __call__(self, work: Callable[[Part], Found], parts: Iterable[Part], /) -> Iterator[Found]: ...


@contextmanager
def on_threads(n_threads: int) -> Iterator[Mapped]:
    """A `map` over several threads; for one it is the built-in `map`, since waking a thread on another core takes time."""
    if n_threads <= 1:
        yield map
        return
    with ThreadPoolExecutor(n_threads) as pool:
        yield pool.map


@contextmanager
def on_cores(n_parts: int, threaded: bool) -> Iterator[Mapped]:
    """A `map` over the cores that torch may use, with one thread per core whose kernels are single-threaded.

    No core waits for another within a part, which would be slow on a busy machine, and results do not depend on the number of
    cores. If not threaded, it is the built-in `map`, for a GPU.
    """
    if not threaded:
        yield map
        return
    import torch

    with _ONE_CALL, one_thread("blas"):
        cores = torch.get_num_threads()
        try:
            if min(cores, n_parts) == 1:
                torch.set_num_threads(1)
                yield map
                return
            with ThreadPoolExecutor(min(cores, n_parts), initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield pool.map
        finally:
            torch.set_num_threads(cores)


ONE_CORE = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"),
    "LOKY_MAX_CPU_COUNT": "1",
}
"""The environment of a process that has one core: of its numerical libraries, and of joblib, whose number of cores decides how
many threads victims, certificates and scoring start."""


def n_cores() -> int:
    """Number of cores that this process may use, with the limits of its container and its affinity."""
    import joblib

    return int(joblib.cpu_count())


def use_one_core() -> None:
    """Limit this process to one thread for good: it is one of several workers that share the cores."""
    os.environ.update(ONE_CORE)  # for libraries that are loaded later
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    one_thread()


@contextmanager
def one_core_here() -> Iterator[None]:
    """Limit this process to one thread of its own while workers use the cores."""
    before, torch = os.environ.get("LOKY_MAX_CPU_COUNT"), sys.modules.get("torch")
    threads = 0 if torch is None else torch.get_num_threads()
    os.environ["LOKY_MAX_CPU_COUNT"] = "1"
    if torch is not None:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        os.environ.pop("LOKY_MAX_CPU_COUNT", None)
        if before is not None:
            os.environ["LOKY_MAX_CPU_COUNT"] = before
        if torch is not None:
            torch.set_num_threads(threads)


@contextmanager
def in_one_thread(threaded: bool = True) -> Iterator[None]:
    """Limit BLAS and torch to one thread, so that results are bit-identical to those of a worker with one thread.

    If not threaded, it does nothing, for a GPU.
    """
    if not threaded:
        yield
        return
    with _ONE_CALL, one_thread("blas"), one_torch_thread():
        yield


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Limit torch alone to one thread, which costs a tenth of `in_one_thread`: for single training steps."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
