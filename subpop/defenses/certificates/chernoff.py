"""The Chernoff bound, minimised and in logarithms, on the probability that a vote over noisy labels is lost.

*Source*: Rosenfeld et al. 2020; several classes: each rival by itself. With u, v the probabilities that the noise of a row moves
the winner up or down against the rival, log B = min over t >= 0 of sum_i log(u e^(-t a_i) + v e^(t a_i) + 1 - u - v).
*Deviations*: none. Each t gives a valid bound, so stopping early loses tightness (1e-10 in log B), not validity.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import joblib
import numpy as np
from numba import config
from numpy.typing import NDArray

from subpop.defenses.certificates.noise import check_noise
from subpop.runtime.threads import on_threads
from subpop.types import Array, BadInput, Ints
from subpop.victims.compiled import compiled

Doubles = NDArray[np.float64]

_WIDTH = 64
"""Terms processed together, so that the compiler uses wide registers; lists are padded with weights of 0."""
_SMALLEST = -600.0
"""Logarithm of a number that is far above the smallest float64: products of factors stay above it."""
_STEPS = 100
_PRECISION = 2e-10
_FARTHEST = 40.0
"""Smaller values than e^-40 are replaced by it: the bound becomes larger and remains valid."""


def pairwise_log_bounds(weights: Array, y: Ints, winner: Ints, noise: Sequence[float], n_classes: int) -> Doubles:
    """Bound the probability that a vote over noisy labels is lost to the strongest rival.

    The rows are distributed over threads, which does not change the results.

    Parameters
    ----------
    weights
        (T, n) weights of a linear smoother.
    y
        (n,) training labels.
    winner
        (T,) predicted classes.
    noise
        Probabilities q that the noise changes a label.
    n_classes
        Number of classes.

    Returns
    -------
    Array
        (len(noise), T) float64 log B; 0, a trivial bound, where the winner's score is not above that of each other class.

    Raises
    ------
    BadInput
        If shapes do not fit together, weights are not finite, labels are outside the classes, or a q is not strictly between
        0 and (k - 1) / k for k classes.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop.defenses.certificates import pairwise_log_bounds
    >>> y, winner = np.zeros(10, dtype=np.int64), np.array([0])
    >>> pairwise_log_bounds(np.ones((1, 10)), y, winner, noise=[0.1, 0.2], n_classes=2).shape
    (2, 1)
    """
    for q in noise:
        check_noise(q, n_classes)
    weights, y, winner = checked(weights, y, winner, n_classes)
    rates = np.array([(1 - q, q / (n_classes - 1)) for q in noise], np.float64).reshape(-1, 2)
    bounds = np.zeros((len(rates), len(weights)))

    def fill(rows: slice) -> None:
        _fill_bounds(weights[rows], y, winner[rows], rates, n_classes, bounds[:, rows])

    in_threads(fill, len(weights))
    return bounds


def checked(weights: Array, y: Ints, winner: Ints, n_classes: int) -> tuple[Doubles, Ints, Ints]:
    """Return weights, training labels and predictions; raises BadInput if they do not fit together."""
    weights = np.ascontiguousarray(weights, dtype=np.float64)
    y, winner = np.array(y, np.int64), np.array(winner, np.int64)  # copies: read-only arrays would be compiled for separately
    if weights.ndim != 2 or weights.shape != (len(winner), len(y)) or y.ndim != 1 or winner.ndim != 1:
        raise BadInput(
            f"weights {weights.shape} do not fit {y.shape} labels and {winner.shape} predictions; give (T, n), n and T"
        )
    if not np.isfinite(weights).all():
        raise BadInput("weights contain NaN or infinite values; solve the ridge system with a larger penalty")
    for what, values in (("label", y), ("prediction", winner)):
        if values.size and not 0 <= values.min() <= values.max() < n_classes:
            raise BadInput(f"{what}s from {values.min()} to {values.max()} must be in 0..{n_classes - 1}; raise n_classes")
    return weights, y, winner


def in_threads(work: Callable[[slice], None], n_rows: int) -> None:
    """Call work on slices that make up all rows; machine code runs without the interpreter lock."""
    threads = max(1, min(n_rows, joblib.cpu_count(), config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    edges = np.linspace(0, n_rows, (4 * threads if threads > 1 else 1) + 1).astype(int)
    parts = [slice(start, stop) for start, stop in itertools.pairwise(edges.tolist()) if stop > start]
    with on_threads(threads) as mapped:
        list(mapped(work, parts))


@compiled
def _fill_bounds(weights: Doubles, y: Ints, winner: Ints, rates: Doubles, n_classes: int, bounds: Doubles) -> None:
    """Fill bounds (Q, T) with the largest log bound over all rivals of each row's winner."""
    pair = np.zeros((weights.shape[1] // _WIDTH + 1) * _WIDTH)
    others = np.zeros((weights.shape[1] // _WIDTH + 1) * _WIDTH)
    sums, moments = np.empty((3, _WIDTH)), np.empty((2, 3))
    for row in range(len(weights)):
        bounds[:, row] = -np.inf
        for rival in range(n_classes):
            if rival != winner[row]:
                n_pair, n_others = _collect(weights[row], y, winner[row], rival, pair, others)
                _moments(pair, n_pair, moments[0])
                _moments(others, n_others, moments[1])
                for level in range(len(rates)):
                    bound = _minimum(pair, n_pair, others, n_others, moments, rates[level, 0], rates[level, 1], sums)
                    bounds[level, row] = max(bounds[level, row], bound)


@compiled
def _collect(weights: Doubles, y: Ints, winner: int, rival: int, pair: Doubles, others: Doubles) -> tuple[int, int]:
    """Write weights of rows labelled winner or (negated) rival, and of the rest, scaled to a largest of 1; returns their numbers.

    The scale of the weights does not matter, nor their sign for rows with neither label.
    """
    largest = 0.0
    for i in range(len(weights)):
        largest = max(largest, abs(weights[i]))
    scale = 1 / largest if largest > 0 else 0.0
    n_pair = n_others = 0
    for i in range(len(weights)):
        if y[i] == winner or y[i] == rival:
            pair[n_pair] = weights[i] * scale if y[i] == winner else -weights[i] * scale
            n_pair += 1
        else:
            others[n_others] = weights[i] * scale
            n_others += 1
    pair[n_pair : -(-n_pair // _WIDTH) * _WIDTH] = 0.0
    others[n_others : -(-n_others // _WIDTH) * _WIDTH] = 0.0
    return n_pair, n_others


@compiled
def _moments(a: Doubles, count: int, moments: Doubles) -> None:
    """Fill in the sums of a, its size and its square."""
    moments[:] = 0.0
    for i in range(count):
        moments[0] += a[i]
        moments[1] += abs(a[i])
        moments[2] += a[i] ** 2


@compiled
def _minimum(
    pair: Doubles, n_pair: int, others: Doubles, n_others: int, moments: Doubles, keep: float, other: float, sums: Doubles
) -> float:
    """The smallest log bound, by a safeguarded Newton method; 0 if the minimum is at t = 0. moments: (2, 3) of both lists."""
    reach, slope = moments[0, 1] + moments[1, 1], -(keep - other) * moments[0, 0]
    bend = (keep + other - (keep - other) ** 2) * moments[0, 2] + 2 * other * moments[1, 2]
    low, high, t, best = 0.0, np.inf, 0.0, 0.0
    for _ in range(_STEPS):
        if slope * slope <= _PRECISION * bend or (t == 0.0 and slope >= 0):
            break
        if slope < 0:
            low = t
        else:
            high = t
        t -= slope / bend
        if not low < t < high:
            t = (low + high) / 2 if high < np.inf else 2 * low + 1
        sums[:] = 0.0
        value = t * reach + _sum_terms(pair, n_pair, t, keep, other, sums) + _sum_terms(others, n_others, t, other, other, sums)
        slope, bend = sums[0].sum(), sums[1].sum()
        best = min(best, value)
    return best


@compiled
def _sum_terms(a: Doubles, count: int, t: float, up: float, down: float, sums: Doubles) -> float:
    """Sum of log(up e^(-t a) + down e^(t a) + rest) - |t a|; adds its slope and curvature in t to the first two of `sums`."""
    rest = max(0.0, 1 - up - down)
    factors = max(1.0, _SMALLEST / math.log(min(up, down)))  # each is at least the smaller of up and down
    product = sums[2]
    product[:] = 1.0
    total, held = 0.0, 0
    for start in range(0, count, _WIDTH):
        _add_terms(a[start : start + _WIDTH], t, up, down, rest, sums[0], sums[1], product)
        held += 1
        if held + 1 > factors or start + _WIDTH >= count:
            for j in range(_WIDTH):
                total += math.log(max(product[j], 1e-300))
            product[:] = 1.0
            held = 0
    return total


@compiled
def _add_terms(
    a: Doubles, t: float, up: float, down: float, rest: float, slope: Doubles, bend: Doubles, product: Doubles
) -> None:
    """The terms of _WIDTH weights, without branches and calls, so that they are vectorised."""
    for j in range(_WIDTH):
        size = abs(a[j])
        x = min(t * size, _FARTHEST) / 1024
        e = 1 - x * (1 - x * (1 / 2) * (1 - x * (1 / 3) * (1 - x * (1 / 4) * (1 - x * (1 / 5)))))
        e = e * e * e * e  # e^(-4 x); eight squarings more give e^(-1024 x)
        e = e * e
        e = e * e
        e = e * e
        e = e * e
        e = e * e
        e = e * e
        e = e * e
        e = e * e
        grows = down if a[j] > 0 else up
        shrinks = (up if a[j] > 0 else down) * e * e
        factor = grows + rest * e + shrinks
        inverse = 1 / factor
        difference = (grows - shrinks) * inverse
        slope[j] += size * difference
        bend[j] += size * size * ((grows + shrinks) * inverse - difference * difference)
        product[j] *= factor
