"""The MLP victim's training as machine code: one network, its whole step in cache, zeros of x skipped.

Hidden units are padded to a multiple of sixteen and handled sixteen at a time; padded units start at zero and stay there.
Sums run in one fixed order, the same whether zeros are skipped or not, so both ways give the same bits.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from subpop.types import Floats, Ints
from subpop.victims import mlp_recipe as recipe
from subpop.victims.compiled import compiled
from subpop.victims.lanes import LANES, fill, get, load, multiply_add, store, total, where_positive

LANES_DIGEST = "067261e7cef4"
"""Start of the SHA-256 of lanes.py: a change there must change this file too, or machine code kept on disk would be used on."""
_ZERO, _ONE = np.float32(0), np.float32(1)
_LOW: Any = np.float32(recipe.MARGIN)
_HIGH: Any = np.float32(1 - recipe.MARGIN)
_BETA_1, _REST_1 = np.float32(recipe.BETA_1), np.float32(1 - recipe.BETA_1)
_BETA_2, _REST_2 = np.float32(recipe.BETA_2), np.float32(1 - recipe.BETA_2)
_EPSILON = np.float32(recipe.EPSILON)


class Rows(NamedTuple):
    """The rows that all networks share: nonzeros (starts, columns, values) or all, flat, in `dense`; the other form is empty."""

    starts: Ints
    columns: NDArray[np.int32]
    values: Floats
    dense: Floats


class Samples(NamedTuple):
    """One network's training set: (n,) its rows (where `dense`: the positions of their first entries) and labels."""

    rows: Ints
    labels: NDArray[np.int32]


class Net(NamedTuple):
    """One network in training.

    weights: [w1 (d, width) | w2 (k, width) | b1 (width) | b2 (k)]; as long: gradient, a batch's sum; mean and square, Adam's
    moments. hidden: (batch * width,) inputs of the hidden units, then their gradients; outputs: (batch * k,), then their
    gradients; columns: 0 ... d - 1.
    """

    weights: Floats
    gradient: Floats
    mean: Floats
    square: Floats
    hidden: Floats
    outputs: Floats
    columns: Ints
    width: int
    k: int


# --- one batch --------------------------------------------------------------------------------------------------------


@compiled
def _add_rows(rows: Rows, batch: Ints, net: Net) -> None:
    """hidden[i] += x[i] @ w1 over the nonzeros of each row."""
    for i in range(len(batch)):
        start, stop = get(rows.starts, get(batch, i)), get(rows.starts, get(batch, i) + 1)
        for j in range(0, net.width, LANES):
            sums = load(net.hidden, i * net.width + j)
            for p in range(start, stop):
                sums = multiply_add(get(rows.values, p), load(net.weights, get(rows.columns, p) * net.width + j), sums)
            store(net.hidden, i * net.width + j, sums)


@compiled
def _add_columns(rows: Rows, batch: Ints, net: Net) -> None:
    """gradient of w1 += x.T @ hidden over the nonzeros of each row."""
    for i in range(len(batch)):
        start, stop = get(rows.starts, get(batch, i)), get(rows.starts, get(batch, i) + 1)
        for j in range(0, net.width, LANES):
            back = load(net.hidden, i * net.width + j)
            for p in range(start, stop):
                at = get(rows.columns, p) * net.width + j
                store(net.gradient, at, multiply_add(get(rows.values, p), back, load(net.gradient, at)))


