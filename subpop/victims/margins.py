"""Compiled loops over the margins of many logistic regressions: everything of Newton's method that is no matrix product.

A problem's rows lie in two places: `shared` rows, which all problems of a fleet multiply at once, and a list of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np

from subpop.types import Array

_F = TypeVar("_F", bound=Callable[..., Any])

SAFE = 0.2
"""Margins that move by at most this much change the curvature so little that a full Newton step cannot overshoot."""
FAR = 20.0
"""Up to here a slope that ends slightly positive proves a decrease; beyond, only a negative one does."""
ENOUGH = 0.1
"""A line search ends where the slope has fallen to this share of its start."""
TRIALS = 40


def _jit(function: _F) -> _F:
    """Compile without the interpreter lock; sums may be reordered, which wide registers need."""
    compile_: Any = partial(numba.njit, nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"})
    try:
        kept: _F = compile_(cache=True)(function)
    except RuntimeError:  # a read-only installation and no home folder: compile anew in each process
        kept = compile_()(function)
    return kept


class Margins(NamedTuple):
    """Margins with all that follows from them: shared rows (M, K', N); lists flat (Z * K'), a (K', length) block a problem.

    change: of the margins along the direction in hand, zero between Newton steps; residual: total * chance - label;
    total and label: of shared rows (Q, N) and (Q, K', N), Q distinct versions; of lists (Z,) and (Z * K').
    """

    margin: Array
    change: Array
    chance: Array
    residual: Array
    total: Array
    label: Array


class Lists(NamedTuple):
    """Which version of the shared weights a problem uses (M,), where its list begins (M + 1,), rows listed (Z,)."""

    version: Array
    start: Array
    row: Array


@_jit
def list_products(problems: Array, lists: Lists, rows: Array, w: Array, out: Array) -> None:
    """out = rows w over each problem's own list; w (len(problems), K', d')."""
    for a, j in enumerate(problems):
        first, last = lists.start[j], lists.start[j + 1]
        for k in range(w.shape[1]):
            at = first * w.shape[1] + k * (last - first)
            for i in range(first, last):
                row = lists.row[i]
                dot = w[a, k, 0] * 0
                for c in range(w.shape[2]):
                    dot += rows[row, c] * w[a, k, c]
                out[at + i - first] = dot


@_jit
def add_list_sums(problems: Array, lists: Lists, rows: Array, q: Array, out: Array) -> None:
    """out += rows' q over each problem's own list; out (len(problems), K', d')."""
    for a, j in enumerate(problems):
        first, last = lists.start[j], lists.start[j + 1]
        for k in range(out.shape[1]):
            at = first * out.shape[1] + k * (last - first)
            for i in range(first, last):
                row = lists.row[i]
                value = q[at + i - first]
                for c in range(out.shape[2]):
                    out[a, k, c] += value * rows[row, c]


@_jit
def _evaluate(margin: Array, change: Array, step: float, total: Array, label: Array, chance: Array, residual: Array) -> float:
    """Set chance and residual at margin + step * change; return the loss's slope along change."""
    classes, n = margin.shape
    slope = 0.0
    if classes == 1:
        for i in range(n):
            p = 1.0 / (1.0 + math.exp(-(margin[0, i] + step * change[0, i])))
            r = total[i] * p - label[0, i]
            chance[0, i] = p
            residual[0, i] = r
            slope += r * change[0, i]
        return slope
    for i in range(n):
        top = -np.inf
        for k in range(classes):
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


@_jit
def _bend(q: Array, chance: Array, total: Array) -> float:
    """q' H q, H the curvature of the loss in the margins."""
    classes, n = q.shape
    bend = 0.0
    if classes == 1:
        for i in range(n):
            bend += total[i] * chance[0, i] * (1 - chance[0, i]) * q[0, i] * q[0, i]
        return bend
    for i in range(n):
        mean = 0.0
        for k in range(classes):
            mean += chance[k, i] * q[k, i]
        for k in range(classes):  # centred, not the difference of two sums: it must not come out negative
            bend += total[i] * chance[k, i] * (q[k, i] - mean) ** 2
    return bend


@_jit
def _advance(q: Array, chance: Array, total: Array, step: float, change: Array) -> None:
    """Add step * q to change, then turn q into H q."""
    classes, n = q.shape
    if classes == 1:
        for i in range(n):
            change[0, i] += step * q[0, i]
            q[0, i] *= total[i] * chance[0, i] * (1 - chance[0, i])
        return
    for i in range(n):
        mean = 0.0
        for k in range(classes):
            change[k, i] += step * q[k, i]
            mean += chance[k, i] * q[k, i]
        for k in range(classes):
            q[k, i] = total[i] * chance[k, i] * (q[k, i] - mean)


@_jit
def conjugate_steps(
    problems: Array,
    lists: Lists,
    shared: Margins,
    listed: Margins,
    q: Array,
    q_list: Array,
    top: Array,
    below: Array,
    steps: Array,
) -> None:
    """Each problem's step top / (below + q'Hq) along its search direction; turns q into H q and moves `change`."""
    for a, j in enumerate(problems):
        first, last = lists.start[j], lists.start[j + 1]
        part, shape = slice(first * q.shape[1], last * q.shape[1]), (q.shape[1], last - first)
        total, total_list = shared.total[lists.version[j]], listed.total[first:last]
        q_here, chance_here = q_list[part].reshape(shape), listed.chance[part].reshape(shape)
        bend = below[a] + _bend(q[a], shared.chance[j], total) + _bend(q_here, chance_here, total_list)
        steps[a] = top[a] / bend if bend > 0 else 0.0
        _advance(q[a], shared.chance[j], total, steps[a], shared.change[j])
        _advance(q_here, chance_here, total_list, steps[a], listed.change[part].reshape(shape))


@_jit
def _slope(j: int, lists: Lists, shared: Margins, listed: Margins, step: float) -> float:
    """Evaluate all rows of problem j at that step."""
    first, last, version = lists.start[j], lists.start[j + 1], lists.version[j]
    classes = shared.margin.shape[1]
    part, shape = slice(first * classes, last * classes), (classes, last - first)
    total, label = shared.total[version], shared.label[version]
    slope = _evaluate(shared.margin[j], shared.change[j], step, total, label, shared.chance[j], shared.residual[j])
    margin, change, label = listed.margin[part], listed.change[part], listed.label[part].reshape(shape)
    chance, residual = listed.chance[part].reshape(shape), listed.residual[part].reshape(shape)
    total = listed.total[first:last]
    return slope + _evaluate(margin.reshape(shape), change.reshape(shape), step, total, label, chance, residual)


@_jit
def _search(
    j: int, lists: Lists, shared: Margins, listed: Margins, start: float, penalty: tuple[float, float], reach: float
) -> float:
    """The step at which the slope along the change is nearly zero: bracketed, found by secants.

    The slope at step s is that of the loss plus penalty[0] + s * penalty[1]. The objective is convex along the line, so
    the slope tells all that its value would, and does not drown in rounding near the optimum as the value does.
    """
    left, left_slope, right, right_slope, step = 0.0, start, 1.0, 0.0, 1.0
    for _ in range(TRIALS):
        slope = _slope(j, lists, shared, listed, step) + penalty[0] + step * penalty[1]
        low_enough = slope <= (ENOUGH * abs(start) if reach * step <= FAR else 0.0)
        if reach * step <= SAFE or (low_enough and (step == 1.0 or slope >= -ENOUGH * abs(start))):
            return step
        if slope > 0:
            right, right_slope = step, slope
        else:
            left, left_slope = step, slope
        share = left_slope / (left_slope - right_slope)
        step = left + (right - left) * min(max(share, 0.1), 0.9)
    _slope(j, lists, shared, listed, left)
    return left


@_jit
def line_search(
    problems: Array, lists: Lists, shared: Margins, listed: Margins, start: Array, penalty: Array, steps: Array
) -> None:
    """Move each problem's margins along its change, by steps[a]; start: (m,) slopes at step 0; penalty: (m, 2), see `_search`."""
    classes = shared.margin.shape[1]
    for a, j in enumerate(problems):
        part = slice(lists.start[j] * classes, lists.start[j + 1] * classes)
        reach = np.abs(shared.change[j]).max() if shared.change.shape[2] else 0.0
        for value in listed.change[part]:
            reach = max(reach, abs(value))
        steps[a] = _search(j, lists, shared, listed, start[a], (penalty[a, 0], penalty[a, 1]), reach)
        shared.margin[j] += steps[a] * shared.change[j]
        listed.margin[part] += steps[a] * listed.change[part]
        shared.change[j] = 0
        listed.change[part] = 0


@_jit
def evaluate(problems: Array, lists: Lists, shared: Margins, listed: Margins) -> None:
    """Chances and residuals where the margins are."""
    for j in problems:
        _slope(j, lists, shared, listed, 0.0)
