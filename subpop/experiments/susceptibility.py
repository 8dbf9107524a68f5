"""How many poison rows a subpopulation resists, and what predicts it: the kind of measurement `m50`.

*m50* is the smallest number of label flips on a geometric grid from which on the error of the subpopulation's test rows stays at
or above one half. Poison rows of one draw are nested: a smaller number is the beginning of a larger one. The grid ends at the
number of the subpopulation's rows in D_aux; a draw whose error is below one half there is *censored*. A subpopulation whose clean
error is one half or more is *trivial*, has m50 = 0 and takes no part in correlations.

Predictors, none of which trains on the draws of m50: `size`, the subpopulation's rows in D; `clean_accuracy` on its test rows;
`loss_difference`, the mean log-loss on D of a target model less that of the clean model; `label_share`, the share of the
attacker's label among the rows of D_aux outside the subpopulation that are nearest to its rows. The target model is made by
another attack, `proportional` with repetition: of the models at several numbers of rows that misclassify at least half of the
subpopulation's rows in D_aux, the one with the smallest loss on D; without such a model there is no difference.

Beside m50 stands the number of rows that `model_targeted` poisoning needs, on D_aux, until half of the subpopulation's rows are
wrong, and the lower bound on the number that makes the victim the same model, which is no bound on other attacks.

*Source*: Rose, Suya and Evans 2022 (variation in subpopulation susceptibility, VISxAI): success at half of the target's test
rows, poison rows divided by the size, loss difference, "ambient positivity". Their poison is model-targeted and their target
models come from label flips.
*Deviations*: label flips of distinct rows instead of model-targeted poison, so that counts are not comparable with theirs. The
number is searched on a grid, not by one attack that stops. Correlations are Kendall's, of medians over draws.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from subpop.attacks.drawing import check_attack, draw_poison, n_poison
from subpop.attacks.label_flip import Poison
from subpop.attacks.model_targeted import WEIGHTS, Pursuit, advance
from subpop.attacks.neighbours import rounded_distances
from subpop.attacks.proportional import NAME as TARGET_ATTACK
from subpop.datasets.stage import Stage
from subpop.experiments.experiment import Experiment
from subpop.results.rank_correlation import Ranks, interval, kendall, partial_kendall, resampled
from subpop.runtime.seeds import derived_seed
from subpop.types import Array, BadInput, Bools, Cell, CellResult, FleetJob, Ints, Model, Number
from subpop.victims.linear_model import LinearModel

Doubles = NDArray[np.float64]
RATIO = math.sqrt(2)
"""Ratio of neighbouring numbers of the grid; small ones are rounded to whole numbers."""
HALF = 0.5
SIMILAR = 10
"""Number of nearest rows whose labels are counted for each row of the subpopulation."""
TARGET_RATES = tuple(2.0**k for k in range(-2, 6))
"""Poison rows of target models, for each row of the subpopulation."""
PREDICTORS = ("size", "clean_accuracy", "loss_difference", "label_share")
OUTCOMES = ("m50", "m50_share")
MOST_TARGETED = 256
"""Maximum number of rows of model-targeted poisoning."""
FEWEST = 5
"""Minimum number of subpopulations for a correlation."""


@dataclass(frozen=True, eq=False)
class Group:
    """One subpopulation. m50: (draws,) with the end of the grid where `censored`, 0 if it is trivial."""

    name: str
    m50: Ints
    censored: Bools
    end: int
    size: int
    n_aux: int
    n_test: int
    clean_accuracy: float
    loss_difference: float
    label_share: float
    targeted: tuple[float, float] = (math.nan, math.nan)
    """Rows of model-targeted poisoning until half of its rows in D_aux are wrong, and the lower bound for the last model."""

    @property
    def is_trivial(self) -> bool:
        """Whether at least half of its test rows are wrong without an attack."""
        return 1 - self.clean_accuracy >= HALF

    @cached_property
    def median(self) -> tuple[float, bool]:
        """The median of m50 over draws, and whether it is censored; draws that are censored count as largest."""
        values = np.sort(np.where(self.censored, math.inf, self.m50))
        middle = float(values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
        return (float(self.end), True) if math.isinf(middle) else (middle, False)

    def row(self) -> dict[str, float | str]:
        """The subpopulation's line in the table."""
        median, censored = self.median
        return {
            "subpopulation": self.name,
            "n_train": float(self.size),
            "n_aux": float(self.n_aux),
            "n_test": float(self.n_test),
            "target_clean_accuracy": self.clean_accuracy,
            "m50": median,
            "m50_share": median / max(1, self.size),
            "m50_low": float(self.m50.min()),
            "m50_high": float(self.m50.max()),
            "m50_censored": float(censored),
            "m50_censored_draws": float(self.censored.sum()),
            "m50_trivial": float(self.is_trivial),
            "grid_end": float(self.end),
            "loss_difference": self.loss_difference,
            "label_share": self.label_share,
            "targeted_count": self.targeted[0],
            "targeted_bound": self.targeted[1],
        }


