"""Training a text classifier: AdamW with a learning rate that decreases linearly to 0, without warm-up and dropout.

On a GPU layers run in bfloat16 (autocast) with float32 weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from subpop.types import BadInput, Ints
from subpop.victims.batched_jobs import Recipe
from subpop.victims.transformer_batches import epoch_batches

Inputs = Callable[[Ints, Tensor], tuple[Tensor, Tensor]]
"""Maps positions of a batch, on the host and on the device, to the network's inputs on the device, and (n,) lengths."""


def train(
    network: nn.Module,
    parameters: Sequence[nn.Parameter],
    inputs: Inputs,
    *,
    lengths: Ints,
    y: Ints,
    keys: Ints,
    recipe: Recipe,
    seed: int,
    device: str,
) -> None:
    """Train `parameters` of the network in place; it ends on the CPU without gradients. Other parameters do not change.

    lengths, y, keys: (n,) of the rows in canonical order. Raises BadInput if training diverges.
    """
    network.to(device).requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    labels, kind = torch.from_numpy(np.array(y)).to(device), device.partition(":")[0]
    optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    step, steps = 0, recipe.epochs * -(-len(y) // recipe.batch_size)
    for batches in epoch_batches(keys, lengths, seed, recipe.epochs, recipe.batch_size):
        # One copy for the epoch: each copy from ordinary memory would make the host wait for the GPU.
        every = torch.from_numpy(np.concatenate(batches)).to(device)
        for batch, own in zip(batches, torch.split(every, [len(batch) for batch in batches]), strict=True):
            optimizer.param_groups[0]["lr"] = recipe.learning_rate * (1 - step / steps)
            with torch.autocast(kind, torch.bfloat16, enabled=kind != "cpu"):
                logits = network(*inputs(batch, own))
            loss = functional.cross_entropy(logits.float(), labels[own])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
    network.cpu().requires_grad_(False)
    if not all(bool(torch.isfinite(value).all()) for value in parameters):
        raise BadInput(f"training diverged at learning_rate={recipe.learning_rate}; lower it")
