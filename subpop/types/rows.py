"""Rows of data: the pool shared by a batch of victims, one victim's training set, and the view of it that a defense receives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from subpop.types.base import Array, BadInput, Ints


@dataclass(frozen=True, eq=False)
class Pool:
    """Rows that all victims of a cell share: first those of D, then those of D_aux. The arrays become read-only.

    Raises
    ------
    BadInput
        If `x` and `y` differ in length, or `n_train` is not between 1 and their length.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import Pool
    >>> pool = Pool(np.zeros((5, 2), np.float32), np.array([0, 1, 0, 1, 1]), n_train=3, n_classes=2)
    >>> len(pool), len(pool.clean_job())
    (5, 3)
    """

    x: Array
    """(N, ...) float32 features, uint8 NCHW pictures or int64 tokens."""
    y: Ints
    """(N,) int64 true labels in [0, n_classes)."""
    n_train: int
    """Number of rows of D; the rows of D_aux follow."""
    n_classes: int
    """The number of classes."""

    def __post_init__(self) -> None:
        if not 0 < self.n_train <= len(self.y) == len(self.x):
            found = f"{len(self.x)} rows and {len(self.y)} labels"
            raise BadInput(
                f"a pool of {found} cannot contain n_train={self.n_train} rows of D; give as many labels as rows, and n_train "
                "between 1 and their number"
            )
        self.x.setflags(write=False)
        self.y.setflags(write=False)

    def __len__(self) -> int:
        return len(self.y)

    def clean_job(self) -> FleetJob:
        """Return the training set of the clean victim: all rows of D with their true labels."""
        return FleetJob(self, np.arange(self.n_train), self.y[: self.n_train])


@dataclass(frozen=True, eq=False)
class FleetJob:
    """One victim's training set, as rows of the shared pool.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import FleetJob, Pool
    >>> pool = Pool(np.arange(8, dtype=np.float32).reshape(4, 2), np.array([0, 1, 0, 1]), n_train=2, n_classes=2)
    >>> job = FleetJob(pool, rows=np.array([0, 1, 2]), y=np.array([0, 1, 1]))
    >>> job.x[-1].tolist()
    [4.0, 5.0]
    """

    pool: Pool
    """The rows that all jobs of a batch share."""
    rows: Ints
    """(n,) int64 row numbers of the pool; a number r >= len(pool) refers to `extra_x[r - len(pool)]`."""
    y: Ints
    """(n,) int64 labels, perhaps flipped."""
    weights: NDArray[np.float64] | None = None
    """(n,) float64 sample weights >= 0; None for all ones."""
    extra_x: Array | None = None
    """(e, ...) rows outside the pool, or None."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def x(self) -> Array:
        """(n, ...) inputs; gathered at each access."""
        n = len(self.pool)
        if self.extra_x is None or not len(self.extra_x):
            return np.take(self.pool.x, self.rows, axis=0)
        out = np.empty((len(self.rows), *self.pool.x.shape[1:]), self.pool.x.dtype)
        inside = self.rows < n
        out[inside] = self.pool.x[self.rows[inside]]
        out[~inside] = self.extra_x[self.rows[~inside] - n]
        return out

    def canonical(self) -> FleetJob:
        """Return the same training set sorted by row number, then label, so that the order does not depend on any shuffling.

        Victims train on this form: a defense that keeps exactly D gets a model bit-identical to the clean victim.

        Returns
        -------
        FleetJob
            The sorted training set.
        """
        key = self.rows * self.pool.n_classes + self.y
        usual = self.y.min(initial=0) >= 0 and self.y.max(initial=0) < self.pool.n_classes
        if self.weights is None and usual:  # equal rows with equal labels are the same: their numbers can be sorted alone
            key = _sorted(key)
            rows = key // self.pool.n_classes
            return replace(self, rows=rows, y=key - rows * self.pool.n_classes)
        order = np.argsort(key, kind="stable")
        weights = None if self.weights is None else self.weights[order]
        return replace(self, rows=self.rows[order], y=self.y[order], weights=weights)


