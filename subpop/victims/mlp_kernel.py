"""Compiled training of the MLP victim: one network at a time, with a whole step in cache, skipping zeros of x.

Hidden units are padded to a multiple of sixteen and processed sixteen at a time; padded units start at zero and stay zero. Sums
have a fixed order whether or not zeros are skipped, so both variants give identical bits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from subpop.types import Floats, Ints
from subpop.victims import mlp_recipe as recipe
from subpop.victims import plain_lanes
from subpop.victims.compiled import Function

BUILT_FROM = "f9f5a54ce490"
"""First digits of the SHA-256 of compiled.py, lanes.py and mlp_recipe.py. Numba's cache on disk is only invalidated when this
file changes, so it must change whenever they do."""


def _words() -> Any:
    """`lanes`, or, with a warning, `plain_lanes` if the former cannot be compiled."""
    try:
        from subpop.victims import lanes

        reason = lanes.works()
    except Exception as error:  # another version of Numba or llvmlite may lack anything
        reason = f"{type(error).__name__}: {error}"
    if not reason:
        return lanes
    warnings.warn(
        f"the MLP victim's vector code does not work here ({reason}); it is trained by plain code, about a hundred times slower, "
        "with results that differ by rounding. Install the versions of Numba and llvmlite in constraints.txt",
        RuntimeWarning,
        stacklevel=2,
    )
    return plain_lanes


WORDS = _words()
LANES: int = WORDS.LANES
compiled: Callable[[Function], Function] = WORDS.compiled
fill, get, load, store, total = WORDS.fill, WORDS.get, WORDS.load, WORDS.store, WORDS.total
multiply_add, where_positive = WORDS.multiply_add, WORDS.where_positive
_ZERO, _ONE = np.float32(0), np.float32(1)
_LOW: Any = np.float32(recipe.MARGIN)
_HIGH: Any = np.float32(1 - recipe.MARGIN)
_BETA_1, _REST_1 = np.float32(recipe.BETA_1), np.float32(1 - recipe.BETA_1)
_BETA_2, _REST_2 = np.float32(recipe.BETA_2), np.float32(1 - recipe.BETA_2)
_EPSILON = np.float32(recipe.EPSILON)


class Rows(NamedTuple):
    """The rows shared by all networks: their nonzeros (starts, columns, values), or all values in `dense`; the other is empty."""

    starts: Ints
    columns: NDArray[np.int32]
    values: Floats
    dense: Floats


class Samples(NamedTuple):
    """One network's training set: (n,) row numbers and labels."""

    rows: Ints
    labels: NDArray[np.int32]


class Net(NamedTuple):
    """One network in training.

    weights: [w1 (d, width) | w2 (k, width) | b1 (width) | b2 (k)]; of the same layout: gradient, summed over a batch; mean and
    square, Adam's moments. hidden: (batch * width,) inputs of the hidden units, overwritten by their gradients; outputs:
    (batch * k,), overwritten by their gradients. inputs: d; width: padded number of hidden units; k: number of outputs.
    """

    weights: Floats
    gradient: Floats
    mean: Floats
    square: Floats
    hidden: Floats
    outputs: Floats
    inputs: int
    width: int
    k: int


# --- one batch --------------------------------------------------------------------------------------------------------


@compiled
def _add_rows(rows: Rows, batch: Ints, net: Net) -> None:
    """hidden[i] += x[i] @ w1, over the nonzeros of each row."""
    for i in range(len(batch)):
        start, stop = get(rows.starts, get(batch, i)), get(rows.starts, get(batch, i) + 1)
        for j in range(0, net.width, LANES):
            sums = load(net.hidden, i * net.width + j)
            for p in range(start, stop):
                sums = multiply_add(get(rows.values, p), load(net.weights, get(rows.columns, p) * net.width + j), sums)
            store(net.hidden, i * net.width + j, sums)


@compiled
def _add_outer(rows: Rows, batch: Ints, net: Net) -> None:
    """Gradient of w1 += outer(x[i], hidden[i]), over the nonzeros of each row."""
    for i in range(len(batch)):
        start, stop = get(rows.starts, get(batch, i)), get(rows.starts, get(batch, i) + 1)
        for j in range(0, net.width, LANES):
            back = load(net.hidden, i * net.width + j)
            for p in range(start, stop):
                at = get(rows.columns, p) * net.width + j
                store(net.gradient, at, multiply_add(get(rows.values, p), back, load(net.gradient, at)))


