"""Kernels of numpy, scipy and scikit-learn held to one thread: their bits must not depend on the machine's cores."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

from threadpoolctl import ThreadpoolController


def one_thread(user_api: str | None = None) -> Any:
    """A context in which kernels of every library in the process run on one thread; user_api "blas": those of BLAS alone."""
    return _libraries(len(sys.modules)).limit(limits=1, user_api=user_api)


@lru_cache(maxsize=1)
def _libraries(n_modules: int) -> ThreadpoolController:
    """The libraries that are loaded, looked for again after an import: looking costs a millisecond or ten each time."""
    return ThreadpoolController()
