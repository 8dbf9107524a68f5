"""What a stored number of a stochastic victim rests on: its value under every seed, and its spread over CPU kernels.

A run with the same seeds as its reference draws the same poison and trains the same networks, so that on the same kernels it
returns the same bits. Other kernels of BLAS and torch round differently, and training amplifies that. The tolerance of such a
number therefore follows from its spread over the kernels on which it was recorded, not from its spread over seeds, which is many
times larger.

Kernels of different names may be the same arithmetic for a network: those of Haswell and SkylakeX are for `mlp` and `conv_net`.
Runs that train the same weights of a victim and give the same numbers therefore count as one run, here and in the degrees of
freedom (`subpop.session.kernels`, which also says which kernels differ for which victim). Fewer than three different runs give no
spread: such a number is compared as if it had been recorded under a single kernel.

The spread of one number over a handful of kernels is itself uncertain, and it is 0 where no prediction flips. It is therefore
moderated: its variance is averaged with the variance that is pooled over all numbers of the same metric, victim and tier in the
file, as limma does for genes (Smyth 2004, Statistical Applications in Genetics and Molecular Biology 3). Predictions flip seldom,
but then several may flip in one network, so that some kernels show no spread where another one does. The deviation of a number is
therefore at least the effect of one test row of one seed.

Tolerances share the error among numbers by Bonferroni. Holm's step-down procedure would turn exactly the same runs red, since its
first step is Bonferroni's, and would list further numbers of a run that is red anyway. In a simulation of 20 to 600 numbers, of
which at most half have changed by 2 to 6 times their error, these are at most 2.5 % of the numbers; if all have changed by 4
times their error, Holm lists 69 of 80 numbers and Bonferroni 56. Where the smallest tolerance of a reference is the wider one,
which is the rule in the embedded tier, it lists none. A fixed tolerance in the file is therefore kept
(tests/results/test_evidence.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

FALSE_ALARM = 0.05
"""Probability of at least one false alarm in all stochastic numbers that are compared together."""
POWER = 0.8
FEWEST_KERNELS = 3
"""A spread over fewer kernels than this is not used."""
SAME_STREAM = 0.5
"""Seed-by-seed differences that vary by less than this part of what independent draws would are of the same random draws."""


@dataclass(frozen=True)
class Spread:
    """A standard deviation of a value over kernels, with the number of kernels."""

    std: float
    n_kernels: int

    @property
    def freedom(self) -> int:
        """Degrees of freedom."""
        return self.n_kernels - 1


def pooled(spreads: Iterable[Spread]) -> tuple[float, int] | None:
    """Return the pooled standard deviation and its degrees of freedom; None if no spread is known."""
    known = [each for each in spreads if each.n_kernels >= FEWEST_KERNELS and math.isfinite(each.std)]
    freedom = sum(each.freedom for each in known)
    return (math.sqrt(sum(each.std**2 * each.freedom for each in known) / freedom), freedom) if freedom else None


def moderated(own: Spread | None, pool: tuple[float, int]) -> float:
    """Return the deviation of one number: its own variance and the pooled one count the same; without its own, the pooled one."""
    if own is None or own.n_kernels < FEWEST_KERNELS:
        return pool[0]
    return math.sqrt((own.std**2 + pool[0] ** 2) / 2)


def kernel_atol(own: Spread | None, pool: tuple[float, int], n_numbers: int, least: float = 0.0) -> float:
    """Return the tolerance of one of `n_numbers` that are compared together, between a run on an unknown kernel and a reference.

    The reference is a mean over kernels, or the value on a single one. least: lower limit of the deviation, which is the effect
    of one test row of one seed.
    """
    quantile = float(stdtrit(pool[1], 1 - FALSE_ALARM / n_numbers / 2))
    return quantile * _error(own, pool, least)


def smallest_detectable(atol: float, own: Spread | None, pool: tuple[float, int], least: float = 0.0) -> float:
    """Return the change of the number that exceeds its tolerance with a probability of 80 %."""
    return atol + float(ndtri(POWER)) * _error(own, pool, least)


def _error(own: Spread | None, pool: tuple[float, int], least: float) -> float:
    n_kernels = 1 if own is None else max(1, own.n_kernels)
    return max(moderated(own, pool), least) * math.sqrt(1 + 1 / n_kernels)


def explain(run: Sequence[float], reference: Sequence[float]) -> str:
    """Say whether a number that is off its reference has changed, or whether only its random draws have.

    Parameters
    ----------
    run
        Its value for each seed of the run.
    reference
        Its value for each seed of the reference, in the same order; there may be more of them.

    Returns
    -------
    str
        A sentence without a full stop; empty if there are too few seeds to tell.

    Examples
    --------
    >>> explain([0.31, 0.52, 0.18, 0.43], [0.21, 0.42, 0.08, 0.33])
    'the random draws are the same and the number changed: by +0.1 in the mean over seeds'
    """
    n = min(len(run), len(reference))
    if n < 3 or not np.isfinite([*run, *reference]).all():
        return ""
    ours, theirs = np.array(run, float), np.array(reference, float)
    of_seeds = math.sqrt((ours.var(ddof=1) + theirs.var(ddof=1)) / 2)
    differences = ours[:n] - theirs[:n]
    if differences.std(ddof=1) < SAME_STREAM * math.sqrt(2) * of_seeds or not of_seeds:
        return f"the random draws are the same and the number changed: by {differences.mean():+.3g} in the mean over seeds"
    p_value = two_sample_p_value(run, reference)
    test = f"(two-sample t test over seeds: p = {p_value:.2g})"
    if p_value is not None and p_value < FALSE_ALARM:
        return f"the random draws changed, and the number with them {test}"
    return f"the random draws changed; the number is compatible with its reference {test}"


def two_sample_p_value(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return the two-sided p value of a two-sample t test; None with fewer than three values on a side.

    Where no value varies, it is 1 if both means agree and 0 otherwise.
    """
    from scipy.stats import ttest_ind

    ours, theirs = np.array(first, float), np.array(second, float)
    if min(len(ours), len(theirs)) < 3:
        return None
    if not ours.var() and not theirs.var():
        return float(ours[0] == theirs[0])
    return float(ttest_ind(ours, theirs).pvalue)
