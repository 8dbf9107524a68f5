"""The last layer of an attacker's model: gradients of its loss, and their derivatives with respect to the inputs.

*Source*: softmax cross-entropy on linear scores z = f W + b. A row's gradient with respect to (W, b) is the outer product of
(f, 1) and p - e_y, so its inner product with a direction V is (p - e_y) . a with a = (f, 1) V, and the gradient of that product
with respect to f is V (p - e_y) + W (diag(p) - p p^T) a.
*Deviations*: two classes have one column, the score of class 1 minus that of class 0; inner products of the gradients of a
softmax with two columns are then half as large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from subpop.types import Array, BadInput, Ints, Model
from subpop.victims.linear_model import LinearModel, flat
from subpop.victims.mlp import MLPModel
from subpop.victims.torch_model import TorchModel

Doubles = NDArray[np.float64]
Pull = Callable[[Doubles], Doubles]
"""(m, d) gradients with respect to features -> (m, ...) with respect to inputs."""
_ROWS = 64


@dataclass(frozen=True, eq=False)
class Head:
    """kernel (d, K') and bias (K',) float64: K' = 1 for two classes, otherwise one column per class. Directions V are (d + 1,
    K')."""

    kernel: Doubles
    bias: Doubles

    def residuals(self, features: Doubles, y: Ints) -> Doubles:
        """(n, K') p - e_y: the gradient of each row's cross-entropy with respect to its scores."""
        p = self.probabilities(features)
        return np.asarray(p - (y[:, None] == np.arange(p.shape[1]) + (p.shape[1] == 1)))

    def probabilities(self, features: Doubles) -> Doubles:
        """(n, K') class probabilities; with one column, of class 1."""
        z = features @ self.kernel + self.bias
        if z.shape[1] == 1:
            z = np.concatenate([np.zeros_like(z), z], axis=1)
            return _softmax(z)[:, 1:]
        return _softmax(z)

    def mean_gradient(self, features: Doubles, y: Ints) -> Doubles:
        """(d + 1, K') gradient of the mean cross-entropy, the bias in the last row."""
        return with_one(features).T @ self.residuals(features, y) / max(1, len(y))

    def pairings(self, features: Doubles, y: Ints, direction: Doubles) -> Doubles:
        """(n,) inner product of each row's gradient with a direction."""
        return np.asarray((self.residuals(features, y) * (with_one(features) @ direction)).sum(axis=1))

    def pairing_gradients(self, features: Doubles, y: Ints, direction: Doubles) -> Doubles:
        """(n, d) gradient of those inner products with respect to the features."""
        along = with_one(features) @ direction
        curved = curvature_product(self.probabilities(features), along)
        return np.asarray(self.residuals(features, y) @ direction[:-1].T + curved @ self.kernel.T)


def curvature_product(p: Doubles, along: Doubles) -> Doubles:
    """(n, K') products of (diag(p) - p p^T), the Hessian of the loss in the scores, with `along`, row by row."""
    return np.asarray(p * (along - (p * along).sum(axis=1, keepdims=True)))


def with_one(features: Doubles) -> Doubles:
    """(n, d + 1): a last column of ones, for the bias."""
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def _softmax(z: Doubles) -> Doubles:
    weights = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


# --- networks below the last layer ------------------------------------------------------------------------------------


class Network(Protocol):
    """The network below the last layer, which maps inputs to features."""

    def features(self, x: Array) -> tuple[Doubles, Pull]:
        """(m, d) features, and their way back to the inputs (good for one call)."""
        ...


class NoNetwork:
    """Features are the inputs themselves."""

    def features(self, x: Array) -> tuple[Doubles, Pull]:
        return flat(np.asarray(x, np.float64)), lambda gradient: gradient.reshape(x.shape)


@dataclass(frozen=True, eq=False)
class HiddenLayer:
    """One layer of ReLU units: w (d, hidden), b (hidden,)."""

    w: Doubles
    b: Doubles

    def features(self, x: Array) -> tuple[Doubles, Pull]:
        hidden = np.maximum(flat(np.asarray(x, np.float64)) @ self.w + self.b, 0)
        return hidden, lambda gradient: ((gradient * (hidden > 0)) @ self.w.T).reshape(x.shape)


class TorchBody:
    """A convolutional network up to its pooled features, in its own precision, on its model's device."""

    def __init__(self, model: TorchModel) -> None:
        self.network, self.device = model.module.to(model.device), model.device

    def features(self, x: Array) -> tuple[Doubles, Pull]:
        import torch

        size = next(self.network.parameters()).dtype
        inputs = [torch.tensor(x[i : i + _ROWS], dtype=size, device=self.device) for i in range(0, len(x), _ROWS)]
        inputs = [batch.requires_grad_() for batch in inputs]
        outputs = [self.network.features(self.network.maps(batch)) for batch in inputs]  # type: ignore[operator]
        width: Any = self.network.head.in_features  # type: ignore[union-attr]
        found = np.concatenate([np.empty((0, width)), *(f.detach().cpu().numpy() for f in outputs)])

        def pull(gradient: Doubles) -> Doubles:
            for i, own in enumerate(outputs):
                own.backward(torch.tensor(gradient[i * _ROWS : (i + 1) * _ROWS], dtype=size, device=self.device))
            return np.concatenate([np.empty((0, *x.shape[1:])), *(batch.grad.cpu().numpy() for batch in inputs)])  # type: ignore[union-attr]

        return found, pull


def split(model: Model) -> tuple[Network, Head]:
    """Split a model into the network below its last layer and that layer; raises BadInput if it cannot be split."""
    if isinstance(model, LinearModel):
        return NoNetwork(), Head(model.coef[:-1], model.coef[-1])
    if isinstance(model, MLPModel):
        w, b = (part.astype(np.float64) for part in (model.w1, model.b1))
        return HiddenLayer(w, b), Head(model.w2.astype(np.float64), model.b2.astype(np.float64))
    if isinstance(model, TorchModel):
        head = model.module.head
        kernel, bias = (part.detach().numpy().astype(np.float64) for part in (head.weight.T, head.bias))  # type: ignore
        if kernel.shape[1] == 2:
            kernel, bias = kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
        return TorchBody(model), Head(kernel, bias)
    raise BadInput(
        f"{type(model).__name__} does not expose input gradients: optimised poison needs logistic_regression, last_layer, mlp or "
        "a convolutional victim; use attack label_flip"
    )
