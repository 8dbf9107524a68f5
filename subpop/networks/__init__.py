"""Backbone networks by name, with published weights, which turn pictures into features.

A network is a torch module with `pooled(x) -> (n, n_features)`, the mean over positions of its last convolutional map. Weights
are read from a folder or, for ImageNet, downloaded by torchvision (see `weights`). Nothing here trains, and importing this
module does not import torch.

The preprocessing is a separate object, an `InputTransform`, because one network is used with several: the paper's VGG-16 reads
faces as x / 255 and CIFAR-10 as x / 255 - .5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subpop.types import Array, BadInput

if TYPE_CHECKING:
    import torch

    from subpop.networks.imagenet import ImagenetBody
    from subpop.networks.resnet_cifar import CifarResNet

__all__ = ["CENTRED", "IMAGENET", "NETWORKS", "SIGNED", "UNIT", "InputTransform", "Network", "load_network", "network_of"]

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class InputTransform:
    """Preprocessing of pixels: (x / 255 - mean) / deviation, per channel R, G, B.

    size: pictures of another size are first resized to size x size, bilinearly with antialiasing (non-square ones are
    stretched); None for no resizing.
    """

    mean: Triple = (0.0, 0.0, 0.0)
    deviation: Triple = (1.0, 1.0, 1.0)
    size: int | None = None

    def __call__(self, pixels: Array | torch.Tensor, device: str = "cpu") -> torch.Tensor:
        """(n, 3, h, w) pixels in 0..255, uint8 or float, to float32 of the same layout, channels last in memory."""
        import torch

        # numpy arrays are copied: torch must not receive read-only memory such as a data set's.
        given = pixels if isinstance(pixels, torch.Tensor) else torch.from_numpy(np.array(pixels))
        x = given.to(device).to(torch.float32, memory_format=torch.channels_last)
        if self.size is not None and tuple(x.shape[2:]) != (self.size, self.size):
            x = torch.nn.functional.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        mean, deviation = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (self.mean, self.deviation))
        return (x / 255 - mean) / deviation


HALF: Triple = (0.5, 0.5, 0.5)
UNIT = InputTransform()
"""[0, 1]: VGG-16 on faces."""
CENTRED = InputTransform(mean=HALF)
"""[-.5, .5]: VGG-16 on CIFAR-10."""
SIGNED = InputTransform(mean=HALF, deviation=HALF, size=299)
"""[-1, 1] at 299x299: Inception-v3."""
IMAGENET = InputTransform(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
"""ImageNet's mean and deviation, with which torchvision's ResNet-50 was trained."""
IMAGENET_32 = InputTransform(IMAGENET.mean, IMAGENET.deviation, size=32)
"""The same at 32x32, with which the CIFAR-10 networks were trained."""


@dataclass(frozen=True)
class Network:
    """An entry of the table. load: name, weights root -> network; transform: for frozen features; smallest: least side
    length."""

    load: Callable[[str, Path | None], ImagenetBody | CifarResNet]
    n_features: int
    transform: InputTransform
    smallest: int = 1


def _imagenet(name: str, weights_root: Path | None) -> ImagenetBody:
    from subpop.networks.imagenet import imagenet_body

    return imagenet_body(name, weights_root)


def _cifar(name: str, weights_root: Path | None) -> CifarResNet:
    from subpop.networks.resnet_cifar import resnet_cifar

    return resnet_cifar(name, weights_root)


NETWORKS: dict[str, Network] = {
    "vgg16": Network(_imagenet, 512, UNIT, smallest=32),
    "resnet50": Network(_imagenet, 2048, IMAGENET),
    "inception_v3": Network(_imagenet, 2048, SIGNED, smallest=75),
    "resnet20_cifar10": Network(_cifar, 64, IMAGENET_32),
    "resnet56_cifar10": Network(_cifar, 64, IMAGENET_32),
}


def network_of(name: str) -> Network:
    """The entry of a name; raises BadInput with the known names."""
    if name not in NETWORKS:
        raise BadInput(f"unknown network {name!r}; known: {', '.join(NETWORKS)}")
    return NETWORKS[name]


def load_network(name: str, weights_root: Path | None = None) -> ImagenetBody | CifarResNet:
    """A network in eval mode with its published weights; raises BadInput for an unknown name or weights that do not fit."""
    return network_of(name).load(name, weights_root)
