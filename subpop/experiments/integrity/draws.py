"""A secret poison draw: does a defense do better against the public draws, which can be reproduced, than against a secret one?

The public draws follow from the cell, so code can reproduce them. For some attacked subpopulations the defense gets poison from
a secret seed. Its score is the fraction of the undefended damage that it repairs, on the public and on the secret draws, each
compared with the same trial without a defense. A significantly higher score on the public draws is a flag: a one-sided t test
over subpopulations, with the error of the test rows added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from subpop.experiments.integrity.findings import Finding, not_run, tested
from subpop.results.metrics import Doubles
from subpop.types import Bools

PROBE = "secret poison"
SMALLEST_DAMAGE = 0.02
"""Mean damage of the undefended victim below which there is nothing to repair."""
FEWEST = 4


@dataclass(frozen=True, eq=False)
class Score:
    """One attacked trial, (n,) for its own test rows. damage: clean minus undefended; gain: defended minus undefended."""

    damage: Doubles
    gain: Doubles


def score_of(members: Bools, clean: Bools, undefended: Bools, defended: Bools) -> Score:
    """Compute the gain from (n_test,) correct predictions; what all other rows lose by the defense is subtracted."""
    before, attacked, after = (bits[members].astype(float) for bits in (clean, undefended, defended))
    lost = (
        float(np.mean(undefended[~members], dtype=float) - np.mean(defended[~members], dtype=float)) if not members.all() else 0.0
    )
    return Score(before - attacked, after - attacked - max(0.0, lost))


class Repaired(NamedTuple):
    """The repaired fraction of the damage, each trial's residual relative to the mean damage, and the rows' variance."""

    share: float
    deviations: Doubles
    row_variance: float


def repaired(scores: Sequence[Score]) -> Repaired | None:
    """Return summed gain / summed damage over trials; None if the undefended victim is hardly damaged."""
    damage, gain = (np.array([getattr(score, name).mean() for score in scores]) for name in ("damage", "gain"))
    if damage.mean() < SMALLEST_DAMAGE:
        return None
    share = float(gain.sum() / damage.sum())
    left = np.concatenate([score.gain - share * score.damage for score in scores])
    # At least one row's worth of variance, so that the error is never 0.
    of_rows = max(float((left**2).mean()), 1 / len(left)) / len(left)
    return Repaired(share, (gain - share * damage) / damage.mean(), of_rows / float(damage.mean()) ** 2)


def compare(probe: str, words: str, public: Sequence[Score], secret: Sequence[Score], paired: bool) -> Finding:
    """Test whether the public fraction is higher than the secret one. paired: trial i of both is of the same subpopulation."""
    from scipy.stats import t

    if min(len(public), len(secret)) < FEWEST:
        return not_run(probe, f"{min(len(public), len(secret))} subpopulations; {FEWEST} are needed")
    ours, theirs = repaired(public), repaired(secret)
    if ours is None or theirs is None:
        return not_run(probe, "the attack does no damage that could be repaired")
    if paired:
        variance, df = float((ours.deviations - theirs.deviations).var(ddof=1)) / len(public), len(public) - 1.0
    else:
        variance, df = _welch(ours.deviations, theirs.deviations)
    variance += ours.row_variance + theirs.row_variance
    p_value = float(t.sf((ours.share - theirs.share) / variance**0.5, df))
    return tested(probe, p_value, words, f"repairs {ours.share:.0%} of the public damage and {theirs.share:.0%} of the secret")


def _welch(first: Doubles, second: Doubles) -> tuple[float, float]:
    """The variance of the difference of two means, and its degrees of freedom by Welch and Satterthwaite."""
    of_means = [(float(side.var(ddof=1)) / len(side), len(side) - 1) for side in (first, second)]
    variance, fewest = sum(own for own, _ in of_means), float(min(n for _, n in of_means))
    spread = sum(own**2 / n for own, n in of_means)
    return variance, max(fewest, variance**2 / spread) if spread else fewest
