"""Many penalised logistic regressions at once: Newton's method with conjugate gradients, in lockstep.

All problems share most of their rows, so that a product with the Hessians of all of them is two matrix products. Rows
that few problems use are kept as a list a problem and never enter those.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import joblib
import numba
import numpy as np
from numpy.typing import NDArray

from subpop.types import Array

Doubles = NDArray[np.float64]
_F = TypeVar("_F", bound=Callable[..., Any])


def _jit(function: _F) -> _F:
    """Compile without the interpreter lock; sums may be reordered, which the optimiser needs for wide registers."""
    compiled: _F = numba.njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz", "arcp"})(function)
    return compiled


@dataclass(frozen=True, eq=False)
class Fleet:
    """M problems, each: sum_i total_i * logloss_i + sum(penalty * w^2) / 2 over K' score columns and d' features.

    shared: (N, d') rows of many problems; listed: (A, d') rows of few; total: (Q, N) and label: (Q, K', N): the weight
    of each shared row and its part in each class, in Q distinct versions; version: (M,) which of them a problem uses;
    start: (M + 1,) where its list begins in listed_row and listed_total (Z,); listed_label (Z * K',): a (K', length) block a
    problem; penalty: (M, d'); unit: (d',) what a gradient is multiplied by to be in the units of the inputs, (M,) weight.
    """

    shared: Doubles
    listed: Doubles
    total: Doubles
    label: Doubles
    version: NDArray[np.int64]
    start: NDArray[np.int64]
    listed_row: NDArray[np.int64]
    listed_total: Doubles
    listed_label: Doubles
    penalty: Doubles
    unit: Doubles
    weight: Doubles

    def __len__(self) -> int:
        return len(self.version)

    @property
    def shape(self) -> tuple[int, int]:
        """(K', d'): score columns and features, with the intercept."""
        return self.label.shape[1], self.shared.shape[1]


class _Rows(NamedTuple):
    """The state of a fleet's margins, for its shared rows (M, K', N) or its lists (Z * K',)."""

    margin: Array
    change: Array
    chance: Array
    residual: Array
    total: Array
    label: Array


class _Index(NamedTuple):
    version: Array
    start: Array
    row: Array


@_jit
def _evaluate(margin, change, step, total, label, chance, residual):
    """Set chance and residual at margin + step * change; return the slope along change."""
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
def _bend(q, chance, total):
    """Return q' H q over the margins of one problem, H the curvature of its loss."""
    classes, n = q.shape
    bend = 0.0
    if classes == 1:
        for i in range(n):
            bend += total[i] * chance[0, i] * (1 - chance[0, i]) * q[0, i] * q[0, i]
        return bend
    for i in range(n):
        mean = 0.0
        square = 0.0
        for k in range(classes):
            mean += chance[k, i] * q[k, i]
            square += chance[k, i] * q[k, i] * q[k, i]
        bend += total[i] * (square - mean * mean)
    return bend


@_jit
def _advance(q, chance, total, step, change):
    """Add step * q to change, then replace q by H q."""
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
def _list_products(low, high, jobs, index, rows, v, q):
    """q = rows v over each problem's own list: v (len(jobs), K', d')."""
    classes, d = v.shape[1:]
    for a in range(low, high):
        first, last = index.start[jobs[a]], index.start[jobs[a] + 1]
        for k in range(classes):
            at = first * classes + k * (last - first)
            for i in range(first, last):
                row = index.row[i]
                dot = v[a, k, 0] * 0
                for c in range(d):
                    dot += rows[row, c] * v[a, k, c]
                q[at + i - first] = dot


@_jit
def _list_sums(low, high, jobs, index, rows, q, out):
    """out += rows' q over each problem's own list: out (len(jobs), K', d')."""
    classes, d = out.shape[1:]
    for a in range(low, high):
        first, last = index.start[jobs[a]], index.start[jobs[a] + 1]
        for k in range(classes):
            at = first * classes + k * (last - first)
            for i in range(first, last):
                row = index.row[i]
                value = q[at + i - first]
                for c in range(d):
                    out[a, k, c] += value * rows[row, c]


@_jit
def _conjugate_steps(low, high, jobs, index, own, lists, q, q_list, top, below, steps):
    """Each problem's step length top / (below + q'Hq); moves its margins and leaves H q in q."""
    classes = q.shape[1]
    for a in range(low, high):
        j = jobs[a]
        first, last = index.start[j], index.start[j + 1]
        size = last - first
        part = slice(first * classes, last * classes)
        total = own.total[index.version[j]]
        chance_list = lists.chance[part].reshape((classes, size))
        q_here = q_list[part].reshape((classes, size))
        bend = below[a] + _bend(q[a], own.chance[j], total) + _bend(q_here, chance_list, lists.total[first:last])
        step = top[a] / bend if bend > 0 else 0.0
        steps[a] = step
        _advance(q[a], own.chance[j], total, step, own.change[j])
        _advance(q_here, chance_list, lists.total[first:last], step, lists.change[part].reshape((classes, size)))


@_jit
def _slope(j, step, index, own, lists):
    """Evaluate problem j at that step; its loss's slope along the change of margins."""
    classes = own.margin.shape[1]
    first, last = index.start[j], index.start[j + 1]
    part = slice(first * classes, last * classes)
    shape = (classes, last - first)
    version = index.version[j]
    slope = _evaluate(
        own.margin[j], own.change[j], step, own.total[version], own.label[version], own.chance[j], own.residual[j]
    )
    return slope + _evaluate(
        lists.margin[part].reshape(shape), lists.change[part].reshape(shape), step, lists.total[first:last],
        lists.label[part].reshape(shape), lists.chance[part].reshape(shape), lists.residual[part].reshape(shape),
    )


@_jit
def _evaluate_all(low, high, jobs, index, own, lists):
    for a in range(low, high):
        _slope(jobs[a], 0.0, index, own, lists)


@_jit
def _line_search(low, high, jobs, index, own, lists, slope0, pull, bend, enough, steps, trials):
    """Along each problem's direction find where its slope is nearly zero, and go there.

    The slope at step s is that of the loss plus pull + s * bend of the penalty. The objective is convex, so a root
    of the slope is bracketed and found by secants; unlike the objective's value, the slope does not drown in rounding.
    """
    for a in range(low, high):
        j = jobs[a]
        left, left_slope, right, right_slope = 0.0, slope0[a], np.inf, np.inf
        step = 1.0
        for trial in range(40):
            trials[a] = trial + 1
            slope = _slope(j, step, index, own, lists) + pull[a] + step * bend[a]
            if abs(slope) <= enough * abs(slope0[a]):
                break
            if slope > 0:
                right, right_slope = step, slope
            else:
                left, left_slope = step, slope
            if right == np.inf:
                if step >= 1.0:
                    break
                step *= 2
            else:
                share = left_slope / (left_slope - right_slope)
                step = left + (right - left) * min(max(share, 0.1), 0.9)
        steps[a] = step
        first, last = index.start[j] * own.margin.shape[1], index.start[j + 1] * own.margin.shape[1]
        own.margin[j] += step * own.change[j]
        lists.margin[first:last] += step * lists.change[first:last]


class Precision(NamedTuple):
    """outer: where margins and gradients are computed; inner: where Newton's equations are solved."""

    outer: type
    inner: type
    tolerance: float
    forcing: float
    limit: int
    refresh: bool


class Newton:
    """A fleet while it is being solved in one precision."""

    def __init__(self, fleet: Fleet, inverse: Array, precision: Precision, threads: ThreadPoolExecutor, n_threads: int) -> None:
        self.fleet, self.precision, self.threads, self.n_threads = fleet, precision, threads, n_threads
        outer, inner = precision.outer, precision.inner
        self.z = {t: (fleet.shared.astype(t, copy=False), fleet.listed.astype(t, copy=False)) for t in {outer, inner}}
        self.inverse = inverse.astype(inner, copy=False)
        self.index = _Index(fleet.version, fleet.start, fleet.listed_row)
        classes, _ = fleet.shape
        shape = (len(fleet), classes, len(fleet.shared))
        own = (np.empty(shape, outer), np.zeros(shape, inner), np.empty(shape, inner), np.empty(shape, outer))
        own_w = (fleet.total.astype(inner, copy=False), fleet.label.astype(outer, copy=False))
        size = len(fleet.listed_row) * classes
        lists = (np.empty(size, outer), np.zeros(size, inner), np.empty(size, inner), np.empty(size, outer))
        self.own = _Rows(*own, *own_w)
        self.lists = _Rows(*lists, fleet.listed_total.astype(inner, copy=False), fleet.listed_label.astype(outer, copy=False))
        self.log = []

    def each(self, kernel, jobs, *arguments):
        n = len(jobs)
        parts = min(n, self.n_threads)
        cuts = [n * part // parts for part in range(parts + 1)]
        if parts == 1:
            kernel(0, n, jobs, *arguments)
            return
        for f in [self.threads.submit(kernel, low, high, jobs, *arguments) for low, high in zip(cuts, cuts[1:])]:
            f.result()

    def products(self, v, jobs):
        """Margins of directions v."""
        shared, listed = self.z[v.dtype.type]
        m, classes, d = v.shape
        q = (v.reshape(m * classes, d) @ shared.T).reshape(m, classes, -1)
        q_list = np.zeros(len(self.lists.margin), v.dtype)
        self.each(_list_products, jobs, self.index, listed, v, q_list)
        return q, q_list

    def sums(self, q, q_list, jobs):
        shared, listed = self.z[q.dtype.type]
        m, classes, n = q.shape
        out = (q.reshape(m * classes, n) @ shared).reshape(m, classes, -1)
        self.each(_list_sums, jobs, self.index, listed, q_list, out)
        return out

    def place(self, w, jobs):
        q, q_list = self.products(w[jobs].astype(self.precision.outer, copy=False), jobs)
        self.own.margin[jobs] = q
        for j in jobs if len(jobs) < len(self.fleet) else ():
            part = slice(self.fleet.start[j] * w.shape[1], self.fleet.start[j + 1] * w.shape[1])
            self.lists.margin[part] = q_list[part]
        if len(jobs) == len(self.fleet):
            self.lists.margin[:] = q_list
        self.each(_evaluate_all, jobs, self.index, self.own, self.lists)

    def gradient(self, w, jobs):
        e = self.own.residual if len(jobs) == len(self.fleet) else self.own.residual[jobs]
        return self.sums(e, self.lists.residual, jobs).astype(np.float64, copy=False) + self.fleet.penalty[jobs][:, None] * w[jobs]

    def precondition(self, r):
        m = len(r)
        blocks, size, _ = self.inverse.shape
        return np.matmul(r.reshape(m, blocks, size).transpose(1, 0, 2), self.inverse).transpose(1, 0, 2).reshape(r.shape)

    def directions(self, g, jobs, forcing):
        inner = self.precision.inner
        r = -g.astype(inner)
        x = np.zeros(r.shape, inner)
        y = self.precondition(r)
        p = y
        rz = _dots(r, y)
        target = forcing**2 * rz
        live = np.arange(len(jobs))
        self.own.change[jobs] = 0
        if len(jobs) == len(self.fleet):
            self.lists.change[:] = 0
        else:
            for j in jobs:
                self.lists.change[self.fleet.start[j] * r.shape[1]: self.fleet.start[j + 1] * r.shape[1]] = 0
        for it in range(200):
            at = jobs[live]
            penalty = self.fleet.penalty[at][:, None].astype(inner)
            q, q_list = self.products(p, at)
            steps = np.empty(len(live))
            self.each(_conjugate_steps, at, self.index, self.own, self.lists, q, q_list, rz, _dots(penalty * p, p), steps)
            hp = self.sums(q, q_list, at) + penalty * p
            s = steps[:, None, None].astype(inner)
            x[live] += s * p
            r = r - s * hp
            y = self.precondition(r)
            old, rz = rz, _dots(r, y)
            go = (rz > target[live])
            self.log.append(len(live))
            if not go.any():
                break
            p = (y + (rz / old)[:, None, None].astype(inner) * p)[go]
            r, rz, live = r[go], rz[go], live[go]
        return x

    def run(self, w, jobs):
        """Newton steps until all converge; w is moved in place; returns jobs not converged."""
        fleet = self.fleet
        self.place(w, jobs)
        g = self.gradient(w, jobs)
        kkt = np.full(len(fleet), np.inf)
        first = None
        for it in range(self.precision.limit):
            kkt[jobs] = np.abs(g * fleet.unit).max((1, 2)) / fleet.weight[jobs]
            est = np.abs(self.precondition(g.astype(self.precision.inner))).max((1, 2)) / np.abs(w[jobs]).max((1, 2))
            size = np.abs(g).max((1, 2)) / fleet.weight[jobs]
            if self.precision.outer is np.float64:
                on = (kkt[jobs] > self.precision.tolerance) | (est > 1e-8)
            else:
                on = size > self.precision.tolerance
            if os.environ.get("LRLOG"):
                print(it, len(jobs), on.sum(), "kkt %.2e est %.2e size %.2e" % (kkt[jobs].max(), est.max(), size.max()), "median", "%.1e %.1e" % (np.median(kkt[jobs]), np.median(est)))
            jobs, g = jobs[on], g[on]
            if not len(jobs):
                break
            if first is None:
                first = np.zeros(len(fleet))
                first[jobs] = size[on]
            k = len(self.log)
            forcing = np.clip(np.sqrt(size[on] / first[jobs]), self.precision.forcing, 0.3)
            x = self.directions(g, jobs, forcing)
            wide = x.astype(np.float64)
            pen = fleet.penalty[jobs][:, None]
            steps, trials = np.empty(len(jobs)), np.empty(len(jobs))
            self.each(_line_search, jobs, self.index, self.own, self.lists, _dots(g, wide), _dots(pen * w[jobs], wide),
                      _dots(pen * wide, wide), 0.1, steps, trials)
            w[jobs] += steps[:, None, None] * wide
            if os.environ.get("LRLOG"):
                print("   cg", self.log[k:][:3], len(self.log) - k, sum(self.log[k:]) / len(jobs), "trials", trials.mean(), trials.max(), "step", steps.min(), steps.max())
            if self.precision.refresh:
                self.place(w, jobs)
            g = self.gradient(w, jobs)
        return jobs, kkt


def _dots(a: Array, b: Array) -> Doubles:
    m = len(a)
    return np.einsum("ij,ij->i", a.reshape(m, -1), b.reshape(m, -1)).astype(np.float64)
