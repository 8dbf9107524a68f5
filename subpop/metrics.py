"""Damages, worst-k and filter scores from right/wrong bits: pure functions, nothing here trains.

A *cell* below is a sequence of `RightBits`, one an attacked subpopulation, all with the same number of seeds. Accuracies are
averaged over seeds first, then subpopulations are ranked. What a single number cannot tell comes as draws: `resampled_damages`
(bootstrap) and `halved_damages` (for the value free of selection) hold the damages of every draw, and the worst-k of any k is
taken from them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from subpop.types import BadInput, Bools

Doubles = NDArray[np.float64]

MIN_TEST_ROWS = 20


# --- one subpopulation ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RightBits:
    """Which test rows of one subpopulation each victim got right: three (n_seeds, n_rows) bool arrays.

    clean: nobody attacks, nobody defends; defended_clean: the defense runs on clean data; poisoned: attacked, and defended
    where the cell has a defense. Row i and seed j mean the same in all three.
    """

    clean: Bools
    defended_clean: Bools
    poisoned: Bools

    def __post_init__(self) -> None:
        shape = self.clean.shape
        for bits in (self.clean, self.defended_clean, self.poisoned):
            if bits.dtype != np.bool_ or bits.ndim != 2 or bits.shape != shape or not bits.size:
                raise BadInput(
                    f"right/wrong bits of shape {bits.shape} and type {bits.dtype} beside clean ones of {shape}: give bool "
                    "arrays of one shape (n_seeds, n_rows), both at least 1; skip a subpopulation without test rows"
                )

    @property
    def change(self) -> Doubles:
        """(n_seeds, n_rows) undefended clean minus poisoned, in {-1, 0, 1}."""
        return self.clean.astype(np.float64) - self.poisoned


@dataclass(frozen=True)
class Damage:
    """The target damage of one subpopulation: `target` is `defense_cost + attack_effect`, to the last bit.

    std_error: of `target`, over seeds and test rows; NaN with a single test row. seed_std: sample deviation of `target` over
    seeds; NaN with a single seed.
    """

    target: float
    std_error: float
    defense_cost: float
    attack_effect: float
    seed_std: float


def damage(bits: RightBits) -> Damage:
    """Accuracy lost on a subpopulation, split into what the defense costs and what the attack still does.

    The row term is that of a single seed, as if each test row changed alike under all seeds: conservative.
    """
    n_seeds, n_rows = bits.change.shape
    cost = float(bits.clean.mean() - bits.defended_clean.mean())
    effect = float(bits.defended_clean.mean() - bits.poisoned.mean())
    row_variance = float(bits.change.var(axis=1, ddof=1).mean()) if n_rows > 1 else math.nan
    seed_variance = float(bits.change.mean(axis=1).var(ddof=1)) if n_seeds > 1 else math.nan
    of_seeds = seed_variance / n_seeds if n_seeds > 1 else 0.0
    return Damage(cost + effect, math.sqrt(of_seeds + row_variance / n_rows), cost, effect, math.sqrt(seed_variance))


def eligible(n_test_rows: ArrayLike, minimum: int = MIN_TEST_ROWS) -> Bools:
    """(S,) which subpopulations enter worst-k: from their numbers of test rows alone, so before any attack."""
    return np.asarray(n_test_rows) >= minimum


# --- worst-k ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Worst:
    """The mean of the `averaged` largest damages; `averaged` < `asked` where a cell has fewer subpopulations."""

    value: float
    asked: int
    averaged: int


def worst_k(damages: ArrayLike, k: int, by: ArrayLike | None = None) -> Worst:
    """The mean of the k largest of (S,) damages that were averaged over seeds before; negative ones count as they are.

    by: (S,) other damages of the same subpopulations, by which they are ranked instead. Fewer than k subpopulations: the mean
    of all, and `averaged` says how many. None at all: BadInput.
    """
    values = np.asarray(damages, dtype=np.float64)
    ranking = None if by is None else np.asarray(by, dtype=np.float64)
    return Worst(float(_top_mean(values, k, ranking)), k, min(k, values.shape[-1]))


def _top_mean(damages: Doubles, k: int, by: Doubles | None = None) -> Doubles:
    """(...,) mean of the k largest (or of all, if fewer) along the last axis; by: what ranks them, of the same shape."""
    n = damages.shape[-1] if damages.ndim else 0
    if k < 1 or n < 1:
        raise BadInput(
            f"worst-{k} of {n} subpopulations: k and their number must be at least 1; leave the metric out of such a cell"
        )
    if not np.isfinite(damages).all():
        raise BadInput(f"worst-{k} over damages with NaN or infinite values; leave out the subpopulations without a damage first")
    if by is not None:
        chosen = np.argsort(-by, axis=-1, kind="stable")[..., : min(k, n)]
        return np.asarray(np.take_along_axis(damages, chosen, axis=-1).mean(axis=-1))
    result: Doubles = np.sort(damages, axis=-1)[..., max(n - k, 0) :].mean(axis=-1)
    return result


def resampled_damages(cell: Sequence[RightBits], *, seed: int, n_replicates: int = 400, rows: bool = True) -> Doubles:
    """(n_replicates, S) damages of bootstrap draws of the seeds (one draw for all subpopulations) and of each one's test rows.

    n - 1 of n are drawn, so that the variance of a mean is that of the sample deviation (n - 1); of a single one, itself.
    Change that is new in each seed and row counts up to three times: conservative. rows=False draws seeds alone.
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
    """Weights of the seeds and of each subpopulation's rows: cells of one set-up share them, and drawing costs the most."""
    generator = np.random.default_rng(seed)
    seeds = _bootstrap_weights(generator, n_seeds, n_replicates)
    return seeds, tuple(_bootstrap_weights(generator, n, n_replicates) for n in n_rows)


