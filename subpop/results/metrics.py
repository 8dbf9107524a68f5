"""Damages, worst-k and filter scores from correct/incorrect predictions: pure functions; nothing here trains.

A *cell* below is a sequence of `RightBits`, one an attacked subpopulation, all with the same number of seeds. Accuracies are
averaged over seeds first, then subpopulations are ranked. For standard errors and selection bias there are random draws:
`resampled_damages` (bootstrap) and `halved_damages` (sample splitting) contain the damages of every draw, and the worst-k of
any k is computed from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from subpop.results.intervals import FEWEST_VALUES, HIDDEN_ROWS, Part, half_width
from subpop.types import BadInput, Bools

Doubles = NDArray[np.float64]

MIN_TEST_ROWS = 20


# --- one subpopulation ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RightBits:
    """Which test rows of one subpopulation each victim classified correctly.

    Row i and seed j refer to the same test row and seed in all three arrays.

    Raises
    ------
    BadInput
        If the arrays are not boolean, differ in shape or are empty.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import RightBits
    >>> right = np.array([[True, True, True, False]])
    >>> wrong = np.zeros((1, 4), dtype=bool)
    >>> RightBits(clean=right, defended_clean=right, poisoned=wrong).change
    array([[1., 1., 1., 0.]])
    """

    clean: Bools
    """(n_seeds, n_rows) without attack and without defense."""
    defended_clean: Bools
    """(n_seeds, n_rows) with the defense, on clean data."""
    poisoned: Bools
    """(n_seeds, n_rows) with the attack, and with the defense if the cell has one."""

    def __post_init__(self) -> None:
        shape = self.clean.shape
        for bits in (self.clean, self.defended_clean, self.poisoned):
            if bits.dtype != np.bool_ or bits.ndim != 2 or bits.shape != shape or not bits.size:
                raise BadInput(
                    f"an array of correct predictions is {bits.dtype} of shape {bits.shape}, and `clean` has shape {shape}: "
                    "give bool arrays of one shape (n_seeds, n_rows) with at least one entry, and skip a subpopulation without "
                    "test rows"
                )

    @cached_property
    def change(self) -> Doubles:
        """(n_seeds, n_rows) undefended clean minus poisoned, in {-1, 0, 1}."""
        return self.clean.astype(np.float64) - self.poisoned

    @cached_property
    def change_by_seed(self) -> Doubles:
        """(n_seeds,) mean of `change` over the rows."""
        return np.asarray(self.change.mean(axis=1))


@dataclass(frozen=True)
class Damage:
    """The target damage of one subpopulation, as fractions of its test rows.

    `target` equals `defense_cost + attack_effect` exactly.
    """

    target: float
    """Undefended clean accuracy minus poisoned accuracy."""
    std_error: float
    """Standard error of `target` over seeds and test rows; NaN with a single test row."""
    defense_cost: float
    """Accuracy that the defense loses on clean data."""
    attack_effect: float
    """Accuracy that the attack costs in spite of the defense."""
    seed_std: float
    """Sample standard deviation of `target` over seeds; NaN with a single seed."""
    half_width: float | None = None
    """Half the width of the 95 % interval over seeds and test rows; None with fewer than five seeds."""


def damage(bits: RightBits) -> Damage:
    """Compute the accuracy lost on a subpopulation, and its share due to the defense and to the attack.

    The standard error is conservative: it assumes that a test row changes in the same way under all seeds.

    Parameters
    ----------
    bits
        Correct predictions on the subpopulation's test rows.

    Returns
    -------
    Damage
        The damage with its standard error.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import RightBits, damage
    >>> clean = np.array([[True, True, True, True]])
    >>> found = damage(RightBits(clean, np.array([[True, True, True, False]]), np.array([[True, False, False, False]])))
    >>> found.target, found.defense_cost, found.attack_effect
    (0.75, 0.25, 0.5)
    """
    n_seeds, n_rows = bits.change.shape
    cost = float(bits.clean.mean() - bits.defended_clean.mean())
    effect = float(bits.defended_clean.mean() - bits.poisoned.mean())
    row_variance = float(bits.change.var(axis=1, ddof=1).mean()) if n_rows > 1 else math.nan
    seed_variance = float(bits.change_by_seed.var(ddof=1)) if n_seeds > 1 else math.nan
    of_seeds = seed_variance / n_seeds if n_seeds > 1 else 0.0
    error = math.sqrt(of_seeds + row_variance / n_rows)
    width = None
    if n_seeds >= FEWEST_VALUES and n_rows > 1:
        of_rows = (row_variance + HIDDEN_ROWS / n_rows) / n_rows
        width = half_width([Part(of_seeds, n_seeds - 2), Part(of_rows, n_rows - 1)])
    return Damage(cost + effect, error, cost, effect, math.sqrt(seed_variance), width)


def eligible(n_test_rows: ArrayLike, minimum: int = MIN_TEST_ROWS) -> Bools:
    """Return (S,) bool: which subpopulations count for worst-k. This depends on the number of test rows only, not on any
    attack."""
    return np.asarray(n_test_rows) >= minimum


# --- worst-k ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Worst:
    """The mean of the largest damages."""

    value: float
    """The mean, a fraction."""
    asked: int
    """The k that was asked for."""
    averaged: int
    """The number of subpopulations averaged; less than `asked` if there are fewer."""


def worst_k(damages: ArrayLike, k: int, by: ArrayLike | None = None) -> Worst:
    """Average the k largest damages.

    Parameters
    ----------
    damages
        (S,) damages of subpopulations, averaged over seeds. They may be negative.
    k
        The number of damages to average; if there are fewer, all are averaged.
    by
        (S,) other damages of the same subpopulations, to rank them by; None for `damages`.

    Returns
    -------
    Worst
        The mean, and how many damages it averages.

    Raises
    ------
    BadInput
        If k or the number of damages is 0, or a damage is not finite.

    Examples
    --------
    >>> from subpop import worst_k
    >>> worst_k([0.1, 0.5, 0.3], k=2)
    Worst(value=0.4, asked=2, averaged=2)
    """
    values = np.asarray(damages, dtype=np.float64)
    ranking = None if by is None else np.asarray(by, dtype=np.float64)
    return Worst(float(top_mean(values, k, ranking)), k, min(k, values.shape[-1]))


def top_mean(damages: Doubles, k: int, by: Doubles | None = None) -> Doubles:
    """Return (...,) means of the k largest values (or of all, if fewer) along the last axis; by: what ranks them, of the same
    shape."""
    return top_means(damages, [k], by)[k]


def top_means(damages: Doubles, ks: Sequence[int], by: Doubles | None = None) -> dict[int, Doubles]:
    """Return `top_mean` for each k, from one sort."""
    n = damages.shape[-1] if damages.ndim else 0
    for k in ks:
        if k < 1 or n < 1:
            raise BadInput(
                f"worst-k with k={k} of {n} subpopulations: both numbers must be at least 1; leave the metric out of such a cell"
            )
    if not np.isfinite(damages).all():
        named = ", ".join(f"worst-{k}" for k in ks)
        raise BadInput(f"{named} over damages with NaN or infinite values; leave out the subpopulations without a damage")
    if by is not None:
        ranked = np.argsort(-by, axis=-1, kind="stable")
        return {k: np.asarray(np.take_along_axis(damages, ranked[..., : min(k, n)], axis=-1).mean(axis=-1)) for k in ks}
    rising = np.sort(damages, axis=-1)
    return {k: np.asarray(rising[..., max(n - k, 0) :].mean(axis=-1)) for k in ks}


def resampled_damages(cell: Sequence[RightBits], *, seed: int, n_replicates: int = 400, rows: bool = True) -> Doubles:
    """Return (n_replicates, S) damages of bootstrap draws of seeds (the same for all subpopulations) and of their test rows.

    n - 1 of n are drawn, so that the variance of a mean agrees with that of the sample deviation. Variation that is independent
    for each seed and row counts up to three times, which is conservative. rows=False resamples the seeds only.
    """
    counts = tuple(bits.clean.shape[1] for bits in cell) if rows else ()
    seeds, weights = _bootstrap_draws(seed, _n_seeds(cell), counts, n_replicates)
    drawn = np.empty((n_replicates, len(cell)))
    for s, bits in enumerate(cell):
        of_rows = seeds @ bits.change
        drawn[:, s] = np.einsum("bn,bn->b", of_rows, weights[s]) if rows else of_rows.mean(axis=1)
    return drawn


@lru_cache(maxsize=16)
def _bootstrap_draws(seed: int, n_seeds: int, n_rows: tuple[int, ...], n_replicates: int) -> tuple[Doubles, tuple[Doubles, ...]]:
    """Return weights of the seeds and of each subpopulation's rows; cached, because drawing takes longest and cells share
    them."""
    generator = np.random.default_rng(seed)
    seeds = _bootstrap_weights(generator, n_seeds, n_replicates)
    return seeds, tuple(_bootstrap_weights(generator, n, n_replicates) for n in n_rows)


def halved_damages(cell: Sequence[RightBits], *, seed: int, n_halvings: int = 20) -> Doubles:
    """Return (n_halvings, 2, S) damages on random halves of the seeds and of each subpopulation's test rows.

    A single seed is used in both halves. More halvings do not change the expectation but reduce the variance.
    """
    counts = tuple(bits.clean.shape[1] for bits in cell)
    for s, n_rows in enumerate(counts):
        if n_rows < 2:
            raise BadInput(
                f"subpopulation {s} has {n_rows} test row and cannot be halved; leave out subpopulations that are not `eligible`"
            )
    seeds, rows = _half_draws(seed, _n_seeds(cell), counts, n_halvings)
    halves = np.empty((n_halvings, 2, len(cell)))
    for s, bits in enumerate(cell):
        halves[:, :, s] = np.einsum("hin,hin->hi", seeds @ bits.change, rows[s])
    return halves


@lru_cache(maxsize=16)
def _half_draws(seed: int, n_seeds: int, n_rows: tuple[int, ...], n_halvings: int) -> tuple[Doubles, tuple[Doubles, ...]]:
    """Return weights of the halves of the seeds and of each subpopulation's rows; cached as `_bootstrap_draws` is."""
    generator = np.random.default_rng(seed)
    seeds = _half_weights(generator, n_seeds, n_halvings)
    return seeds, tuple(_half_weights(generator, n, n_halvings) for n in n_rows)


