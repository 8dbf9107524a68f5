"""ResNet-20 and ResNet-56 for CIFAR-10: 32x32 pictures, three stages of 16, 32 and 64 channels, 64 features.

*Source*: He et al., Deep Residual Learning for Image Recognition (CVPR 2016), section 4.2, with parameter-free shortcuts (option
A). The weights read here are Idelbayev's, trained by the paper's recipe (pytorch_resnet_cifar10, BSD-2): 91.7 % and 93.4 % on
the CIFAR-10 test images. Input: x / 255, normalised with ImageNet's mean and deviation, as they were trained.
*Deviations*: zero channels of a shortcut are added half before and half after the others, as those weights expect; the paper
does not specify it. The networks were trained on CIFAR-10's own training images, so features of those are optimistic.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subpop.features.networks.weights import initialise, load_into, read_weights, weights_path
from subpop.types import BadInput

BLOCKS = {"resnet20_cifar10": 3, "resnet56_cifar10": 9}
"""Residual blocks a stage: 6 n + 2 layers."""
N_FEATURES = 64


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut; where the map halves, the shortcut takes every second position."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.stride, self.extra = stride, n_out - n_in

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x), inplace=True)

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: no parameters; new channels are zero."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        before = self.extra // 2
        return F.pad(x, (0, 0, 0, 0, before, self.extra - before)) if self.extra else x


class CifarResNet(nn.Module):
    """The network; `forward` gives logits. Names of its parts are those of the published weights."""

    def __init__(self, n_blocks: int, n_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, n_blocks)
        self.layer2 = _stage(16, 32, 2, n_blocks)
        self.layer3 = _stage(32, N_FEATURES, 2, n_blocks)
        self.linear = nn.Linear(N_FEATURES, n_classes)

    def forward_map(self, x: Tensor) -> Tensor:
        """(n, 3, 32, 32) normalised pictures to the last convolutional map, (n, 64, 8, 8), after its ReLU."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.layer3(self.layer2(self.layer1(y)))
        assert isinstance(y, Tensor)
        return y

    def pooled(self, x: Tensor) -> Tensor:
        """Return (n, 64): the mean of the last map over positions, the input of the linear layer."""
        return self.forward_map(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_classes) logits."""
        logits: Tensor = self.linear(self.pooled(x))
        return logits


def _stage(n_in: int, n_out: int, stride: int, n_blocks: int) -> nn.Sequential:
    rest = [Block(n_out, n_out, 1) for _ in range(n_blocks - 1)]
    return nn.Sequential(Block(n_in, n_out, stride), *rest)


def resnet_cifar(name: str, weights_root: Path | None = None, pretrained: bool = True, *, seed: int = 0) -> CifarResNet:
    """A network of `BLOCKS` in eval mode, with published weights or (pretrained=False) random ones drawn by `seed`.

    Raises MissingData if the weights root lacks the file, BadInput if its content does not fit.
    """
    if name not in BLOCKS:
        raise BadInput(f"unknown CIFAR-10 network {name!r}; known: {', '.join(BLOCKS)}")
    path = weights_path(name, weights_root) if pretrained else None
    # Built on the meta device, so that torch's global generator draws no unused initial weights.
    with torch.device("meta"):
        network = CifarResNet(BLOCKS[name])
    network.to_empty(device="cpu")
    if path is None:
        initialise(network, seed)
    else:
        load_into(network, read_weights(path), name, path)
    return network.eval()