@compiled
def _add_dense(x: Floats, outer: Ints, inner: Ints, vectors: Floats, width: int, out: Floats) -> None:
    """out[a] += sum over b of x[outer[a] + inner[b]] * vectors[b], where out and vectors hold `width` floats a row."""
    # Four sums at a time share each load of a vector and hide each other's latency; the last one may be written more than once.
    last = len(outer) - 1
    for a0 in range(0, len(outer), 4):
        a1, a2, a3 = min(a0 + 1, last), min(a0 + 2, last), min(a0 + 3, last)
        x0, x1, x2, x3 = get(outer, a0), get(outer, a1), get(outer, a2), get(outer, a3)
        for j in range(0, width, LANES):
            s0, s1 = load(out, a0 * width + j), load(out, a1 * width + j)
            s2, s3 = load(out, a2 * width + j), load(out, a3 * width + j)
            for b in range(len(inner)):
                at, v = get(inner, b), load(vectors, b * width + j)
                s0, s1 = multiply_add(get(x, x0 + at), v, s0), multiply_add(get(x, x1 + at), v, s1)
                s2, s3 = multiply_add(get(x, x2 + at), v, s2), multiply_add(get(x, x3 + at), v, s3)
            store(out, a0 * width + j, s0)
            store(out, a1 * width + j, s1)
            store(out, a2 * width + j, s2)
            store(out, a3 * width + j, s3)


@compiled
def _forward(rows: Rows, batch: Ints, net: Net) -> None:
    d, width, k = len(net.columns), net.width, net.k
    for i in range(len(batch)):
        for j in range(0, width, LANES):
            store(net.hidden, i * width + j, load(net.weights, (d + k) * width + j))
    if len(rows.dense):
        _add_dense(rows.dense, batch, net.columns, net.weights, width, net.hidden)
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
    d, width, k = len(net.columns), net.width, net.k
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
        _add_dense(rows.dense, net.columns, batch, net.hidden, width, net.gradient)
    else:
        _add_columns(rows, batch, net)


@compiled
def _logistic(outputs: Floats, i: int, label: int) -> Any:
    """The probability of `label`; outputs[i] becomes its gradient."""
    small = math.exp(-abs(outputs[i]))
    p = (_ONE if outputs[i] >= _ZERO else small) / (_ONE + small)
    outputs[i] = p - np.float32(label)
    return p if label == 1 else _ONE - p


@compiled
def _softmax(outputs: Floats, start: int, stop: int, label: int) -> Any:
    """The probability of `label`; outputs[start:stop] become their gradients."""
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
    """Turn outputs into their gradients, probabilities less labels; the summed log loss, with the penalty."""
    loss, product, sums, k = 0.0, 1.0, fill(_ZERO), net.k
    for i in range(len(labels)):
        own = _logistic(net.outputs, i, labels[i]) if k == 1 else _softmax(net.outputs, i * k, (i + 1) * k, labels[i])
        product *= min(max(own, _LOW), _HIGH)
        if product < 1e-250:  # one logarithm serves many rows
            loss -= math.log(product)
            product = 1.0
    for j in range(0, (len(net.columns) + k) * net.width, LANES):
        weights = load(net.weights, j)
        sums = multiply_add(weights, weights, sums)
    return loss - math.log(product) + 0.5 * recipe.PENALTY * total(sums)


@compiled
def _adam(net: Net, count: int, step: float) -> None:
    """One step from the summed gradient of `count` rows; empties it."""
    weights, gradient, mean, square = net.weights, net.gradient, net.mean, net.square
    scale, decay = np.float32(1 / count), np.float32(recipe.PENALTY / count)
    rate = np.float32(recipe.LEARNING_RATE * math.sqrt(1 - recipe.BETA_2**step) / (1 - recipe.BETA_1**step))
    penalised = (len(net.columns) + net.k) * net.width
    for i in range(len(weights)):
        slope = gradient[i] * scale + (decay * weights[i] if i < penalised else _ZERO)
        mean[i] = _BETA_1 * mean[i] + _REST_1 * slope
        square[i] = _BETA_2 * square[i] + _REST_2 * (slope * slope)
        weights[i] -= rate * mean[i] / (math.sqrt(square[i]) + _EPSILON)
        gradient[i] = _ZERO


# --- epochs -----------------------------------------------------------------------------------------------------------

STEPS, EPOCHS, LOSS, BEST, STALE = range(5)
"""Places in a network's (5,) float64 progress: steps, epochs, last loss, best loss, epochs in a row without progress."""


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
    """Train for an epoch per row of `orders` (epochs, n), positions in `samples`; True if training is over."""
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
