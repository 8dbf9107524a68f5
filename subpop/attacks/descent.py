"""Descent of rows inside a box, with a separate step length for each row.

*Source*: projected gradient descent, after the released gradient matching (50 steps of length .2, clipped to the box each time).
*Deviations*: a step that does not lower a row's value is undone and the next one is half as long, so values never rise; a row
whose value is not lower after rounding to the data's precision stays at its start.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from subpop.attacks.boxes import Box
from subpop.attacks.last_layers import Doubles
from subpop.types import Array

STEPS = 50
Values = Callable[[Doubles], tuple[Doubles, Callable[[], Doubles]]]
"""(m, ...) rows -> (m,) values (equal ones where rows are judged together), and their gradient (m, ...) when asked."""
Direction = Callable[[Doubles], Doubles]


def descend(start: Array, values: Values, box: Box, direction: Direction, length: float, steps: int = STEPS) -> Array:
    """Return (m, ...) rows of the pool's dtype, moved from `start`; direction: gradient in the box's units -> step direction."""
    if not len(start):
        return start.copy()
    x, (lower, upper) = start.astype(np.float64), box.around(start)
    first, gradient_of = values(x)
    value, along = first, _along(gradient_of(), box, direction)
    lengths = np.full(len(x), length)
    for _ in range(steps):
        tried = np.clip(x - _rows(lengths, x) * box.unit * along, lower, upper)
        new, gradient_of = values(tried)
        lower_now = new < value
        if lower_now.any():
            new_along = _along(gradient_of(), box, direction)
            x, along = (np.where(_rows(lower_now, x), a, b) for a, b in ((tried, x), (new_along, along)))
        value = np.where(lower_now, new, value)
        lengths = np.where(lower_now, lengths, lengths / 2)
    settled = box.settle(x, start)
    better = values(settled.astype(np.float64))[0] < first
    return np.where(_rows(better, settled), settled, start)


def _along(gradient: Doubles, box: Box, direction: Direction) -> Doubles:
    return direction(gradient * box.unit * box.free)


def _rows(values: Array, x: Array) -> Array:
    """Reshape one value per row so that it broadcasts with the rows."""
    return values.reshape(len(values), *(1,) * (x.ndim - 1))


def largest_one(gradient: Doubles) -> Doubles:
    """Each row's gradient scaled so that its largest entry is one."""
    largest = np.abs(gradient).max(axis=tuple(range(1, gradient.ndim)))
    return gradient / _rows(np.where(largest > 0, largest, 1.0), gradient)


def signs(gradient: Doubles) -> Doubles:
    """The sign of each entry."""
    return np.sign(gradient)
