"""Victims trained step by step, for defenses that change the training itself: `Trainable` of small and of linear networks.

*Source*: the architecture, the penalty and the optimiser of `conv_net`, of `last_layer_as_released`, and of the objective of
`logistic_regression`. Gradients of convolutional networks are torch's; a gradient for each row comes from a batch of identical
networks with one row each. Gradients of linear classifiers are closed forms of numpy, from the gradient of the loss with respect
to the logits: their batches are so small that calls of torch would take most of the time.
*Deviations*: one network at a time, where victims train as fleets. `last_layer` and `logistic_regression` are solved exactly
by `fit`; here they take `LONGER` steps of Adam on the same objective, 30 epochs at 1e-2, which end near the optimum; fixed in
advance and not tuned. Batches are ordered by a hash of the inputs instead of the row number, which a defense does not know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor
from torch.nn import functional

from subpop.runtime.threads import one_torch_thread
from subpop.types import Array, Floats, Ints, Model, TrainingSet
from subpop.types.roles import Loss, Training
from subpop.victims.batch_order import BatchOrder
from subpop.victims.batched_jobs import BETA_1, BETA_2, EPSILON, Recipe
from subpop.victims.head_training import KERNEL_PENALTY, coefficients, starts
from subpop.victims.linear_model import LinearModel, flat

Shape = Any
"""`subpop.victims.conv_fleet.Shape`, which is not imported: linear victims do not depend on the code of convolutional ones."""

LONGER = Recipe(epochs=30, learning_rate=1e-2, batch_size=32)
_MEMBERS = 1 << 32
"""Seeds of victims are below this number; further networks add a multiple of it."""
_ROWS = 4096


@dataclass(frozen=True)
class _Recipe:
    """What all kinds share. recipe: of the optimiser; seed: of the trial's victim."""

    recipe: Recipe
    seed: int

    @property
    def epochs(self) -> int:
        return self.recipe.epochs

    @property
    def batch_size(self) -> int:
        return self.recipe.batch_size

    def seed_of(self, member: int) -> int:
        return self.seed + member * _MEMBERS

    def batches(self, train: TrainingSet, epoch: int, member: int = 0) -> list[Ints]:
        """See `Trainable`."""
        keys, canonical = _canonical_order(train)
        order = canonical[BatchOrder(self.seed_of(member), keys).epochs(epoch, 1)[0]]
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]


class Pictures(Protocol):
    """What a convolutional victim says about its networks."""

    offset: float
    penalty: float

    def shape_of(self, picture: tuple[int, ...], n_classes: int) -> Shape: ...
    def start(self, seed: int, shape: Shape) -> Floats: ...
    def model_of(self, weights: Floats, shape: Shape) -> Model: ...


@dataclass(frozen=True)
class ConvSteps(_Recipe):
    """A small convolutional network."""

    victim: Pictures

    def begin(self, train: TrainingSet, member: int = 0) -> Training:
        """See `Trainable`."""
        shape = self.victim.shape_of(train.x.shape[1:], train.n_classes)
        start = torch.from_numpy(self.victim.start(self.seed_of(member), shape))
        return _ConvTraining(start, _Conv(shape, self.victim), self.recipe.learning_rate)


@dataclass(frozen=True)
class LinearSteps(_Recipe):
    """A linear classifier: the last layer as released, or with `logistic` the objective of the exact logistic regression."""

    kind: type[LinearModel]
    """The class of the models."""
    logistic: float | None = None
    """rho of the sum form of logistic regression, None for a last layer."""

    def begin(self, train: TrainingSet, member: int = 0) -> Training:
        """See `Trainable`."""
        d, classes = flat(train.x).shape[1], train.n_classes
        if self.logistic is None:
            head = starts([self.seed_of(member)], d + 1, classes)[0].astype(np.float64)
            return _LinearTraining(head, classes, _LastLayer(self.kind), self.recipe.learning_rate)
        start = np.random.default_rng([self.seed_of(member), 0]).normal(0, 1e-2, (1 if classes == 2 else classes, d + 1))
        return _LinearTraining(start, classes, _Logistic(self.kind, self.logistic / len(train)), self.recipe.learning_rate)


_ORDERS: WeakKeyDictionary[TrainingSet, tuple[Ints, Ints]] = WeakKeyDictionary()


def _canonical_order(train: TrainingSet) -> tuple[Ints, Ints]:
    """(n,) the content keys of the rows in ascending order, and their positions; remembered while the training set lives."""
    if train not in _ORDERS:
        keys = content_keys(train.x)
        canonical = np.lexsort((train.y, keys))
        _ORDERS[train] = keys[canonical], canonical
    return _ORDERS[train]


