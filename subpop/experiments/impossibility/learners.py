"""Local learners: the prediction for a row depends only on the training rows of its subpopulation, whose support is known.

`cell_majority` counts the labels in each cell (the rows nearest to a component's centre). `cell_histogram` is the same rule
implemented independently: one histogram per class over bins of the coordinates, each of which contains one component. `knn_1`
and `knn_7` are nearest neighbours, which are in a row's own cell if cells are far apart. The features of all of them are the
one-hot cell, the only information about a row, apart from its label shares, that a local learner may give to a defense.

*Source*: the learners of the impossibility argument: a mixture of subpopulations with disjoint, known supports.
*Deviations*: if labels tie, and in a cell without rows, the lowest class is predicted. k-NN breaks ties of equal distances by
the order of rows, with poison last; it is only used on distinct rows of continuous data, which have no such ties.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from subpop.datasets.mixture import SPECS, centres_of
from subpop.types import Array, BadInput, FleetJob, Floats, Ints, Model, Victim
from subpop.victims import make_victim

Matrix = NDArray[np.float64]
CLEAR = 4.5
"""Minimum distance from a component's centre to the nearest edge of its bin, in standard deviations of the component."""


class Supports(Protocol):
    """A rule that assigns each row to a cell without using labels. n_cells: the number of cells."""

    @property
    def n_cells(self) -> int: ...
    def cell_of(self, x: Array) -> Ints:
        """(n,) the cell of each row of x, (n, d)."""
        ...


@dataclass(frozen=True, eq=False)
class NearestCentre:
    """Cells around known centres, (k, d)."""

    centres: Matrix

    @property
    def n_cells(self) -> int:
        return len(self.centres)

    def cell_of(self, x: Array) -> Ints:
        rows = np.asarray(x, dtype=np.float64)
        squared = (rows**2).sum(axis=1)[:, None] - 2 * rows @ self.centres.T + (self.centres**2).sum(axis=1)
        return np.asarray(squared.argmin(axis=1), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Bins:
    """Rectangular bins: edges, ascending, on some of the coordinates."""

    coordinates: tuple[int, ...]
    edges: tuple[tuple[float, ...], ...]

    @classmethod
    def around(cls, centres: Matrix, clear: float = CLEAR) -> Bins:
        """Bins with one centre each, split half-way between centres, along the coordinates on which centres are far apart."""
        edges = {}
        for axis, column in enumerate(centres.T):
            values = np.unique(column)
            if len(values) > 1 and np.diff(values).min() >= 2 * clear:
                edges[axis] = tuple(((values[1:] + values[:-1]) / 2).tolist())
        bins = cls(tuple(edges), tuple(edges.values()))
        if not edges or len(set(bins.cell_of(centres).tolist())) < len(centres):
            raise BadInput(
                f"{len(centres)} centres cannot be told apart by bins: their values lie {2 * clear:g} apart on {len(edges)} of "
                f"{centres.shape[1]} coordinates; move the centres to the corners of a cube with longer sides"
            )
        return bins

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(edges) + 1 for edges in self.edges)

    @property
    def n_cells(self) -> int:
        return int(np.prod(self.shape))

    def cell_of(self, x: Array) -> Ints:
        places = [np.digitize(np.asarray(x)[:, axis], edges) for axis, edges in zip(self.coordinates, self.edges, strict=True)]
        return np.asarray(np.ravel_multi_index(tuple(places), self.shape), dtype=np.int64)

    def histogram(self, x: Array, weights: Matrix) -> Matrix:
        """(n_cells,) weight in each bin."""
        edges = [np.array([-np.inf, *own, np.inf]) for own in self.edges]
        columns = np.asarray(x, dtype=np.float64)[:, list(self.coordinates)]
        return np.asarray(np.histogramdd(columns, bins=edges, weights=weights)[0].ravel())


@dataclass(frozen=True, eq=False)
class CellModel:
    """Label shares of each cell: shares (n_cells, C), equal in a cell without rows."""

    supports: Supports
    shares: Floats

    def predict_proba(self, x: Array) -> Floats:
        return np.asarray(self.shares[self.supports.cell_of(x)])

    def features(self, x: Array) -> Floats:
        """(n, n_cells) float32 the cell, one-hot."""
        return one_hot(self.supports, x)


