"""A BERT below its last block: rows of tokens to the states that the last block reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def attended(lengths: Tensor, width: int) -> Tensor | None:
    """(n, 1, 1, width) bool: which positions may be attended to; on the CPU, None where there is no padding.

    A GPU is not asked whether there is any, because the host would have to wait for the answer.
    """
    if not lengths.is_cuda and int(lengths.min()) == width:
        return None
    return (torch.arange(width, device=lengths.device)[None, :] < lengths[:, None])[:, None, None, :]


def run_blocks(blocks: Iterable[nn.Module], hidden: Tensor, mask: Tensor | None) -> Tensor:
    """(n, L, d) after all the blocks."""
    for block in blocks:
        found: Any = block(hidden, attention_mask=mask)
        hidden = found if isinstance(found, Tensor) else found[0]  # a tuple before version 5
    return hidden


def lower_states(embeddings: nn.Module, blocks: Iterable[nn.Module], tokens: Tensor, lengths: Tensor) -> Tensor:
    """Return (n, L, d) the output of the embeddings and the given blocks; values at padding are undefined."""
    return run_blocks(blocks, embeddings(input_ids=tokens), attended(lengths, tokens.shape[1]))
