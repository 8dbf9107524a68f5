"""Compiled loops over the margins of many logistic regressions: all of Newton's method except matrix products.

The first N rows of a problem are shared by all problems of its batch and multiplied together, block by block; they are followed
by a list of its own rows, whose products are computed here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numba

from subpop.types import Array

_F = TypeVar("_F", bound=Callable[..., Any])


def _jit(function: _F) -> _F:
    """Compile without the interpreter lock; sums may be reordered, which wide registers need."""
    fast = {"reassoc", "contract", "nsz", "arcp"}
    compile_: Any = partial(numba.njit, nogil=True, fastmath=fast)
    try:
        kept: _F = compile_(cache=True)(function)
    except RuntimeError:  # a read-only installation and no home folder: compile in each process
        kept = compile_()(function)
    return kept


class Margins(NamedTuple):
    """Values that belong to the margins of M problems: (M, K', W) each, total (M, W); W: N shared rows and the longest list.

    curve: with one score column total * p * (1 - p), the second derivative of each row's loss; with several each class's chance.
    """

    curve: Array
    total: Array
    label: Array


class Lists(NamedTuple):
    """The number of shared rows, where each problem's list begins in `row` (M + 1,), and the rows listed (Z,)."""

    shared: int
    start: Array
    row: Array


@_jit
def _count(lists: Lists, j: int, first: int, q: Array) -> int:
    """Number of problem j's columns in a block q (m, K', b) that begins at column `first`: all shared rows, or its list."""
    return q.shape[2] if first < lists.shared else int(lists.start[j + 1] - lists.start[j])


@_jit
def list_products(problems: Array, lists: Lists, rows: Array, w: Array, q: Array) -> None:
    """Fill q (m, K', longest list) with products rows w; w (m, K', d')."""
    for a, j in enumerate(problems):
        first, last = lists.start[j], lists.start[j + 1]
        for k in range(w.shape[1]):
            for i in range(first, last):
                row = lists.row[i]
                dot = w[a, k, 0] * 0
                for c in range(w.shape[2]):
                    dot += rows[row, c] * w[a, k, c]
                q[a, k, i - first] = dot


@_jit
def add_list_sums(problems: Array, lists: Lists, rows: Array, q: Array, out: Array) -> None:
    """Add rows' q over each problem's own list to out (m, K', d')."""
    for a, j in enumerate(problems):
        first, last = lists.start[j], lists.start[j + 1]
        for k in range(out.shape[1]):
            for i in range(first, last):
                row = lists.row[i]
                value = q[a, k, i - first]
                for c in range(out.shape[2]):
                    out[a, k, c] += value * rows[row, c]


@_jit
def centre_scores(problems: Array, lists: Lists, first: int, q: Array) -> None:
    """Subtract from the scores q (m, K', b) of each row the largest of them, so that no exponential overflows."""
    for a, j in enumerate(problems):
        for i in range(_count(lists, j, first, q)):
            top = q[a, 0, i]
            for k in range(1, q.shape[1]):
                top = max(top, q[a, k, i])
            for k in range(q.shape[1]):
                q[a, k, i] -= top


@_jit
def weigh_chances(problems: Array, lists: Lists, at: Margins, first: int, q: Array) -> None:
    """Set `curve` from column `first` on, and q (m, K', b) to the losses' slopes in the scores: total * chance - label.

    q: the exponentials of the scores; of one score, those of its negative.
    """
    classes = q.shape[1]
    for a, j in enumerate(problems):
        n = _count(lists, j, first, q)
        total, own, curve, label = at.total[j, first : first + n], q[a], at.curve[j], at.label[j]
        if classes == 1:
            for i in range(n):
                p = 1 / (1 + own[0, i])
                curve[0, first + i] = total[i] * p * (1 - p)
                own[0, i] = total[i] * p - label[0, first + i]
            continue
        for i in range(n):
            mass = own[0, i]
            for k in range(1, classes):
                mass += own[k, i]
            for k in range(classes):
                p = own[k, i] / mass
                curve[k, first + i] = p
                own[k, i] = total[i] * p - label[k, first + i]


@_jit
def bend_products(problems: Array, lists: Lists, at: Margins, first: int, q: Array, bend: Array) -> None:
    """Add q'Hq to bend (m,) and turn q (m, K', b) into H q, H the curvature of a problem's loss in its margins."""
    classes = q.shape[1]
    for a, j in enumerate(problems):
        n = _count(lists, j, first, q)
        total, own, curve = at.total[j, first : first + n], q[a], at.curve[j]
        sum_ = 0.0
        if classes == 1:
            for i in range(n):
                value = curve[0, first + i] * own[0, i]
                sum_ += value * own[0, i]
                own[0, i] = value
        else:
            for i in range(n):
                mean = curve[0, first + i] * own[0, i]
                for k in range(1, classes):
                    mean += curve[k, first + i] * own[k, i]
                for k in range(classes):  # centred, not the difference of two sums: it must not come out negative
                    apart = own[k, i] - mean
                    value = total[i] * curve[k, first + i] * apart
                    sum_ += value * apart
                    own[k, i] = value
        bend[a] += sum_
