"""The results of one attacked subpopulation, collected from its trials, and its row in a cell's table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from subpop.datasets.stage import Stage
from subpop.results.metrics import Damage, Doubles, FilterScores, RightBits, damage, filter_scores
from subpop.types import Bools, Ints, Trial, TrialResult


@dataclass(frozen=True, eq=False)
class Subpopulation:
    """Results of one subpopulation: correct predictions on its test rows, accuracies (n_seeds,) on other rows, and its trials.

    members: (n_test,) bool; scored: (n_seeds, n_test) bool, the test rows outside the defense's holdout.
    """

    name: str
    bits: RightBits
    clean_rest: Doubles
    poisoned_rest: Doubles
    poisoned_accuracy: Doubles
    defended_clean_accuracy: Doubles
    trials: tuple[TrialResult, ...]
    scores: tuple[FilterScores, ...]
    sizes: Mapping[str, int]
    members: Bools
    scored: Bools
    fairness: Mapping[str, float] = field(default_factory=dict)
    """Columns of the demographic parity and equalised odds differences; none with three or more classes."""
    most_wrong: Ints | None = None
    """(n_seeds, points, 4) certificates of an ensemble, see `subpop.experiments.collective`."""

    @cached_property
    def damage(self) -> Damage:
        return damage(self.bits)

    def mean(self, metric: str) -> float:
        return float(np.mean([t.metrics[metric] for t in self.trials]))


def gather(n_seeds: int, stage: Stage, by_trial: Mapping[Trial, TrialResult], name: str, clean: Bools) -> Subpopulation:
    """Collect one subpopulation from a cell's trials. clean: (n_seeds, n_test) what the clean undefended victims get right."""
    members = stage.test_members(name)
    attacked = tuple(by_trial[Trial(name, seed)] for seed in range(n_seeds))
    poisoned = np.stack([np.asarray(r.arrays["right"], bool) for r in attacked])
    defended = np.stack([_defended_clean(by_trial, name, seed, clean[seed]) for seed in range(n_seeds)])
    scored = np.stack(
        [~np.asarray(r.arrays["holdout"], bool) if "holdout" in r.arrays else np.ones_like(members) for r in attacked]
    )
    sizes = {"n_train": int(stage.train_members(name).sum()), "n_aux": len(stage.aux_members(name)), "n_test": int(members.sum())}
    return Subpopulation(
        name,
        RightBits(clean[:, members], defended[:, members], poisoned[:, members]),
        accuracy(clean, scored & ~members),
        accuracy(poisoned, scored & ~members),
        accuracy(poisoned, scored),
        accuracy(defended, scored),
        attacked,
        tuple(_scores(r, stage.pool.n_train) for r in attacked if "removed" in r.metrics),
        sizes,
        members,
        scored,
        fairness_of(stage.data.test_y, members, clean, poisoned) if stage.dataset.n_classes == 2 else {},
    )


def fairness_of(y: Ints, members: Bools, clean: Bools, poisoned: Bools) -> dict[str, float]:
    """Demographic parity and equalised odds differences between a subpopulation and all other test rows, means over seeds.

    y: (n_test,) labels 0 and 1; members: (n_test,) bool; clean, poisoned: (n_seeds, n_test) what undefended clean and (defended)
    poisoned victims get right, from which their predictions follow. See `subpop.results.fairness`.
    """
    counted = np.stack([np.ones_like(members), y == 1, y == 0])
    rows = np.concatenate([counted & members, counted & ~members]).astype(float)
    gaps = _gaps(np.concatenate([clean, poisoned]) == (y == 1), rows).reshape(3, 2, -1)
    found = {}
    for name, (parity, true, false) in zip(("clean", "poisoned"), gaps.swapaxes(0, 1), strict=True):
        found[f"demographic_parity_difference_{name}"] = float(np.mean(parity))
        found[f"equalised_odds_difference_{name}"] = float(np.mean(np.maximum(true, false)))
    return found


def _gaps(positive: Bools, rows: Doubles) -> Doubles:
    """(3, n_seeds) differences of the share of positive predictions inside and outside; 0 if one side has no counted row.

    rows: (6, n_test) 0 or 1, the rows that are counted inside in three ways, and outside in the same ways.
    """
    sizes = rows.sum(axis=1, keepdims=True)
    shares = rows @ positive.T / np.maximum(sizes, 1)
    is_known = (sizes[:3] > 0) & (sizes[3:] > 0)
    return np.where(is_known, np.abs(shares[:3] - shares[3:]), 0.0)


def accuracy(right: Bools, rows: Bools) -> Doubles:
    """(n_seeds,) mean of (n_seeds, n_test) bits over the rows of each seed."""
    return np.asarray((right & rows).sum(axis=1) / rows.sum(axis=1))


def _defended_clean(by_trial: Mapping[Trial, TrialResult], name: str, seed: int, clean: Bools) -> Bools:
    """Correct predictions of the defense on clean data, with the same side information; without a defense, the clean victim's."""
    for trial in (Trial(name, seed, attacked=False), Trial("", seed, attacked=False)):
        if trial in by_trial:
            return np.asarray(by_trial[trial].arrays["right"], bool)
    return clean


def _scores(result: TrialResult, n_train: int) -> FilterScores:
    m = result.metrics
    return filter_scores(
        n_rows=n_train + m["n_poison"],
        n_flipped=m["n_flipped"],
        removed=m["removed"],
        flipped=m["removed_flipped"],
        target_clean=m["removed_target_clean"],
    )


def ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def table_row(part: Subpopulation) -> dict[str, float | str]:
    """One subpopulation of a cell, averaged over seeds."""
    found = part.damage
    row: dict[str, float | str] = {
        "subpopulation": part.name,
        **{name: float(size) for name, size in part.sizes.items()},
        "n_poison": part.mean("n_poison"),
        "n_flipped": part.mean("n_flipped"),
        "effective_rate": ratio(part.mean("n_poison"), part.sizes["n_train"]),
        "target_clean_accuracy": float(part.bits.clean.mean()),
        "target_damage": found.target,
        "target_damage_se": found.std_error,
        "target_damage_half_width": math.nan if found.half_width is None else found.half_width,
        "collateral_damage": float(part.clean_rest.mean() - part.poisoned_rest.mean()),
        "defense_cost": found.defense_cost,
        "attack_effect": found.attack_effect,
        **part.fairness,
    }
    if part.most_wrong is not None:
        row["collective_damage"] = float(part.bits.clean.mean() - 1 + part.most_wrong[:, 0, 1].mean() / part.sizes["n_test"])
    if part.scores:
        row["poison_recall"] = _mean([s.recall for s in part.scores])
        row["poison_precision"] = _mean([s.precision for s in part.scores])
        row["removed_target_clean_share"] = _mean([s.removed_target_clean_share for s in part.scores])
    return row


def _mean(values: Sequence[float]) -> float:
    there = [value for value in values if not math.isnan(value)]
    return float(np.mean(there)) if there else math.nan