@compiled
def _add_dense_rows(x: Floats, batch: Ints, net: Net) -> None:
    """Like `_add_rows`, four rows at a time, which share each load of a weight and hide each other's latency."""
    d, width, last = net.inputs, net.width, len(batch) - 1
    for j in range(0, width, LANES):
        for i0 in range(0, len(batch), 4):
            i1, i2, i3 = min(i0 + 1, last), min(i0 + 2, last), min(i0 + 3, last)  # the last row may be written more than once
            x0, x1, x2, x3 = get(batch, i0) * d, get(batch, i1) * d, get(batch, i2) * d, get(batch, i3) * d
            s0, s1 = load(net.hidden, i0 * width + j), load(net.hidden, i1 * width + j)
            s2, s3 = load(net.hidden, i2 * width + j), load(net.hidden, i3 * width + j)
            for c in range(d):
                w = load(net.weights, c * width + j)
                s0, s1 = multiply_add(get(x, x0 + c), w, s0), multiply_add(get(x, x1 + c), w, s1)
                s2, s3 = multiply_add(get(x, x2 + c), w, s2), multiply_add(get(x, x3 + c), w, s3)
            store(net.hidden, i0 * width + j, s0)
            store(net.hidden, i1 * width + j, s1)
            store(net.hidden, i2 * width + j, s2)
            store(net.hidden, i3 * width + j, s3)


@compiled
def _add_dense_outer(x: Floats, batch: Ints, net: Net) -> None:
    """Like `_add_outer`, four rows at a time, which share each load and store of a gradient."""
    d, width, whole = net.inputs, net.width, len(batch) - len(batch) % 4
    for j in range(0, width, LANES):
        for i in range(0, whole, 4):
            x0, x1, x2, x3 = get(batch, i) * d, get(batch, i + 1) * d, get(batch, i + 2) * d, get(batch, i + 3) * d
            b0, b1 = load(net.hidden, i * width + j), load(net.hidden, (i + 1) * width + j)
            b2, b3 = load(net.hidden, (i + 2) * width + j), load(net.hidden, (i + 3) * width + j)
            for c in range(d):
                sums = multiply_add(get(x, x0 + c), b0, load(net.gradient, c * width + j))
                sums = multiply_add(get(x, x2 + c), b2, multiply_add(get(x, x1 + c), b1, sums))
                store(net.gradient, c * width + j, multiply_add(get(x, x3 + c), b3, sums))
        for i in range(whole, len(batch)):
            x0, b0 = get(batch, i) * d, load(net.hidden, i * width + j)
            for c in range(d):
                store(net.gradient, c * width + j, multiply_add(get(x, x0 + c), b0, load(net.gradient, c * width + j)))


@compiled
def _forward(rows: Rows, batch: Ints, net: Net) -> None:
    """Write `hidden` and `outputs`."""
    d, width, k = net.inputs, net.width, net.k
    for i in range(len(batch)):
        for j in range(0, width, LANES):
            store(net.hidden, i * width + j, load(net.weights, (d + k) * width + j))
    if len(rows.dense):
        _add_dense_rows(rows.dense, batch, net)
    else:
        _add_rows(rows, batch, net)
    for i in range(len(batch)):
        for o in range(k):
            sums = fill(_ZERO)
            for j in range(0, width, LANES):
                unit = load(net.hidden, i * width + j)
                sums = multiply_add(where_positive(unit, unit), load(net.weights, (d + o) * width + j), sums)
            net.outputs[i * k + o] = total(sums) + net.weights[(d + k + 1) * width + o]


@compiled
def _backward(rows: Rows, batch: Ints, net: Net) -> None:
    """Write the gradient, without the penalty, from the gradients in `outputs`; `hidden` is overwritten by its gradient."""
    d, width, k = net.inputs, net.width, net.k
    for j in range(0, width, LANES):
        b1 = fill(_ZERO)
        for i in range(len(batch)):
            unit, back = load(net.hidden, i * width + j), fill(_ZERO)
            active = where_positive(unit, unit)
            for o in range(k):
                error, w2 = get(net.outputs, i * k + o), (d + o) * width + j
                back = multiply_add(error, load(net.weights, w2), back)
                store(net.gradient, w2, multiply_add(error, active, load(net.gradient, w2)))
            back = where_positive(unit, back)
            b1 = multiply_add(_ONE, back, b1)
            store(net.hidden, i * width + j, back)
        store(net.gradient, (d + k) * width + j, b1)
    for i in range(len(batch)):
        for o in range(k):
            net.gradient[(d + k + 1) * width + o] += net.outputs[i * k + o]
    if len(rows.dense):
        _add_dense_outer(rows.dense, batch, net)
    else:
        _add_outer(rows, batch, net)


