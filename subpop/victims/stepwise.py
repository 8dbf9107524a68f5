"""Victims trained step by step, for defenses that change the training itself: `Trainable` of small and of linear networks.

*Source*: the architecture, the penalty and the optimiser of `conv_net`, of `last_layer_as_released`, and of the objective of
`logistic_regression`. Gradients are torch's; a gradient for each row comes from a batch of identical networks with one row each.
*Deviations*: one network at a time, where victims train as fleets. `last_layer` and `logistic_regression` are solved exactly
by `fit`; here they take `LONGER` steps of Adam on the same objective, 30 epochs at 1e-2, which end near the optimum; fixed in
advance and not tuned. Batches are ordered by a hash of the inputs instead of the row number, which a defense does not know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from subpop.types import Array, Floats, Ints, Model, TrainingSet
from subpop.types.roles import Training
from subpop.victims.batch_order import BatchOrder
from subpop.victims.batched_jobs import Recipe
from subpop.victims.head_training import BETA_1, BETA_2, EPSILON, KERNEL_PENALTY, coefficients, starts
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
        keys = content_keys(train.x)
        canonical = np.lexsort((train.y, keys))
        order = canonical[BatchOrder(self.seed_of(member), keys[canonical]).epochs(epoch, 1)[0]]
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
        return _Steps(start, _Conv(shape, self.victim), self.recipe.learning_rate)


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
            start = starts([self.seed_of(member)], d + 1, classes)[0].astype(np.float64).ravel()
            return _Steps(torch.from_numpy(start), _LastLayer(d, classes, self.kind), self.recipe.learning_rate)
        start = np.random.default_rng([self.seed_of(member), 0]).normal(0, 1e-2, (d + 1) * (1 if classes == 2 else classes))
        network = _Logistic(d, classes, self.kind, self.logistic / len(train))
        return _Steps(torch.from_numpy(start), network, self.recipe.learning_rate)


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
    d: int
    classes: int
    kind: type[LinearModel]

    def inputs(self, x: Array) -> Tensor:
        return torch.from_numpy(flat(np.asarray(x)).astype(np.float64))

    def logits(self, x: Tensor, weights: Tensor) -> Tensor:
        return _scores(x, weights.view(*weights.shape[:-1], self.classes, self.d + 1))

    def penalty(self, weights: Tensor) -> Tensor:
        return KERNEL_PENALTY * weights.view(self.classes, self.d + 1)[:, :-1].square().sum()

    def model(self, weights: Floats) -> Model:
        return self.kind(coefficients(weights.reshape(self.classes, self.d + 1)))


@dataclass(frozen=True)
class _Logistic:
    d: int
    classes: int
    kind: type[LinearModel]
    each: float
    """The penalty for each training row."""

    def inputs(self, x: Array) -> Tensor:
        return torch.from_numpy(flat(np.asarray(x)).astype(np.float64))

    def logits(self, x: Tensor, weights: Tensor) -> Tensor:
        scores = _scores(x, weights.view(*weights.shape[:-1], -1, self.d + 1))
        return functional.pad(scores, (1, 0)) if self.classes == 2 else scores

    def penalty(self, weights: Tensor) -> Tensor:
        return self.each / 2 * weights.square().sum()

    def model(self, weights: Floats) -> Model:
        return self.kind(weights.reshape(-1, self.d + 1).T.astype(np.float64))


def _scores(x: Tensor, head: Tensor) -> Tensor:
    """(n, K) linear scores of x (n, d) under a head (K, d + 1), or (n, K, d + 1) for a head for each row."""
    if head.ndim == 2:
        return functional.linear(x, head[:, :-1], head[:, -1])
    return (head[..., :-1] @ x.unsqueeze(-1)).squeeze(-1) + head[..., -1]


# --- the steps --------------------------------------------------------------------------------------------------------


class _Steps:
    """One network and the state of its optimiser, Adam as in the fleets. Kernels run on one thread: sums depend on no core."""

    def __init__(self, start: Tensor, network: _Conv | _LastLayer | _Logistic, learning_rate: float) -> None:
        self._weights, self._network, self._rate = start.clone(), network, learning_rate
        self._mean, self._square, self._done = torch.zeros_like(start), torch.zeros_like(start), 0
        self.size = len(start)

    def proba(self, x: Array) -> Floats:
        """See `Training`."""
        with _one_torch_thread(), torch.inference_mode():
            parts = [self._network.inputs(x[i : i + _ROWS]) for i in range(0, len(x), _ROWS)]
            found = [self._network.logits(part, self._weights).double().softmax(1).numpy() for part in parts]
        return np.concatenate(found)

    def descend(self, x: Array, loss: Callable[[Tensor], Tensor]) -> None:
        """See `Training`."""
        with _one_torch_thread():
            weights = self._weights.requires_grad_()
            total = loss(self._network.logits(self._network.inputs(x), weights)) + self._network.penalty(weights)
            (gradient,) = torch.autograd.grad(total, weights)
            self._adam(gradient)

    def descend_clipped(self, x: Array, y: Ints, norm: float, noise: Array | None = None) -> None:
        """See `Training`."""
        with _one_torch_thread():
            total = self.clipped_sum(x, y, norm)
            if noise is not None:
                total += torch.from_numpy(noise).to(total.dtype)
            weights = self._weights.requires_grad_()
            (shrink,) = torch.autograd.grad(self._network.penalty(weights), weights)
            self._adam(total / len(x) + shrink)

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

    @torch.no_grad()
    def _adam(self, gradient: Tensor) -> None:
        self._weights.requires_grad_(False)
        self._done += 1
        correction = (1 - BETA_2**self._done) ** 0.5
        self._mean.lerp_(gradient, 1 - BETA_1)
        self._square.mul_(BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
        rate = self._rate * correction / (1 - BETA_1**self._done)
        self._weights.addcdiv_(self._mean, self._square.sqrt().add_(EPSILON * correction), value=-rate)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


__all__: Sequence[str] = ("LONGER", "ConvSteps", "LinearSteps", "content_keys")
