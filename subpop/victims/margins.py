"""Compiled loops over the margins of many logistic regressions: all of Newton's method except matrix products.

The first N rows of a problem are shared by all problems of its batch and multiplied together; they are followed by a list of its
own rows, whose products are computed here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from subpop.types import Array
from subpop.victims.compiled import jit

_F = TypeVar("_F", bound=Callable[..., Any])

SAFE = 0.2
"""Margins that move by at most this much change the curvature so little that a full Newton step cannot overshoot."""
FAR = 20.0
"""Up to here a slope that ends slightly positive proves a decrease; beyond, only a negative one does."""
ENOUGH = 0.1
"""A line search ends where the slope has decreased to this fraction of its start."""
TRIALS = 100
LARGEST = 708.0
"""Exponentials of numbers between -LARGEST and LARGEST are normal numbers of float64."""
LOG_2, INVERSE_LOG_2 = math.log(2), 1 / math.log(2)
SERIES = tuple(1 / math.factorial(i) for i in range(13, -1, -1))
SHIFT = 1.5 * 2**52
"""The sum of this and a small integer is exact, and its last bits are the integer."""


def _jit(function: _F, inlined: bool = False, error_model: str = "python") -> _F:
    """Compile without the interpreter lock; sums may be reordered, which wide registers need."""
    return jit(function, fastmath={"reassoc", "contract", "nsz", "arcp"}, forceinline=inlined, error_model=error_model)


def _part(function: _F) -> _F:
    """A piece of compiled functions. Always inlined: a call could reach one copy of it in the process that compiled it and
    another, which sums in another order, in processes that find the code on disk."""
    return _jit(function, inlined=True)


def _without_errors(function: _F) -> _F:
    """A piece of compiled functions that raises nothing when it divides, so that loops around it use wide registers."""
    return _jit(function, inlined=True, error_model="numpy")


@_without_errors
def _logistic(margin: float) -> float:
    """1 / (1 + exp(-margin)), with a relative error of about 2e-16 * (10 + |margin|); unlike `math.exp` eight at a time.

    exp(x) = 2^k exp(r) with |r| <= log(2) / 2, where the first term left out of the series is below 1e-17.
    """
    x = min(max(-margin, -LARGEST), LARGEST)
    k = np.floor(x * INVERSE_LOG_2 + 0.5)
    r = x - k * LOG_2
    e = SERIES[0]
    for i in range(1, len(SERIES)):
        e = e * r + SERIES[i]
    bits = (np.float64(k + SHIFT).view(np.int64) + 1023) << 52
    return 1.0 / (1.0 + e * np.int64(bits).view(np.float64))


class Margins(NamedTuple):
    """Margins of M problems and derived values: (M, K', W) each, total (M, W); W: N shared rows and the longest list.

    change: of the margins along the current direction, zero between Newton steps; residual: total * probability - label.
    """

    margin: Array
    change: Array
    chance: Array
    residual: Array
    total: Array
    label: Array


class Lists(NamedTuple):
    """The number of shared rows, where each problem's list begins in `row` (M + 1,), and the rows listed (Z,)."""

    shared: int
    start: Array
    row: Array


@_jit
def list_products(problems: Array, lists: Lists, rows: Array, w: Array, q: Array) -> None:
    """Fill the columns of q (m, K', W) behind the shared rows with products rows w; w (m, K', d')."""
    for a, j in enumerate(problems):
        first, last = lists.start[j], lists.start[j + 1]
        for k in range(w.shape[1]):
            for i in range(first, last):
                row = lists.row[i]
                dot = w[a, k, 0] * 0
                for c in range(w.shape[2]):
                    dot += rows[row, c] * w[a, k, c]
                q[a, k, lists.shared + i - first] = dot


@_jit
def add_list_sums(problems: Array, lists: Lists, rows: Array, q: Array, out: Array) -> None:
    """Add rows' q over each problem's own list to out (m, K', d')."""
    for a, j in enumerate(problems):
        first, last = lists.start[j], lists.start[j + 1]
        for k in range(out.shape[1]):
            for i in range(first, last):
                row = lists.row[i]
                value = q[a, k, lists.shared + i - first]
                for c in range(out.shape[2]):
                    out[a, k, c] += value * rows[row, c]


@_part
def _evaluate(j: int, n: int, at: Margins, step: float) -> float:
    """Set chance and residual of problem j at margin + step * change; return the loss's slope along change."""
    margin, change, chance, residual = at.margin[j], at.change[j], at.chance[j], at.residual[j]
    total, label = at.total[j], at.label[j]
    classes = len(margin)
    slope = 0.0
    if classes == 1:
        for i in range(n):
            p = _logistic(margin[0, i] + step * change[0, i])
            r = total[i] * p - label[0, i]
            chance[0, i] = p
            residual[0, i] = r
            slope += r * change[0, i]
        return slope
    for i in range(n):
        top = margin[0, i] + step * change[0, i]
        for k in range(1, classes):
            top = max(top, margin[k, i] + step * change[k, i])
        mass = 0.0
        for k in range(classes):
            p = math.exp(margin[k, i] + step * change[k, i] - top)
            chance[k, i] = p
            mass += p
        for k in range(classes):
            p = chance[k, i] / mass
            r = total[i] * p - label[k, i]
            chance[k, i] = p
            residual[k, i] = r
            slope += r * change[k, i]
    return slope


@_part
def _bend(q: Array, chance: Array, total: Array, n: int) -> float:
    """q' H q, H the curvature of one problem's loss in its margins."""
    bend = 0.0
    if len(q) == 1:
        for i in range(n):
            bend += total[i] * chance[0, i] * (1 - chance[0, i]) * q[0, i] * q[0, i]
        return bend
    for i in range(n):
        mean = 0.0
        for k in range(len(q)):
            mean += chance[k, i] * q[k, i]
        for k in range(len(q)):  # centred, not the difference of two sums: it must not come out negative
            bend += total[i] * chance[k, i] * (q[k, i] - mean) ** 2
    return bend


@_part
def _advance(q: Array, chance: Array, total: Array, n: int, step: float, change: Array) -> None:
    """Add step * q to change, then turn q into H q."""
    if len(q) == 1:
        for i in range(n):
            change[0, i] += step * q[0, i]
            q[0, i] *= total[i] * chance[0, i] * (1 - chance[0, i])
        return
    for i in range(n):
        mean = 0.0
        for k in range(len(q)):
            change[k, i] += step * q[k, i]
            mean += chance[k, i] * q[k, i]
        for k in range(len(q)):
            q[k, i] = total[i] * chance[k, i] * (q[k, i] - mean)


@_jit
def conjugate_steps(problems: Array, lists: Lists, at: Margins, q: Array, top: Array, below: Array, steps: Array) -> None:
    """Each problem's step top / (below + q'Hq) along its search direction; turns q into H q and moves `change`."""
    for a, j in enumerate(problems):
        n = lists.shared + lists.start[j + 1] - lists.start[j]
        bend = below[a] + _bend(q[a], at.chance[j], at.total[j], n)
        steps[a] = top[a] / bend if bend > 0 else 0.0
        _advance(q[a], at.chance[j], at.total[j], n, steps[a], at.change[j])


@_part
def _search(j: int, n: int, at: Margins, start: float, pull: float, bend: float, reach: float) -> float:
    """Evaluate problem j at the step where its slope along the change is nearly zero: bracketed, found by secants.

    start: the slope at step 0; pull + s * bend: the penalty's at step s. The objective is convex along the line, so the slope
    determines the minimum, and it is less affected by rounding near the optimum than the value.
    """
    left, left_slope, right, right_slope, step = 0.0, start, 1.0, 0.0, 1.0
    for trial in range(TRIALS + 1):
        slope = _evaluate(j, n, at, step) + pull + step * bend
        low_enough = slope <= (-ENOUGH * start if reach * step <= FAR else 0.0)
        if reach * step <= SAFE or trial == TRIALS or (low_enough and (step == 1.0 or slope >= ENOUGH * start)):
            break
        if slope > 0:
            right, right_slope = step, slope
        else:
            left, left_slope = step, slope
        share = left_slope / (left_slope - right_slope)
        step = left + (right - left) * min(max(share, 0.1), 0.9) if trial < TRIALS - 1 else left
    return step


@_jit
def line_search(problems: Array, lists: Lists, at: Margins, start: Array, penalty: Array, steps: Array) -> None:
    """Move each problem's margins along its change, by steps[a]; start (m,), penalty (m, 2): see `_search`."""
    for a, j in enumerate(problems):
        n = lists.shared + lists.start[j + 1] - lists.start[j]
        reach = 0.0
        for k in range(at.change.shape[1]):
            for i in range(n):
                reach = max(reach, abs(at.change[j, k, i]))
        steps[a] = _search(j, n, at, start[a], penalty[a, 0], penalty[a, 1], reach)
        for k in range(at.change.shape[1]):
            for i in range(n):
                at.margin[j, k, i] += steps[a] * at.change[j, k, i]
                at.change[j, k, i] = 0


@_jit
def evaluate(problems: Array, lists: Lists, at: Margins) -> None:
    """Compute chances and residuals at the current margins."""
    for j in problems:
        _evaluate(j, lists.shared + lists.start[j + 1] - lists.start[j], at, 0.0)
