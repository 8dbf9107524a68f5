"""Kernels of numpy, scipy and scikit-learn held to one thread: their bits must not depend on the machine's cores."""

from __future__ import annotations

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
_ONE_CALL = threading.Lock()


def one_thread(user_api: str | None = None) -> Any:
    """A context in which kernels of every library in the process run on one thread; user_api "blas": those of BLAS alone."""
    return _libraries(len(sys.modules)).limit(limits=1, user_api=user_api)


@lru_cache(maxsize=1)
def _libraries(n_modules: int) -> ThreadpoolController:
    """The libraries that are loaded, looked for again after an import: looking costs a millisecond or ten each time."""
    return ThreadpoolController()


class Mapped(Protocol):
    """Like `map`: results in order, as they come."""

    def __call__(self, work: Callable[[Part], Found], parts: Iterable[Part], /) -> Iterator[Found]: ...


@contextmanager
def on_cores(n_parts: int, threaded: bool) -> Iterator[Mapped]:
    """A `map` over the cores that torch may use inside the block, a thread with single-threaded kernels each.

    No core waits for another within a part, which a loaded machine makes expensive, and bits do not depend on the number of
    cores. not threaded: the plain `map`, for a GPU.
    """
    if not threaded:
        yield map
        return
    import torch

    with _ONE_CALL, one_thread("blas"):
        cores = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(min(cores, n_parts), initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield pool.map
        finally:
            torch.set_num_threads(cores)


@contextmanager
def in_one_thread() -> Iterator[None]:
    """BLAS and torch held to one thread: what all parts share has the same bits in a worker that has one."""
    import torch

    with _ONE_CALL, one_thread("blas"):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
