"""Numba's `njit` as the victims use it: without the interpreter lock, machine code kept on disk where that is possible."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """`function` as machine code, made at its first call and kept beside its file or in the user's cache folder.

    Kept code notices changes in the function's own file only: it must use nothing of other files that may change unseen. No
    `fastmath`: even leave to fuse products and sums is used differently in a function compiled alone and inside another, so that
    a process that compiles and one that loads kept code would get different bits.
    """
    compile_: Any = partial(njit, nogil=True, error_model="numpy")
    try:
        kept: Function = compile_(cache=True)(function)
    except RuntimeError:  # a read-only installation and no home folder: compile in each process
        kept = compile_()(function)
    return kept
