"""From the trials of a cell to its numbers: aggregates with standard errors, and one table row a subpopulation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from subpop.metrics import (
    Collateral,
    Damage,
    Doubles,
    FilterScores,
    RightBits,
    collateral,
    damage,
    eligible,
    halved_damages,
    resampled_damages,
    selection_free_worst_k,
    worst_k,
    worst_k_std_error,
)
from subpop.stage import Stage, derived_seed
from subpop.types import Array, Bools, Cell, CellResult, Number, Trial, TrialResult

WORST = (1, 5, 10)


@dataclass(frozen=True, eq=False)
class Subpopulation:
    """What one attacked subpopulation went through: bits of its test rows, accuracies (n_seeds,) on the rest, its trials."""

    name: str
    bits: RightBits
    clean_rest: Doubles
    poisoned_rest: Doubles
    poisoned_accuracy: Doubles
    defended_clean_accuracy: Doubles
    trials: tuple[TrialResult, ...]
    scores: tuple[FilterScores, ...]
    sizes: Mapping[str, int]

    @cached_property
    def damage(self) -> Damage:
        return damage(self.bits)

    def mean(self, metric: str) -> float:
        return float(np.mean([t.metrics[metric] for t in self.trials]))


def summarise(
    cell: Cell,
    stage: Stage,
    results: Sequence[TrialResult],
    clean: Bools,
    *,
    exact: bool,
    knowledge: str,
    seconds: float,
    from_store: bool,
) -> CellResult:
    """All numbers of a cell from its trials; clean: (n_seeds, n_test) bool, what the clean undefended victims get right."""
    by_trial = {result.trial: result for result in results}
    parts = [_subpopulation(cell, stage, by_trial, name, clean) for name in stage.attacked]
    ranked = [p for p in parts if eligible(p.bits.clean.shape[1])]
    seed = derived_seed("summary", cell.dataset, cell.partition)
    numbers = [
        _over_seeds("clean_accuracy", clean.mean(1)[None]),
        _over_seeds("defended_clean_accuracy", np.stack([p.defended_clean_accuracy for p in parts])),
        _over_seeds("poisoned_accuracy", np.stack([p.poisoned_accuracy for p in parts])),
        *_damages(Ranked(ranked, seed)),
        *_worst(Ranked(parts, seed), "_all"),
        *_collateral(parts, seed),
        *_filter_numbers(parts),
        *_attack_numbers(parts, len(parts) - len(ranked)),
    ]
    residuals = [r.metrics.get("kkt_residual", math.nan) for r in results]
    if np.isfinite(residuals).any():
        numbers.append(Number("kkt_residual_max", float(np.nanmax(residuals))))
    return CellResult(
        cell,
        tuple(numbers),
        tuple(_row(p) for p in parts),
        {name: array for name, array in results[0].arrays.items() if name.startswith("panel_")},
        knowledge,
        exact,
        len(parts),
        sum(r.n_fits for r in results),
        seconds,
        from_store,
        stage.dataset.notes,
    )


def _subpopulation(cell: Cell, stage: Stage, by_trial: Mapping[Trial, TrialResult], name: str, clean: Bools) -> Subpopulation:
    seeds = range(cell.n_seeds)
    members = stage.test_members(name)
    attacked = tuple(by_trial[Trial(name, seed)] for seed in seeds)
    poisoned = np.stack([np.asarray(r.arrays["right"], bool) for r in attacked])
    defended = np.stack([_defended_clean(by_trial, name, seed, clean[seed]) for seed in seeds])
    sizes = {"n_train": int(stage.train_members(name).sum()), "n_aux": len(stage.aux_members(name)), "n_test": int(members.sum())}
    return Subpopulation(
        name,
        RightBits(clean[:, members], defended[:, members], poisoned[:, members]),
        clean[:, ~members].mean(1),
        poisoned[:, ~members].mean(1),
        poisoned.mean(1),
        defended.mean(1),
        attacked,
        tuple(_scores(r, stage.pool.n_train) for r in attacked if "removed" in r.metrics),
        sizes,
    )


def _defended_clean(by_trial: Mapping[Trial, TrialResult], name: str, seed: int, clean: Bools) -> Bools:
    """What the defense gets right on clean data, told what it is told here; undefended, that is the clean victim."""
    for trial in (Trial(name, seed, attacked=False), Trial("", seed, attacked=False)):
        if trial in by_trial:
            return np.asarray(by_trial[trial].arrays["right"], bool)
    return clean


def _scores(result: TrialResult, n_train: int) -> FilterScores:
    m = result.metrics
    removed = m["removed"]
    return FilterScores(
        recall=_ratio(m["removed_flipped"], m["n_flipped"]),
        precision=_ratio(m["removed_flipped"], removed),
        removed_share=removed / (n_train + m["n_poison"]),
        removed_target_clean_share=_ratio(m["removed_target_clean"], removed),
        n_removed=int(removed),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


# --- aggregates -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ranked:
    """Subpopulations that are ranked together, with their damages under resampled seeds and test rows."""

    parts: Sequence[Subpopulation]
    seed: int

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

    def seed_std(self, k: int) -> float | None:
        """What worst-k would vary by with one seed; None if there is one."""
        n_seeds = len(self.bits[0].clean)
        return worst_k_std_error(self.over_seeds, k) * math.sqrt(n_seeds) if n_seeds > 1 else None

    @property
    def ranks(self) -> list[int]:
        """A cell with fewer than k subpopulations has no worst-k."""
        return [k for k in WORST if k <= len(self.parts)]


def _damages(ranked: Ranked) -> list[Number]:
    """Mean damage, worst-k with its split, and the value free of selection; nothing if no subpopulation is large enough."""
    if not ranked.parts:
        return []
    per_seed = np.stack([bits.change.mean(1) for bits in ranked.bits])
    error = float(ranked.drawn.mean(1).std(ddof=1))
    numbers = [Number("target_damage_mean", float(ranked.values.mean()), error, std=_seed_std(per_seed)), *_worst(ranked, "")]
    halves = halved_damages(ranked.bits, seed=ranked.seed)
    for k in ranked.ranks:
        # Its own deviation would need seeds to halve again; that of the value it corrects is of the same size.
        free = selection_free_worst_k(halves, k).value
        numbers.append(Number(f"target_damage_worst_{k}_selection_free", free, std=ranked.seed_std(k)))
        worst = [ranked.bits[i] for i in np.argsort(-ranked.values, kind="stable")[:k]]
        numbers += [_split(f"{name}_worst_{k}", worst) for name in ("defense_cost", "attack_effect")]
    return numbers


def _worst(ranked: Ranked, suffix: str) -> list[Number]:
    return [
        Number(
            f"target_damage_worst_{k}{suffix}",
            worst_k(ranked.values, k).value,
            worst_k_std_error(ranked.drawn, k),
            std=ranked.seed_std(k),
        )
        for k in ranked.ranks
    ]


def _split(metric: str, worst: Sequence[RightBits]) -> Number:
    """One part of a worst-k damage: the mean over its subpopulations."""
    cost = metric.startswith("defense_cost")
    before = [bits.clean if cost else bits.defended_clean for bits in worst]
    after = [bits.defended_clean if cost else bits.poisoned for bits in worst]
    return _over_seeds(metric, np.stack([b.mean(1) - a.mean(1) for b, a in zip(before, after, strict=True)]))


def _collateral(parts: Sequence[Subpopulation], seed: int) -> list[Number]:
    found: Collateral = collateral(np.stack([p.clean_rest for p in parts]), np.stack([p.poisoned_rest for p in parts]), seed=seed)
    return [
        Number("collateral_damage_max", found.max, std=_finite(found.max_seed_std)),
        Number("collateral_damage_mean", found.mean, std=_finite(found.mean_seed_std)),
    ]


def _filter_numbers(parts: Sequence[Subpopulation]) -> list[Number]:
    if not all(len(p.scores) == len(p.trials) for p in parts):  # no filter, or not in every trial
        return []
    names = {"poison_recall": "recall", "poison_precision": "precision"}
    names |= {name: name for name in ("removed_share", "removed_target_clean_share")}
    numbers = []
    for metric, field in names.items():
        values = np.array([[getattr(score, field) for score in p.scores] for p in parts])
        if np.isfinite(values).any():
            numbers.append(_over_seeds(metric, values))
    return numbers


def _attack_numbers(parts: Sequence[Subpopulation], n_left_out: int) -> list[Number]:
    rates = [p.mean("n_poison") / p.sizes["n_train"] for p in parts if p.sizes["n_train"]]
    return [
        Number("effective_rate", float(np.mean(rates)) if rates else math.nan),
        Number("n_flipped", float(np.mean([p.mean("n_flipped") for p in parts]))),
        Number("n_left_out", float(n_left_out)),
    ]


def _over_seeds(metric: str, values: Array) -> Number:
    """The mean of (S, n_seeds) values that are there, with the deviation over seeds of their mean over subpopulations."""
    std = _seed_std(values)
    error = None if std is None else std / math.sqrt(values.shape[1])
    return Number(metric, float(np.nanmean(values)), error, std=std)


def _seed_std(values: Array) -> float | None:
    """Sample deviation over seeds of (S, n_seeds) values averaged over subpopulations; None with one seed."""
    if values.shape[1] < 2 or np.isnan(values).all(axis=0).any():
        return None
    return float(np.nanmean(values, axis=0).std(ddof=1))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- the table --------------------------------------------------------------------------------------------------------


def _row(part: Subpopulation) -> dict[str, float | str]:
    """One subpopulation of a cell, averaged over seeds."""
    found = part.damage
    row: dict[str, float | str] = {
        "subpopulation": part.name,
        **{name: float(size) for name, size in part.sizes.items()},
        "n_poison": part.mean("n_poison"),
        "n_flipped": part.mean("n_flipped"),
        "effective_rate": _ratio(part.mean("n_poison"), part.sizes["n_train"]),
        "target_clean_accuracy": float(part.bits.clean.mean()),
        "target_damage": found.target,
        "target_damage_se": found.std_error,
        "collateral_damage": float(part.clean_rest.mean() - part.poisoned_rest.mean()),
        "defense_cost": found.defense_cost,
        "attack_effect": found.attack_effect,
    }
    if part.scores:
        row["poison_recall"] = _mean([s.recall for s in part.scores])
        row["poison_precision"] = _mean([s.precision for s in part.scores])
        row["removed_target_clean_share"] = _mean([s.removed_target_clean_share for s in part.scores])
    return row


def _mean(values: Sequence[float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return float(np.mean(there)) if there else math.nan
