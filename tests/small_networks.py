"""What the tests of networks share: batch norms that do something, and one thread."""

from collections.abc import Iterator
from typing import TypeVar

import pytest
import torch
from torch import nn

Net = TypeVar("Net", bound=nn.Module)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from threads, and lose much where another program uses the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def lively(network: Net, seed: int = 0) -> Net:
    """Batch norms that do something, so that a test sees whether they are applied."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values, low, high in ((layer.weight, 0.5, 1), (layer.bias, -0.1, 0.1)):
                values.data.uniform_(low, high, generator=generator)
            layer.running_mean.uniform_(-0.1, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return network
