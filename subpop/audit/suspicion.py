"""How accurate each group is, whether it is hard, and whether it differs from what the rest of the data lets expect.

**Baseline.** The accuracy of each group out of fold, with a Clopper-Pearson interval. A group is *hard* if it has more errors
than the overall error rate explains (binomial test, Bonferroni's correction), and the model itself expects about that many.

**Test.** The calibrated model says for each row how likely it is to be wrong, so that the number of errors of a group is
Poisson-binomial. What is tested is the excess of errors over the expected ones, in which a row counts by the log likelihood
ratio of an error if a tenth of the labels were changed: an error on a row of which the model is sure says much, and one near
its boundary nothing. This separates changed labels from a group that the model fits badly, whose errors are near the boundary.

*What the excess is compared with.* (1) Permutations of the rows' weighted excesses among rows of the same fold and of about the
same expected error, for all groups at once. (2) Groups of clean data differ from each other too, since no model is exactly right:
the log odds of an error of a group deviate from the expected ones by a random effect of Student's t distribution with `TAIL`
degrees of freedom, whose scale is estimated from the groups themselves, from a quantile that a few poisoned groups do not move.
The effects of different groups are drawn independently, which is conservative where groups overlap. (3) Errors of a fold have one
model in common: variances are multiplied by the ratio of the variation between folds to the expected one, pooled over groups,
since five folds of a single group have four degrees of freedom only.

*Correction.* Each group's excess is mapped to the logarithm of its own approximate tail probability (a gamma distribution with
the right skewness, mixed over the scales of the random effect), and compared with the largest of all groups in each permutation:
one corrected p for each group, whatever the overlaps.

*Limits.* "Differs from the rest" is not "poisoned": a group whose labels are naturally less predictable than those of other
rows, on which the model is as sure, is the same to this test. A group that is poisoned so heavily that the model learns the
poison has no excess, and the absence of an alarm does not prove that the data is clean. The constants were chosen on splits of
Adult that are not those of the published curve, and so that no pair of columns of the whole of Adult is suspicious.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from subpop.audit.folds import Doubles, OutOfFold, out_of_fold
from subpop.types import BadInput, Ints

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

LEVEL = 0.05
"""Corrected p below which a verdict is given, and 1 - confidence of the intervals."""
CHANGED = 0.1
"""The share of changed labels against which the weights of errors are most powerful."""
FLOOR = 0.01
"""No row is expected to be wrong, or right, with a smaller probability."""
LEAST_SPREAD = 0.3
"""Least scale of the deviation of a group's log odds of an error, and the scale with fewer than `ENOUGH_GROUPS` groups."""
ENOUGH_GROUPS = 20
TAIL = 3
"""Degrees of freedom of the random effect."""
SPREAD_AT = 0.8
"""The quantile of the absolute excesses from which the scale is estimated."""
STRATA, STRATUM = 20, 25
"""At most so many strata of expected errors in each fold, each of at least so many rows on average."""
SHUFFLES, AT_ONCE = 999, 64
Verdict = Literal["differs from the rest", "hard", "ordinary"]


@dataclass(frozen=True)
class GroupFinding:
    """What the scan found about one group.

    Examples
    --------
    >>> from subpop.audit.suspicion import GroupFinding
    >>> GroupFinding("sex=0", 40, 0.9, 0.76, 0.97, expected_errors=4.5, errors=4, p=1.0, verdict="ordinary").accuracy
    0.9
    """

    name: str
    n: int
    """Number of rows."""
    accuracy: float
    """Share of rows that are predicted right out of fold."""
    low: float
    """Lower end of its 95 % Clopper-Pearson interval."""
    high: float
    """Upper end."""
    expected_errors: float
    """Number of errors that the calibrated model expects."""
    errors: int
    """Number of errors."""
    p: float
    """Corrected for all groups of the scan; of the weighted excess, so that it need not follow the order of the errors."""
    verdict: Verdict


