"""Frozen networks as differentiable functions of a picture's float pixels.

Features and gradients are computed in float32 with TF32 off: the steps of an attack are a few hundred-thousandths of the pixels'
range, below the resolution of a 10-bit mantissa.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from subpop.types import Array, BadInput, Floats
from subpop.victims.top_layers.top_layer import Doubles

if TYPE_CHECKING:
    from torch import Tensor

    from subpop.features.networks.transforms import InputTransform
    from subpop.victims.torch_model import TorchModel

Pullback = Callable[[Array], Floats]
"""Maps (J, d) cotangents of features to (J, c, h, w) float32 gradients of pixels; may be called several times."""

PIXELS = 32 * 32 * 32
"""Number of pixels per batch, if nothing else determines the number of pictures."""


class Backbone(Protocol):
    """Features of pictures (J, c, h, w) with pixels in 0..255, either uint8 or unrounded float32.

    device: on "cpu", several threads may call the methods at the same time.
    """

    device: str

    def features(self, pictures: Array) -> Doubles:
        """(n, d) float64 features, in batches of bounded memory, without gradients."""
        ...

    def features_and_pullback(self, pictures: Array) -> tuple[Doubles, Pullback]:
        """(J, d) float64 features of one forward pass, and its backward pass."""
        ...


def pictures_at_a_time(pictures: Array) -> int:
    """Number of pictures per batch, so that memory is bounded."""
    return max(1, PIXELS // max(1, int(np.prod(pictures.shape[2:]))))


class TorchBackbone(ABC):
    """A frozen torch network. pooled: average its last map over positions instead of flattening it; scale: divides features."""

    def __init__(self, network: Any, pooled: bool, scale: float, device: str) -> None:
        import torch

        if device != "cpu" and not torch.cuda.is_available():
            raise BadInput(f"device={device!r}, but torch sees no GPU here; give device='cpu'")
        if not (np.isfinite(scale) and scale > 0):
            raise BadInput(f"scale={scale}: features are divided by it, so it must be finite and > 0")
        self._network = network.eval().requires_grad_(False).to(device=device, memory_format=torch.channels_last)
        self.pooled, self.scale, self.device = pooled, scale, device

    @abstractmethod
    def last_map(self, pixels: Tensor) -> Tensor:
        """(n, c, h', w') of float32 pixels in 0..255; differentiable."""

    def scaled_on(self, pictures: Array) -> Self:
        """The same backbone with features divided by their overall standard deviation over these pictures."""
        found = self.scale * float(self.features(pictures).std())
        if not (np.isfinite(found) and found > 0):
            raise BadInput(f"features of {len(pictures)} pictures have the standard deviation {found}; give other pictures")
        scaled = copy.copy(self)
        scaled.scale = found
        return scaled

    def features(self, pictures: Array) -> Doubles:
        """(n, d) float64 features, in batches of bounded memory, without gradients."""
        import torch

        _check(pictures)
        size = pictures_at_a_time(pictures)
        with torch.no_grad(), _exact(self.device):
            parts = [self._features(self._tensor(pictures[at : at + size])) for at in range(0, len(pictures), size)]
        return np.concatenate([_array(part) for part in parts]).astype(np.float64)

    def features_and_pullback(self, pictures: Array) -> tuple[Doubles, Pullback]:
        """(J, d) float64 features of one forward pass, and its backward pass."""
        import torch

        _check(pictures)
        pixels = self._tensor(pictures).requires_grad_()
        with torch.enable_grad(), _exact(self.device):
            features = self._features(pixels)
        if not features.requires_grad:
            raise BadInput(f"{type(self).__name__} has no gradient in the pixels; give a network that can be differentiated")

        def pullback(cotangents: Array) -> Floats:
            seed = torch.from_numpy(np.asarray(cotangents, dtype=np.float32)).to(features.device)
            with _exact(self.device):
                (gradient,) = torch.autograd.grad(features, pixels, seed, retain_graph=True)
            return np.ascontiguousarray(_array(gradient))

        return _array(features).astype(np.float64), pullback

    def _features(self, pixels: Tensor) -> Tensor:
        found = self.last_map(pixels)
        return (found.mean((2, 3)) if self.pooled else found.flatten(1)) / self.scale

    def _tensor(self, pictures: Array) -> Tensor:
        import torch

        pixels = torch.from_numpy(np.array(pictures, dtype=np.float32))
        return pixels.to(self.device, memory_format=torch.channels_last)


class NetworkBackbone(TorchBackbone):
    """A network of `subpop.features.networks` with its published weights and folded batch norms.

    transform: None for the network's own. Raises MissingData if the weights are missing.
    """

    def __init__(
        self,
        name: str,
        weights_root: Path | None = None,
        *,
        pooled: bool = False,
        transform: InputTransform | None = None,
        scale: float = 1.0,
        device: str = "cpu",
    ) -> None:
        from subpop.features.networks import load_network, network_of
        from subpop.features.networks.folding import folded

        self.transform = transform or network_of(name).transform
        super().__init__(folded(load_network(name, weights_root)), pooled, scale, device)

    def last_map(self, pixels: Tensor) -> Tensor:
        """(n, c, h', w') of float32 pixels in 0..255; differentiable."""
        network = self._network
        found: Tensor = getattr(network, "forward_map", network)(self.transform(pixels, self.device))
        return found


class ConvBackbone(TorchBackbone):
    """The body of a trained convolutional victim, with its masked channels at 0."""

    def __init__(self, model: TorchModel, *, pooled: bool = False, scale: float = 1.0, device: str = "cpu") -> None:
        super().__init__(model.module, pooled, scale, device)

    def last_map(self, pixels: Tensor) -> Tensor:
        """(n, c, h', w') of float32 pixels in 0..255; differentiable."""
        network = self._network
        found: Tensor = network.body.finish(network.maps(pixels) * network.keep[:, None, None])
        return found


def _check(pictures: Array) -> None:
    if pictures.ndim != 4 or not len(pictures) or pictures.dtype not in (np.uint8, np.float32):
        found = f"pictures are {pictures.dtype} of shape {pictures.shape}"
        raise BadInput(f"{found}; give (n, channels, height, width), uint8 or float32 in 0..255")


def _array(tensor: Tensor) -> Floats:
    return tensor.detach().cpu().numpy()


@contextmanager
def _exact(device: str) -> Iterator[None]:
    """Run convolutions on a GPU in full float32 and deterministically."""
    from torch.backends import cudnn

    if device == "cpu":  # several threads may be in here, and these settings are global to the process
        yield
        return
    with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
