"""Numbers of attacked target sets: success, iterations, and whether targets from one cluster are easier than random ones.

*Source*: Jagielski et al. (CCS 2021), Table 16: the success of a set is the fraction of its targets that are misclassified at
the end; worst-1 and worst-5 are the largest and the mean of the five largest of 10 sets; the iterations are the mean, over the
sets whose targets are all misclassified at some point, of the first iteration after which they are.
*Deviations*: targets that the clean top layer misclassifies are excluded from a set's targets (the paper does not say), and a
set without other targets is left out. There are several draws of 10 sets, and each number is the mean over draws.

Intervals (`half_width`) of mean success and of iterations are about a population of clusters and of random sets. The sets of one
cluster are alike, and clusters are drawn again in every draw, so that a cluster counts as one value: the mean over its sets.
Intervals of worst-k are about other draws of targets from the same clusters. D and the network are the same in every draw.

A number has the value of each draw (`by_seed`) where it is their mean: those that are undefined in some draw have none, and those
that pool the sets of all draws only where every draw counts the same number of sets.

The numbers `..._difference_low` and `..._difference_high` are the ends of Welch's interval with every set as a value of its own.
Since clusters repeat, they contain the mean over clusters in 50 to 90 % of simulated runs. They are compared with their
references as before and are not shown as an interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from subpop.results.intervals import (
    CLUSTERS,
    DRAWS,
    FEWEST_VALUES,
    HIDDEN_CLUSTER,
    Part,
    half_width,
    of_values,
    part_of_clusters,
)
from subpop.types import Array, BadInput, Number

CONFIDENCE = 0.95
WORST = (1, 5)
DIFFERENCES = ("success_mean", *(f"success_worst_{k}" for k in WORST), "iterations_successful")
"""Metrics in which ClusterMatch is compared with random sets."""
OVER_SETS = {"success_mean": "success", "iterations_successful": "completed"}
"""Numbers that are means over the sets of all draws, and the values of a set."""


@dataclass(frozen=True, eq=False)
class Sets:
    """The sets of one kind in one draw, (s,) float64 each. success: NaN if no target was correct; completed: NaN for never."""

    success: Array
    completed: Array
    start: Array
    cluster: Array | None = None
    """(s,) the cluster of each set, -1 for none; None: no set has one."""

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
    iterations = [_of_draw("iterations_successful", draw) for draw in draws]
    pooled = Number("iterations_successful", _mean(complete), _standard_error(complete), std=_deviation(iterations))
    found.append(replace(pooled, by_seed=_by_draw(iterations, [draw.iterations for draw in draws])))
    return [_with_interval(number, draws) for number in found if not math.isnan(number.value)]


def _with_interval(number: Number, draws: Sequence[Sets]) -> Number:
    """A number with its interval: over clusters where it is a mean of sets, else over draws."""
    if number.metric not in OVER_SETS:
        known = [value for draw in draws if not math.isnan(value := _of_draw(number.metric, draw))]
        return replace(number, half_width=of_values(known), varies=DRAWS)
    part = _part(number.metric, draws)
    return replace(number, half_width=None if part is None else half_width([part]), varies=CLUSTERS)


def _part(metric: str, draws: Sequence[Sets]) -> Part | None:
    """The variance of a mean of sets, with one value for each cluster and each set without one; None for too few values."""
    values = np.concatenate([getattr(draw, OVER_SETS[metric]) for draw in draws])
    clusters = np.concatenate([np.full(len(draw.success), -1) if draw.cluster is None else draw.cluster for draw in draws])
    known = ~np.isnan(values)
    values, clusters = values[known], clusters[known]
    own = [float(values[clusters == cluster].mean()) for cluster in np.unique(clusters[clusters >= 0])]
    alone = values[clusters < 0]
    if len(own) + len(alone) < FEWEST_VALUES:
        return None
    hidden = HIDDEN_CLUSTER if metric == "success_mean" and own else None
    return part_of_clusters([*own, *alone], hidden)


def differences(clusters: Sequence[Sets], random: Sequence[Sets]) -> list[Number]:
    """ClusterMatch minus random: each difference with its standard error and interval, and the ends of Welch's over sets."""
    found = []
    for metric in DIFFERENCES:
        both = [_samples(metric, draws) for draws in (clusters, random)]
        compared = welch(*both)
        if compared is not None:
            difference, error, low, high = compared
            pairs = [_of_draw(metric, c) - _of_draw(metric, r) for c, r in zip(clusters, random, strict=True)]
            std, (width, varies) = _deviation(pairs), _difference(metric, clusters, random)
            number = Number(f"{metric}_difference", difference, error, std=std, half_width=width, varies=varies)
            found.append(replace(number, by_seed=_by_draw(pairs, *(_pooled(metric, draws) for draws in (clusters, random)))))
            found += [Number(f"{metric}_difference_{end}", at, std=std) for end, at in (("low", low), ("high", high))]
    return found


def _difference(metric: str, clusters: Sequence[Sets], random: Sequence[Sets]) -> tuple[float | None, str]:
    """Half the width of the interval of a difference, and what varies."""
    if metric in OVER_SETS:
        parts = [part for draws in (clusters, random) if (part := _part(metric, draws)) is not None]
        return (half_width(parts) if len(parts) == 2 else None), CLUSTERS
    pairs = [_of_draw(metric, c) - _of_draw(metric, r) for c, r in zip(clusters, random, strict=True)]
    return of_values([pair for pair in pairs if not math.isnan(pair)]), DRAWS


def welch(first: Array, second: Array) -> tuple[float, float, float, float] | None:
    """Difference of means, standard error, and the ends of Welch's interval; None if a sample has fewer than two values.

    If both samples are constant, the interval has width 0.
    """
    from scipy.special import stdtrit

    if min(len(first), len(second)) < 2:
        return None
    difference = float(np.mean(first) - np.mean(second))
    parts = [float(np.var(own, ddof=1)) / len(own) for own in (first, second)]
    if sum(parts) == 0:
        return difference, 0.0, difference, difference
    freedom = sum(parts) ** 2 / sum(part**2 / (len(own) - 1) for part, own in zip(parts, (first, second), strict=True))
    error = math.sqrt(sum(parts))
    width = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return difference, error, difference - width, difference + width


def _samples(metric: str, draws: Sequence[Sets]) -> Array:
    """The samples over which a metric is compared: sets if each set has its own value, otherwise draws."""
    if pooled := _pooled(metric, draws):
        return np.concatenate(pooled)
    values = np.array([_of_draw(metric, draw) for draw in draws])
    return np.asarray(values[~np.isnan(values)])


def _pooled(metric: str, draws: Sequence[Sets]) -> list[Array]:
    """The values of the sets of each draw that a metric pools; empty if each draw has one value."""
    of = {"success_mean": lambda draw: draw.counted, "iterations_successful": lambda draw: draw.iterations}.get(metric)
    return [of(draw) for draw in draws] if of else []


def _by_draw(values: Sequence[float], *pooled: Sequence[Array]) -> tuple[float, ...]:
    """The value of each draw; none if one is unknown, or if the draws differ in the number of values that are pooled."""
    equal = all(len({len(own) for own in kind}) <= 1 for kind in pooled)
    return tuple(values) if equal and not np.isnan(values).any() else ()


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
    return Number(metric, _mean(known), _standard_error(known), std=_deviation(values), by_seed=_by_draw(values))


def _mean(values: Array) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _deviation(values: Sequence[float]) -> float:
    """The sample deviation of the values that are not NaN; NaN if there are fewer than two."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan


def _standard_error(values: Array) -> float | None:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
