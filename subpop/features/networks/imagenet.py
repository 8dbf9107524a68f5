"""The paper's ImageNet networks, cut after the last convolutional map: VGG-16, ResNet-50, Inception-v3.

*Source*: torchvision's architectures and its ImageNet weights (see `weights`): VGG-16 (Simonyan and Zisserman 2015), the
network of the face and CIFAR-10 experiments; ResNet-50 (He et al. 2016), whose embedding clusters CIFAR-10 in Table 15;
Inception-v3 (Szegedy et al. 2016), of the dog-fish attack (Koh and Liang 2017).

| network | last map | least side | input |
|---|---|---|---|
| vgg16 | (512, h/32, w/32) | 32 | RGB x / 255 (faces), x / 255 - .5 (CIFAR-10) |
| resnet50 | (2048, h/32, w/32) | 1 | RGB x / 255, normalised with ImageNet's mean and deviation |
| inception_v3 | (2048, 8, 8) at 299x299 | 75 | RGB in [-1, 1], 299x299 |

`pooled` is the mean of the last map over positions; no fully connected layer is used, and Inception's auxiliary head is left out.
*Deviations*: the paper used Keras; its VGG-16 has the same weights for BGR input without division by 255, its ResNet-50
other ones. Inputs are as the released scripts feed them (VGG-16, Inception-v3) or as the weights were trained (ResNet-50).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subpop._torchvision import import_torchvision
from subpop.features.networks.weights import initialise, load_into, read_weights, weights_path
from subpop.types import BadInput


class ImagenetBody(nn.Module):
    """A network up to its last convolutional map. Its layers keep torchvision's names, after `layers.`."""

    def __init__(self, layers: nn.Sequential, tail: nn.Module) -> None:
        super().__init__()
        self.layers, self.tail = layers, tail

    def channels(self, x: Tensor) -> Tensor:
        """The activations of the last convolutional layer, after its ReLU, which Fine-Pruning masks before `finish`.

        VGG-16: 512 channels of block 5's third convolution, (n, 512, h/16, w/16); other networks: the last map itself.
        """
        y: Tensor = self.layers(x)
        return y

    def finish(self, channels: Tensor) -> Tensor:
        """From those activations to the last map: VGG-16's fifth max pool, elsewhere nothing."""
        y: Tensor = self.tail(channels)
        return y

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, h, w) normalised pictures to the last map, (n, c, h', w')."""
        return self.finish(self.channels(x))

    def pooled(self, x: Tensor) -> Tensor:
        """(n, c): the mean of the last map over positions."""
        return self(x).mean((2, 3))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Cut:
    """How a body is cut from torchvision's network: its layers in their order, and the modules after them."""

    options: dict[str, Any]
    layers: Callable[[Any], dict[str, nn.Module]]
    tail: Callable[[Any], nn.Module] = lambda whole: nn.Identity()


def _vgg_layers(whole: Any) -> dict[str, nn.Module]:
    return {"features": whole.features[:-1]}


def _resnet_layers(whole: Any) -> dict[str, nn.Module]:
    return _all_but(whole, "avgpool", "fc")


def _inception_layers(whole: Any) -> dict[str, nn.Module]:
    return _all_but(whole, "AuxLogits", "avgpool", "dropout", "fc")


def _all_but(whole: nn.Module, *names: str) -> dict[str, nn.Module]:
    return {name: layer for name, layer in whole.named_children() if name not in names}


BODIES = {
    "vgg16": _Cut({}, _vgg_layers, lambda whole: whole.features[-1]),
    "resnet50": _Cut({}, _resnet_layers),
    "inception_v3": _Cut({"aux_logits": True, "transform_input": False, "init_weights": False}, _inception_layers),
}


def imagenet_body(name: str, weights_root: Path | None = None, pretrained: bool = True, *, seed: int = 0) -> ImagenetBody:
    """Load a network of `BODIES` in eval mode, with ImageNet weights or (pretrained=False) random ones drawn by `seed`.

    The file may contain torchvision's whole network or lack its head. Raises MissingData if it is missing and cannot be
    downloaded, BadInput if its content does not fit.
    """
    if name not in BODIES:
        raise BadInput(f"unknown ImageNet network {name!r}; known: {', '.join(BODIES)}")
    path = weights_path(name, weights_root) if pretrained else None
    # Built without memory: the head that is dropped would cost half a gigabyte (VGG-16) and draw from the global generator.
    with torch.device("meta"):
        whole = getattr(import_torchvision().models, name)(weights=None, **BODIES[name].options)
        body = ImagenetBody(nn.Sequential(OrderedDict(BODIES[name].layers(whole))), BODIES[name].tail(whole))
    body.to_empty(device="cpu")
    if path is None:
        initialise(body, seed)
    else:
        load_into(body.layers, read_weights(path), name, path, others=whole.state_dict())
    return body.eval()