def measure_susceptibility(cell: Cell, experiment: Experiment) -> CellResult:
    """m50 of every attacked subpopulation, and its rank correlations with what may predict it.

    Raises
    ------
    BadInput
        If the cell does not flip labels of distinct rows, or has a defense or a rate.
    """
    started = time.perf_counter()
    if (cell.attack, cell.poisoning.sampling, cell.defense, cell.rate) != ("label_flip", "distinct", "none", 0):
        raise BadInput(
            f"{cell.id}: m50 searches the number of label flips of distinct rows, without a defense; use attack=label_flip, "
            "sampling=distinct, defense=none and rate=0"
        )
    stage = experiment.context.stage(cell)
    whole = cell.with_(rate=stage.n_aux / stage.pool.n_train, alpha_base=None)  # all of a subpopulation's rows in D_aux
    check_attack(stage, whole)
    attacked = [_Attacked(whole, experiment, name) for name in stage.attacked]
    targeted, n_fits = _targeted(attacked)
    groups = [replace(each.group(), targeted=own) for each, own in zip(attacked, targeted, strict=True)]
    numbers = [*_summary(groups), *_correlations(cell, groups)]
    n_fits += sum(len(grid(group.end)) * len(group.m50) * (not group.is_trivial) + len(TARGET_RATES) for group in groups)
    return CellResult(
        cell,
        tuple(numbers),
        tuple(group.row() for group in groups),
        exact=experiment.context.victim(cell).exact,
        n_subpopulations=len(groups),
        n_fits=n_fits,
        seconds=time.perf_counter() - started,
    )


def grid(end: int) -> list[int]:
    """Whole numbers from 1 to `end`, each about RATIO times the one before.

    Examples
    --------
    >>> grid(20)
    [1, 2, 3, 4, 6, 8, 11, 16, 20]
    """
    powers = range(math.ceil(math.log(max(end, 1), RATIO)) + 1)
    return sorted({round(RATIO**k) for k in powers if round(RATIO**k) < end} | {end})


def first_from_which_it_stays(errors: Doubles) -> int | None:
    """The first position from which on all errors, (g,), are at least one half; None if the last one is smaller."""
    below = np.flatnonzero(errors < HALF)
    first = int(below[-1]) + 1 if len(below) else 0
    return first if first < len(errors) else None


@dataclass(frozen=True, eq=False)
class _Attacked:
    """Measures one subpopulation. cell: with the rate at which all its rows in D_aux are poison."""

    cell: Cell
    experiment: Experiment
    name: str

    @property
    def stage(self) -> Stage:
        return self.experiment.context.stage(self.cell)

    def group(self) -> Group:
        stage, name = self.stage, self.name
        end, clean = n_poison(stage, self.cell, name), self.experiment.context.clean_model(self.cell, 0)
        accuracy = 1 - self._error(clean)
        draws = [] if 1 - accuracy >= HALF else list(self._draws(end))
        found = draws or [(0, False)] * self.cell.n_seeds
        return Group(
            name,
            np.array([m for m, _ in found], np.int64),
            np.array([censored for _, censored in found]),
            end,
            int(stage.train_members(name).sum()),
            len(stage.aux_members(name)),
            int(stage.test_members(name).sum()),
            accuracy,
            self._loss_difference(clean),
            self._label_share(),
        )

    def _draws(self, end: int) -> Iterator[tuple[int, bool]]:
        """m50 of each draw, and whether it is censored. All numbers of rows and draws are trained as one fleet."""
        counts, seeds = grid(end), range(self.cell.n_seeds)
        poison = [self.poison(self.cell, seed) for seed in seeds]
        jobs = [self.stage.attacked_job(own.rows[:count], own.y[:count]) for own in poison for count in counts]
        models = self._fit(jobs, [seed for seed in seeds for _ in counts])
        for errors in np.array([self._error(model) for model in models]).reshape(len(seeds), len(counts)):
            first = first_from_which_it_stays(errors)
            yield (end, True) if first is None else (counts[first], False)

    def _loss_difference(self, clean: Model) -> float:
        """The loss on D of the target model less that of the clean model; NaN if no model misclassifies the subpopulation."""
        own = {"attack": TARGET_ATTACK, "sampling": "with_replacement"}
        poison = [self.poison(self.cell.with_(rate=rate, **own), 0) for rate in TARGET_RATES]
        models = self._fit([self.stage.attacked_job(each.rows, each.y) for each in poison], [0] * len(poison))
        pool, members = self.stage.pool, self.stage.aux_members(self.name)

        def reached(model: Model) -> bool:
            return bool((model.predict_proba(pool.x[members]).argmax(1) != pool.y[members]).mean() >= HALF)

        losses = [_log_loss(model, pool.x[: pool.n_train], pool.y[: pool.n_train]) for model in models if reached(model)]
        return min(losses, default=math.nan) - _log_loss(clean, pool.x[: pool.n_train], pool.y[: pool.n_train])

    def _label_share(self) -> float:
        """The mean share of the attacker's labels among the nearest rows of D_aux outside the subpopulation."""
        pool, members = self.stage.pool, self.stage.aux_members(self.name)
        outside = np.setdiff1d(np.arange(pool.n_train, len(pool)), members)
        drawn = self.poison(self.cell, 0)
        labels = {label: (drawn.y == label).mean() for label in np.unique(drawn.y)}
        near = np.argsort(rounded_distances(pool.x, members, outside), axis=1, kind="stable")[:, :SIMILAR]
        return float(sum(share * (pool.y[outside][near] == label).mean() for label, share in labels.items()))

    def poison(self, cell: Cell, seed: int) -> Poison:
        context = self.experiment.context
        return draw_poison(self.stage, cell, self.name, seed, context.label_attacker(cell))

    def _fit(self, jobs: list[FleetJob], seeds: list[int]) -> list[Model]:
        return self.experiment.context.fit(self.cell, jobs, seeds)

    def _error(self, model: Model) -> float:
        data, members = self.stage.data, self.stage.test_members(self.name)
        return float((model.predict_proba(data.test_x[members]).argmax(1) != data.test_y[members]).mean())


