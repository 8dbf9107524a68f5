"""Numba's `njit` as the victims use it: without the interpreter lock, machine code kept on disk where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """`function` as machine code, made at its first call and kept beside its file or in the user's cache folder.

    A compiled function must not call one of another file: the kept code would outlive changes made there. Only products and sums
    may be fused (`contract`); no sum is reordered, so equal inputs give equal bits.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}
    try:
        return njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:
        # Neither folder can be written to (a read-only installation without a home): compile anew in each process.
        return njit(**options)(function)  # type: ignore[no-any-return]
