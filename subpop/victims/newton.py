"""Solving many penalised logistic regressions in lockstep, by Newton's method with conjugate gradients.

A product with the Hessians of all problems is two matrix products over the rows that they share; rows that few problems use are
in a separate list per problem. Problems that have converged leave the fleet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from subpop.types import Array, Ints
from subpop.victims.margins import Lists, Margins, add_list_sums, conjugate_steps, evaluate, line_search, list_products

Doubles = NDArray[np.float64]

FULL_CURVATURE, LARGEST_BLOCK = 2048, 4096
"""Up to FULL_CURVATURE parameters the preconditioner is a full inverse Hessian, otherwise one block per class; for more than
LARGEST_BLOCK features, whose blocks would take minutes to invert, only the diagonal."""
CONJUGATE_LIMIT = 300
FEW, MANY, SUMMED = 8, 64, 512
"""Between FEW and MANY problems, sums over blocks of SUMMED rows take three quarters of the time of one product."""
PATIENCE = 4
"""A problem for which neither residual nor error has halved in this many Newton steps is at the limit of its precision."""
SMALL = 1e-3
"""Lower bound of the scale in relative errors of parameters of scaled features."""


@dataclass(frozen=True, eq=False)
class Fleet:
    """M problems, each sum_i total_i * logloss_i + sum(penalty * w^2) / 2 over K' score columns and d' scaled features."""

    shared: dict[type, Array]
    """(N, d') rows that all problems share, by dtype."""
    turned: dict[type, Array]
    """(d', N) copies of them, of some dtypes, with which products are faster."""
    listed: dict[type, Array]
    """(A, d') rows of the lists, by dtype."""
    lists: Lists
    """Which of them each problem has."""
    total: Doubles
    """(M, W) weight of each row of a problem: shared rows first, then its list."""
    label: Doubles
    """(M, K', W) its part in each class."""
    penalty: Doubles
    """(M, d') factor of each parameter's square."""
    unit: Doubles
    """(d',) factor that converts a gradient to the inputs' own units."""
    weight: Doubles
    """(M,) sum of a problem's weights."""

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


class Newton:
    """One stage of the solve of a fleet."""

    def __init__(self, fleet: Fleet, inverse: Array, precision: Precision) -> None:
        self.fleet, self.precision = fleet, precision
        self.inverse: Array = inverse.astype(precision.inner, copy=False)
        outer, inner, shape = precision.outer, precision.inner, fleet.label.shape
        total: Array = fleet.total.astype(outer, copy=False)
        label: Array = fleet.label.astype(outer, copy=False)
        margin: Array = np.empty(shape, outer)
        residual: Array = np.empty(shape, outer)
        self.at = Margins(margin, np.zeros(shape, inner), np.empty(shape, inner), residual, total, label)

    def run(self, w: Doubles, problems: Ints, residual: Doubles) -> Ints:
        """Take Newton steps until each problem has converged, stalled or used up its steps; returns those not converged."""
        w[problems] = _without_shift(w[problems])
        self._place(w, problems)
        left, begun = [], problems
        best, idle = np.full((len(w), 2), np.inf), np.zeros(len(w), np.int64)
        for taken in range(self.precision.steps + 1):
            gradient = self._gradient(w, problems)
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
            self._step(w, problems, gradient, error)
        residual[begun, 2] = self._smallest_eigenvalues(begun)
        return np.sort(np.concatenate([*left, problems]))

    def _step(self, w: Doubles, problems: Ints, gradient: Doubles, error: Doubles) -> None:
        forcing = np.clip(error, self.precision.forcing, 0.3)
        direction = self._directions(problems, gradient, forcing).astype(np.float64)
        pull = self.fleet.penalty[problems][:, None] * direction
        start, steps = _dots(gradient, direction), np.empty(len(problems))
        penalty = np.stack([_dots(pull, w[problems]), _dots(pull, direction)], axis=1)
        line_search(problems, self.fleet.lists, self.at, start, penalty, steps)
        w[problems] += steps[:, None, None] * direction
        if self.precision.inner != self.precision.outer:  # margins updated in low precision would be too inexact
            self._place(w, problems)

    def _measure(self, w: Doubles, problems: Ints, gradient: Doubles, residual: Doubles) -> Doubles:
        """Record residuals, (M, 3) as in `solve`; returns each problem's estimated distance to its optimum, relative to its
        largest parameter."""
        own = gradient * self.fleet.unit
        residual[problems, 0] = np.abs(own).max(axis=(1, 2)) / self.fleet.weight[problems]
        residual[problems, 1] = np.sqrt(_dots(own, own))
        distance = np.abs(self.precondition(gradient.astype(self.precision.inner))).max(axis=(1, 2))
        return np.asarray(distance / np.maximum(np.abs(w[problems]).max(axis=(1, 2)), SMALL), dtype=np.float64)

    def _directions(self, problems: Ints, gradient: Doubles, forcing: Doubles) -> Array:
        """Newton directions by preconditioned conjugate gradients, each to its own relative accuracy."""
        inner = self.precision.inner
        left: Array = -gradient.astype(inner)
        found = np.zeros_like(left)
        search = near = self.precondition(left)
        size = _dots(left, near)
        target, live = forcing**2 * size, np.arange(len(problems))
        for _ in range(CONJUGATE_LIMIT):
            product, steps = self._curvature_products(problems[live], search, size)
            found[live] += steps * search
            left = left - steps * product
            near = self.precondition(left)
            before, size = size, _dots(left, near)
            going = size > target[live]
            if not going.any():
                break
            search = (near + _column(size / before, inner) * search)[going]
            left, size, live = left[going], size[going], live[going]
        return found

    def _curvature_products(self, problems: Ints, search: Array, size: Doubles) -> tuple[Array, Array]:
        """Hessian times search, and the conjugate gradient steps; updates the `change` of margins."""
        penalty = self.fleet.penalty[problems][:, None].astype(search.dtype) * search
        steps = np.empty(len(problems))
        q = self.products(problems, search)
        conjugate_steps(problems, self.fleet.lists, self.at, q, size, _dots(penalty, search), steps)
        return self.sums(problems, q) + penalty, _column(steps, self.precision.inner)

    def _place(self, w: Doubles, problems: Ints) -> None:
        """Recompute margins, chances and residuals."""
        here: Array = w[problems].astype(self.precision.outer)
        self.at.margin[problems] = self.products(problems, here)
        evaluate(problems, self.fleet.lists, self.at)

    def _gradient(self, w: Doubles, problems: Ints) -> Doubles:
        residual = self.at.residual if len(problems) == len(self.fleet) else self.at.residual[problems]
        loss = self.sums(problems, residual).astype(np.float64, copy=False)
        return loss + self.fleet.penalty[problems][:, None] * w[problems]

    def _smallest_eigenvalues(self, problems: Ints) -> Doubles:
        """(m,) lower bounds of the Hessian's smallest eigenvalue at the last margins; 0 where none is known.

        With a penalty rho on every parameter it is rho. Without one on the intercept b of two classes, the curvature along (u, b)
        is sum_i d_i (x_i u + b)^2 + rho |u|^2. It is at least S (m u + b)^2 + rho |u|^2 for the sum S of the d_i and the mean m
        of the x_i with these weights, whose smallest eigenvalue is at least determinant / trace.
        """
        rho: Doubles = self.fleet.penalty[problems, 0] * self.fleet.unit[0] ** 2
        if (self.fleet.penalty[problems, -1] > 0).all():
            return rho
        chance = self.at.chance[problems]
        if chance.shape[1] > 1:
            return np.zeros(len(problems))
        sums = self.sums(problems, self.at.total[problems][:, None] * chance * (1 - chance))[:, 0].astype(np.float64)
        total, means = sums[:, -1], sums[:, :-1] * self.fleet.unit[:-1] / sums[:, -1:]
        return np.asarray(total * rho / (total * (1 + np.einsum("mj,mj->m", means, means)) + rho))

    def products(self, problems: Ints, w: Array) -> Array:
        """rows w: (m, K', W); values after the end of a problem's list are arbitrary."""
        rows, (m, classes, d) = self.fleet.shared[w.dtype.type], w.shape
        q: Array = np.empty((m, classes, self.fleet.total.shape[1]), w.dtype)
        turned = self.fleet.turned.get(w.dtype.type, rows.T)
        np.matmul(w.reshape(m * classes, d), turned, out=q.reshape(m * classes, q.shape[2])[:, : len(rows)])
        list_products(problems, self.fleet.lists, self.fleet.listed[w.dtype.type], w, q)
        return q

    def sums(self, problems: Ints, q: Array) -> Array:
        """rows' q: (m, K', d')."""
        rows, (m, classes, width) = self.fleet.shared[q.dtype.type], q.shape
        out = _in_blocks(q.reshape(m * classes, width)[:, : len(rows)], rows).reshape(m, classes, rows.shape[1])
        add_list_sums(problems, self.fleet.lists, self.fleet.listed[q.dtype.type], q, out)
        return out

    def precondition(self, r: Array) -> Array:
        blocks, size, _ = self.inverse.shape
        if size == 1:
            return r * self.inverse.reshape(r.shape[1:])
        split = _without_shift(r).reshape(len(r), blocks, size).transpose(1, 0, 2)
        return _without_shift(np.asarray((split @ self.inverse).transpose(1, 0, 2)).reshape(r.shape))


def _without_shift(r: Array) -> Array:
    """Subtract the mean over classes from (m, K', d') parameters or gradients of softmaxes.

    Adding the same vector to each class changes no probability, and the optimum has mean zero. Only the penalty has curvature in
    these directions, so that without this, rounding errors there, multiplied by the inverse of the penalty, would dominate.
    """
    return r if r.shape[1] == 1 else r - r.mean(axis=1, keepdims=True)


def _in_blocks(q: Array, rows: Array) -> Array:
    """q (m, N) times rows (N, d), as a sum over blocks of rows that stay in the cache."""
    n = len(rows) // SUMMED * SUMMED
    if not FEW <= len(q) <= MANY or not n:
        return np.asarray(q @ rows)
    split = q[:, :n].reshape(len(q), -1, SUMMED).transpose(1, 0, 2)
    out: Array = (split @ rows[:n].reshape(-1, SUMMED, rows.shape[1])).sum(axis=0)
    out += q[:, n:] @ rows[n:]
    return out


def _dots(a: Array, b: Array) -> Doubles:
    return np.asarray(np.einsum("mkd,mkd->m", a, b), dtype=np.float64)


def _column(values: Doubles, dtype: type) -> Array:
    return values[:, None, None].astype(dtype)