def worst_k_std_error(resampled: Doubles, k: int, by: Doubles | None = None) -> float:
    """Standard error of worst-k from `resampled_damages`: every draw is ranked anew, by its own draw of `by` where given."""
    return float(_top_mean(resampled, k, by).std(ddof=1))


def halved_damages(cell: Sequence[RightBits], *, seed: int, n_halvings: int = 20) -> Doubles:
    """(n_halvings, 2, S) damages on the two halves of the seeds and of each subpopulation's test rows.

    A single seed stands in both halves. More halvings than one change no expectation; they spare the value the luck of one draw.
    """
    generator = np.random.default_rng(seed)
    seeds = _half_weights(generator, _n_seeds(cell), n_halvings)
    halves = np.empty((n_halvings, 2, len(cell)))
    for s, bits in enumerate(cell):
        n_rows = bits.clean.shape[1]
        if n_rows < 2:
            raise BadInput(f"subpopulation {s} has {n_rows} test row and cannot be halved; leave out what `eligible` leaves out")
        rows = _half_weights(generator, n_rows, n_halvings)
        halves[:, :, s] = np.einsum("hin,hin->hi", seeds @ bits.change, rows)
    return halves


def selection_free_worst_k(halves: Doubles, k: int, by: Doubles | None = None) -> Worst:
    """Worst-k ranked on one half of `halved_damages` and read on the other, both ways, averaged: picks no lucky rows.

    by: the same halves of the damages that rank.
    """
    n = halves.shape[-1]
    worst = min(k, n)
    _top_mean(halves, k)  # refuses what worst_k refuses
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


# --- the rest of the test rows, and what a filter removed -----------------------------------------------------------------


@dataclass(frozen=True)
class Collateral:
    """Damage outside the target, over the attacked subpopulations; `*_seed_std`: with one seed, NaN if there is but one."""

    max: float
    mean: float
    max_seed_std: float
    mean_seed_std: float


def collateral(clean: ArrayLike, poisoned: ArrayLike, *, seed: int, n_replicates: int = 400) -> Collateral:
    """Largest and mean collateral damage from (S, n_seeds) accuracies on all test rows outside each subpopulation."""
    lost = np.asarray(clean, dtype=np.float64) - np.asarray(poisoned, dtype=np.float64)
    if lost.ndim != 2 or not lost.size or not np.isfinite(lost).all():
        raise BadInput(
            f"collateral damage needs finite accuracies of shape (subpopulations, seeds), both at least 1; got {lost.shape}"
        )
    averaged, n_seeds = lost.mean(axis=1), lost.shape[1]
    deviations = (math.nan, math.nan)
    if n_seeds > 1:
        drawn = _bootstrap_weights(np.random.default_rng(seed), n_seeds, n_replicates) @ lost.T * math.sqrt(n_seeds)
        deviations = (float(drawn.max(axis=1).std(ddof=1)), float(drawn.mean(axis=1).std(ddof=1)))
    return Collateral(float(averaged.max()), float(averaged.mean()), *deviations)


@dataclass(frozen=True)
class FilterScores:
    """What a filter removed, against the poison.

    recall: removed flipped poison / flipped poison; precision: removed flipped poison / removed; removed_share: removed / rows;
    removed_target_clean_share: removed clean members of the attacked subpopulation / removed. 0 / 0 is NaN: no poison has no
    recall, and a filter that removes nothing has neither precision nor a share of clean members.
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
