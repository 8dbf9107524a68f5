"""Label flipping: poison rows are members of the subpopulation in D_aux with another label.

*Source*: the paper's baseline poison generation; the released scripts for the two label rules and the rarest-label choice.
*Deviations*: `sampling="distinct"` (no row twice) beside the released draw with replacement, whose twins give poison away; for
several classes the common label is the one that a model finds least likely (`least_likely_label`), since the released
histogram rule (`rarest_label`) picks the lowest absent class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from subpop.types import Array, BadInput, Ints

Rule = Literal["own", "common"]
Sampling = Literal["with_replacement", "distinct"]


@dataclass(frozen=True, eq=False)
class Poison:
    """Poison as rows: rows (m,) int64, y (m,) int64 labels; n_flipped: rows whose label is not their own.

    extra_x: (e, ...) in the pool's dtype, rows outside the pool: number len(pool) + i stands for extra_x[i]; origin: (m,) int64
    rows of the pool that they began as, whose labels are their own (None: `rows` themselves).
    """

    rows: Ints
    y: Ints
    n_flipped: int
    extra_x: Array | None = None
    origin: Ints | None = None

    def __len__(self) -> int:
        return len(self.rows)


def poison_count(rate: float, base: float) -> int:
    """floor(rate * base), where a product that falls short of a whole number by rounding counts as that number.

    BadInput: a rate or base below 0 or not finite, and a rate above 0 that gives no poison row.
    """
    for name, value in (("rate", rate), ("base", base)):
        if not math.isfinite(value) or value < 0:
            raise BadInput(f"poison {name} {value}: it must be finite and at least 0; rate 0 is the clean control")
    count = math.floor(rate * base * (1 + 1e-12))
    if rate > 0 and count == 0:
        raise BadInput(
            f"rate {rate} of a subpopulation of {base:g} rows gives no poison row: raise the rate to {1 / base:.3g} or more"
            if base
            else f"rate {rate} of an empty subpopulation gives no poison row: leave that subpopulation out"
        )
    return count


def label_flip(
    rows: Ints,
    y: Ints,
    count: int,
    *,
    n_classes: int,
    rule: Rule,
    target: int | None,
    sampling: Sampling,
    generator: np.random.Generator,
) -> Poison:
    """Draw `count` members of a subpopulation and give them a wrong label.

    rows, y: (a,) pool rows of the subpopulation in D_aux and their true labels. rule "own": y -> 1 - y, two classes only,
    target None; "common": all get `target`, and rows that carry it already are not flipped. sampling "distinct": no pool row
    twice (rows of equal content stay). From one generator state a smaller count draws the beginning of a larger one.
    """
    rows, y = np.asarray(rows), np.asarray(y)
    _check(rows, y, count, n_classes, rule, target)
    chosen = _draw(rows, count, sampling, generator)
    labels = poison_labels(y[chosen], target)
    flipped = int((labels != y[chosen]).sum())
    return Poison(rows[chosen].astype(np.int64), labels.astype(np.int64), flipped)


def poison_labels(y: Ints, target: int | None) -> Ints:
    """(a,) int64 labels that members with true labels y (a,) get as poison: `target`, or without one 1 - y."""
    return (1 - y if target is None else np.full(len(y), target)).astype(np.int64)


def _check(rows: Array, y: Array, count: int, n_classes: int, rule: str, target: int | None) -> None:
    if rule not in get_args(Rule):
        raise BadInput(f"unknown label rule {rule!r}; choose one of {', '.join(get_args(Rule))}")
    if len(rows) != len(y) or count < 0:
        raise BadInput(
            f"{len(rows)} rows, {len(y)} labels and {count} poison rows: give one label a row and a count of at least 0"
        )
    if len(y) and (y.min() < 0 or y.max() >= n_classes):
        raise BadInput(f"labels from {y.min()} to {y.max()}; with n_classes={n_classes} they must lie in 0..{n_classes - 1}")
    if rule == "own" and n_classes != 2:
        raise BadInput(f'rule "own" flips between two classes, not {n_classes}; use rule "common" with a target label')
    if rule == "own" and target is not None:
        raise BadInput(f'rule "own" takes no target, got {target}; use rule "common" or target=None')
    if rule == "common" and (target is None or not 0 <= target < n_classes):
        raise BadInput(f'rule "common" with target {target}: give a label in 0..{n_classes - 1}')


def _draw(rows: Array, count: int, sampling: str, generator: np.random.Generator) -> Ints:
    """(count,) positions in `rows`."""
    if sampling not in get_args(Sampling):
        raise BadInput(f"unknown sampling {sampling!r}; choose one of {', '.join(get_args(Sampling))}")
    if sampling == "with_replacement":
        if count and not len(rows):
            raise BadInput(f"{count} poison rows from a subpopulation without rows in D_aux: leave that subpopulation out")
        return generator.integers(0, max(len(rows), 1), size=count)
    # A split as released can hold a row of the pool more than once.
    first = np.sort(np.unique(rows, return_index=True)[1]).astype(np.int64)
    if count > len(first):
        raise BadInput(
            f"{count} distinct poison rows from {len(first)} distinct rows of the subpopulation: lower the rate, give the "
            'attacker a larger sample, or use sampling "with_replacement"'
        )
    return generator.permutation(first)[:count]


def least_likely_label(proba: Array) -> int:
    """The class of smallest mean confidence over a subpopulation: proba (a, C) of the attacker's model; ties to the lowest."""
    proba = np.asarray(proba, dtype=np.float64)
    if proba.ndim != 2 or not proba.size or not np.isfinite(proba).all():
        raise BadInput(f"confidences of shape {proba.shape}: give finite values of shape (rows, classes), at least one row")
    return int(proba.mean(axis=0).argmin())


def rarest_label(y: Ints, n_classes: int) -> int:
    """The least frequent label of a subpopulation in D_aux, ties to the lowest, as released: an absent class wins."""
    y = np.asarray(y)
    if not len(y) or y.min() < 0 or y.max() >= n_classes:
        raise BadInput(f"{len(y)} labels for the rarest of n_classes={n_classes}: give at least one, all in 0..{n_classes - 1}")
    return int(np.bincount(y, minlength=n_classes).argmin())
