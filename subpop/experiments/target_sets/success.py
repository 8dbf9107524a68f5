"""Numbers of attacked target sets: success, iterations, and whether targets from one cluster are easier than random ones.

*Source*: Jagielski et al. (CCS 2021), Table 16: the success of a set is the fraction of its targets that are misclassified at
the end; worst-1 and worst-5 are the largest and the mean of the five largest of 10 sets; the iterations are the mean, over the
sets whose targets are all misclassified at some point, of the first iteration after which they are.
*Deviations*: targets that the clean top layer misclassifies are excluded from a set's targets (the paper does not say), and a
set without other targets is left out. There are several draws of 10 sets, and each number is the mean over draws.

Intervals are Welch's at 95 %, not adjusted for multiple comparisons, over the sets of all draws (mean success, iterations) or
over draws (worst-k). They cover only the noise of drawing targets: D, network and clusters are the same in every draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subpop.types import Array, BadInput, Number

CONFIDENCE = 0.95
WORST = (1, 5)
DIFFERENCES = ("success_mean", *(f"success_worst_{k}" for k in WORST), "iterations_successful")
"""Metrics in which ClusterMatch is compared with random sets."""


@dataclass(frozen=True, eq=False)
class Sets:
    """The sets of one kind in one draw, (s,) float64 each. success: NaN if no target was correct; completed: NaN for never."""

    success: Array
    completed: Array
    start: Array

    @property
    def counted(self) -> Array:
        """The successes of sets with at least one initially correct target."""
        return np.asarray(self.success[~np.isnan(self.success)])

    @property
    def iterations(self) -> Array:
        """The first complete iteration of each completed set."""
        return np.asarray(self.completed[~np.isnan(self.completed)])

    def worst(self, k: int) -> float:
        """The mean of the k largest successes; NaN if there are fewer."""
        return float(np.sort(self.counted)[-k:].mean()) if len(self.counted) >= k else math.nan


def numbers_of(draws: Sequence[Sets]) -> list[Number]:
    """The numbers of one kind, without those undefined in all draws. std: sample deviation over draws, NaN if unknown."""
    if not any(len(draw.counted) for draw in draws):
        raise BadInput("the clean top layer gets every target wrong, there is nothing to attack; check labels and features")
    complete = np.concatenate([draw.iterations for draw in draws])
    metrics = [*(f"success_worst_{k}" for k in WORST), "success_mean", "share_complete", "start_accuracy"]
    found = [_over_draws(metric, [_of_draw(metric, draw) for draw in draws]) for metric in metrics]
    iterations = _deviation([_of_draw("iterations_successful", draw) for draw in draws])
    found.append(Number("iterations_successful", _mean(complete), _standard_error(complete), std=iterations))
    return [number for number in found if not math.isnan(number.value)]


def differences(clusters: Sequence[Sets], random: Sequence[Sets]) -> list[Number]:
    """ClusterMatch minus random: each known difference with its standard error and the ends of its interval."""
    found = []
    for metric in DIFFERENCES:
        both = [_samples(metric, draws) for draws in (clusters, random)]
        compared = welch(*both)
        if compared is not None:
            difference, error, low, high = compared
            std = _deviation([_of_draw(metric, c) - _of_draw(metric, r) for c, r in zip(clusters, random, strict=True)])
            found.append(Number(f"{metric}_difference", difference, error, std=std))
            found += [Number(f"{metric}_difference_{end}", at, std=std) for end, at in (("low", low), ("high", high))]
    return found


def welch(first: Array, second: Array) -> tuple[float, float, float, float] | None:
    """Difference of means, standard error, and the ends of Welch's interval; None if a sample has fewer than two values.

    If both samples are constant, the interval has width 0.
    """
    from scipy.stats import t

    if min(len(first), len(second)) < 2:
        return None
    difference = float(np.mean(first) - np.mean(second))
    parts = [float(np.var(own, ddof=1)) / len(own) for own in (first, second)]
    if sum(parts) == 0:
        return difference, 0.0, difference, difference
    freedom = sum(parts) ** 2 / sum(part**2 / (len(own) - 1) for part, own in zip(parts, (first, second), strict=True))
    error = math.sqrt(sum(parts))
    width = float(t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
    return difference, error, difference - width, difference + width


def _samples(metric: str, draws: Sequence[Sets]) -> Array:
    """The samples over which a metric is compared: sets if each set has its own value, otherwise draws."""
    if metric == "success_mean":
        return np.concatenate([draw.counted for draw in draws])
    if metric == "iterations_successful":
        return np.concatenate([draw.iterations for draw in draws])
    values = np.array([_of_draw(metric, draw) for draw in draws])
    return np.asarray(values[~np.isnan(values)])


def _of_draw(metric: str, draw: Sets) -> float:
    """A metric of one draw; NaN if undefined."""
    if metric.startswith("success_worst_"):
        return draw.worst(int(metric.rpartition("_")[2]))
    return {
        "success_mean": lambda: _mean(draw.counted),
        "iterations_successful": lambda: _mean(draw.iterations),
        "share_complete": lambda: len(draw.iterations) / len(draw.counted) if len(draw.counted) else math.nan,
        "start_accuracy": lambda: _mean(draw.start),
    }[metric]()


def _over_draws(metric: str, values: Sequence[float]) -> Number:
    known = np.array([value for value in values if not math.isnan(value)])
    return Number(metric, _mean(known), _standard_error(known), std=_deviation(values))


def _mean(values: Array) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _deviation(values: Sequence[float]) -> float:
    """The sample deviation of the values that are not NaN; NaN if there are fewer than two."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan


def _standard_error(values: Array) -> float | None:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
