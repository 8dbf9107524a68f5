"""Chunks of trials with made-up numbers, and whether two of them are the same to the last bit."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from subpop.types import Cell, Trial, TrialResult

CELL = Cell.of("stem", "embedded", "digits", "logistic_regression", "feature_match", "label_flip", 0.5, split=1)


def chunk(number: int, n_trials: int = 120) -> list[TrialResult]:
    """The trials of a chunk, a function of its number alone; all chunks share one array. Quick to make and long to write."""
    draw = np.random.default_rng(number)
    values = draw.normal(size=(n_trials, 9))
    right = draw.random((n_trials, 99)) < 0.8
    shared = np.arange(50, dtype=np.float32)
    return [
        TrialResult(
            Trial(f"group {i % 3}", i, attacked=i % 2 == 0),
            {f"metric_{j}": float(value) for j, value in enumerate(values[i])},
            {"right": right[i], "scores": values[i].reshape(3, 3), "shared": shared},
            seconds=float(values[i, 0]),
            n_fits=i,
        )
        for i in range(n_trials)
    ]


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


def assert_same(left: Sequence[TrialResult] | None, right: Sequence[TrialResult]) -> None:
    """Equal to the last bit, in the order of trials, metric names and array names."""
    assert left is not None
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert (one.trial, one.n_fits, one.seconds) == (other.trial, other.n_fits, other.seconds)
        assert [(k, bits(v)) for k, v in one.metrics.items()] == [(k, bits(v)) for k, v in other.metrics.items()]
        assert list(one.arrays) == list(other.arrays)
        for name, array in one.arrays.items():
            assert (array.dtype, array.shape) == (other.arrays[name].dtype, other.arrays[name].shape)
            assert array.tobytes() == other.arrays[name].tobytes()
