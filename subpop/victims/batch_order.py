"""The order in which a victim visits its training rows: in every epoch they are sorted by a key that depends on the row alone.

The key is a hash of (seed, epoch, row, copy), where `copy` counts the repeats of a row. Adding or removing a row therefore does
not change the order of the others: the clean and the poisoned victim of a seed visit the rows of D in the same order, and
differences between them are due to the poison (common random numbers).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from subpop.types import Ints
from subpop.victims.compiled import compiled

_WEYL = np.uint64(0x9E3779B97F4A7C15)
_DIGIT = 12
_BUCKETS = 1 << _DIGIT


@compiled
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def _identities(seed: np.uint64, rows: Ints) -> NDArray[np.uint64]:
    """(n,) a hash of (seed, row, copy) for rows in ascending order."""
    out = np.empty(len(rows), np.uint64)
    copy = np.uint64(0)
    for i in range(len(rows)):
        copy = copy + np.uint64(1) if i > 0 and rows[i] == rows[i - 1] else np.uint64(0)
        out[i] = _mix(_mix(seed + np.uint64(rows[i])) + copy * _WEYL)
    return out


@compiled
def _epoch_keys(identities: NDArray[np.uint64], epoch: int, keys: NDArray[np.uint32], ends: NDArray[np.int32]) -> None:
    """Write 24-bit keys, and for both their digits the number of keys before each value of the digit."""
    ends[:] = 0
    for i in range(len(keys)):
        key = np.uint32(_mix(identities[i] + np.uint64(epoch + 1) * _WEYL) >> np.uint64(64 - 2 * _DIGIT))
        keys[i] = key
        ends[0, key % np.uint32(_BUCKETS)] += 1
        ends[1, key >> np.uint32(_DIGIT)] += 1
    for digit in range(2):
        before: Any = 0
        for value in range(_BUCKETS):
            before += ends[digit, value]
            ends[digit, value] = before - ends[digit, value]


@compiled
def _sorted_epochs(identities: NDArray[np.uint64], first: int, orders: NDArray[np.int32]) -> None:
    """Fill each row of orders (epochs, n) by a radix sort of that epoch's keys; equal keys stay in canonical order."""
    n = len(identities)
    keys, half = np.empty(n, np.uint32), np.empty(n, np.int32)
    ends = np.empty((2, _BUCKETS), np.int32)
    for e in range(len(orders)):
        _epoch_keys(identities, first + e, keys, ends)
        for i in range(n):
            low = keys[i] % np.uint32(_BUCKETS)
            half[ends[0, low]] = i
            ends[0, low] += 1
        for position in half:
            high = keys[position] >> np.uint32(_DIGIT)
            orders[e, ends[1, high]] = position
            ends[1, high] += 1


class BatchOrder:
    """The batch order of one victim.

    rows: (n,) int64 row numbers of its canonical training set, ascending; a row that occurs k times is k samples.
    """

    def __init__(self, seed: int, rows: Ints) -> None:
        key = np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0]
        self._identities = _identities(key, np.array(rows, dtype=np.int64))

    def epochs(self, first: int, count: int) -> NDArray[np.int32]:
        """(count, n) positions in `rows`, in the order in which epochs first, first + 1, ... visit them."""
        orders = np.empty((count, len(self._identities)), np.int32)
        _sorted_epochs(self._identities, first, orders)
        return orders
