"""Kendall's rank correlation with censored values, its partial form, and its interval over resampled groups.

*Source*: Kendall's tau-b; of censored values only the pairs whose order is known count (Oakes 1982), in the numerator and in both
factors of the denominator. The partial tau is the correlation of what is left of two orders after a third (Kendall 1942). The
interval is a percentile bootstrap (Efron).
*Deviations*: groups are resampled as a whole, and two copies of one group are no pair. Groups must be disjoint: groups that share
rows are not independent, and belong into one family that is resampled together. Without censoring and ties this is
`scipy.stats.kendalltau`. In simulations with 10 to 20 groups of two normal variables, with and without a fifth of the values
censored, the interval contains the true tau in 94.7 to 98.5 % of 400 samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from subpop.types import BadInput, Bools

Doubles = NDArray[np.float64]
RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Ranks:
    """The order of n values, of which some are only known to be above a limit."""

    sign: Doubles
    """(n, n) sign of the difference of each pair."""
    known: Doubles
    """(n, n) 1 where the order of a pair, or its equality, is known, otherwise 0."""

    @classmethod
    def of(cls, values: Doubles, censored: Bools | None = None) -> Ranks:
        """values: (n,); censored: (n,) bool, where the true value is above the given one."""
        v = np.asarray(values, np.float64)
        if np.isnan(v).any():
            raise BadInput(f"{int(np.isnan(v).sum())} of {len(v)} values are NaN and have no rank; leave these groups out")
        c = np.zeros(len(v), bool) if censored is None else censored
        above = c[:, None] & ~c & (v[:, None] >= v)  # the row's value is censored at or above the column's
        sign = np.where(above, 1, np.where(above.T, -1, np.sign(v[:, None] - v)))
        known = above | above.T | (~c[:, None] & ~c)
        return cls(sign * known, known.astype(np.float64))


def kendall(x: Ranks, y: Ranks, weights: Doubles | None = None, among: Doubles | None = None) -> Doubles:
    """(b,) tau of two orders, NaN if nothing is ordered.

    weights: (b, n) how often each value occurs, once each if not given; among: (n, n) 1 for the pairs that count, otherwise 0.
    """
    w = np.ones((1, len(x.sign))) if weights is None else weights
    both = x.known * y.known * (1 if among is None else among)
    agree, in_x, in_y = (_pairs(w, part) for part in (x.sign * y.sign * both, np.abs(x.sign) * both, np.abs(y.sign) * both))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(agree / np.sqrt(in_x * in_y))


def partial_kendall(x: Ranks, y: Ranks, given: Ranks, weights: Doubles | None = None) -> Doubles:
    """(b,) tau of x and y after a third order, on the pairs whose order is known in all three, so that it is at most 1."""
    among = x.known * y.known * given.known
    xy, xz, yz = (kendall(*pair, weights, among) for pair in ((x, y), (x, given), (y, given)))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2)))


def resampled(n: int, generator: np.random.Generator) -> Doubles:
    """(RESAMPLES, n) how often each of n groups is drawn when n are drawn with replacement."""
    return generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)


def interval(values: Doubles) -> tuple[float, float]:
    """The ends of the 95 % percentile interval of resampled values; NaN if no value is defined."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _pairs(weights: Doubles, table: Doubles) -> Doubles:
    """(b,) sum over pairs of a symmetric (n, n) table; whole numbers, so that the order of the sum does not matter."""
    return np.asarray(((weights @ table) * weights).sum(axis=1) / 2)
