"""What a defense costs other rows: predicting the target's class everywhere repairs the target, but is no defense.

This needs no run and no test: the defended trials are compared with the undefended victim of the same trials. It is a flag if at
least half of the rows of the target that the attack took are correct again, and more other rows are lost for them, more than one
in ten. A defense that costs as much and repairs less is a poor one, as its damages show.
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
    """From (n_test,) bits of each trial: the target's rows, and right answers before the attack, without and with the defense."""
    taken = won = lost = others = 0
    for target, first, before, after in zip(members, clean, undefended, defended, strict=True):
        change = after.astype(int) - before.astype(int)
        taken += int(first[target].sum()) - int(before[target].sum())
        won, lost, others = won + int(change[target].sum()), lost - int(change[~target].sum()), others + int((~target).sum())
    share = lost / max(1, others)
    words = f"{won / len(members):.1f} rows of the target won and {lost / len(members):.1f} others lost ({share:.1%}) in a trial"
    claimed = won > 0 and won >= LEAST_WON * taken and lost > won and share > MOST_LOST
    return Finding(PROBE, FLAG if claimed else PASSED, words, claim="gives up other rows for the target's")
