"""Target damage of every subpopulation at one poisoning rate, or at a margin of poison rows: what a curve over alpha is made of.

alpha is relative to the clean rows of the cell in D itself (`alpha_base=train`), which no attacker sees, since the claims are
about them: a learner that counts the labels of a cell is unhurt while poison is less than the cell's margin, the clean rows with
the cell's own label less those with another, and flipped by one row more than the margin. Of pure cells the margin is their size.
The setting `rows` puts the number of poison rows right there: `margin_less_1`, `margin`, `margin_plus_1`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from subpop.attacks.drawing import draw_poison, n_poison
from subpop.datasets.stage import Stage
from subpop.experiments.impossibility.runner import Runner
from subpop.experiments.trial import Prepared, prepare
from subpop.results.intervals import SUBPOPULATIONS, of_table
from subpop.types import Array, BadInput, Cell, CellResult, Ints, Number, Trial

AROUND_MARGIN: Mapping[str, int] = {"margin_less_1": -1, "margin": 0, "margin_plus_1": 1}


@dataclass(frozen=True)
class Target:
    """One subpopulation as a counting learner sees it. own: the label most frequent in D (ties to the lowest class)."""

    name: str
    own: int
    size: int
    margin: int
    test_y: Ints

    @classmethod
    def of(cls, stage: Stage, name: str) -> Target:
        y = stage.pool.y[: stage.pool.n_train][stage.train_members(name)]
        if not len(y):
            raise BadInput(f"{name!r} has no row in D, so no margin; use another split")
        counts = np.bincount(y, minlength=2)
        own = int(counts.argmax())
        return cls(name, own, len(y), int(2 * counts[own] - len(y)), stage.data.test_y[stage.test_members(name)])

    def damage_if(self, label: int) -> float:
        """Damage where all of the cell is predicted to be `label`, and its own label before."""
        return float((self.test_y == self.own).mean() - (self.test_y == label).mean())


def measure_curve(runner: Runner) -> CellResult:
    """Measure the damages of all subpopulations, with `n_seeds` poison draws each, as the harness poisons and shuffles."""
    cell, stage = runner.cell, runner.stage
    if stage.dataset.n_classes != 2:
        raise BadInput(f"{cell.id}: margins are counted between two classes; {stage.dataset.name} has {stage.dataset.n_classes}")
    targets = [Target.of(stage, name) for name in stage.attacked]
    prepared = _prepared(runner, targets)
    clean, exact = runner.clean(), runner.victim.exact
    outcomes = runner.run([(stage, own) for own in prepared], stage.data.test_x)
    damages = np.empty((len(targets), cell.n_seeds))
    for i, (own, outcome) in enumerate(zip(prepared, outcomes, strict=True)):
        members = stage.test_members(own.trial.subpopulation)
        right = outcome.predictions[""] == stage.data.test_y
        damages.flat[i] = clean[own.trial.seed][members].mean() - right[members].mean()
    numbers = [_mean(damages, stochastic=not exact)]
    if exact:
        numbers += [Number("target_damage_min", float(damages.min())), Number("target_damage_max", float(damages.max()))]
    alphas = [own.n_poison / target.size for own, target in zip(prepared[:: cell.n_seeds], targets, strict=True)]
    share = float(np.mean([alpha / (1 + alpha) for alpha in alphas]))
    numbers += [Number("alpha_mean", float(np.mean(alphas))), Number("poison_share_mean", share)]
    if cell.two_worlds.rows is not None:
        numbers += [
            Number("flipped_damage_mean", float(np.mean([target.damage_if(1 - target.own) for target in targets]))),
            Number("tied_damage_mean", float(np.mean([target.damage_if(0) for target in targets]))),
        ]
    n_fits = len(clean) + sum(outcome.n_fits for outcome in outcomes)
    return CellResult(cell, tuple(numbers), exact=exact, n_subpopulations=len(targets), n_fits=n_fits)


def _prepared(runner: Runner, targets: Sequence[Target]) -> list[Prepared]:
    """Prepare every seed of every subpopulation, at the rate that gives its number of poison rows."""
    cell, stage, needs, secret = runner.cell, runner.stage, runner.needs, runner.secret
    trials = []
    for target in targets:
        at = cell.with_(rate=_rate(cell, target), alpha_base="train")
        count = n_poison(stage, at, target.name)
        for seed in range(cell.n_seeds):
            poison = draw_poison(stage, at, target.name, seed, None)
            own = Trial(target.name, seed)
            trials.append(prepare(stage, at, own, poison, needs=needs, n_poison=count, secret=secret))
    return trials


def _rate(cell: Cell, target: Target) -> float:
    """Poison rows / clean rows of the subpopulation in D."""
    around = cell.two_worlds.rows
    if around is None:
        return cell.rate
    return (target.margin + AROUND_MARGIN[around]) / target.size


def _mean(damages: Array, stochastic: bool) -> Number:
    """Over subpopulations and seeds; standard error over subpopulations, which share no row; `std` over seeds."""
    each = damages.mean(axis=1)
    error = float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else None
    std = float(damages.mean(axis=0).std(ddof=1)) if stochastic and damages.shape[1] > 1 else None
    found = Number("target_damage_mean", float(damages.mean()), error, std=std, by_seed=tuple(damages.mean(axis=0)))
    return replace(found, half_width=of_table(damages), varies=SUBPOPULATIONS)