@compiled
def _logistic(outputs: Floats, i: int, label: int) -> Any:
    """The probability of `label`; overwrites outputs[i] by its gradient."""
    small = math.exp(-abs(outputs[i]))
    p = (_ONE if outputs[i] >= _ZERO else small) / (_ONE + small)
    outputs[i] = p - np.float32(label)
    return p if label == 1 else _ONE - p


@compiled
def _softmax(outputs: Floats, start: int, stop: int, label: int) -> Any:
    """The probability of `label`; overwrites outputs[start:stop] by their gradients."""
    highest, sums = outputs[start], _ZERO
    for o in range(start + 1, stop):
        highest = max(highest, outputs[o])
    for o in range(start, stop):
        outputs[o] = math.exp(outputs[o] - highest)
        sums += outputs[o]
    for o in range(start, stop):
        outputs[o] /= sums
    own = outputs[start + label]
    outputs[start + label] -= _ONE
    return own


@compiled
def _errors(labels: NDArray[np.int32], net: Net) -> Any:
    """Overwrite outputs by their gradients (probabilities minus labels); returns the summed log loss plus the penalty."""
    loss, product, sums, k = 0.0, 1.0, fill(_ZERO), net.k
    for i in range(len(labels)):
        own = _logistic(net.outputs, i, labels[i]) if k == 1 else _softmax(net.outputs, i * k, (i + 1) * k, labels[i])
        product *= min(max(own, _LOW), _HIGH)
        if product < 1e-250:  # one logarithm for many rows
            loss -= math.log(product)
            product = 1.0
    for j in range(0, (net.inputs + k) * net.width, LANES):
        weights = load(net.weights, j)
        sums = multiply_add(weights, weights, sums)
    return loss - math.log(product) + 0.5 * recipe.PENALTY * total(sums)


@compiled
def _adam(net: Net, count: int, step: float) -> None:
    """One step of Adam with the summed gradient of `count` rows, which is reset to zero."""
    weights, gradient, mean, square = net.weights, net.gradient, net.mean, net.square
    scale, decay = np.float32(1 / count), np.float32(recipe.PENALTY / count)
    rate = np.float32(recipe.LEARNING_RATE * math.sqrt(1 - recipe.BETA_2**step) / (1 - recipe.BETA_1**step))
    penalised = (net.inputs + net.k) * net.width
    for i in range(len(weights)):
        slope = gradient[i] * scale + (decay * weights[i] if i < penalised else _ZERO)
        mean[i] = _BETA_1 * mean[i] + _REST_1 * slope
        square[i] = _BETA_2 * square[i] + _REST_2 * (slope * slope)
        weights[i] -= rate * mean[i] / (math.sqrt(square[i]) + _EPSILON)
        gradient[i] = _ZERO


# --- epochs -----------------------------------------------------------------------------------------------------------

STEPS, EPOCHS, LOSS, BEST, STALE = range(5)
"""Indices in a network's (5,) float64 progress: steps, epochs, last loss, best loss, consecutive epochs without progress."""


@compiled
def note_epoch(loss: float, progress: NDArray[np.float64]) -> bool:
    """Record an epoch's loss; True if training should stop."""
    progress[STALE] = progress[STALE] + 1 if loss > progress[BEST] - recipe.TOLERANCE else 0
    progress[BEST] = min(progress[BEST], loss)
    progress[LOSS] = loss
    progress[EPOCHS] += 1
    return progress[STALE] > recipe.PATIENCE or not math.isfinite(loss)


@compiled
def train_epochs(rows: Rows, samples: Samples, orders: NDArray[np.int32], net: Net, progress: NDArray[np.float64]) -> bool:
    """Train for one epoch per row of `orders` (epochs, n), positions in `samples`; returns True if training is over."""
    n, size = len(samples.rows), min(recipe.BATCH_SIZE, len(samples.rows))
    batch, labels = np.empty(size, np.int64), np.empty(size, np.int32)
    for e in range(len(orders)):
        loss = 0.0
        for start in range(0, n, size):
            count = min(size, n - start)
            for i in range(count):
                batch[i], labels[i] = samples.rows[orders[e, start + i]], samples.labels[orders[e, start + i]]
            _forward(rows, batch[:count], net)
            loss += _errors(labels[:count], net)
            _backward(rows, batch[:count], net)
            progress[STEPS] += 1
            _adam(net, count, progress[STEPS])
        if note_epoch(loss / n, progress):
            return True
    return False
