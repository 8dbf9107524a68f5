"""Whether a defense does what its card declares, from the results of its cell, of the undefended cell and of a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from subpop.results.paired import Difference, damages_by_seed, paired_difference
from subpop.types import CellResult

SHARE_GONE = 0.8
"""Smallest share of the undefended damage that a success removes."""
COST = 0.02
"""Largest loss of clean accuracy in a success."""
UNDEFENDED = 0.2
"""Smallest mean damage without a defense in a success."""
BETTER = 0.05
"""A failure is not better than its control by so much."""


@dataclass(frozen=True)
class Outcome:
    """Means over the splits of a declared case."""

    undefended: float
    """Mean target damage without a defense."""
    defended: float
    """Mean target damage with the defense."""
    control: float
    """Mean target damage with the control: a random filter, or no defense."""
    cost: float
    """Clean accuracy without the defense minus clean accuracy with it."""
    difference: Difference
    """Damage with the defense minus that without, over the subpopulations that the attack hurts."""

    @property
    def share_gone(self) -> float:
        """The share of the undefended damage that the defense removes."""
        return 1 - self.defended / self.undefended if self.undefended > 0 else 0.0

    @property
    def is_success(self) -> bool:
        """Whether the damage is large without the defense and small with it, at a small cost."""
        return self.undefended >= UNDEFENDED and self.share_gone >= SHARE_GONE and self.cost <= COST

    @property
    def is_failure(self) -> bool:
        """Whether the defense is not better than its control."""
        return self.control - self.defended < BETTER


def outcome(defended: Sequence[CellResult], undefended: Sequence[CellResult], control: Sequence[CellResult]) -> Outcome:
    """Summarise a declared case.

    Parameters
    ----------
    defended, undefended, control
        The results of the splits, in the same order.

    Returns
    -------
    Outcome
        Means over the splits.
    """

    def mean(results: Sequence[CellResult], metric: str) -> float:
        return float(np.mean([result[metric] for result in results]))

    damages, plain = (pd.concat([damages_by_seed(result) for result in results]) for results in (defended, undefended))
    return Outcome(
        mean(undefended, "target_damage_mean"),
        mean(defended, "target_damage_mean"),
        mean(control, "target_damage_mean"),
        mean(undefended, "clean_accuracy") - mean(defended, "defended_clean_accuracy"),
        paired_difference(damages, plain, plain, exact=all(result.exact for result in defended)),
    )
