"""The operations of `lanes` in plain numpy: their specification, and a fallback if `lanes` cannot be compiled.

Sixteen float32 are an array here. Products and sums are rounded separately, so the bits are those of a processor without fused
multiply-add. Every operation allocates an array, so training is about a hundred times slower.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from subpop.types import Array, Floats

LANES = 16
compiled = njit(nogil=True, error_model="numpy")
"""Without Numba's cache on disk, which contains the same functions compiled with `lanes`."""


@compiled
def get(array: Array, index: int) -> Any:
    """`array[index]`."""
    return array[index]


@compiled
def load(array: Floats, index: int) -> Floats:
    """Sixteen floats of `array` from `index` on."""
    return array[index : index + LANES].copy()


@compiled
def store(array: Floats, index: int, value: Floats) -> None:
    """Write sixteen floats to `array` from `index` on."""
    array[index : index + LANES] = value


@compiled
def fill(scalar: Any) -> Floats:
    """One float, repeated sixteen times."""
    return np.full(LANES, scalar, np.float32)


@compiled
def multiply_add(factor: Any, value: Floats, sums: Floats) -> Any:
    """factor * value + sums; `factor` is one float or sixteen."""
    return factor * value + sums


@compiled
def where_positive(test: Floats, value: Floats) -> Floats:
    """`value` where `test` > 0, else 0."""
    return np.where(test > np.float32(0), value, np.float32(0))


@compiled
def total(value: Floats) -> Any:
    """The sum of sixteen floats, by repeatedly adding one half to the other."""
    eight = value[:8] + value[8:]
    four = eight[:4] + eight[4:]
    two = four[:2] + four[2:]
    return two[0] + two[1]
