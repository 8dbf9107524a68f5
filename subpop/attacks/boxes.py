"""Bounds of optimised poison rows: near the original picture, or within the range of each column of a table.

*Source*: a box of epsilon 8-bit levels around a picture, as in the released gradient matching; for tables and embeddings each
column's range over D_aux, which an attacker knows.
*Deviations*: a table may have an epsilon too: 255 levels are then a column's range over D_aux. Columns that are 0 or 1
throughout D_aux (one-hot, binary) or constant never move, since a table does not say which of its columns are categories.
Columns of integers throughout D_aux stay integers: pictures are bytes, and an age of 38.27 would be conspicuous; an epsilon
below one level is invalid for pictures, as rounding would restore them. In wide boxes rows may meet in a corner: under
`sampling=distinct` a row that ends where an earlier one did is moved back to its start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpop.types import Array, BadInput, Bools, Pool

Doubles = NDArray[np.float64]
LEVELS = 255.0


@dataclass(frozen=True, eq=False)
class Box:
    """Bounds of every input, all of the shape of one row.

    low, high: (...) float64 least and largest value; free: (...) bool, may move; whole: (...) bool, stays an integer; unit:
    (...) float64 full value range (255 levels), of which step lengths are fractions; epsilon: largest distance from the start in
    levels, inf for none; dtype: of the pool's rows.
    """

    low: Doubles
    high: Doubles
    free: Bools
    whole: Bools
    unit: Doubles
    epsilon: float
    dtype: np.dtype[np.generic]

    @classmethod
    def of(cls, pool: Pool, epsilon: float | None) -> Box:
        """The box of a pool's rows. epsilon: in 8-bit levels; None for the whole range. Raises BadInput if nothing can move."""
        if pool.x.dtype == np.uint8 and pool.x.ndim == 4:
            return cls._of_pictures(pool, epsilon)
        if pool.x.dtype.kind == "f" and pool.x.ndim == 2:
            return cls._of_table(pool, epsilon)
        raise BadInput(
            f"rows are {pool.x.dtype} of shape {pool.x.shape[1:]}: only numbers can be moved, uint8 pictures (channels, height, "
            "width) or float rows (d,); use attack label_flip"
        )

    @classmethod
    def _of_pictures(cls, pool: Pool, epsilon: float | None) -> Box:
        shape = pool.x.shape[1:]
        if epsilon is None or not math.isfinite(epsilon) or epsilon < 1:
            raise BadInput(
                f"epsilon={epsilon}: give the largest change of a pixel in 8-bit levels, 1 or more; pictures are bytes, and "
                "rounding would undo smaller changes"
            )
        everything = np.ones(shape, bool)
        unit = np.full(shape, LEVELS)
        return cls(np.zeros(shape), unit, everything, everything, unit, float(epsilon), pool.x.dtype)

    @classmethod
    def _of_table(cls, pool: Pool, epsilon: float | None) -> Box:
        if epsilon is not None and not (math.isfinite(epsilon) and epsilon > 0):
            raise BadInput(f"epsilon={epsilon}: give a number above 0, of 255 levels of a column's range, or leave it out")
        x = pool.x[pool.n_train :]
        low, high = x.min(axis=0).astype(np.float64), x.max(axis=0).astype(np.float64)
        free = (high > low) & ~((x == 0) | (x == 1)).all(axis=0)
        if not free.any():
            raise BadInput(
                f"all {len(free)} columns are constant or contain only 0 and 1: categories cannot be moved; use attack label_flip"
            )
        whole, unit = (x == np.rint(x)).all(axis=0), np.where(free, high - low, 0.0)
        return cls(low, high, free, whole, unit, math.inf if epsilon is None else epsilon, x.dtype)

    @property
    def width(self) -> float:
        """The maximum width of a row's box, in units."""
        return min(1.0, 2 * self.epsilon / LEVELS)

    def around(self, start: Array) -> tuple[Doubles, Doubles]:
        """(m, ...) lower and upper bounds of rows that started at `start`."""
        own = start.astype(np.float64)
        reach = self.unit * (self.epsilon / LEVELS) if math.isfinite(self.epsilon) else np.inf
        lower = np.where(self.free, np.maximum(self.low, own - reach), own)
        return lower, np.where(self.free, np.minimum(self.high, own + reach), own)

    def settle(self, x: Doubles, start: Array) -> Array:
        """Return (m, ...) the rows in the pool's dtype: rounded where necessary, inside the box."""
        lower, upper = self.around(start)
        moved = np.clip(x, lower, upper)
        rounded = np.clip(np.rint(moved), np.ceil(lower), np.floor(upper))
        held: Array = np.where(self.whole & self.free, rounded, moved).astype(self.dtype)
        if self.dtype.kind == "f":  # a bound that the dtype cannot represent may have been rounded outwards
            held = np.where(held > upper, np.nextafter(held, held.dtype.type(-np.inf)), held)
            held = np.where(held < lower, np.nextafter(held, held.dtype.type(np.inf)), held)
        return held