def _sorted(numbers: Ints) -> Ints:
    """The numbers in ascending order: marked in a table, which is faster than sorting, if they are small."""
    largest = numbers.max(initial=0)
    if numbers.min(initial=0) < 0 or largest > 8 * len(numbers):
        return np.sort(numbers)
    occurs = np.zeros(largest + 1, np.bool_)
    occurs[numbers] = True
    found = np.flatnonzero(occurs)
    return found if len(found) == len(numbers) else np.repeat(found, np.bincount(numbers)[found])


class RowSource(Protocol):
    """The storage behind a training set, which gathers rows by number."""

    def __len__(self) -> int: ...
    def gather(self, index: Ints) -> Array: ...


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """A row source over an array."""

    array: Array
    """(n, ...) the rows."""
    n_classes: int = 0
    """Number of classes of the data, 0 if unknown."""

    def __len__(self) -> int:
        return len(self.array)

    def gather(self, index: Ints) -> Array:
        return np.asarray(self.array[index])


class TrainingSet:
    """The rows and labels that a defense receives; nothing in it distinguishes poison from clean rows.

    Indexing with a boolean mask of shape (n,) or with ids returns a smaller training set whose rows keep their ids. A defense
    receives its training set; use `TrainingSet.of` to build one from new inputs.

    Parameters
    ----------
    source
        The storage of the inputs, which returns rows by number.
    ids
        (n,) integers, the rows of the source that belong to the set; they may repeat.
    y
        (n,) integer labels.

    Raises
    ------
    BadInput
        If `ids` and `y` differ in shape, are not one-dimensional or do not contain integers.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import TrainingSet
    >>> train = TrainingSet.of(np.array([[0.0], [1.0], [2.0]]), np.array([0, 1, 1]))
    >>> kept = train[train.x[:, 0] > 0.5]
    >>> kept.ids, kept.y
    (array([1, 2]), array([1, 1]))
    >>> train[[2, 0]].x.ravel()
    array([2., 0.])
    >>> kept.relabel(1 - kept.y).y
    array([0, 0])
    """

    __slots__ = ("_source", "_ids", "_y", "__weakref__")

    def __init__(self, source: RowSource, ids: Ints, y: Ints) -> None:
        self._source = source
        self._ids = _read_only(ids, np.int64)
        self._y = _read_only(y, np.int64)
        if self._ids.shape != self._y.shape or self._ids.ndim != 1:
            shapes = f"ids of shape {self._ids.shape} and labels of shape {self._y.shape}"
            raise BadInput(f"a training set needs one label per row, and was given {shapes}")

    @classmethod
    def of(cls, x: Array, y: Array) -> TrainingSet:
        """Make a training set of new inputs.

        Parameters
        ----------
        x
            (n, ...) finite inputs of the same kind as the data set's.
        y
            (n,) integer labels from 0 on.

        Returns
        -------
        TrainingSet
            A training set with the ids 0 to n - 1.

        Raises
        ------
        BadInput
            If `x` and `y` differ in length, `y` contains negative numbers or others than integers, or `x` contains NaN or
            infinite values.
        """
        x, y = np.asarray(x), np.asarray(y)
        if not x.ndim or not y.ndim:
            raise BadInput("TrainingSet.of takes an array of rows and an array of labels, not single numbers")
        if len(x) != len(y):
            raise BadInput(f"{len(x)} rows and {len(y)} labels: give one label per row")
        if y.size and y.dtype.kind == "i" and y.min() < 0:
            raise BadInput(f"labels are class numbers from 0 on, and {y.min()} is among them; relabel -1 as 0, for example")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise BadInput("new inputs contain NaN or infinite values; remove or impute them before TrainingSet.of")
        return cls(ArrayRows(x), np.arange(len(x)), y)

    @property
    def x(self) -> Array:
        """(n, ...) inputs, read-only. Each access copies the rows: assign the result to a variable if you need it often."""
        x = self._source.gather(self._ids)
        x.setflags(write=False)
        return x

    @property
    def y(self) -> Ints:
        """(n,) int64 labels, perhaps poisoned; read-only."""
        return self._y

    @property
    def ids(self) -> Ints:
        """(n,) int64 identifiers of the rows within this training set; read-only."""
        return self._ids

    @property
    def n_classes(self) -> int:
        """Number of classes of the data, at least 2; of new inputs, the largest label + 1."""
        return max(2, int(getattr(self._source, "n_classes", 0)), int(self._y.max(initial=0)) + 1)

    def __len__(self) -> int:
        return len(self._y)

    def __iter__(self) -> NoReturn:
        raise BadInput("a training set cannot be iterated over; use its arrays, such as zip(train.x, train.y)")

    def __getitem__(self, chosen: Array | Sequence[int]) -> TrainingSet:
        """Select the rows where a boolean mask of shape (n,) is True, or the rows with the given ids, in that order."""
        if isinstance(chosen, slice):
            raise BadInput(
                "a training set has no slices; select rows by a boolean mask or by ids, such as train[train.ids[:100]]"
            )
        chosen = np.asarray(chosen)
        if chosen.dtype == bool:
            if chosen.shape != self._y.shape:
                raise BadInput(
                    f"a mask of shape {chosen.shape} cannot select from {len(self)} rows; it must have shape ({len(self)},)"
                )
            return TrainingSet(self._source, self._ids[chosen], self._y[chosen])
        if chosen.size and chosen.dtype.kind not in "iu":
            raise BadInput(f"select rows by a boolean mask or by integer ids, not by {chosen.dtype}")
        position = self._positions(chosen.astype(np.int64).ravel())
        return TrainingSet(self._source, self._ids[position], self._y[position])

    def relabel(self, y: Array) -> TrainingSet:
        """Replace the labels.

        Parameters
        ----------
        y
            (n,) integer labels.

        Returns
        -------
        TrainingSet
            The same rows with the new labels.

        Raises
        ------
        BadInput
            If `y` does not have shape (n,) or does not contain integers.
        """
        return TrainingSet(self._source, self._ids, np.asarray(y))

    def _positions(self, ids: Ints) -> Ints:
        if self._is_numbered and ids.size and ids.min() >= 0 and ids.max() < len(self):
            return ids
        order = np.argsort(self._ids, kind="stable")
        found = np.searchsorted(self._ids, ids, sorter=order)
        known = found < len(order)
        known[known] = self._ids[order[found[known]]] == ids[known]
        if not known.all():
            raise BadInput(f"id {ids[~known][0]} is not in this training set of {len(self)} rows; use values of `.ids`")
        return order[found]

    @property
    def _is_numbered(self) -> bool:
        """Whether ids are 0, 1, 2, ..., as in the training set that a defense receives."""
        n = len(self._ids)
        return n > 0 and self._ids[0] == 0 and self._ids[-1] == n - 1 and np.array_equal(self._ids, np.arange(n))

    def __repr__(self) -> str:
        return f"TrainingSet({len(self)} rows)"


def _read_only(values: Array, dtype: type) -> Ints:
    values = np.asarray(values)
    if values.size and values.dtype.kind not in "iub":
        raise BadInput(f"labels and ids must be integers, not {values.dtype}; convert them with .astype(int)")
    out: Ints = np.array(values, dtype=dtype, copy=True)
    out.setflags(write=False)
    return out


def content_order(x: Array, y: Ints | None = None) -> Ints:
    """(n,) positions that sort the rows by their bytes, then labels: an order that does not depend on any shuffling."""
    flat = np.ascontiguousarray(x.reshape(len(x), -1))
    keys = flat.view(f"V{flat.shape[1] * flat.itemsize}").ravel()
    by_label = np.arange(len(x)) if y is None else np.argsort(y, kind="stable")
    return np.asarray(by_label[np.argsort(keys[by_label], kind="stable")], dtype=np.int64)