def _targeted(attacked: list[_Attacked]) -> tuple[list[tuple[float, float]], int]:
    """Rows and lower bound of model-targeted poisoning of every subpopulation, all in one batch, and the number of fits.

    NaN where MOST_TARGETED rows are not enough, or the victim is not an exact linear one.
    """
    cell, context = attacked[0].cell, attacked[0].experiment.context
    model, victim = context.attacker(cell), context.victim(cell)
    if not (victim.exact and isinstance(model, LinearModel)):
        return [(math.nan, math.nan)] * len(attacked), 0
    poison, pool = [each.poison(each.cell, 0) for each in attacked], context.stage(cell).pool
    pursuits = [Pursuit.of(victim, model, pool, each.rows, each.y, distinct=False) for each in poison]
    for _ in range(MOST_TARGETED):
        advance([each for each in pursuits if each.error() < HALF], 1)
    n_fits = sum(len(each.chosen) + len(WEIGHTS) for each in pursuits)
    counts = [float(len(each.chosen)) if each.error() >= HALF else math.nan for each in pursuits]
    return [(count, float(each.bound())) for count, each in zip(counts, pursuits, strict=True)], n_fits


def _log_loss(model: Model, x: Array, y: Ints) -> float:
    p = model.predict_proba(x)[np.arange(len(y)), y].astype(np.float64)
    return float(-np.log(np.maximum(p, np.finfo(np.float32).tiny)).mean())


# --- numbers ----------------------------------------------------------------------------------------------------------


def _summary(groups: list[Group]) -> list[Number]:
    attacked = [group for group in groups if not group.is_trivial]
    numbers = [Number("trivial_share", 1 - len(attacked) / len(groups))]
    if attacked:
        numbers.append(Number("censored_share", float(np.mean([group.median[1] for group in attacked]))))
        shares = sorted(math.inf if group.median[1] else group.median[0] / max(1, group.size) for group in attacked)
        middle = (shares[(len(shares) - 1) // 2] + shares[len(shares) // 2]) / 2
        numbers += [Number("m50_share_median", middle)] * math.isfinite(middle)
    ratios = [count / bound for count, bound in (group.targeted for group in attacked) if count > 0 and bound > 0]
    numbers += [Number("count_over_bound_median", float(np.median(ratios)))] if ratios else []
    return numbers


def _correlations(cell: Cell, groups: list[Group]) -> list[Number]:
    """Kendall's tau of each outcome with each predictor, partial on clean accuracy for the others, with intervals."""
    numbers = []
    for predictor in PREDICTORS:
        own = [group for group in groups if not group.is_trivial and math.isfinite(_predictor(group, predictor))]
        if len(own) < FEWEST:
            continue
        weights = resampled(len(own), np.random.default_rng(derived_seed("resampled groups", cell.dataset, cell.partition)))
        x = Ranks.of(np.array([_predictor(group, predictor) for group in own]))
        given = Ranks.of(np.array([group.clean_accuracy for group in own]))
        for outcome, y in _outcomes(own).items():
            parts = {"kendall": (kendall(x, y), kendall(x, y, weights))}
            if predictor != "clean_accuracy":
                parts["partial_kendall"] = partial_kendall(x, y, given), partial_kendall(x, y, given, weights)
            for statistic, (found, again) in parts.items():
                name, (low, high) = f"{statistic}_{outcome}_{predictor}", interval(again)
                numbers += [Number(name, float(found[0])), Number(f"{name}_low", low), Number(f"{name}_high", high)]
    return [number for number in numbers if math.isfinite(number.value)]


def _outcomes(groups: list[Group]) -> Mapping[str, Ranks]:
    medians, censored = (np.array(each) for each in zip(*(group.median for group in groups), strict=True))
    sizes = np.array([max(1, group.size) for group in groups])
    return {"m50": Ranks.of(medians, censored), "m50_share": Ranks.of(medians / sizes, censored)}


def _predictor(group: Group, name: str) -> float:
    return float(getattr(group, name))
