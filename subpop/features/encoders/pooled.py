"""One vector a text: the mean over its tokens of the last hidden state, as sentence encoders pool it. Not normalised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subpop.features.encoders.states import GPU_TOKENS, batches_of, states_key
from subpop.features.encoders.tokens import check_tokens, lengths_of
from subpop.runtime.feature_cache import cached_blocks
from subpop.runtime.fingerprint import data_hash, key_of
from subpop.runtime.progress import reporting
from subpop.types import Array, BadInput, Floats

if TYPE_CHECKING:
    from subpop.features.encoders.encoder import Encoder

ROWS_A_TIME = 1024
CPU_TOKENS = 1 << 12
"""Tokens a batch, padding included."""


def pooled_features(encoder: Encoder, tokens: Array, *, cache: Path | None = None, device: str = "cpu") -> Floats:
    """(n, d) float32, in float32 on any device; read-only. cache: a folder, or None to keep nothing."""
    check_tokens(encoder, tokens)
    if not len(tokens):
        raise BadInput("no rows of tokens to pool; give at least one")

    def blocks() -> Iterator[Array]:
        with reporting(f"pooled features of {encoder.name}") as report:
            for start in range(0, len(tokens), ROWS_A_TIME):
                yield _pooled(encoder, tokens[start : start + ROWS_A_TIME], device)
                report(min(start + ROWS_A_TIME, len(tokens)), len(tokens))

    key = key_of({"states": states_key(encoder, tokens, device, "float32"), "code": _code_hash()})
    return cached_blocks(cache, f"pooled-{key}", (len(tokens), encoder.hidden), np.float32, blocks)


def _code_hash() -> str:
    """Hash of this file, which `states_key` leaves out."""
    return data_hash(np.frombuffer(Path(__file__).read_bytes(), np.uint8))


def _pooled(encoder: Encoder, tokens: Array, device: str) -> Floats:
    import torch

    from subpop.features.encoders.blocks import lower_states

    bert, lengths = encoder.bert(device), lengths_of(tokens)
    out = np.empty((len(tokens), encoder.hidden), np.float32)
    with torch.inference_mode():
        for rows in batches_of(lengths, CPU_TOKENS if device == "cpu" else GPU_TOKENS):
            width = int(lengths[rows].max())
            own = torch.from_numpy(lengths[rows]).to(device)
            states = lower_states(
                bert.embeddings, bert.encoder.layer, torch.from_numpy(np.array(tokens[rows, :width])).to(device), own
            )
            real = (torch.arange(width, device=own.device)[None, :] < own[:, None])[:, :, None]
            out[rows] = ((states * real).sum(1) / own[:, None]).cpu().numpy()
    return out
