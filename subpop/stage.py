"""What all cells of one data set, split and partition share, and the poison of each trial."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast, get_args

import numpy as np

from subpop.attacks import ATTACKS, OPTIMISED
from subpop.attacks.attacker import Attacker, Objective, Target
from subpop.attacks.boxes import Box
from subpop.attacks.label_flip import (
    Poison,
    Sampling,
    label_flip,
    least_likely_label,
    poison_count,
    poison_labels,
    rarest_label,
)
from subpop.fingerprint import data_hash
from subpop.partitions import PARTITIONS
from subpop.seeds import poison_seed
from subpop.split import split
from subpop.types import Array, BadInput, Bools, Cell, Dataset, FleetJob, Ints, Model, Partition, Pool, Splits

LABEL_RULES = ("own", "common", "rarest")
ALPHA_BASES = ("aux", "train")
MOST_POISON = 10
"""Poison rows for each row of D that a trial may have; more would only fill the memory."""


@dataclass(frozen=True, eq=False)
class SplitData:
    """A data set after its split. Pool rows: those of D first, then those of D_aux, each in the order of `splits`."""

    dataset: Dataset
    splits: Splits
    pool: Pool
    test_x: Array
    test_y: Ints
    fingerprint: str

    def aux_job(self) -> FleetJob:
        """The attacker's own model: all of D_aux."""
        rows = np.arange(self.pool.n_train, len(self.pool))
        return FleetJob(self.pool, rows, self.pool.y[rows])


@dataclass(frozen=True, eq=False)
class Stage:
    """Split data and one partition of it into subpopulations."""

    data: SplitData
    partition: Partition

    @property
    def dataset(self) -> Dataset:
        return self.data.dataset

    @property
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

    def aux_members(self, name: str) -> Ints:
        """(m,) pool rows of the subpopulation's rows in D_aux."""
        return self.pool.n_train + np.flatnonzero(self.partition.aux == self._group(name))

    def train_members(self, name: str) -> Bools:
        """(|D|,) bool: rows of D in the subpopulation."""
        return np.asarray(self.partition.train == self._group(name))

    def test_members(self, name: str) -> Bools:
        """(|D_test|,) bool: test rows in the subpopulation."""
        return np.asarray(self.partition.test == self._group(name))

    def _group(self, name: str) -> int:
        return self.partition.names.index(name)


def split_data(cell: Cell, dataset: Dataset) -> SplitData:
    """Split a cell's data; raises BadInput before anything is trained."""
    splits = split(dataset, whole(cell, "split", "0"), cell.option("protocol", "default"))
    rows = np.concatenate([splits.train, splits.aux])
    pool = Pool(dataset.x[rows], dataset.y[rows], len(splits.train), dataset.n_classes)
    fingerprint = data_hash(dataset.x, dataset.y, splits.train, splits.aux, splits.test)
    return SplitData(dataset, splits, pool, dataset.x[splits.test], dataset.y[splits.test], fingerprint)


def build_stage(cell: Cell, data: SplitData, features: Array | None = None) -> Stage:
    """Partition split data as the cell says; `none` is no partition, for those who want a clean model only.

    features: (rows of the data set, d) what ClusterMatch clusters instead of the inputs.
    """
    if cell.partition == "none":
        train, aux, test = (np.full(len(rows), -1) for rows in (data.splits.train, data.splits.aux, data.splits.test))
        return Stage(data, Partition(train, aux, test, names=(), attacked=()))
    if cell.partition not in PARTITIONS:
        raise BadInput(f"no partition is named {cell.partition!r}; there are {', '.join(PARTITIONS)}")
    partition = PARTITIONS[cell.partition](data.dataset, data.splits, seed=whole(cell, "partition_seed", "0"), features=features)
    return Stage(data, partition)


def base_size(stage: Stage, cell: Cell, name: str) -> float:
    """The number of rows that alpha multiplies, in rows of a set as large as D.

    `aux`: the subpopulation's rows in D_aux, scaled by |D| / |D_aux| where the attacker's pool is larger than D;
    `train`: its rows in D itself, as Adult was released, which no attacker can see.
    """
    base = cell.option("alpha_base", "aux")
    if base == "train":
        return float(stage.train_members(name).sum())
    if base == "aux":
        return len(stage.aux_members(name)) * stage.pool.n_train / stage.n_aux
    raise BadInput(f"alpha_base={base} is unknown; use one of {', '.join(ALPHA_BASES)}")