def one_hot(supports: Supports, x: Array) -> Floats:
    """(n, n_cells) float32: 1 in the column of a row's cell."""
    return np.asarray(supports.cell_of(x)[:, None] == np.arange(supports.n_cells), dtype=np.float32)


def _shares(counts: Matrix) -> Floats:
    """Counts (n_cells, C) as shares of each cell's total; equal shares in an empty cell."""
    totals = counts.sum(axis=1, keepdims=True)
    equal = np.full_like(counts, 1 / counts.shape[1])
    return np.asarray(np.divide(counts, totals, out=equal, where=totals > 0), dtype=np.float32)


def _weights(job: FleetJob) -> Matrix:
    return np.ones(len(job)) if job.weights is None else job.weights


class CellMajority:
    """The most frequent label of each cell."""

    exact = True

    def __init__(self, centres: Matrix) -> None:
        self._cells = NearestCentre(centres)

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        return [self._fit(job) for job in jobs]

    def _fit(self, job: FleetJob) -> Model:
        classes = job.pool.n_classes
        place = self._cells.cell_of(job.x) * classes + job.y
        counts = np.bincount(place, _weights(job), minlength=self._cells.n_cells * classes).astype(np.float64)
        return CellModel(self._cells, _shares(counts.reshape(-1, classes)))


class CellHistogram:
    """The class whose histogram is highest in the row's bin."""

    exact = True

    def __init__(self, centres: Matrix) -> None:
        self._bins = Bins.around(centres)

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        return [self._fit(job) for job in jobs]

    def _fit(self, job: FleetJob) -> Model:
        x, weights = job.x, _weights(job)
        heights = [self._bins.histogram(x, weights * (job.y == label)) for label in range(job.pool.n_classes)]
        return CellModel(self._bins, _shares(np.stack(heights, axis=1)))


@dataclass(frozen=True, eq=False)
class NeighbourModel:
    """A fitted k-NN classifier of scikit-learn."""

    estimator: Any
    supports: Supports
    n_classes: int

    def predict_proba(self, x: Array) -> Floats:
        proba = np.zeros((len(x), self.n_classes), np.float32)
        proba[:, self.estimator.classes_] = self.estimator.predict_proba(x)
        return proba

    def features(self, x: Array) -> Floats:
        return one_hot(self.supports, x)


class NearestNeighbours:
    """Unweighted k-NN; k is reduced to the number of rows if there are fewer."""

    exact = True

    def __init__(self, centres: Matrix, k: int) -> None:
        self._cells, self._k = NearestCentre(centres), k

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """Raises BadInput for jobs with weights, since every neighbour has one vote."""
        if any(job.weights is not None for job in jobs):
            raise BadInput("k-NN takes no weights; repeat or leave out rows instead")
        return [self._fit(job) for job in jobs]

    def _fit(self, job: FleetJob) -> Model:
        from sklearn.neighbors import KNeighborsClassifier

        estimator = KNeighborsClassifier(min(self._k, len(job)), algorithm="brute").fit(job.x, job.y)
        return NeighbourModel(estimator, self._cells, job.pool.n_classes)


LOCAL: Mapping[str, Callable[[Matrix], Victim]] = {
    "cell_majority": CellMajority,
    "cell_histogram": CellHistogram,
    "knn_1": lambda centres: NearestNeighbours(centres, 1),
    "knn_7": lambda centres: NearestNeighbours(centres, 7),
}
"""Local learners by name: centres of the cells -> victim."""


def make_learner(name: str, dataset: str, device: str = "cpu") -> Victim:
    """A local learner that knows the supports of a mixture, or any registered victim, by name."""
    if name not in LOCAL:
        return make_victim(name, device)
    if dataset not in SPECS:
        raise BadInput(f"{name} must know the supports of its cells, and {dataset!r} has none; use one of {', '.join(SPECS)}")
    return LOCAL[name](centres_of(SPECS[dataset]))
