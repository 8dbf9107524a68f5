"""The cost of a defense on other rows: predicting the target's class everywhere repairs the target, but is not a defense.

This needs neither another run nor a statistical test: the defended trials are compared with the undefended victim of the same
trials. A defense is flagged if it repairs at least half of the target rows lost to the attack, but loses more other rows than it
repairs, and more than one in ten of them. A defense with the same cost that repairs less is merely a poor one.
"""

from __future__ import annotations

from collections.abc import Sequence

from subpop.experiments.integrity.findings import FLAG, PASSED, Finding
from subpop.types import Bools

PROBE = "cost to others"
LEAST_WON, MOST_LOST = 0.5, 0.1
"""Fraction of the target's lost rows that are repaired, and fraction of the other test rows that a defense may lose for them."""


def cost_to_others(
    members: Sequence[Bools], clean: Sequence[Bools], undefended: Sequence[Bools], defended: Sequence[Bools]
) -> Finding:
    """Compare (n_test,) bits per trial: the target's rows, and correct predictions clean, undefended and defended."""
    taken = won = lost = others = 0
    for target, first, before, after in zip(members, clean, undefended, defended, strict=True):
        change = after.astype(int) - before.astype(int)
        taken += int(first[target].sum()) - int(before[target].sum())
        won, lost, others = won + int(change[target].sum()), lost - int(change[~target].sum()), others + int((~target).sum())
    share = lost / max(1, others)
    words = f"{won / len(members):.1f} rows of the target won and {lost / len(members):.1f} others lost ({share:.1%}) in a trial"
    claimed = won > 0 and won >= LEAST_WON * taken and lost > won and share > MOST_LOST
    return Finding(PROBE, FLAG if claimed else PASSED, words, claim="gives up other rows for the target's")