def scan(
    out: OutOfFold, y: Ints, groups: Sequence[tuple[str, Ints]], *, n_shuffles: int = SHUFFLES, seed: int = 0
) -> list[GroupFinding]:
    """Say of each group how accurate it is, and whether it is hard, differs from the rest, or neither.

    Parameters
    ----------
    out
        The out-of-fold predictions of all rows.
    y
        (n,) labels.
    groups
        Names and sorted row numbers, without repetition. Groups may overlap.
    n_shuffles
        Number of permutations; the smallest possible p is 1 / (n_shuffles + 1).
    seed
        Seed of the permutations.

    Returns
    -------
    list of GroupFinding
        In the order of the groups.

    Raises
    ------
    BadInput
        If a group is empty, or its row numbers are not sorted, repeat or do not exist; or there are not as many labels as rows.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import make_victim
    >>> from subpop.audit.suspicion import out_of_fold, scan
    >>> generator = np.random.default_rng(0)
    >>> x = generator.normal(size=(1200, 3))
    >>> y = (x[:, 0] > 0).astype(np.int64)
    >>> groups = [(f"part {i}", np.arange(60 * i, 60 * i + 60)) for i in range(20)]
    >>> y[:15] = 1 - y[:15]  # a quarter of part 0
    >>> out = out_of_fold(make_victim("logistic_regression"), x, y, n_classes=2)
    >>> [found.name for found in scan(out, y, groups, n_shuffles=199) if found.verdict == "differs from the rest"]
    ['part 0']
    """
    y = np.asarray(y)
    if len(y) != len(out.folds):
        raise BadInput(f"{len(y)} labels for predictions of {len(out.folds)} rows: give one label per row")
    if n_shuffles < 1:
        raise BadInput(f"n_shuffles={n_shuffles} must be at least 1; p below {LEVEL} needs at least 20")
    if not groups:
        return []
    member = members(groups, len(y))
    wrong = out.predicted != y
    p = _corrected(out, wrong, member, n_shuffles, seed)
    return _findings(out, wrong, groups, member, p)


def members(groups: Sequence[tuple[str, Ints]], n_rows: int) -> csr_matrix[Any]:
    """Return the (G, n) sparse indicators of the groups' rows; raises BadInput for row numbers that are not a sorted set."""
    from scipy.sparse import csr_matrix

    for name, rows in groups:
        rows = np.asarray(rows)
        if rows.ndim != 1 or not len(rows) or rows.dtype.kind not in "iu":
            raise BadInput(f"group {name!r} must be given as the numbers of at least one row; leave out an empty group")
        if rows[0] < 0 or rows[-1] >= n_rows or (np.diff(rows) <= 0).any():
            raise BadInput(f"group {name!r}: row numbers must increase and lie between 0 and {n_rows - 1}; use np.unique")
    columns = np.concatenate([np.asarray(rows) for _, rows in groups])
    starts = np.concatenate([[0], np.cumsum([len(rows) for _, rows in groups])])
    return csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(groups), n_rows))


def flip_weights(expected: Doubles, n_classes: int) -> Doubles:
    """Return the (n,) weight of an error on rows that are wrong with probability `expected` (n,): the log of the factor by which
    its odds increase if a share `CHANGED` of the labels becomes another class at random; 0 where they decrease."""
    changed = expected + CHANGED * (1 - expected * n_classes / (n_classes - 1))
    return np.asarray(np.maximum(np.log(changed * (1 - expected) / (expected * (1 - changed))), 0))


