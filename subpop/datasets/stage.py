"""The data shared by all cells of one data set, split and partition."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from subpop.datasets.partitions import partition_rows
from subpop.datasets.split import split
from subpop.runtime.fingerprint import data_hash
from subpop.types import Array, Bools, Cell, Dataset, FleetJob, Ints, Partition, Pool, Splits


@dataclass(frozen=True, eq=False)
class SplitData:
    """A data set after its split. Pool rows: those of D first, then those of D_aux, each in the order of `splits`.

    The test rows become read-only.
    """

    dataset: Dataset
    splits: Splits
    pool: Pool
    test_x: Array
    test_y: Ints
    fingerprint: str

    def __post_init__(self) -> None:
        self.test_x.setflags(write=False)

    def aux_job(self) -> FleetJob:
        """The training set of the attacker's own model: all of D_aux."""
        rows = np.arange(self.pool.n_train, len(self.pool))
        return FleetJob(self.pool, rows, self.pool.y[rows])


@dataclass(frozen=True, eq=False)
class Stage:
    """Split data and one partition of it into subpopulations."""

    data: SplitData
    partition: Partition

    @cached_property
    def dataset(self) -> Dataset:
        return self.data.dataset

    @cached_property
    def pool(self) -> Pool:
        return self.data.pool

    @property
    def fingerprint(self) -> str:
        """Content hash of rows, split and partition."""
        return data_hash(np.frombuffer(self.data.fingerprint.encode(), np.uint8), *self.partition_arrays)

    @property
    def partition_arrays(self) -> tuple[Array, Array, Array]:
        return self.partition.train, self.partition.aux, self.partition.test

    @property
    def n_aux(self) -> int:
        return len(self.pool) - self.pool.n_train

    @property
    def attacked(self) -> list[str]:
        """Names of the attacked subpopulations."""
        return [self.partition.names[g] for g in self.partition.attacked]

    def attacked_job(self, rows: Ints, y: Ints) -> FleetJob:
        """The training set of an attacked victim: D and poison rows of the pool with their labels, in canonical order."""
        clean = self.pool.clean_job()
        return FleetJob(self.pool, np.append(clean.rows, rows), np.append(clean.y, y)).canonical()

    def aux_members(self, name: str) -> Ints:
        """(m,) pool rows of the subpopulation's rows in D_aux."""
        return self.pool.n_train + np.flatnonzero(self.partition.aux == self.partition.names.index(name))

    def train_members(self, name: str) -> Bools:
        """(|D|,) bool: rows of D in the subpopulation."""
        return np.asarray(self.partition.train == self.partition.names.index(name))

    def test_members(self, name: str) -> Bools:
        """(|D_test|,) bool: test rows in the subpopulation."""
        return np.asarray(self.partition.test == self.partition.names.index(name))


def split_data(cell: Cell, dataset: Dataset) -> SplitData:
    """Split a cell's data; raises BadInput before anything is trained."""
    splits = split(dataset, cell.data.split, cell.data.protocol)
    rows = np.concatenate([splits.train, splits.aux])
    pool = Pool(dataset.x[rows], dataset.y[rows], len(splits.train), dataset.n_classes)
    fingerprint = data_hash(dataset.x, dataset.y, splits.train, splits.aux, splits.test)
    return SplitData(dataset, splits, pool, dataset.x[splits.test], dataset.y[splits.test], fingerprint)


def build_stage(cell: Cell, data: SplitData, features: Array | None = None) -> Stage:
    """Partition split data as the cell specifies; `none` is no partition, if only a clean model is needed.

    features: (rows of the data set, d) clustered by ClusterMatch instead of the inputs.
    """
    if cell.partition == "none":
        train, aux, test = (np.full(len(rows), -1) for rows in (data.splits.train, data.splits.aux, data.splits.test))
        return Stage(data, Partition(train, aux, test, names=(), attacked=()))
    return Stage(data, partition_rows(cell, data.dataset, data.splits, features))
