"""Solving many penalised logistic regressions in lockstep, by Newton's method with conjugate gradients.

A product with the Hessians of all problems is two matrix products over the rows that they share, and so is a gradient; both
products of a block of rows follow each other, so that nothing between them leaves the cache. Rows that few problems use are in a
separate list per problem. Problems that have converged leave the fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from subpop.types import Array, Ints
from subpop.victims.margins import Lists, Margins, add_list_sums, bend_products, centre_scores, list_products, weigh_chances

Doubles = NDArray[np.float64]

FULL_CURVATURE, LARGEST_BLOCK = 2048, 4096
"""Up to FULL_CURVATURE parameters the preconditioner is a full inverse Hessian, otherwise one block per class; for more than
LARGEST_BLOCK features, whose blocks would take minutes to invert, only the diagonal."""
CONJUGATE_LIMIT = 300
BLOCK = 1 << 18
"""Number of values in a block of shared rows: 2 MB in float64."""
PATIENCE = 4
"""A problem for which neither residual nor error has halved in this many Newton steps is at the limit of its precision."""
SMALL = 1e-3
"""Lower bound of the scale in relative errors of parameters of scaled features."""


SAFE = 0.2
"""Margins that move by at most this much change the curvature so little that a full Newton step cannot overshoot."""
FAR = 20.0
"""Up to here a slope that ends slightly positive proves a decrease; beyond, only a negative one does."""
ENOUGH = 0.1
"""A line search ends where the slope has decreased to this fraction of its start."""
TRIALS = 100


@dataclass(frozen=True, eq=False)
class Fleet:
    """M problems, each sum_i total_i * logloss_i + sum(penalty * w^2) / 2 over K' score columns and d' scaled features.

    shared: (N, d') and listed: (A, d') rows, by dtype; total: (M, W) weight of each row of a problem and label: (M, K', W) its
    part in each class, shared rows first, then the problem's list; penalty: (M, d'); unit: (d',) converts a gradient to the
    inputs' own units; weight: (M,) sum of weights; longest: the largest Euclidean length of a scaled row.
    """

    shared: dict[type, Array]
    listed: dict[type, Array]
    lists: Lists
    total: Doubles
    label: Doubles
    penalty: Doubles
    unit: Doubles
    weight: Doubles
    longest: float

    def __len__(self) -> int:
        return len(self.weight)


class Precision(NamedTuple):
    """One stage of a solve. outer: dtype of margins and gradients; inner: of the linear solve for a step; forcing: its accuracy.

    A problem has converged if |gradient|_inf / weight <= residual (in the inputs' units) and estimated relative error <= error.
    """

    outer: type
    inner: type
    forcing: float
    residual: float
    error: float
    steps: int


DOUBLE = (Precision(np.float64, np.float64, 1e-3, 1e-8, 1e-8, 60),)
MIXED = (
    Precision(np.float32, np.float32, 3e-2, np.inf, 3e-5, 30),
    Precision(np.float64, np.float32, 1e-3, 1e-8, 1e-8, 20),
    *DOUBLE,
)
TIGHT = Precision(np.float64, np.float64, 1e-3, 1e-12, 1e-12, 8)


def solve(fleet: Fleet, w: Doubles, inverse: Array, stages: Sequence[Precision]) -> Doubles:
    """Move w (M, K', d') to the optima.

    inverse: (B, s, s) blocks of an inverse Hessian near w. Returns (M, 3), in the inputs' units: |gradient|_inf / weight,
    |gradient|_2, and a lower bound of the Hessian's smallest eigenvalue, 0 where none is known.
    """
    left, residual = np.arange(len(fleet)), np.full((len(fleet), 3), np.inf)
    for precision in stages:
        unfinished = Newton(fleet, inverse, precision).run(w, left, residual)
        left = unfinished if np.isfinite(precision.residual) else left  # a stage without a bound only improves the start
        if not len(left):
            break
    return residual


def inverse_hessian(fleet: Fleet, w: Doubles) -> Doubles:
    """(B, s, s) blocks of the inverse Hessian of a fleet of one problem without a list, at w (1, K', d').

    There is one block of all parameters, one per class, or, with very many features, one of size 1 per parameter.
    """
    z, (classes, d) = fleet.shared[np.float64], w.shape[1:]
    scores = np.vstack([w[0] @ z.T, np.zeros((1 if classes == 1 else 0, len(z)))])
    chance = np.exp(scores - scores.max(axis=0))
    chance = (chance / chance.sum(axis=0))[:classes]
    total = fleet.total[0, : len(z)]

    if d > LARGEST_BLOCK:
        curvature = np.einsum("kn,nd,nd->kd", total * chance * (1 - chance), z, z) + fleet.penalty[0]
        return np.asarray(1 / np.maximum(curvature, np.finfo(np.float64).tiny)).reshape(-1, 1, 1)

    def block(k: int, other: int) -> Doubles:
        curvature = total * chance[k] * ((k == other) - chance[other])
        return np.asarray((z * curvature[:, None]).T @ z, dtype=np.float64)

    if classes * d <= FULL_CURVATURE:
        square = np.block([[block(k, other) for other in range(classes)] for k in range(classes)])[None]
    else:
        square = np.stack([block(k, k) for k in range(classes)])
    np.einsum("bii->bi", square)[:] += np.tile(fleet.penalty[0], square.shape[1] // d)
    if classes > 1 and fleet.penalty[0, -1] == 0:
        # A common shift of unpenalised intercepts changes nothing, and gradients have no component there: any curvature works.
        square[:, d - 1 :: d, d - 1 :: d] += square[:, d - 1, d - 1].mean() / classes
    return np.linalg.inv(square)


def block_rows(d: int) -> int:
    """Number of rows of d values that are multiplied at a time: they and the products of a chunk stay in a core's cache."""
    return int(np.clip(BLOCK // d // 256 * 256, 512, 4096))


class Newton:
    """One stage of the solve of a fleet."""

    def __init__(self, fleet: Fleet, inverse: Array, precision: Precision) -> None:
        self.fleet, self.precision = fleet, precision
        self.inverse: Array = inverse.astype(precision.inner, copy=False)
        total: Array = fleet.total.astype(precision.outer, copy=False)
        label: Array = fleet.label.astype(precision.outer, copy=False)
        self.at = Margins(np.zeros(label.shape, precision.inner), total, label)

    def run(self, w: Doubles, problems: Ints, residual: Doubles) -> Ints:
        """Take Newton steps until each problem has converged, stalled or used up its steps; returns those not converged."""
        gradient = self._place(w, problems)
        left, begun = [], problems
        best, idle = np.full((len(w), 2), np.inf), np.zeros(len(w), np.int64)
        for taken in range(self.precision.steps + 1):
            error = self._measure(w, problems, gradient, residual)
            now = np.stack([residual[problems, 0], error], axis=1)
            going = (now > (self.precision.residual, self.precision.error)).any(axis=1)
            idle[problems] = np.where((now < best[problems] / 2).any(axis=1), 0, idle[problems] + 1)
            best[problems] = np.minimum(now, best[problems])
            stuck = going & (idle[problems] >= PATIENCE)
            left.append(problems[stuck])
            going &= ~stuck
            problems, gradient, error = problems[going], gradient[going], error[going]
            if not len(problems) or taken == self.precision.steps:
                break
            gradient = self._step(w, problems, gradient, error)
        residual[begun, 2] = self._smallest_eigenvalues(begun)
        return np.sort(np.concatenate([*left, problems]))

    def _step(self, w: Doubles, problems: Ints, gradient: Doubles, error: Doubles) -> Doubles:
        """Move w along Newton's direction to where the slope is nearly zero: bracketed, found by secants. Returns the gradients.

        The objective is convex along the line, so the slope determines the minimum, and it is less affected by rounding near the
        optimum than the value.
        """
        forcing = np.clip(error, self.precision.forcing, 0.3)
        direction, before = self._directions(problems, gradient, forcing).astype(np.float64), w[problems]
        start, gradient = _dots(gradient, direction), gradient.copy()
        step, share = np.ones(len(problems)), np.ones(len(problems))
        left, right = np.stack([0 * step, start]), np.stack([step, 0 * step])  # steps and slopes there
        going = np.arange(len(problems))
        reach = (
            np.sqrt(np.einsum("mkd,mkd->mk", direction, direction).max(axis=1)) * self.fleet.longest
        )  # no margin moves farther
        for trial in range(TRIALS + 1):
            here = problems[going]
            w[here] = before[going] + _column(step[going], np.float64) * direction[going]
            gradient[going] = self._place(w, here)
            slope, far = _dots(gradient[going], direction[going]), reach[going] * step[going]
            low_enough = slope <= np.where(far <= FAR, -ENOUGH * start[going], 0.0)
            done = (far <= SAFE) | (low_enough & ((step[going] == 1) | (slope >= ENOUGH * start[going])))
            too_far = ~(slope <= 0)
            right[:, going[too_far]] = step[going[too_far]], slope[too_far]
            left[:, going[~too_far]] = step[going[~too_far]], slope[~too_far]
            going = going[~done]
            if not len(going) or trial == TRIALS:
                break
            share = np.nan_to_num(left[1, going] / (left[1, going] - right[1, going]))
            step[going] = left[0, going] + (right[0, going] - left[0, going]) * np.clip(share, 0.1, 0.9)
            if trial == TRIALS - 1:
                step[going] = left[0, going]
        return gradient

    def _measure(self, w: Doubles, problems: Ints, gradient: Doubles, residual: Doubles) -> Doubles:
        """Record residuals, (M, 3) as in `solve`; returns each problem's estimated distance to its optimum, relative to its
        largest parameter."""
        own = gradient * self.fleet.unit
        residual[problems, 0] = np.abs(own).max(axis=(1, 2)) / self.fleet.weight[problems]
        residual[problems, 1] = np.sqrt(_dots(own, own))
        distance = np.abs(self._precondition(gradient.astype(self.precision.inner))).max(axis=(1, 2))
        return np.asarray(distance / np.maximum(np.abs(w[problems]).max(axis=(1, 2)), SMALL), dtype=np.float64)

    def _directions(self, problems: Ints, gradient: Doubles, forcing: Doubles) -> Array:
        """Newton directions by preconditioned conjugate gradients, each to its own relative accuracy."""
        inner = self.precision.inner
        left: Array = -gradient.astype(inner)
        found = np.zeros_like(left)
        search = near = self._precondition(left)
        size = _dots(left, near)
        target, live = forcing**2 * size, np.arange(len(problems))
        for _ in range(CONJUGATE_LIMIT):
            product, bend = self._curvature_products(problems[live], search)
            steps = _column(np.divide(size, bend, out=np.zeros(len(size)), where=bend > 0), inner)
            found[live] += steps * search
            left = left - steps * product
            near = self._precondition(left)
            before, size = size, _dots(left, near)
            going = size > target[live]
            if not going.any():
                break
            search = (near + _column(size / before, inner) * search)[going]
            left, size, live = left[going], size[going], live[going]
        return found

    def _curvature_products(self, problems: Ints, search: Array) -> tuple[Array, Doubles]:
        """Hessian times search, and search' Hessian search (m,)."""
        penalty = self.fleet.penalty[problems][:, None].astype(search.dtype) * search
        bend = _dots(penalty, search)

        def curved(q: Array, first: int) -> None:
            bend_products(problems, self.fleet.lists, self.at, first, q, bend)

        return self._sums(problems, search, curved).astype(search.dtype, copy=False) + penalty, bend

    def _place(self, w: Doubles, problems: Ints) -> Doubles:
        """Compute the curvature of the losses at w, and return the gradient there."""
        one = w.shape[1] == 1

        def slopes(q: Array, first: int) -> None:
            if not one:
                centre_scores(problems, self.fleet.lists, first, q)
            with np.errstate(over="ignore"):  # an infinite ratio of chances is a chance of 0
                np.exp(q, out=q)
            weigh_chances(problems, self.fleet.lists, self.at, first, q)

        here = w[problems]
        scored: Array = (-here if one else here).astype(self.precision.outer, copy=False)
        return self._sums(problems, scored, slopes) + self.fleet.penalty[problems][:, None] * here

    def _smallest_eigenvalues(self, problems: Ints) -> Doubles:
        """(m,) lower bounds of the Hessian's smallest eigenvalue at the last margins; 0 where none is known.

        With a penalty rho on every parameter it is rho. Without one on the intercept b of two classes, the curvature along (u, b)
        is sum_i d_i (x_i u + b)^2 + rho |u|^2. It is at least S (m u + b)^2 + rho |u|^2 for the sum S of the d_i and the mean m
        of the x_i with these weights, whose smallest eigenvalue is at least determinant / trace.
        """
        rho: Doubles = self.fleet.penalty[problems, 0] * self.fleet.unit[0] ** 2
        if (self.fleet.penalty[problems, -1] > 0).all():
            return rho
        if self.at.curve.shape[1] > 1:
            return np.zeros(len(problems))

        def curvature(q: Array, first: int) -> None:
            q[:] = self.at.curve[problems, :, first : first + q.shape[2]]

        nowhere: Array = np.zeros((len(problems), 1, len(self.fleet.unit)), self.precision.outer)
        sums = self._sums(problems, nowhere, curvature)[:, 0]
        total, means = sums[:, -1], sums[:, :-1] * self.fleet.unit[:-1] / sums[:, -1:]
        return np.asarray(total * rho / (total * (1 + np.einsum("mj,mj->m", means, means)) + rho))

    def _sums(self, problems: Ints, w: Array, change: Callable[[Array, int], None]) -> Doubles:
        """rows' change(rows w), (m, K', d') float64, by blocks of rows that stay in a core's cache.

        w: (m, K', d'); change(q, first) replaces products q (m, K', b) of the rows from `first` on, shared ones before lists.
        """
        shared, listed = self.fleet.shared[w.dtype.type], self.fleet.listed[w.dtype.type]
        (m, classes, d), width = w.shape, self.fleet.total.shape[1] - len(shared)
        size, flat, out = block_rows(d), w.reshape(m * classes, d), np.zeros((m, classes, d))
        room, sums = np.empty(m * classes * max(min(size, len(shared)), width), w.dtype), out.reshape(m * classes, d)
        for first in range(0, len(shared), size):
            rows = shared[first : first + size]
            q = room[: m * classes * len(rows)].reshape(m * classes, len(rows))
            np.matmul(flat, rows.T, out=q)
            change(q.reshape(m, classes, len(rows)), first)
            sums += q @ rows
        if width:
            own = room[: m * classes * width].reshape(m, classes, width)
            own[:] = 0
            list_products(problems, self.fleet.lists, listed, w, own)
            change(own, len(shared))
            add_list_sums(problems, self.fleet.lists, listed, own, out)
        return out

    def _precondition(self, r: Array) -> Array:
        blocks, size, _ = self.inverse.shape
        if size == 1:
            return r * self.inverse.reshape(r.shape[1:])
        split = r.reshape(len(r), blocks, size).transpose(1, 0, 2)
        return np.asarray((split @ self.inverse).transpose(1, 0, 2)).reshape(r.shape)


def _dots(a: Array, b: Array) -> Doubles:
    return np.asarray(np.einsum("mkd,mkd->m", a, b), dtype=np.float64)


def _column(values: Doubles, dtype: type) -> Array:
    return values[:, None, None].astype(dtype)