def selection_free_worst_k(halves: Doubles, k: int, by: Doubles | None = None) -> Worst:
    """Return a lower estimate of worst-k: ranked on one half of `halved_damages` and evaluated on the other, both ways.

    It is not inflated by selecting the largest estimates. It is lower than the true worst-k, because half of the seeds and rows
    pick the worst subpopulations less reliably than all of them.

    by: the same halves of other damages, to rank by.
    """
    n = halves.shape[-1]
    worst = min(k, n)
    top_mean(halves, k)  # raises for the same input as worst_k
    chosen = np.argsort(-(halves if by is None else by), axis=-1, kind="stable")[..., :worst]
    read = np.take_along_axis(halves[:, ::-1], chosen, axis=-1)
    return Worst(float(read.mean()), k, worst)


def _n_seeds(cell: Sequence[RightBits]) -> int:
    counts = sorted({len(bits.clean) for bits in cell})
    if len(counts) != 1:
        raise BadInput(f"a cell with {counts or 'no'} seeds: worst-k needs the same number of seeds in all its subpopulations")
    return counts[0]


def _bootstrap_weights(generator: np.random.Generator, n: int, n_replicates: int) -> Doubles:
    """(n_replicates, n) weights that sum to 1."""
    draws = max(n - 1, 1)
    return generator.multinomial(draws, np.full(n, 1 / n), size=n_replicates) / draws


