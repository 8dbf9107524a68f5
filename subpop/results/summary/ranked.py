"""Damages of subpopulations that are ranked together: mean and worst-k, and their distribution over resampled seeds and rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from subpop.results.intervals import ROWS, SEEDS, of_resampled, of_values
from subpop.results.metrics import (
    Doubles,
    RightBits,
    halved_damages,
    resampled_damages,
    selection_free_worst_k,
    top_means,
    worst_k,
)
from subpop.results.summary.subpopulation import Subpopulation
from subpop.types import Array, Number

WORST = (1, 5, 10)


@dataclass(frozen=True, eq=False)
class Ranked:
    """Subpopulations that are ranked together, with their damages under resampled seeds and test rows.

    by: the same subpopulations under another defense, whose damages rank them (Tables 13 and 14); None: ranked by their own.
    """

    parts: Sequence[Subpopulation]
    seed: int
    by: Ranked | None = None

    @cached_property
    def bits(self) -> list[RightBits]:
        return [p.bits for p in self.parts]

    @cached_property
    def values(self) -> Doubles:
        return np.array([p.damage.target for p in self.parts])

    @cached_property
    def drawn(self) -> Doubles:
        return resampled_damages(self.bits, seed=self.seed)

    @cached_property
    def over_seeds(self) -> Doubles:
        return resampled_damages(self.bits, seed=self.seed, rows=False)

    @cached_property
    def halves(self) -> Doubles:
        return halved_damages(self.bits, seed=self.seed)

    @cached_property
    def top_of_drawn(self) -> dict[int, Doubles]:
        """Worst-k of every draw of seeds and rows, by k."""
        return top_means(self.drawn, self.ranks, None if self.by is None else self.by.drawn)

    @cached_property
    def top_of_seeds(self) -> dict[int, Doubles]:
        """Worst-k of every draw of seeds, by k."""
        return top_means(self.over_seeds, self.ranks, None if self.by is None else self.by.over_seeds)

    @property
    def n_seeds(self) -> int:
        return len(self.bits[0].clean)

    @cached_property
    def order(self) -> Array:
        """(S,) positions of subpopulations, the most damaged first."""
        return _order((self.by or self).values)

    def number(self, metric: str, of: Callable[[Doubles, Array], Any]) -> Number:
        """A number that `of` computes from damages (..., S) and their order, with its deviation over seeds."""
        n_seeds = self.n_seeds
        drawn = of(self.over_seeds, _order((self.by or self).over_seeds))
        std = float(np.std(drawn, ddof=1) * math.sqrt(n_seeds)) if n_seeds > 1 else None
        return Number(metric, float(of(self.values, self.order)), std=std)

    def worst(self, k: int) -> float:
        return worst_k(self.values, k, None if self.by is None else self.by.values).value

    def std_error(self, k: int) -> float:
        return float(self.top_of_drawn[k].std(ddof=1))

    def mean_half_width(self) -> float | None:
        """Half the width of the interval of the mean damage."""
        n_rows = sum(bits.clean.shape[1] for bits in self.bits)
        return of_resampled(self.drawn.mean(1), self.over_seeds.mean(1), self.n_seeds, n_rows)

    def half_width(self, k: int) -> float | None:
        """Half the width of the interval of worst-k."""
        n_rows = k * min(bits.clean.shape[1] for bits in self.bits)
        return of_resampled(self.top_of_drawn[k], self.top_of_seeds[k], self.n_seeds, n_rows)

    def selection_free(self, k: int) -> float:
        return selection_free_worst_k(self.halves, k, None if self.by is None else self.by.halves).value

    def seed_std(self, k: int) -> float | None:
        """The deviation of worst-k of a single seed; None if there is only one."""
        return float(self.top_of_seeds[k].std(ddof=1)) * math.sqrt(self.n_seeds) if self.n_seeds > 1 else None

    def by_seed(self, k: int) -> tuple[float, ...]:
        """Return the mean damage of each seed over the k subpopulations that are worst on average, as `worst` averages them."""
        return tuple(np.stack([self.bits[i].change_by_seed for i in self.order[:k]]).mean(axis=0))

    @property
    def ranks(self) -> list[int]:
        """The values of k for which worst-k is defined: there are at least k subpopulations."""
        return [k for k in WORST if k <= len(self.parts)]


def _order(damages: Doubles) -> Array:
    return np.argsort(-damages, axis=-1, kind="stable")


def damages(ranked: Ranked) -> list[Number]:
    """Mean damage, worst-k with its two parts, and its lower estimate; nothing if no subpopulation is large enough."""
    if not ranked.parts:
        return []
    per_seed = np.stack([bits.change_by_seed for bits in ranked.bits])
    first = Number(
        "target_damage_mean",
        float(ranked.values.mean()),
        float(ranked.drawn.mean(1).std(ddof=1)),
        std=seed_std(per_seed),
        half_width=ranked.mean_half_width(),
        varies=ROWS,
        by_seed=tuple(per_seed.mean(axis=0)),
    )
    numbers = [first, *worst(ranked, "")]
    for k in ranked.ranks:
        # Its own deviation would need more seeds to halve; that of the uncorrected worst-k is of the same size.
        numbers.append(Number(f"target_damage_worst_{k}_selection_free", ranked.selection_free(k), std=ranked.seed_std(k)))
        worst_bits = [ranked.bits[i] for i in ranked.order[:k]]
        numbers += [_split(f"{name}_worst_{k}", worst_bits) for name in ("defense_cost", "attack_effect")]
    return numbers


def worst(ranked: Ranked, suffix: str) -> list[Number]:
    return [
        Number(
            f"target_damage_worst_{k}{suffix}",
            ranked.worst(k),
            ranked.std_error(k),
            std=ranked.seed_std(k),
            half_width=ranked.half_width(k),
            varies=ROWS,
            by_seed=ranked.by_seed(k),
        )
        for k in ranked.ranks
    ]


def _split(metric: str, bits_of_worst: Sequence[RightBits]) -> Number:
    """One of the two parts of a worst-k damage, averaged over its subpopulations."""
    cost = metric.startswith("defense_cost")
    before = [bits.clean if cost else bits.defended_clean for bits in bits_of_worst]
    after = [bits.defended_clean if cost else bits.poisoned for bits in bits_of_worst]
    return chosen_over_seeds(metric, np.stack([b.mean(1) - a.mean(1) for b, a in zip(before, after, strict=True)]))


def over_seeds(metric: str, values: Array, subpopulation: str = "") -> Number:
    """The mean of (S, n_seeds) values, ignoring NaN, with the deviation over seeds of their mean over subpopulations."""
    found = chosen_over_seeds(metric, values, subpopulation)
    width = None if found.std is None else of_values(np.nanmean(values, axis=0))
    return replace(found, half_width=width, varies=SEEDS)


def chosen_over_seeds(metric: str, values: Array, subpopulation: str = "") -> Number:
    """`over_seeds` of subpopulations that the same results chose as the worst: without an interval, which would not say of
    which subpopulations."""
    std = seed_std(values)
    error = None if std is None else std / math.sqrt(values.shape[1])
    by_seed = tuple(values.mean(axis=0)) if np.isfinite(values).all() else ()
    return Number(metric, float(np.nanmean(values)), error, subpopulation, std, by_seed=by_seed)


def seed_std(values: Array) -> float | None:
    """Sample deviation over seeds of (S, n_seeds) values averaged over subpopulations; None with one seed."""
    if values.shape[1] < 2 or np.isnan(values).all(axis=0).any():
        return None
    return float(np.nanmean(values, axis=0).std(ddof=1))
