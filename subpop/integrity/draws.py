"""A secret poison draw: is a defense better against the poison that everybody can draw again than against one that nobody can?

The public draws follow from the cell, so code can rebuild them. For some attacked subpopulations the defense faces poison from a
secret seed, and its score is the share of the undefended damage that it repairs, on the public draws and on the secret ones, each
beside its twin without a defense. Public better than secret by more than chance allows is a flag: a one-sided t test over
subpopulations, with the error of the test rows added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from subpop.integrity.findings import Finding, not_run, tested
from subpop.metrics import Doubles
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
    """From (n_test,) bits of right answers. What all other rows lose by the defense is taken off the gain."""
    before, attacked, after = (bits[members].astype(float) for bits in (clean, undefended, defended))
    lost = (
        float(np.mean(undefended[~members], dtype=float) - np.mean(defended[~members], dtype=float)) if not members.all() else 0.0
    )
    return Score(before - attacked, after - attacked - max(0.0, lost))


class Repaired(NamedTuple):
    """The repaired share of the damage; how far each trial is from it, in shares of the mean damage; the rows' variance."""

    share: float
    deviations: Doubles
    row_variance: float


def repaired(scores: Sequence[Score]) -> Repaired | None:
    """Summed gain / summed damage over trials; None where the undefended victim is hardly hurt."""
    damage, gain = (np.array([getattr(score, name).mean() for score in scores]) for name in ("damage", "gain"))
    if damage.mean() < SMALLEST_DAMAGE:
        return None
    share = float(gain.sum() / damage.sum())
    left = np.concatenate([score.gain - share * score.damage for score in scores])
    # Where no row deviates, one might have: the error is never 0.
    of_rows = max(float((left**2).mean()), 1 / len(left)) / len(left)
    return Repaired(share, (gain - share * damage) / damage.mean(), of_rows / float(damage.mean()) ** 2)


def compare(probe: str, words: str, public: Sequence[Score], secret: Sequence[Score], paired: bool) -> Finding:
    """Is the public share higher than the secret one? paired: trial i of both is of the same subpopulation."""
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
