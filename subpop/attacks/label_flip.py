"""Label flipping: poison rows are members of the subpopulation in D_aux with another label.

*Source*: the paper's baseline poison generation; the released scripts for the two label rules and the rarest-label choice.
*Deviations*: `sampling="distinct"` (no row twice) in addition to the released draw with replacement, whose duplicates reveal
poison; for several classes the common label is the one that a model finds least likely (`least_likely_label`), since the released
histogram rule (`rarest_label`) picks the lowest absent class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, get_args

import numpy as np

from subpop.types import Array, BadInput, Ints, Model, Pool, Victim
from subpop.types.specifications import LabelFlip, Sampling

Rule = Literal["own", "common"]
Settings = TypeVar("Settings", bound=LabelFlip, covariant=True)


@dataclass(frozen=True, eq=False)
class Poison:
    """Poison rows with their labels.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import Poison
    >>> len(Poison(rows=np.array([7, 9]), y=np.array([1, 1]), n_flipped=2))
    2
    """

    rows: Ints
    """(m,) int64 row numbers of the pool; len(pool) + i refers to extra_x[i]."""
    y: Ints
    """(m,) int64 labels that the rows get."""
    n_flipped: int
    """Number of rows whose label differs from their true label."""
    extra_x: Array | None = None
    """(e, ...) rows outside the pool, in the pool's dtype, or None."""
    origin: Ints | None = None
    """(m,) int64 rows of the pool from which the poison was made and which have its true labels; None for `rows`."""
    n_fits: int = 0
    """Number of defended models that the attacker trained to choose the rows."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class AttackTask(Generic[Settings]):
    """The arguments of an attack in one trial: a subpopulation in the attacker's sample and the number of poison rows.

    An attack is registered as a function of an `AttackTask[S]`, where `S` is the class of its settings.
    """

    settings: Settings
    """Settings of the cell's attack."""
    pool: Pool
    members: Ints
    """(a,) pool rows of the subpopulation in D_aux."""
    count: int
    """Number of poison rows."""
    target: int | None
    """The label of all poison rows; None to flip each row's own label (two classes)."""
    generator: np.random.Generator
    optimiser: Any = None
    """The `subpop.attacks.attacker.Attacker` of attacks that move rows, the `subpop.attacks.best_of_list.Rehearsal` of attacks
    with `asks_defense`; None for others."""
    groups: Ints | None = None
    """(n_aux,) the subpopulation of each row of D_aux, -1 for none; None if there is no other."""
    model: Model | None = None
    """The victim trained on D_aux, for attacks with `asks_model`; None for others."""
    victim: Victim | None = None
    """The victim, which trains further models on D_aux."""

    @property
    def y(self) -> Ints:
        """(a,) true labels of the members."""
        return self.pool.y[self.members]

    @property
    def aux(self) -> Ints:
        """(n_aux,) pool rows of D_aux."""
        return np.arange(self.pool.n_train, len(self.pool))


def flip_labels(task: AttackTask[LabelFlip]) -> Poison:
    """The attack `label_flip`: members of the subpopulation drawn at random, with a wrong label."""
    return label_flip(
        task.members,
        task.y,
        task.count,
        n_classes=task.pool.n_classes,
        rule="own" if task.target is None else "common",
        target=task.target,
        sampling=task.settings.sampling,
        generator=task.generator,
    )