def _half_weights(generator: np.random.Generator, n: int, n_halvings: int) -> Doubles:
    """(n_halvings, 2, n) weights that sum to 1: the first n // 2 of a shuffle against the rest."""
    if n == 1:
        return np.ones((n_halvings, 2, 1))
    first = generator.permuted(np.tile(np.arange(n) < n // 2, (n_halvings, 1)), axis=1)
    return np.stack([first / (n // 2), ~first / (n - n // 2)], axis=1)


# --- other test rows, and rows that a filter removed -----------------------------------------------------------------


@dataclass(frozen=True)
class Collateral:
    """Damage outside the target, over the attacked subpopulations; `*_seed_std`: deviation of one seed, NaN with a single
    seed."""

    max: float
    mean: float
    max_seed_std: float
    mean_seed_std: float


def collateral(clean: ArrayLike, poisoned: ArrayLike, *, seed: int, n_replicates: int = 400) -> Collateral:
    """Return the largest and the mean collateral damage from (S, n_seeds) accuracies on all test rows outside each
    subpopulation."""
    lost = np.asarray(clean, dtype=np.float64) - np.asarray(poisoned, dtype=np.float64)
    if lost.ndim != 2 or not lost.size or not np.isfinite(lost).all():
        raise BadInput(
            f"collateral damage needs finite accuracies of shape (subpopulations, seeds), both at least 1; got {lost.shape}"
        )
    averaged, n_seeds = lost.mean(axis=1), lost.shape[1]
    deviations = (math.nan, math.nan)
    if n_seeds > 1:
        drawn = _bootstrap_draws(seed, n_seeds, (), n_replicates)[0] @ lost.T * math.sqrt(n_seeds)
        deviations = (float(drawn.max(axis=1).std(ddof=1)), float(drawn.mean(axis=1).std(ddof=1)))
    return Collateral(float(averaged.max()), float(averaged.mean()), *deviations)


@dataclass(frozen=True)
class FilterScores:
    """How many rows a filter removed, and how many of them were poison.

    recall: removed flipped poison / flipped poison; precision: removed flipped poison / removed; removed_share: removed / rows;
    removed_target_clean_share: removed clean members of the attacked subpopulation / removed. 0 / 0 is NaN: without poison there
    is no recall, and a filter that removes nothing has no precision and no fraction of clean members.
    """

    recall: float
    precision: float
    removed_share: float
    removed_target_clean_share: float
    n_removed: int


def filter_scores(*, n_rows: float, n_flipped: float, removed: float, flipped: float, target_clean: float) -> FilterScores:
    """Score a filter from counts of training rows.

    n_rows: rows that the defense was given; n_flipped: poison rows whose label differs from their own; removed: rows that it
    removed, of which `flipped` are such poison rows and `target_clean` are rows of D in the attacked subpopulation.
    """
    if not 0 <= flipped + target_clean <= removed <= n_rows or not flipped <= n_flipped <= n_rows:
        raise BadInput(
            f"{removed:g} removed of {n_rows:g} rows, {flipped:g} of them of {n_flipped:g} flipped and {target_clean:g} clean "
            "rows of the target: a part is larger than its whole"
        )
    return FilterScores(
        recall=_ratio(flipped, n_flipped),
        precision=_ratio(flipped, removed),
        removed_share=_ratio(removed, n_rows),
        removed_target_clean_share=_ratio(target_clean, removed),
        n_removed=int(removed),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