def moments(expected: Doubles, weight: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return mean, variance and third central moment, (n,) each, of weight * error for errors of probability `expected`."""
    variance = expected * (1 - expected)
    return weight * expected, weight**2 * variance, weight**3 * variance * (1 - 2 * expected)


def strata(out: OutOfFold, expected: Doubles) -> Ints:
    """Return the (n,) number of each row's stratum: its fold, and a quantile of the expected errors."""
    count = int(np.clip(len(expected) // (STRATUM * len(np.unique(out.folds))), 1, STRATA))
    cuts = np.quantile(expected, np.linspace(0, 1, count + 1)[1:-1])
    return np.asarray(out.folds * count + np.searchsorted(cuts, expected, side="right"))


def shuffled(stratum: Ints, count: int, generator: np.random.Generator) -> Iterator[Ints]:
    """Yield `count` permutations of the rows, (n,) each, drawn uniformly from those that keep every row in its stratum."""
    order = np.argsort(stratum, kind="stable")
    sorted_strata = stratum[order].astype(np.float64)
    for _ in range(count):
        permutation = np.empty(len(order), dtype=np.int64)
        permutation[order] = order[np.argsort(sorted_strata + generator.random(len(order)))]
        yield permutation


def shuffled_sums(member: csr_matrix[Any], values: Doubles, permutations: Iterator[Ints]) -> Doubles:
    """Return the (G, B) sums of each group for B permutations of the values (n,)."""
    light, out = member.astype(np.float32), []
    while chunk := [values[p].astype(np.float32) for _, p in zip(range(AT_ONCE), permutations, strict=False)]:
        out.append(light @ np.stack(chunk, axis=1))
    return np.asarray(np.concatenate(out, axis=1), dtype=np.float64)


def corrected_p(scores: Doubles, null: Doubles) -> Doubles:
    """Return the (G,) share of the largest of the null scores, (G, B), that are at least a group's score, itself included."""
    largest = np.sort(null.max(axis=0))
    above = len(largest) - np.searchsorted(largest, scores, side="left")
    return np.asarray((1 + above) / (1 + len(largest)))


@dataclass(frozen=True, eq=False)
class _Deviation:
    """The distribution of a group's weighted excess on data without poison: sampling plus a random effect. (G,) each."""

    variance: Doubles
    third: Doubles
    slope: Doubles
    """Derivative of the weighted excess by the log odds of an error."""
    spread: float
    """Scale of the random effect on the log odds."""

    def scores(self, excess: Doubles) -> Doubles:
        """Return minus the log of the approximate upper tail probabilities of excesses, (G, B).

        A group whose errors have no weight, on rows that are expected to be wrong anyway, says nothing: 0.
        """
        telling = self.variance > 0
        found = np.zeros(excess.shape)
        if telling.any():
            own = _Deviation(self.variance[telling], self.third[telling], self.slope[telling], self.spread)
            found[telling] = own._scores(excess[telling])
        return found

    def _scores(self, excess: Doubles) -> Doubles:
        from scipy.special import gammaincc

        unit = np.sqrt(self.variance + (self.spread * self.slope) ** 2)
        grid = np.concatenate([np.linspace(-6, 8, 85), np.geomspace(8.2, 400, 60)])
        tail = np.zeros((len(unit), len(grid)))
        halves = np.exp(np.arange(-12, 4, 0.6))  # half a chi-squared variable, by the trapezoidal rule in its logarithm
        shares = halves ** (TAIL / 2) * np.exp(-halves)
        for half, share in zip(halves, shares / shares.sum(), strict=True):
            variance = self.variance + TAIL / (2 * half) * (self.spread * self.slope) ** 2
            shape = 4 * variance**3 / np.maximum(self.third, 1e-3 * variance**1.5) ** 2
            at = shape[:, None] + grid * (unit * np.sqrt(shape / variance))[:, None]
            tail += share * gammaincc(shape[:, None], np.maximum(at, 0))
        logs = -np.log(np.maximum(tail, 1e-300))
        return np.stack([np.interp(row / u, grid, log) for row, u, log in zip(excess, unit, logs, strict=True)])


def _corrected(out: OutOfFold, wrong: Ints, member: csr_matrix[Any], n_shuffles: int, seed: int) -> Doubles:
    """(G,) p of the weighted excess of errors, corrected for all groups."""
    expected = np.clip(1 - out.confidence, FLOOR, 1 - FLOOR)
    weight = flip_weights(expected, out.raw.shape[1])
    mean, variance, third = moments(expected, weight)
    value = weight * wrong - mean
    inflation = _between_folds(member, value, variance, out.folds)
    excess, sampling = member @ value, inflation * (member @ variance)
    skewness, slope = inflation**1.5 * (member @ third), member @ (weight * expected * (1 - expected))
    null = _Deviation(sampling, skewness, slope, estimated_spread(excess, sampling, slope))
    generator = np.random.default_rng(seed)
    drawn = shuffled_sums(member, value, shuffled(strata(out, expected), n_shuffles, generator)) * np.sqrt(inflation)
    effects = null.spread * null.slope[:, None] * generator.standard_t(TAIL, size=drawn.shape)
    return corrected_p(null.scores(excess[:, None])[:, 0], null.scores(drawn + effects))


def _between_folds(member: csr_matrix[Any], value: Doubles, variance: Doubles, folds: Ints) -> float:
    """The variance of a group's sums of different folds over the expected one, the median over groups; at least 1."""
    from scipy.stats import chi2

    inside = (folds[:, None] == np.unique(folds)).astype(np.float64)
    sums, expected = member @ (value[:, None] * inside), member @ (variance[:, None] * inside)
    total = expected.sum(axis=1, keepdims=True)
    usable = (expected > 0).all(axis=1)
    if inside.shape[1] < 2 or not usable.any():
        return 1.0
    rest = (sums - sums.sum(axis=1, keepdims=True) * expected / np.maximum(total, 1e-300))[usable]
    ratio = np.median((rest**2 / expected[usable]).sum(axis=1)) / chi2.median(inside.shape[1] - 1)
    return max(1.0, float(ratio))


def estimated_spread(excess: Doubles, variance: Doubles, slope: Doubles) -> float:
    """Return the scale of the groups' natural deviations of the log odds of an error.

    It is the scale at which the quantile `SPREAD_AT` of the absolute standardised excesses is that of a normal distribution.
    excess, variance, slope: (G,) weighted excess of errors, its variance, and its derivative by the log odds.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    if len(excess) < ENOUGH_GROUPS:
        return LEAST_SPREAD
    usual = norm.ppf((1 + SPREAD_AT) / 2)

    def above(spread: float) -> float:
        unit = np.sqrt(np.maximum(variance + (spread * slope) ** 2, 1e-300))
        return float(np.quantile(np.abs(excess) / unit, SPREAD_AT) - usual)

    if above(LEAST_SPREAD) <= 0:
        return LEAST_SPREAD
    highest = LEAST_SPREAD
    while above(highest) > 0 and highest < 100:
        highest *= 2
    return float(brentq(above, LEAST_SPREAD, highest)) if highest < 100 else highest


def _findings(
    out: OutOfFold, wrong: Ints, groups: Sequence[tuple[str, Ints]], member: csr_matrix[Any], p: Doubles
) -> list[GroupFinding]:
    from scipy.stats import beta, binom

    n = np.array([len(rows) for _, rows in groups])
    errors = np.round(member @ wrong.astype(np.float64)).astype(np.int64)
    expected = member @ (1 - out.confidence)
    low = np.where(errors < n, beta.ppf(LEVEL / 2, np.maximum(n - errors, 1), errors + 1), 0)
    high = np.where(errors > 0, beta.ppf(1 - LEVEL / 2, n - errors + 1, np.maximum(errors, 1)), 1)
    hard = binom.sf(errors - 1, n, wrong.mean()) * len(n) < LEVEL
    verdicts: list[Verdict] = [
        "differs from the rest" if own < LEVEL else "hard" if is_hard else "ordinary"
        for own, is_hard in zip(p, hard, strict=True)
    ]
    return [
        GroupFinding(
            name=name,
            n=int(n[i]),
            accuracy=float(1 - errors[i] / n[i]),
            low=float(low[i]),
            high=float(high[i]),
            expected_errors=float(expected[i]),
            errors=int(errors[i]),
            p=float(p[i]),
            verdict=verdicts[i],
        )
        for i, (name, _) in enumerate(groups)
    ]


__all__ = ["GroupFinding", "OutOfFold", "out_of_fold", "scan"]
