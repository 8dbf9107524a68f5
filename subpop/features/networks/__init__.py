"""Backbone networks by name, with published weights, which turn pictures into features.

A network is a torch module with `pooled(x) -> (n, n_features)`, the mean over positions of its last convolutional map. Weights
are read from a folder or, for ImageNet, downloaded by torchvision (see `weights`). Nothing here trains, and importing this
module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from subpop.features.networks.transforms import CENTRED, IMAGENET, IMAGENET_32, SIGNED, UNIT, InputTransform
from subpop.types import BadInput

if TYPE_CHECKING:
    from subpop.features.networks.imagenet import ImagenetBody
    from subpop.features.networks.resnet_cifar import CifarResNet

__all__ = [
    "CENTRED",
    "IMAGENET",
    "IMAGENET_32",
    "NETWORKS",
    "SIGNED",
    "UNIT",
    "InputTransform",
    "Network",
    "load_network",
    "network_of",
]


@dataclass(frozen=True)
class Network:
    """An entry of the table. load: name, weights root -> network; transform: for frozen features; smallest: least side
    length."""

    load: Callable[[str, Path | None], ImagenetBody | CifarResNet]
    n_features: int
    transform: InputTransform
    smallest: int = 1


def _imagenet(name: str, weights_root: Path | None) -> ImagenetBody:
    from subpop.features.networks.imagenet import imagenet_body

    return imagenet_body(name, weights_root)


def _cifar(name: str, weights_root: Path | None) -> CifarResNet:
    from subpop.features.networks.resnet_cifar import resnet_cifar

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
