"""Rows of data: the pool that a fleet shares, one victim's training set, and what a defense sees of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from subpop.types.base import Array, BadInput, Ints


@dataclass(frozen=True, eq=False)
class Pool:
    """Rows that all victims of a cell share: first the `n_train` rows of D, then those of D_aux. Never written to.

    x: (N, ...) float32 rows, uint8 NCHW images or int64 tokens; y: (N,) int64 true labels in [0, n_classes).
    """

    x: Array
    y: Ints
    n_train: int
    n_classes: int

    def __post_init__(self) -> None:
        if not 0 < self.n_train <= len(self.y) == len(self.x):
            found = f"{len(self.x)} rows and {len(self.y)} labels"
            raise BadInput(f"a pool of {found} cannot hold n_train={self.n_train} rows of D")
        self.x.setflags(write=False)
        self.y.setflags(write=False)

    def __len__(self) -> int:
        return len(self.y)

    def clean_job(self) -> FleetJob:
        """The victim that nobody attacks: all of D with its own labels."""
        return FleetJob(self, np.arange(self.n_train), self.y[: self.n_train])


@dataclass(frozen=True, eq=False)
class FleetJob:
    """One victim's training set, as rows of the shared pool.

    rows: (n,) int64; a number r >= len(pool) stands for `extra_x[r - len(pool)]`, a row outside the pool.
    y: (n,) int64 labels, perhaps flipped; weights: (n,) float64 >= 0 or None for all ones; extra_x: (e, ...) or None.
    """

    pool: Pool
    rows: Ints
    y: Ints
    weights: NDArray[np.float64] | None = None
    extra_x: Array | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def x(self) -> Array:
        """(n, ...) the inputs, gathered anew at each call."""
        n = len(self.pool)
        if self.extra_x is None or not len(self.extra_x):
            return np.asarray(self.pool.x[self.rows])
        out = np.empty((len(self.rows), *self.pool.x.shape[1:]), self.pool.x.dtype)
        inside = self.rows < n
        out[inside] = self.pool.x[self.rows[inside]]
        out[~inside] = self.extra_x[self.rows[~inside] - n]
        return out

    def canonical(self) -> FleetJob:
        """The same training set in the one order that does not depend on how it was shuffled: by row, then label.

        Victims train on this form, so that a defense that keeps exactly D gets the clean victim, bit for bit.
        """
        order = np.argsort(self.rows * self.pool.n_classes + self.y, kind="stable")
        weights = None if self.weights is None else self.weights[order]
        return replace(self, rows=self.rows[order], y=self.y[order], weights=weights)


class RowSource(Protocol):
    """Where a training set's inputs lie: gathers rows by number."""

    def __len__(self) -> int: ...
    def gather(self, index: Ints) -> Array: ...


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """A row source over an array of its own; n_classes: of the data it comes from, 0 where that is not known."""

    array: Array
    n_classes: int = 0

    def __len__(self) -> int:
        return len(self.array)

    def gather(self, index: Ints) -> Array:
        return np.asarray(self.array[index])


class TrainingSet:
    """What a defense sees: rows, labels, and nothing that tells poison from clean.

    `ids` name rows within this set and are kept by `t[mask_or_ids]` (they may repeat); they mean nothing elsewhere.
    """

    __slots__ = ("_source", "_ids", "_y")

    def __init__(self, source: RowSource, ids: Ints, y: Ints) -> None:
        self._source = source
        self._ids = _read_only(ids, np.int64)
        self._y = _read_only(y, np.int64)
        if self._ids.shape != self._y.shape or self._ids.ndim != 1:
            raise BadInput(f"a training set needs one label a row: {self._ids.shape} ids, {self._y.shape} labels")

    @classmethod
    def of(cls, x: Array, y: Array) -> TrainingSet:
        """A training set of new inputs: x (n, ...) finite, y (n,) integer labels."""
        x, y = np.asarray(x), np.asarray(y)
        if len(x) != len(y):
            raise BadInput(f"{len(x)} rows and {len(y)} labels: give one label for each row")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise BadInput("new inputs hold NaN or infinite values; remove or impute them before TrainingSet.of")
        return cls(ArrayRows(x), np.arange(len(x)), y)

    @property
    def x(self) -> Array:
        """(n, ...) the inputs: gathered at each access, kept by nobody, read-only."""
        x = self._source.gather(self._ids)
        x.setflags(write=False)
        return x

    @property
    def y(self) -> Ints:
        """(n,) int64 labels, perhaps poisoned; read-only."""
        return self._y

    @property
    def ids(self) -> Ints:
        """(n,) int64 names of the rows within this set; read-only."""
        return self._ids

    @property
    def n_classes(self) -> int:
        """Classes of the data, at least 2; the largest label + 1 where only labels tell."""
        return max(2, int(getattr(self._source, "n_classes", 0)), int(self._y.max(initial=0)) + 1)

    def __len__(self) -> int:
        return len(self._y)

    def __getitem__(self, chosen: Array | Sequence[int]) -> TrainingSet:
        """The rows where a (n,) bool mask is True, or those whose ids are given, in that order."""
        chosen = np.asarray(chosen)
        if chosen.dtype == bool:
            if chosen.shape != self._y.shape:
                raise BadInput(
                    f"a mask of shape {chosen.shape} cannot choose among {len(self)} rows; it must have shape ({len(self)},)"
                )
            return TrainingSet(self._source, self._ids[chosen], self._y[chosen])
        if chosen.size and chosen.dtype.kind not in "iu":
            raise BadInput(f"choose rows by a boolean mask or by integer ids, not by {chosen.dtype}")
        position = self._positions(chosen.astype(np.int64).ravel())
        return TrainingSet(self._source, self._ids[position], self._y[position])

    def relabel(self, y: Array) -> TrainingSet:
        """The same rows with other labels: y (n,) integers."""
        return TrainingSet(self._source, self._ids, np.asarray(y))

    def _positions(self, ids: Ints) -> Ints:
        order = np.argsort(self._ids, kind="stable")
        found = np.searchsorted(self._ids, ids, sorter=order)
        known = found < len(order)
        known[known] = self._ids[order[found[known]]] == ids[known]
        if not known.all():
            raise BadInput(f"id {ids[~known][0]} is not in this training set of {len(self)} rows; use values of `.ids`")
        return order[found]

    def __repr__(self) -> str:
        return f"TrainingSet({len(self)} rows)"


def _read_only(values: Array, dtype: type) -> Ints:
    values = np.asarray(values)
    if values.size and values.dtype.kind not in "iub":
        raise BadInput(f"labels and ids are integers, not {values.dtype}")
    out: Ints = np.array(values, dtype=dtype, copy=True)
    out.setflags(write=False)
    return out


def content_order(x: Array, y: Ints | None = None) -> Ints:
    """(n,) positions of the rows in the order of their bytes, then labels: the same order however they were shuffled."""
    flat = np.ascontiguousarray(x.reshape(len(x), -1))
    keys = flat.view(f"V{flat.shape[1] * flat.itemsize}").ravel()
    by_label = np.arange(len(x)) if y is None else np.argsort(y, kind="stable")
    return np.asarray(by_label[np.argsort(keys[by_label], kind="stable")], dtype=np.int64)
