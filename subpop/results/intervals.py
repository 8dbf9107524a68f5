"""95 % intervals of the numbers on the pages: what each is an interval of, how wide it is, and when there is none.

An interval is symmetric around the printed number. Its half width is a standard error times a quantile of Student's t; where the
variance has several parts, the degrees of freedom are Satterthwaite's. `tests/interval_coverage.py` measures how often each
interval contains its estimand; the page `docs/intervals.md` shows the result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
FEWEST_VALUES = 5
"""With fewer independent values (seeds, draws, clusters, subpopulations) no interval is given."""
FEWEST_ROUNDS = 6
"""With fewer rounds of a timing no interval is given: the extremes of five contain the median in 94 %, those of six in 97 %."""
HIDDEN_ROWS = 2.0
"""Changed test rows that the variance of a damage counts in addition to those seen. Without them a subpopulation of 20 test rows
of which none changes would have an interval of width 0, although a twentieth of its population may change."""

HIDDEN_CLUSTER = 0.5
"""The success in one more cluster, which the variance over clusters counts in addition. Without it the few clusters that fall
easily are often not among those seen, and their mean has an interval that is too narrow."""

SEEDS, ROWS, SUBPOPULATIONS, DRAWS, CLUSTERS, TIMINGS = "seeds", "rows", "subpopulations", "draws", "clusters", "timings"
ESTIMANDS = {
    SEEDS: "the mean over all seeds (poison draws, order of rows, training) on these test rows",
    ROWS: "the mean over all seeds and over the population that each subpopulation's test rows come from; for a worst-k it is "
    "the expectation of the printed estimator, not the true worst-k, for which no interval is given",
    SUBPOPULATIONS: "the mean over all seeds and over a population of subpopulations like these",
    DRAWS: "the mean over all draws of what is drawn at random in each (training sets or target sets), on these test rows and, "
    "of target sets, on these clusters",
    CLUSTERS: "the mean over a population of clusters like these and over target sets, with one value for each cluster",
    TIMINGS: "the ratio on this machine, in this session, over rounds of the same comparison",
}
"""What an interval is an interval of, by what varies. D, the split and the subpopulations are fixed unless it says otherwise."""


class Part(NamedTuple):
    """One part of the variance of a printed number."""

    variance: float
    freedom: float
    """Degrees of freedom of `variance`."""


def half_width(parts: Sequence[Part]) -> float | None:
    """Half the width of the interval of a number whose variance is the sum of its parts; None where that is 0 or unknown."""
    from scipy.special import stdtrit

    total = sum(part.variance for part in parts)
    if not 0 < total < math.inf:
        return None
    freedom = total**2 / sum(part.variance**2 / part.freedom for part in parts)
    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(total)


def of_values(values: ArrayLike) -> float | None:
    """Half the width of the interval of the mean of independent values; None for fewer than FEWEST_VALUES, or equal ones."""
    given = np.asarray(values, np.float64)
    return half_width([part_of(given)]) if len(given) >= FEWEST_VALUES else None


def part_of(values: ArrayLike) -> Part:
    """The variance of the mean of independent values, at least three.

    Fractions near 0 or 1 are skewed, and of a few values most may be equal, so that the usual interval covers less than 93 %.
    Hence one degree of freedom less than n - 1, and two more values that are off by the smallest step between two values.
    """
    given = np.asarray(values, np.float64)
    steps = np.diff(np.unique(given))
    hidden = 2 * (float(steps.min()) / len(given)) ** 2 if len(steps) else 0.0
    return Part(float(given.var(ddof=1)) / len(given) + hidden, len(given) - 2)


def part_of_clusters(values: ArrayLike, hidden: float | None = None) -> Part:
    """The variance of a mean over clusters, one value for each; hidden: the value of one more, which enters the variance only."""
    given = np.asarray(values, np.float64)
    part = part_of(given)
    more = 0.0 if hidden is None else (hidden - float(given.mean())) ** 2 / (len(given) - 1) / len(given)
    return part._replace(variance=part.variance + more)


def of_table(values: ArrayLike) -> float | None:
    """Half the width of the interval of the mean of an (a, b) table whose rows and columns both vary, such as subpopulations by
    seeds; None for fewer than FEWEST_VALUES of either.

    What varies from cell to cell counts in both parts, which is conservative.
    """
    given = np.asarray(values, np.float64)
    return half_width([part_of(given.mean(1)), part_of(given.mean(0))]) if min(given.shape) >= FEWEST_VALUES else None


def of_resampled(resampled: ArrayLike, over_seeds: ArrayLike, n_seeds: int, n_rows: int) -> float | None:
    """Half the width of the interval of a damage that was computed again from resampled seeds and test rows.

    Parameters
    ----------
    resampled
        (n_replicates,) the number, from draws of seeds and test rows.
    over_seeds
        (n_replicates,) the number, from draws of seeds alone.
    n_seeds
        The number of seeds; None is returned for fewer than FEWEST_VALUES.
    n_rows
        The test rows that the number is a mean over; of a worst-k, those of k subpopulations of the smallest size. None is
        returned for a single one, whose variance is unknown.
    """
    if n_seeds < FEWEST_VALUES or n_rows < 2:
        return None
    total = float(np.var(np.asarray(resampled), ddof=1))
    of_seeds = min(float(np.var(np.asarray(over_seeds), ddof=1)), total)
    of_rows = total - of_seeds + HIDDEN_ROWS / n_rows**2
    return half_width([Part(of_seeds, n_seeds - 2), Part(of_rows, n_rows - 1)])


def of_rounds(ratios: ArrayLike, printed: float) -> float | None:
    """The larger distance from a printed ratio to the ends of the interval of the median; None below FEWEST_ROUNDS.

    The ends are order statistics, which assume nothing about how the times of a round are distributed.
    """
    from scipy.stats import quantile_test

    given = np.asarray(ratios, np.float64)
    if len(given) < FEWEST_ROUNDS:
        return None
    ends = quantile_test(given, q=float(np.median(given)), p=0.5).confidence_interval(CONFIDENCE)
    return float(max(ends.high - printed, printed - ends.low))
