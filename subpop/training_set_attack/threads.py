"""Independent parts of an attack on the cores of a CPU: a thread each, with single-threaded kernels.

No core waits for another within a part, which a loaded machine makes expensive, and bits do not depend on the number of cores.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

from subpop.threads import one_thread

Part = TypeVar("Part")
Found = TypeVar("Found")
_ONE_CALL = threading.Lock()


class Mapped(Protocol):
    """Like `map`: results in order, as they come."""

    def __call__(self, work: Callable[[Part], Found], parts: Iterable[Part], /) -> Iterator[Found]: ...


@contextmanager
def on_cores(n_parts: int, threaded: bool) -> Iterator[Mapped]:
    """A `map` over the cores that torch may use inside the block; not threaded: the plain one, for a GPU."""
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
