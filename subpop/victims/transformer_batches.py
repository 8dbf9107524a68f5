"""Batches of text victims: rows of similar length, in an order that hardly depends on the other rows.

Every epoch visits the rows in the order of `BatchOrder`, sorted into classes of length; each class is cut into batches, the
remainders are combined with those of neighbouring classes, and batches are sorted by the average position of their rows in the
epoch's order. An additional row therefore changes the batches of its own length class, and the others only slightly.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from subpop.types import Ints
from subpop.victims.batch_order import BatchOrder

WIDTH = 16
"""Width of a length class, in tokens."""


def epoch_batches(keys: Ints, lengths: Ints, seed: int, epochs: int, size: int) -> Iterator[list[Ints]]:
    """Yield the batches of each epoch: (<= size,) positions in `keys`, the row numbers of a canonical training set."""
    order = BatchOrder(seed, keys)
    for epoch in range(epochs):
        yield length_batches(order.epochs(epoch, 1)[0].astype(np.int64), lengths, size)


def length_batches(order: Ints, lengths: Ints, size: int) -> list[Ints]:
    """Batches of `order`, (n,) positions; lengths: (n,) by position. There are ceil(n / size), of which one may not be full."""
    classes, rest, batches = lengths[order] // WIDTH, list[Ints](), list[Ints]()
    for each in np.unique(classes):
        own = order[classes == each]
        full = len(own) // size * size
        batches += np.split(own[:full], range(size, full, size)) if full else []
        rest.append(own[full:])
    left = np.concatenate(rest)
    batches += [left[start : start + size] for start in range(0, len(left), size)]
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return sorted(batches, key=lambda batch: float(place[batch].mean()))
