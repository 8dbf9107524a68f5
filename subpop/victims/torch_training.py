"""Training one network: all pictures are on the device as bytes, and batches are gathered there, without synchronisation.

On a GPU layers run in bfloat16 (autocast) with weights and sums in float32, channels last in memory.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.backends import cudnn
from torch.nn import functional

from subpop.runtime.threads import in_one_thread
from subpop.types import Array, BadInput, Ints
from subpop.victims.batch_order import BatchOrder
from subpop.victims.batched_jobs import BETA_1, BETA_2, EPSILON, Recipe
from subpop.victims.torch_network import ConvClassifier, frozen


def train_on(
    network: ConvClassifier,
    x: Array,
    y: Ints,
    rows: Ints,
    *,
    recipe: Recipe,
    seed: int,
    device: str,
    keys: Ints | None = None,
) -> ConvClassifier:
    """Train the network itself on pictures x[rows] with labels y (n,), and return it on the CPU, frozen.

    seed: of the batch order and augmentation, which depend on a row's key (default: the row) and not on other rows. Raises
    BadInput if training diverges.
    """
    with in_one_thread(device == "cpu"):
        own = rows if keys is None else keys
        return _trained(network, x, y, rows, recipe=recipe, seed=seed, device=device, keys=own)


def _trained(
    network: ConvClassifier, x: Array, y: Ints, rows: Ints, *, recipe: Recipe, seed: int, device: str, keys: Ints
) -> ConvClassifier:
    network.to(device, memory_format=torch.channels_last).train().requires_grad_(True)  # type: ignore[call-overload]
    # Only used rows are copied; torch must not receive read-only memory.
    used, place = np.unique(rows, return_inverse=True)
    pictures = torch.from_numpy(np.array(x[used])).to(device)
    table = torch.from_numpy(np.stack([place, y])).to(device)
    order, moves = BatchOrder(seed, keys), _Moves(recipe, seed, keys, x.shape[2:])
    optimizer = torch.optim.Adam(network.parameters(), recipe.learning_rate, (BETA_1, BETA_2), EPSILON, fused=True)
    with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=True):
        for epoch in range(recipe.epochs):
            positions = order.epochs(epoch, 1)[0].astype(np.int64)
            own = table[:, torch.from_numpy(positions).to(device)]
            moved = moves.epoch(epoch, positions, device)
            for start in range(0, len(rows), recipe.batch_size):
                batch = slice(start, start + recipe.batch_size)
                inputs = _gathered(pictures, own[0, batch], None if moved is None else moved[:, batch])
                _step(network, optimizer, inputs, own[1, batch])
    network.cpu()
    if not all(torch.isfinite(value).all() for value in network.parameters()):
        raise BadInput(f"training diverged at learning_rate={recipe.learning_rate}; lower it")
    return frozen(network)


def _step(network: ConvClassifier, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor) -> None:
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.is_cuda):
        logits = network(inputs)
    loss = functional.cross_entropy(logits.float(), labels) + network.penalty * network.head.weight.square().sum()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


class _Moves:
    """Random shifts and flips. They depend on (seed, epoch, key) of a row alone: poisoned and clean victims see the same D."""

    def __init__(self, recipe: Recipe, seed: int, keys: Ints, sides: tuple[int, ...]) -> None:
        self._seed, self._keys = seed, keys
        self._reach = [int(recipe.shift * side) for side in sides]
        self._flip = recipe.flip

    def epoch(self, epoch: int, positions: NDArray[np.int64], device: str) -> Tensor | None:
        """Return (3, n) shifts down and to the right, and whether rows are mirrored, in the order of `positions`; None for no
        augmentation."""
        if not self._flip and not any(self._reach):
            return None
        rng, size = np.random.default_rng([self._seed, 2, epoch]), int(self._keys.max()) + 1
        # Drawn for rows 0, 1, 2, ... in order, so that an additional row does not change earlier ones.
        draws = rng.random((size, 3))[self._keys[positions]].T
        whole = [np.floor(draw * (2 * reach + 1)) - reach for draw, reach in zip(draws, self._reach, strict=False)]
        moved = np.stack([*whole, (draws[2] < 0.5) & self._flip])
        return torch.from_numpy(moved.astype(np.int64)).to(device)


def _gathered(pictures: Tensor, rows: Tensor, moves: Tensor | None) -> Tensor:
    """Return (B, channels, height, width) uint8 pictures; pixels that a shift uncovers repeat the border."""
    if moves is None:
        return pictures.index_select(0, rows)
    _, channels, height, width = pictures.shape
    down, right, mirrored = moves[:, :, None]
    lines = (torch.arange(height, device=rows.device) - down).clamp(0, height - 1)
    columns = (torch.arange(width, device=rows.device) - right).clamp(0, width - 1)
    columns = torch.where(mirrored > 0, columns.flip(1), columns)
    colours = torch.arange(channels, device=rows.device)[None, :, None, None]
    return pictures[rows[:, None, None, None], colours, lines[:, None, :, None], columns[:, None, None, :]]
