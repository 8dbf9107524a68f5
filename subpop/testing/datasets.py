"""Checks of a data set, given a function that loads it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from subpop.testing.checks import require
from subpop.types import Dataset

_Load = Callable[[], Dataset]


def _has_rows_and_labels(load: _Load) -> None:
    data = load()
    require(isinstance(data, Dataset), f"a data set is a Dataset, such as load_dataset returns, not {type(data).__name__}")
    n = len(data.x)
    require(data.name != "" and n > 0, "a data set has a name and rows")
    require(data.y.shape == (n,) and data.y.dtype == np.int64, f"y is {data.y.dtype} of shape {data.y.shape}, not int64 ({n},)")
    require(
        data.x.dtype in (np.float32, np.uint8, np.int64), f"x is {data.x.dtype}; rows are float32, images uint8, tokens int64"
    )
    require(data.x.dtype.kind != "f" or np.isfinite(data.x).all(), "x has NaN or infinite values")
    require(
        data.y.min() >= 0 and data.y.max() < data.n_classes,
        f"labels run from {data.y.min()} to {data.y.max()} in {data.n_classes} classes",
    )
    require(len(np.unique(data.y)) > 1, "all rows have the same label")


def _describes_every_row(load: _Load) -> None:
    data = load()
    n = len(data.x)
    for name, values in data.annotations.items():
        require(
            values.shape == (n,) and values.dtype == np.int64,
            f"annotation {name!r} is {values.dtype} {values.shape}, not int64 ({n},)",
        )
    held_out = data.official_test
    require(held_out is None or (held_out.shape == (n,) and held_out.dtype == np.bool_), f"official_test is not bool ({n},)")
    require(data.hashes is None or data.hashes.shape == (n,), f"hashes does not have shape ({n},)")


def _can_be_split(load: _Load) -> None:
    data = load()
    low, high = data.group_bounds
    require(low < high, f"group_bounds {data.group_bounds} contain no size")
    require(
        data.sizes is None or (min(data.sizes) > 0 and sum(data.sizes) < len(data.x)),
        f"sizes {data.sizes} leave no test rows of {len(data.x)}",
    )
    require(
        data.n_clusters > 1 and (data.n_components is None or data.n_components > 0), "n_clusters or n_components is too small"
    )


def _loads_the_same_twice(load: _Load) -> None:
    a, b = load(), load()
    same = (
        np.array_equal(a.x, b.x, equal_nan=a.x.dtype.kind == "f")
        and np.array_equal(a.y, b.y)
        and a.annotations.keys() == b.annotations.keys()
    )
    same = same and all(np.array_equal(a.annotations[name], b.annotations[name]) for name in a.annotations)
    require(same, "loading twice gives two different data sets; seed everything that is generated")


DATASET_CHECKS: tuple[tuple[str, Callable[[_Load], None]], ...] = (
    ("has_rows_and_labels", _has_rows_and_labels),
    ("describes_every_row", _describes_every_row),
    ("can_be_split", _can_be_split),
    ("loads_the_same_twice", _loads_the_same_twice),
)
