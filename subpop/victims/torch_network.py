"""The torch modules of the convolutional victims: a body up to its last map, global average pooling, a linear head.

A body has `channels(x)`, the output of its last convolution after the ReLU, and `finish(channels)`, the pooling that may follow;
VGG-16 and the others of `subpop.features.networks.imagenet` are such bodies. Small ones are written as words: `16/2 32 M` is a
3x3 convolution to 16 channels with stride 2, one to 32 channels, and a 2x2 max pool.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from subpop.types import Array, Bools

POOL = "M"
_WORDS = re.compile(r"(M )*\d+(/\d+)?( \d+(/\d+)?| M)*")
PREFIX = "network."
"""Prefix of the names of a network's arrays in the state of a model."""


class Body(Protocol):
    """The layers below the pooling, which are also a torch.nn.Module."""

    def channels(self, x: Tensor) -> Tensor:
        """(n, c, h, w) activations of the last convolution after its ReLU, from (n, channels, height, width) inputs."""
        ...

    def finish(self, channels: Tensor) -> Tensor:
        """Apply the layers after the channels; each channel is processed separately."""
        ...


class PlainBody(nn.Module):
    """3x3 convolutions with ReLU, and 2x2 max pools, as given by `words`; He-normal weights by fan-in from a local generator."""

    def __init__(self, words: str, in_channels: int, seed: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for word in words.split():
            if word == POOL:
                layers.append(nn.MaxPool2d(2))
                continue
            width, _, stride = word.partition("/")
            layers += [nn.Conv2d(channels, int(width), 3, int(stride or 1), padding=1, device="meta"), nn.ReLU()]
            channels = int(width)
        after = len(layers) - next(i for i, layer in enumerate(reversed(layers)) if isinstance(layer, nn.ReLU))
        self.layers, self.tail = nn.Sequential(*layers[:after]), nn.Sequential(*layers[after:])
        self.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, generator=generator)
                nn.init.zeros_(cast(Tensor, layer.bias))

    def channels(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y

    def finish(self, channels: Tensor) -> Tensor:
        y: Tensor = self.tail(channels)
        return y


class ConvClassifier(nn.Module):
    """Maps pixels in 0..255 to logits: (pixels / 255 - offset), the body, masking of channels, mean over positions, the head.

    name: of the body, an ImageNet network or words; penalty: factor of the sum of squares of the head's kernel in training.
    """

    keep: Tensor

    def __init__(
        self, name: str, body: nn.Module, head: nn.Linear, offset: float, penalty: float, keep: Bools | None = None
    ) -> None:
        super().__init__()
        self.name, self.body, self.head, self.offset, self.penalty = name, body, head, offset, penalty
        kept = np.ones(head.in_features, bool) if keep is None else keep
        self.register_buffer("keep", torch.from_numpy(kept.astype(np.float32)))

    def maps(self, pixels: Tensor) -> Tensor:
        """(n, c, h, w) activations of the last convolution, before masking."""
        x = pixels.to(self.head.weight.dtype, memory_format=torch.channels_last)
        return cast(Body, self.body).channels(x / 255 - self.offset)

    def features(self, maps: Tensor) -> Tensor:
        """(n, c) features: masked, pooled, and averaged over positions."""
        return cast(Body, self.body).finish(maps * self.keep[:, None, None]).mean((2, 3))

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, C) logits; differentiable in float pixels."""
        logits: Tensor = self.head(self.features(self.maps(pixels)))
        return logits


def body_named(name: str, in_channels: int, seed: int = 0) -> nn.Module:
    """Make a body with random weights drawn by `seed`: from words, or an ImageNet network's (BadInput if it is unknown)."""
    if _WORDS.fullmatch(name):
        return PlainBody(name, in_channels, seed)
    from subpop.features.networks.imagenet import imagenet_body

    return imagenet_body(name, pretrained=False, seed=seed)


def to_state(network: ConvClassifier) -> dict[str, Array]:
    """Plain arrays that `of_state` turns back into the same network."""
    arrays = {f"{PREFIX}{name}": value.detach().cpu().numpy().copy() for name, value in network.state_dict().items()}
    return {"body": np.array(network.name), "numbers": np.array([network.offset, network.penalty]), **arrays}


def of_state(state: Mapping[str, Array]) -> ConvClassifier:
    """The network with this state."""
    own = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
    # Always the same memory layout, because it determines how sums are rounded.
    tensors = {name: torch.from_numpy(np.array(value, order="C")) for name, value in own.items()}
    n_classes, d = tensors["head.weight"].shape
    first = next(value for name, value in tensors.items() if name.startswith("body.") and value.ndim == 4)
    with torch.device("meta"):
        head = nn.Linear(d, n_classes)
    offset, penalty = (float(number) for number in state["numbers"])
    name = str(state["body"])
    network = ConvClassifier(name, body_named(name, int(first.shape[1])), head, offset, penalty)
    network.load_state_dict(tensors, assign=True)
    return frozen(network)


def frozen(network: ConvClassifier) -> ConvClassifier:
    """The network in eval mode, float32, channels last, without gradients."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.float().eval().requires_grad_(False)