def poison_count(rate: float, base: float) -> int:
    """Return floor(rate * base); a product just below a whole number because of rounding counts as that number.

    Raises BadInput if the rate or the base is negative or not finite, or if a rate above 0 gives no poison row.
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
    """Draw members of a subpopulation and change their labels.

    For the same state of the generator, a smaller `count` draws the first rows of a larger one.

    Parameters
    ----------
    rows
        (a,) pool rows of the subpopulation in D_aux.
    y
        (a,) their true labels.
    count
        Number of poison rows.
    n_classes
        Number of classes of the data.
    rule
        "own": each row gets the other of two classes. "common": all rows get `target`; rows that already have it count as not
        flipped.
    target
        The label for the rule "common", otherwise None.
    sampling
        "with_replacement", or "distinct": no pool row is drawn twice.
    generator
        The source of randomness.

    Returns
    -------
    Poison
        `count` rows with their new labels.

    Raises
    ------
    BadInput
        If the labels, the rule and the target do not fit together, or too few rows can be drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import label_flip
    >>> options = {"n_classes": 2, "rule": "own", "target": None, "sampling": "distinct"}
    >>> poison = label_flip(np.array([4, 5, 6]), np.array([0, 0, 0]), 3, **options, generator=np.random.default_rng(0))
    >>> sorted(poison.rows.tolist()), poison.y.tolist(), poison.n_flipped
    ([4, 5, 6], [1, 1, 1], 3)
    """
    rows, y = np.asarray(rows), np.asarray(y)
    _check(rows, y, count, n_classes, rule, target)
    chosen = _draw(rows, count, sampling, generator)
    labels = poison_labels(y[chosen], target)
    flipped = int((labels != y[chosen]).sum())
    return Poison(rows[chosen].astype(np.int64), labels.astype(np.int64), flipped)


def poison_labels(y: Ints, target: int | None) -> Ints:
    """Return the (a,) int64 poison labels for true labels y (a,): `target`, or 1 - y if there is none."""
    return (1 - y if target is None else np.full(len(y), target)).astype(np.int64)


def _check(rows: Array, y: Array, count: int, n_classes: int, rule: str, target: int | None) -> None:
    if rule not in get_args(Rule):
        raise BadInput(f"unknown label rule {rule!r}; use one of {', '.join(get_args(Rule))}")
    if len(rows) != len(y) or count < 0:
        raise BadInput(
            f"{len(rows)} rows, {len(y)} labels and {count} poison rows: give one label per row and a count of at least 0"
        )
    if len(y) and (y.min() < 0 or y.max() >= n_classes):
        raise BadInput(f"labels from {y.min()} to {y.max()}; with n_classes={n_classes} they must be in 0..{n_classes - 1}")
    if rule == "own" and n_classes != 2:
        raise BadInput(f'rule "own" flips between two classes, not {n_classes}; use rule "common" with a target label')
    if rule == "own" and target is not None:
        raise BadInput(f'rule "own" takes no target, got {target}; use rule "common" or target=None')
    if rule == "common" and (target is None or not 0 <= target < n_classes):
        raise BadInput(f'rule "common" needs a target label from 0 to {n_classes - 1}, not {target}')


def _draw(rows: Array, count: int, sampling: str, generator: np.random.Generator) -> Ints:
    """(count,) positions in `rows`."""
    if sampling not in get_args(Sampling):
        raise BadInput(f"unknown sampling {sampling!r}; choose one of {', '.join(get_args(Sampling))}")
    if sampling == "with_replacement":
        if count and not len(rows):
            raise BadInput(f"{count} poison rows from a subpopulation without rows in D_aux: leave that subpopulation out")
        return generator.integers(0, max(len(rows), 1), size=count)
    # A split as released can contain a row of the pool more than once.
    first = np.sort(np.unique(rows, return_index=True)[1]).astype(np.int64)
    if count > len(first):
        raise BadInput(
            f"{count} distinct poison rows from {len(first)} distinct rows of the subpopulation: lower the rate, give the "
            'attacker a larger sample, or use sampling "with_replacement"'
        )
    return generator.permutation(first)[:count]


def least_likely_label(proba: Array) -> int:
    """Return the class with the lowest mean probability; proba (a, C) of the attacker's model. Ties go to the lowest class."""
    proba = np.asarray(proba, dtype=np.float64)
    if proba.ndim != 2 or not proba.size or not np.isfinite(proba).all():
        raise BadInput(f"confidences of shape {proba.shape}: give finite values of shape (rows, classes), at least one row")
    return int(proba.mean(axis=0).argmin())


def rarest_label(y: Ints, n_classes: int) -> int:
    """Return the least frequent label of a subpopulation in D_aux; ties go to the lowest. An absent class wins, as released."""
    y = np.asarray(y)
    if not len(y) or y.min() < 0 or y.max() >= n_classes:
        raise BadInput(
            f"the rarest of {n_classes} classes is not defined for {len(y)} labels: give at least one, all in 0..{n_classes - 1}"
        )
    return int(np.bincount(y, minlength=n_classes).argmin())
