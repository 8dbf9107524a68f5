"""Checks of a data set, given a function that loads it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from subpop.datasets.split import split
from subpop.testing.checks import ContractWarning, require
from subpop.types import Dataset, Ints

FEW_ROWS = 10
"""Classes and groups with fewer rows are hardly measurable."""
COPIES = 0.01
"""Share of test rows that are copies of rows of D above which a data set gets a warning."""


@dataclass(frozen=True)
class Loads:
    """A loader, called once for all checks but the one that calls it again."""

    load: Callable[[], Dataset]

    @cached_property
    def first(self) -> Dataset:
        """What the first call returned."""
        return self.load()


def _has_rows_and_labels(loads: Loads) -> str:
    data = loads.first
    require(isinstance(data, Dataset), f"a data set is a Dataset, such as load_dataset returns, not {type(data).__name__}")
    n = len(data.x)
    require(data.name != "" and n > 0, f"the data set {data.name!r} has {n} rows; give it a name and rows")
    require(
        data.y.shape == (n,) and data.y.dtype == np.int64, f"y is {data.y.dtype} of shape {data.y.shape}; give int64 of ({n},)"
    )
    require(
        data.x.dtype in (np.float32, np.uint8, np.int64),
        f"x is {data.x.dtype}; rows are float32, images uint8, tokens int64: convert it",
    )
    bad = np.argwhere(~np.isfinite(data.x)) if data.x.dtype.kind == "f" else np.zeros((0, 1))
    require(
        not len(bad),
        f"x has {len(bad)} NaN or infinite values, the first at {tuple(map(int, bad[0])) if len(bad) else ()}; fill them in, or "
        "leave these rows out",
    )
    require(
        data.y.min() >= 0 and data.y.max() < data.n_classes,
        f"labels run from {data.y.min()} to {data.y.max()} in {data.n_classes} classes; number them from 0",
    )
    present, counts = np.unique(data.y, return_counts=True)
    require(len(present) > 1, f"all {n} rows have the label {present[0]}; at least two classes are needed")
    rare = int(counts.argmin())
    if counts[rare] < FEW_ROWS:
        _warn(f"class {present[rare]} has {counts[rare]} rows; with fewer than {FEW_ROWS}, a part may lack it: merge classes")
    return f"{n:,} rows of shape {data.x.shape[1:]}, classes of {', '.join(map(str, counts.tolist()[:10]))} rows"


def _describes_every_row(loads: Loads) -> None:
    data = loads.first
    n = len(data.x)
    for name, values in data.annotations.items():
        require(
            values.shape == (n,) and values.dtype == np.int64,
            f"annotation {name!r} is {values.dtype} of {values.shape}; give int64 of ({n},), a number for each row",
        )
    held_out = data.official_test
    require(
        held_out is None or (held_out.shape == (n,) and held_out.dtype == np.bool_),
        f"official_test is {getattr(held_out, 'dtype', None)} of {getattr(held_out, 'shape', None)}; give booleans of ({n},)",
    )
    require(
        data.hashes is None or data.hashes.shape == (n,),
        f"hashes have shape {getattr(data.hashes, 'shape', None)}; give ({n},), one for each row",
    )


def _can_be_split(loads: Loads) -> str:
    data = loads.first
    low, high = data.group_bounds
    require(low < high, f"group_bounds {data.group_bounds} contain no size; give the smaller one first")
    require(
        data.sizes is None or (min(data.sizes) > 0 and sum(data.sizes) < len(data.x)),
        f"sizes {data.sizes} leave no test rows of {len(data.x)}; give D and D_aux fewer rows",
    )
    require(
        data.n_clusters > 1 and (data.n_components is None or data.n_components > 0),
        f"n_clusters is {data.n_clusters} and n_components {data.n_components}; give at least 2 and at least 1",
    )
    sides = split(data, seed=0)
    return f"{len(sides.train)} rows in D, {len(sides.aux)} in D_aux, {len(sides.test)} in D_test"


def _has_groups_to_attack(loads: Loads) -> str | None:
    """Groups as FeatureMatch makes them of all annotations."""
    data = loads.first
    if not data.annotations:
        return "no groups: subpopulations are clusters"
    sides = split(data, seed=0)
    coded = np.stack(list(data.annotations.values()), axis=1)
    _, counts = np.unique(coded[sides.aux], axis=0, return_counts=True)
    low, high = data.group_bounds
    n_fit = int(((counts > low) & (counts < high)).sum())
    allowed = f"more than {low:g}" + (f" and fewer than {high:g}" if np.isfinite(high) else "")
    if not n_fit:
        _warn(
            f"none of the {len(counts)} groups has {allowed} rows in D_aux (the largest has {counts.max()}), so that none can be "
            "attacked; name fewer columns as groups"
        )
        return None
    few = int((counts < FEW_ROWS).sum())
    if few > len(counts) / 2:
        _warn(f"{few} of {len(counts)} groups have fewer than {FEW_ROWS} rows in D_aux; name fewer columns as groups")
    return f"{len(counts)} groups of {counts.min()} to {counts.max()} rows in D_aux"


def _has_no_copies_across_parts(loads: Loads) -> None:
    """A test row that is also in D is known to the victim with its label."""
    data = loads.first
    sides = split(data, seed=0)
    known = set(_contents(data, sides.train))
    n_copies = sum(each in known for each in _contents(data, sides.test))
    share = n_copies / len(sides.test)
    if share > COPIES:
        _warn(
            f"{n_copies} of {len(sides.test)} test rows ({share:.0%}) repeat a row of D, where at most {COPIES:.0%} should: give "
            "`hashes`, which are equal for copies, so that these stay on the same side, or leave the copies out"
        )


def _contents(data: Dataset, rows: Ints) -> list[object]:
    if data.texts is not None:
        return [data.texts[row] for row in rows]
    return [row.tobytes() for row in np.ascontiguousarray(data.x[rows])]


def _loads_the_same_twice(loads: Loads) -> None:
    a, b = loads.first, loads.load()
    same = (
        np.array_equal(a.x, b.x, equal_nan=a.x.dtype.kind == "f")
        and np.array_equal(a.y, b.y)
        and a.annotations.keys() == b.annotations.keys()
    )
    same = same and all(np.array_equal(a.annotations[name], b.annotations[name]) for name in a.annotations)
    require(same, "loading twice gives two different data sets; seed everything that is generated, and sort what is listed")


def _warn(text: str) -> None:
    warnings.warn(text, ContractWarning, stacklevel=3)


DATASET_CHECKS: tuple[tuple[str, Callable[[Loads], str | None]], ...] = (
    ("has_rows_and_labels", _has_rows_and_labels),
    ("describes_every_row", _describes_every_row),
    ("can_be_split", _can_be_split),
    ("has_groups_to_attack", _has_groups_to_attack),
    ("has_no_copies_across_parts", _has_no_copies_across_parts),
    ("loads_the_same_twice", _loads_the_same_twice),
)
