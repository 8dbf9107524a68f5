"""Tokenises texts, and validates rows of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from subpop.runtime.feature_cache import cached_blocks
from subpop.runtime.fingerprint import key_of, texts_hash
from subpop.runtime.progress import reporting
from subpop.types import Array, BadInput, Ints

if TYPE_CHECKING:
    from subpop.features.encoders.encoder import Encoder

TEXTS_A_TIME = 1000
SPECIAL = 2
"""[CLS] and [SEP]."""


def tokenise(encoder: Encoder, texts: Sequence[str], max_length: int, *, cache: Path | None = None) -> Ints:
    """Return (n, max_length) int64: [CLS], the text's first max_length - 2 tokens, [SEP], zeros; read-only.

    cache: a folder, or None for no cache. Raises BadInput for texts without a token and a max_length beyond the position table.
    """
    check_max_length(encoder, max_length)
    empty = next((i for i, text in enumerate(texts) if not text.strip()), None)
    if empty is not None or not len(texts):
        raise BadInput("no texts to tokenise" if empty is None else f"text {empty} is empty; leave it out")

    def blocks() -> Iterator[Array]:
        with reporting(f"tokens of {encoder.name}") as report:
            for start in range(0, len(texts), TEXTS_A_TIME):
                some = texts[start : start + TEXTS_A_TIME]
                yield _padded(encoder.encode(some, max_length), start, max_length)
                report(start + len(some), len(texts))

    key = key_of({"texts": texts_hash(texts), "encoder": encoder.fingerprint, "max_length": max_length, "version": 2})
    return cached_blocks(cache, f"tokens-{key}", (len(texts), max_length), np.int64, blocks)


def _padded(ids: Sequence[Sequence[int]], first: int, max_length: int) -> Ints:
    rows = np.zeros((len(ids), max_length), np.int64)
    for i, own in enumerate(ids):
        if len(own) <= SPECIAL:
            raise BadInput(f"text {first + i} has no token that this encoder knows; leave it out")
        rows[i, : len(own)] = own
    return rows


def check_max_length(encoder: Encoder, max_length: int) -> None:
    """Raise BadInput for rows that are longer than the encoder's position table or contain no word."""
    if not SPECIAL < max_length <= encoder.max_positions:
        most = encoder.max_positions
        raise BadInput(f"max_length={max_length}: {encoder.name} has positions for {most} tokens; give {SPECIAL + 1}..{most}")


def lengths_of(tokens: Array) -> Ints:
    """(n,) number of tokens of each row, without padding."""
    return np.asarray((np.asarray(tokens) > 0).sum(axis=1), np.int64)


def check_tokens(encoder: Encoder, tokens: Array) -> None:
    """Raise BadInput unless rows are (n, L) int64 tokens of this encoder, padded with zeros at the end only."""
    if tokens.ndim != 2 or tokens.dtype != np.int64 or not tokens.shape[1]:
        found = f"inputs are {tokens.dtype} of shape {tokens.shape}"
        raise BadInput(f"{found}; {encoder.name} takes (n, L) int64 tokens: use tokenise")
    if tokens.shape[1] > encoder.max_positions and (tokens[:, encoder.max_positions :] > 0).any():
        raise BadInput(f"rows of up to {lengths_of(tokens).max()} tokens; {encoder.name} has {encoder.max_positions} positions")
    if len(tokens) and (tokens.min() < 0 or tokens.max() >= encoder.vocabulary):
        raise BadInput(
            f"tokens {tokens.min()}..{tokens.max()} are not all in 0..{encoder.vocabulary - 1}; tokenise with {encoder.name}"
        )
    real = tokens > 0
    if len(tokens) and (not real[:, 0].all() or (real[:, 1:] > real[:, :-1]).any()):
        raise BadInput("rows contain padding (0) before their last token; pad at the end only")
