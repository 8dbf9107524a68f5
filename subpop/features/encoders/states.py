"""The inputs of an encoder's last block for every row of tokens: computed once, cached on disk, memory-mapped.

States of consecutive rows, without padding, are stored in one file of (total tokens, hidden) numbers, named by a hash of
everything that they depend on. The file is written in pieces, so that memory use does not grow with the number of rows.

On a CPU, numbers are float32 and each row is computed separately: its states are then bit-identical whatever other rows are
requested, and no time is spent on padding. On a GPU they are bfloat16, in batches of rows of similar length.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.features.encoders.tokens import check_tokens, lengths_of
from subpop.runtime.feature_cache import cached_blocks, kept
from subpop.runtime.fingerprint import data_hash, key_of, versions
from subpop.runtime.progress import Report, reporting
from subpop.runtime.threads import on_cores
from subpop.types import Array, BadInput, Floats, Ints

if TYPE_CHECKING:
    from subpop.features.encoders.encoder import Encoder

PIECE_BYTES = 64 << 20
"""Size of the states that are buffered before they are written."""
GPU_TOKENS = 1 << 14
"""Tokens a batch on a GPU, padding included."""
DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(np.uint16)}
"""The format in which states are stored: numpy has no bfloat16, so its bits are stored."""


@dataclass(frozen=True, eq=False)
class HiddenStates:
    """States of n rows. values: (tokens in all, d) float32, or bits of bfloat16; offsets: (n + 1,) where each row begins."""

    values: Array
    offsets: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """(n,) tokens of each row."""
        return np.diff(self.offsets)

    @property
    def hidden(self) -> int:
        return int(self.values.shape[1])

    def __getitem__(self, row: int) -> Floats:
        """(length, d) float32 states of a row."""
        return as_floats(self.values[self.offsets[row] : self.offsets[row + 1]])


def as_floats(values: Array) -> Floats:
    """Convert stored states to float32."""
    if values.dtype == np.float32:
        return values
    return (values.astype(np.uint32) << np.uint32(16)).view(np.float32)


def hidden_states(
    encoder: Encoder,
    tokens: Array,
    *,
    cache: Path | None = None,
    device: str = "cpu",
    dtype: str | None = None,
) -> HiddenStates:
    """The states of all rows. cache: a folder, or None for a temporary file that is deleted when it is no longer used.

    dtype: `float32` or `bfloat16`, by default that of the device.
    """
    check_tokens(encoder, tokens)
    kind = dtype or _default_dtype(device)
    if kind not in DTYPES or not len(tokens):
        raise BadInput(f"{len(tokens)} rows as {kind}; give at least one row, and one of {', '.join(DTYPES)}")
    lengths = lengths_of(tokens)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    shape = (int(offsets[-1]), encoder.hidden)

    def blocks() -> Iterator[Array]:
        with reporting(f"hidden states of {encoder.name}") as report:
            yield from _pieces(encoder, tokens, lengths, device, DTYPES[kind], report)

    key = states_key(encoder, tokens, device, kind)
    return HiddenStates(cached_blocks(cache, f"states-{key}", shape, DTYPES[kind], blocks), offsets)


def stored_states(encoder: Encoder, cache: Path, key: str, lengths: Ints, device: str) -> HiddenStates | None:
    """The states of a `states_key`, None where the folder has none. lengths: (n,) tokens of each row."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = kept(cache, f"states-{key}", (int(offsets[-1]), encoder.hidden), DTYPES[_default_dtype(device)])
    return None if values is None else HiddenStates(values, offsets)


def _default_dtype(device: str) -> str:
    return "float32" if device == "cpu" else "bfloat16"


def states_key(encoder: Encoder, tokens: Array, device: str, kind: str | None = None) -> str:
    """Hash of all that states depend on."""
    return key_of({"tokens": data_hash(tokens), "made by": maker_key(encoder, device, kind)})


def maker_key(encoder: Encoder, device: str, kind: str | None = None) -> str:
    """Hash of all that a row's states depend on besides its tokens."""
    return key_of(
        {
            "encoder": encoder.fingerprint,
            "device": device.partition(":")[0],
            "dtype": kind or _default_dtype(device),
            "torch": versions()["torch"],
            "transformers": importlib.metadata.version("transformers"),
            "code": _code_hash(),
        }
    )


@functools.cache
def _code_hash() -> str:
    files = [Path(__file__).with_name(name) for name in ("states.py", "blocks.py", "encoder.py", "tiny.py")]
    return data_hash(*(np.frombuffer(file.read_bytes(), np.uint8) for file in files))


def _pieces(encoder: Encoder, tokens: Array, lengths: Ints, device: str, dtype: np.dtype[Any], report: Report) -> Iterator[Array]:
    """Yield states of consecutive rows, up to PIECE_BYTES at a time; raises BadInput if a row is not finite."""
    most, start = max(1, PIECE_BYTES // (4 * encoder.hidden)), 0
    ends = np.cumsum(lengths)
    while start < len(tokens):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        piece = _computed(encoder, tokens[start:stop], lengths[start:stop], device)
        if not np.isfinite(piece).all():
            raise BadInput(f"{encoder.name} gives NaN or infinite states in rows {start}..{stop - 1}; check its weights")
        yield piece if dtype == np.float32 else _as_bits(piece)
        report(int(ends[stop - 1]), int(ends[-1]))
        start = stop


def _computed(encoder: Encoder, tokens: Array, lengths: Ints, device: str) -> Floats:
    import torch

    from subpop.features.encoders.blocks import lower_states

    bert, offsets = encoder.bert(device), np.concatenate([[0], np.cumsum(lengths)])
    out = np.empty((int(offsets[-1]), encoder.hidden), np.float32)
    on_gpu = device != "cpu"
    lower = bert.encoder.layer[:-1]

    def fill(rows: Ints) -> None:
        width = int(lengths[rows].max())
        with torch.inference_mode(), torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=on_gpu):
            inputs = torch.from_numpy(np.array(tokens[rows, :width])).to(device)
            own = torch.from_numpy(lengths[rows]).to(device)
            found = lower_states(bert.embeddings, lower, inputs, own).float().cpu().numpy()
        for i, row in enumerate(rows):
            out[offsets[row] : offsets[row + 1]] = found[i, : lengths[row]]

    with on_cores(len(tokens), not on_gpu) as mapped:
        for _ in mapped(fill, batches_of(lengths, GPU_TOKENS if on_gpu else 0)):
            pass
    return out


def batches_of(lengths: Ints, budget: int) -> Iterator[Ints]:
    """Yield rows in order of length, as many at a time as fit into `budget` tokens; one by one without a budget."""
    order, start = np.argsort(lengths, kind="stable"), 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= budget:
            stop += 1
        yield order[start:stop]
        start = stop


def _as_bits(values: Floats) -> Array:
    import torch

    return torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