def draw_poison(
    stage: Stage, cell: Cell, name: str, seed: int, attacker: Model | None, optimiser: Attacker | None = None
) -> Poison:
    """The poison rows of one trial; `attacker` is needed by the label rule `common`, `optimiser` by attacks that move rows."""
    members = stage.aux_members(name)
    labels = stage.pool.y[members]
    rule = label_rule(cell, stage.dataset.n_classes)
    target = None
    if rule == "rarest":
        target = rarest_label(labels, stage.dataset.n_classes)
    elif rule == "common" and attacker is not None:
        target = least_likely_label(attacker.predict_proba(stage.pool.x[members]))
    drawn = label_flip(
        members,
        labels,
        poison_count(cell.rate, base_size(stage, cell, name)),
        n_classes=stage.dataset.n_classes,
        rule="own" if rule == "own" else "common",
        target=target,
        sampling=sampling(cell),
        generator=np.random.default_rng(poison_seed(cell, name, seed)),
    )
    if cell.attack not in OPTIMISED:
        return drawn
    if optimiser is None:
        raise BadInput(f"attack {cell.attack} moves rows by the attacker's model: give draw_poison an optimiser")
    return OPTIMISED[cell.attack](
        drawn, Target(members, poison_labels(labels, target), sampling(cell), objective(cell)), optimiser
    )


def box(cell: Cell, pool: Pool) -> Box:
    """Where the cell's poison rows may move: `epsilon` levels, 255 of which are the range of a pixel or a column."""
    return Box.of(pool, epsilon(cell))


def epsilon(cell: Cell) -> float | None:
    """The setting `epsilon`, None where there is none."""
    text = cell.option("epsilon", "")
    try:
        levels = float(text) if text else None
    except ValueError:
        levels = float("nan")
    if levels is not None and not 0 < levels < float("inf"):
        raise BadInput(f"epsilon={text} of {cell.id} must be a number of 8-bit levels above 0, such as 16")
    return levels


def objective(cell: Cell) -> Objective:
    """What gradient matching lowers."""
    named = cell.option("objective", "inner")
    for known in get_args(Objective):
        if named == known:
            return cast(Objective, known)
    raise BadInput(f"objective={named} is unknown; use one of {', '.join(get_args(Objective))}")


def sampling(cell: Cell) -> Sampling:
    """How the cell's poison rows are drawn."""
    named = cell.option("sampling", "with_replacement")
    for known in get_args(Sampling):
        if named == known:
            return cast(Sampling, known)
    raise BadInput(f"sampling={named} is unknown; use one of {', '.join(get_args(Sampling))}")


def label_rule(cell: Cell, n_classes: int) -> str:
    """The cell's label rule; by default own labels are flipped, with more than two classes one common label is given."""
    rule = cell.option("label_rule", "own" if n_classes == 2 else "common")
    if rule not in LABEL_RULES:
        raise BadInput(f"label_rule={rule} is unknown; use one of {', '.join(LABEL_RULES)}")
    return rule


def check_attack(stage: Stage, cell: Cell) -> None:
    """Draw every trial's count once, so that a rate that cannot be used is refused before hours are spent."""
    if cell.attack not in ATTACKS:
        raise BadInput(f"no attack is named {cell.attack!r}; there are {', '.join(ATTACKS)}")
    _check_attack_settings(stage, cell)
    for name in stage.attacked:
        count = poison_count(cell.rate, base_size(stage, cell, name))
        available = len(stage.aux_members(name))
        if count > MOST_POISON * stage.pool.n_train:
            raise BadInput(
                f"{cell.id}: rate {cell.rate:g} asks for {count} poison rows of {name!r}, more than {MOST_POISON} times the "
                f"{stage.pool.n_train} rows of D; use a lower rate"
            )
        if sampling(cell) == "distinct" and count > available:
            raise BadInput(
                f"{cell.id}: rate {cell.rate:g} asks for {count} distinct poison rows of {name!r} but D_aux holds {available}; "
                "use protocol=reserve (a larger D_aux), a lower rate or sampling=with_replacement"
            )


def _check_attack_settings(stage: Stage, cell: Cell) -> None:
    """Settings that an attack does not read would only seem to change it."""
    takes = {"gradient_match": {"objective", "epsilon"}, "influence": {"epsilon"}}.get(cell.attack, set())
    rule = label_rule(cell, stage.dataset.n_classes)
    if rule == "own" and stage.dataset.n_classes != 2:
        raise BadInput(
            f"label_rule=own of {cell.id} flips between two classes, and {stage.dataset.name} has {stage.dataset.n_classes}; use "
            "common or rarest"
        )
    for name in {"objective", "epsilon"} - takes:
        if cell.option(name, ""):
            raise BadInput(f"{name}={cell.option(name, '')} of {cell.id} means nothing to {cell.attack}; leave it out")
    if cell.attack in OPTIMISED:
        objective(cell)
        box(cell, stage.pool)


def whole(cell: Cell, name: str, default: str) -> int:
    """A setting that is a whole number."""
    text = cell.option(name, default)
    if not re.fullmatch("[0-9]{1,9}", text):  # str.isdigit takes superscripts too
        raise BadInput(f"{name}={text} in the setting of {cell.id} must be a whole number >= 0 of at most nine digits")
    return int(text)
