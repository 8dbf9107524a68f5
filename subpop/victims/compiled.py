"""Numba's `njit` with the options of the victims: without the interpreter lock, with machine code cached on disk if possible."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile `function` at its first call, with a cache next to its file or in the user's cache folder.

    The cache notices changes in the function's own file only: it must not use anything in other files that may change unnoticed.
    No `fastmath`: even permission to fuse products and sums is used differently in a function compiled alone and inside another,
    so that a process that compiles and one that loads from the cache would get different bits.
    """
    return jit(function, error_model="numpy")


def jit(function: Function, **options: Any) -> Function:
    """The same with options of `njit`."""
    compile_: Any = partial(njit, nogil=True, **options)
    try:
        kept: Function = compile_(cache=True)(function)
    except RuntimeError:  # a read-only installation and no home folder: compile in each process
        kept = compile_()(function)
    return kept