def content_keys(x: Array) -> Ints:
    """(n,) integers that depend on the bytes of each row alone, at least 0."""
    rows = np.ascontiguousarray(x.reshape(len(x), -1))
    digests = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return (np.frombuffer(b"".join(digests), np.uint64) >> np.uint64(1)).astype(np.int64)


# --- the networks: functions of (..., P) parameters -------------------------------------------------------------------


@dataclass(frozen=True)
class _Conv:
    shape: Shape
    victim: Pictures

    def inputs(self, x: Array) -> Tensor:
        pixels = torch.from_numpy(np.array(x.transpose(0, 2, 3, 1), np.float32, order="C"))
        return pixels.mul_(1 / 255).sub_(self.victim.offset)

    def logits(self, x: Tensor, weights: Tensor) -> Tensor:
        """weights: (P,), or (n, P) for a network for each row."""
        *layers, (kernel, bias) = self._parts(weights)
        for own, shift in layers:
            padded = functional.pad(x, (0, 0, 1, x.shape[2] % 2, 1, x.shape[1] % 2))
            windows = padded.unfold(1, 3, 2).unfold(2, 3, 2).permute(0, 1, 2, 4, 5, 3)
            n, rows, columns = windows.shape[:3]
            x = (windows.reshape(n, rows * columns, -1) @ own + shift.unsqueeze(-2)).relu().view(n, rows, columns, -1)
        features = x.mean((1, 2))
        return (features.unsqueeze(-2) @ kernel).squeeze(-2) + bias

    def penalty(self, weights: Tensor) -> Tensor:
        return self.victim.penalty * self._parts(weights)[-1][0].square().sum()

    def model(self, weights: Floats) -> Model:
        return self.victim.model_of(weights, self.shape)

    def _parts(self, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        found, at = [], 0
        for inputs, outputs in self.shape.parts:
            end = at + inputs * outputs
            kernel = weights[..., at:end].view(*weights.shape[:-1], inputs, outputs)
            found.append((kernel, weights[..., end : end + outputs]))
            at = end + outputs
        return found


@dataclass(frozen=True)
class _LastLayer:
    """The penalty of a last layer, which leaves out the intercepts, and its models. Heads are (K, d + 1)."""

    kind: type[LinearModel]

    def shrink(self, head: Array) -> Array:
        """The gradient of the penalty."""
        gradient = 2 * KERNEL_PENALTY * head
        gradient[:, -1] = 0
        return gradient

    def model(self, head: Array) -> Model:
        return self.kind(coefficients(head))


@dataclass(frozen=True)
class _Logistic:
    """The same of logistic regression, which penalises intercepts too. For two classes a head has one row, of class 1."""

    kind: type[LinearModel]
    each: float
    """The penalty for each training row."""

    def shrink(self, head: Array) -> Array:
        return self.each * head

    def model(self, head: Array) -> Model:
        return self.kind(head.T.copy())


# --- the steps --------------------------------------------------------------------------------------------------------


class _ConvTraining:
    """One network and the state of its optimiser, Adam as in the fleets. Kernels run on one thread: sums depend on no core."""

    def __init__(self, start: Tensor, network: _Conv, learning_rate: float) -> None:
        self._weights, self._network = start.clone(), network
        self._optimiser = _Adam(np.zeros(start.shape, np.float32), learning_rate)
        self.size = len(start)

    def proba(self, x: Array) -> Floats:
        """See `Training`."""
        with one_torch_thread(), torch.inference_mode():
            parts = [self._network.inputs(x[i : i + _ROWS]) for i in range(0, len(x), _ROWS)]
            found = [self._network.logits(part, self._weights).double().softmax(1).numpy() for part in parts]
        return np.concatenate(found)

    def descend(self, x: Array, loss: Loss) -> None:
        """See `Training`."""
        with one_torch_thread():
            weights = self._weights.requires_grad_()
            total = loss(self._network.logits(self._network.inputs(x), weights)) + self._network.penalty(weights)
            (gradient,) = torch.autograd.grad(total, weights)
            self._step(gradient)

    def descend_clipped(self, x: Array, y: Ints, norm: float, noise: Array | None = None) -> None:
        """See `Training`."""
        with one_torch_thread():
            total = self.clipped_sum(x, y, norm)
            if noise is not None:
                total += torch.from_numpy(noise).to(total.dtype)
            weights = self._weights.requires_grad_()
            (shrink,) = torch.autograd.grad(self._network.penalty(weights), weights)
            self._step(total / len(x) + shrink)

    def clipped_sum(self, x: Array, y: Ints, norm: float) -> Tensor:
        """(P,) the sum of the rows' gradients of the log loss, each scaled down to at most `norm`."""
        each = self._weights.detach().expand(len(x), -1).clone().requires_grad_()
        labels = torch.from_numpy(np.array(y, np.int64))
        total = functional.cross_entropy(self._network.logits(self._network.inputs(x), each), labels, reduction="sum")
        (gradients,) = torch.autograd.grad(total, each)
        lengths = gradients.norm(dim=1).clamp(min=torch.finfo(gradients.dtype).tiny)
        total_clipped: Tensor = (gradients * (norm / lengths).clamp(max=1)[:, None]).sum(0)
        return total_clipped

    def model(self) -> Model:
        """See `Training`."""
        return self._network.model(self._weights.detach().numpy().copy())

    def _step(self, gradient: Tensor) -> None:
        self._weights.requires_grad_(False)
        self._weights -= torch.from_numpy(self._optimiser.change(gradient.numpy()))


class _LinearTraining:
    """A linear classifier and the state of its optimiser, in float64. Logits of two classes with one row of a head are (0, s)."""

    def __init__(self, start: Array, classes: int, objective: _LastLayer | _Logistic, learning_rate: float) -> None:
        self._head, self._objective, self._pads = start.copy(), objective, len(start) < classes
        self._optimiser = _Adam(np.zeros_like(start), learning_rate)
        self.size = start.size

    def proba(self, x: Array) -> Array:
        """See `Training`."""
        found: Array = softmax(self._logits(_rows(x)), axis=1)
        return found

    def descend(self, x: Array, loss: Loss) -> None:
        """See `Training`."""
        rows = _rows(x)
        by_logits = self._by_scores(loss.gradient(self._logits(rows)))
        self._step(_outer(by_logits, rows))

    def descend_clipped(self, x: Array, y: Ints, norm: float, noise: Array | None = None) -> None:
        """See `Training`."""
        total = self.clipped_sum(x, y, norm)
        self._step((total if noise is None else total + noise.reshape(total.shape)) / len(x))

    def clipped_sum(self, x: Array, y: Ints, norm: float) -> Array:
        """(K, d + 1) the sum of the rows' gradients of the log loss, each scaled down to at most `norm`."""
        rows = _rows(x)
        errors = softmax(self._logits(rows), axis=1)
        errors[np.arange(len(y)), y] -= 1
        by_scores = self._by_scores(errors)
        # The gradient of a row is the outer product of these errors and of the row with a 1 for the intercept.
        lengths = np.sqrt((by_scores**2).sum(1) * ((rows**2).sum(1) + 1))
        factors = np.minimum(norm / np.maximum(lengths, np.finfo(np.float64).tiny), 1)
        return _outer(by_scores * factors[:, None], rows)

    def model(self) -> Model:
        """See `Training`."""
        return self._objective.model(self._head)

    def _logits(self, rows: Array) -> Array:
        scores: Array = rows @ self._head[:, :-1].T + self._head[:, -1]
        return np.hstack([np.zeros_like(scores), scores]) if self._pads else scores

    def _by_scores(self, by_logits: Array) -> Array:
        return by_logits[:, 1:] if self._pads else by_logits

    def _step(self, gradient: Array) -> None:
        self._head -= self._optimiser.change(gradient + self._objective.shrink(self._head))


class _Adam:
    """Adam as in the fleets, which add EPSILON before the correction of the squares is divided out.

    zeros: of the shape and the type of the parameters.
    """

    def __init__(self, zeros: Array, learning_rate: float) -> None:
        self._mean, self._square, self._rate, self._done = zeros, zeros.copy(), learning_rate, 0

    def change(self, gradient: Array) -> Array:
        """What the next step subtracts from the parameters."""
        self._done += 1
        correction = float(np.sqrt(1 - BETA_2**self._done))
        self._mean += (1 - BETA_1) * (gradient - self._mean)
        self._square *= BETA_2
        self._square += (1 - BETA_2) * gradient**2
        rate = self._rate * correction / (1 - BETA_1**self._done)
        found: Array = rate * self._mean / (np.sqrt(self._square) + EPSILON * correction)
        return found


def _rows(x: Array) -> Array:
    return flat(np.asarray(x)).astype(np.float64)


def _outer(by_scores: Array, rows: Array) -> Array:
    """(K, d + 1) the sum over rows, (B, d) with a 1 for the intercept, of their outer products with (B, K)."""
    return np.hstack([by_scores.T @ rows, by_scores.sum(0)[:, None]])


__all__: Sequence[str] = ("LONGER", "ConvSteps", "LinearSteps", "content_keys")
