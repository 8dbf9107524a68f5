"""A function of an array that remembers its last result: predictions, certificates and votes ask for the same rows in turn."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from subpop.types import Array

Result = TypeVar("Result")


class Remembered(Generic[Result]):
    """A function of an array that caches its last result by the array's content, shared by predictions and certificates.

    The content is hashed, unless it is the same memory again and read-only down to the array that owns it.
    """

    def __init__(self, compute: Callable[[Array], Result]) -> None:
        self._compute = compute
        self._last: tuple[object, Result] | None = None
        self._held: tuple[Array, object] | None = None

    def __call__(self, x: Array) -> Result:
        x = np.ascontiguousarray(x)
        owner, held = read_only_owner(x), self._held
        place = x.shape, x.dtype, x.ctypes.data
        last = self._last
        if last is not None and held is not None and held[0] is owner and held[1] == place:
            return last[1]
        key = x.shape, x.dtype, hashlib.sha256(x.data).digest()
        if last is None or last[0] != key:
            last = key, self._compute(x)
        self._last, self._held = last, None if owner is None else (owner, place)
        return last[1]


def read_only_owner(x: Array) -> Array | None:
    """The array that owns the memory of x, if it, x and all views between them are read-only; otherwise None."""
    while not x.flags.writeable:
        if x.base is None:
            return x
        if not isinstance(x.base, np.ndarray):
            return None
        x = x.base
    return None
