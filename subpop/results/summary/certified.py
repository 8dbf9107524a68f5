"""Certified damage: the target damage if only predictions that the certificate protects count as correct.

A prediction on a target row is protected if it is correct and tolerates at least as many label flips as the attack made, or, by a
certificate named `insertions`, as many inserted rows. The damage is relative to the same learner trained on D plus the poison's
inputs with their true labels, so it does not cover the effect of inserting those inputs.
"""

from __future__ import annotations

import numpy as np

from subpop.results.summary.ranked import Ranked, chosen_over_seeds, over_seeds
from subpop.types import Array, Number, TrialResult

PREFIX = "radius:"
INSERTIONS = "insertions"
"""Name of a certificate that counts inserted or deleted rows; all others count flipped labels."""


def certified_numbers(ranked: Ranked) -> list[Number]:
    """For each certificate: mean certified accuracy, median radius and, with a reference, the mean certified damage.

    The certified damage is also averaged over the same k subpopulations as worst-k target damage, for comparison.
    """
    parts = ranked.parts
    names = [key.removeprefix(PREFIX) for key in parts[0].trials[0].arrays if key.startswith(PREFIX)] if parts else []
    return [number for name in names for number in _of_certificate(name, ranked)]


def _of_certificate(name: str, ranked: Ranked) -> list[Number]:
    parts = ranked.parts
    suffix = f":{name}" if name else ""
    right = np.stack([[_protected(trial, name, part.members).mean() for trial in part.trials] for part in parts])
    radii = np.concatenate([trial.arrays[PREFIX + name] for part in parts for trial in part.trials])
    numbers = [
        over_seeds(f"certified_accuracy_mean{suffix}", right),
        Number(f"certified_radius_median{suffix}", float(np.median(radii))),
    ]
    if all("reference_right" in trial.arrays for part in parts for trial in part.trials):
        lost = np.stack([[trial.arrays["reference_right"].mean() for trial in part.trials] for part in parts]) - right
        numbers.append(over_seeds(f"certified_damage_mean{suffix}", lost))
        numbers += [chosen_over_seeds(f"certified_damage_worst_{k}{suffix}", lost[ranked.order[:k]]) for k in ranked.ranks]
    return numbers


def _protected(trial: TrialResult, name: str, members: Array) -> Array:
    """(m,) bool: target rows that are correct whichever `n_flipped` labels are changed, or `n_poison` rows are taken out."""
    changes = trial.metrics["n_poison" if name == INSERTIONS else "n_flipped"]
    return np.asarray(trial.arrays["right"], bool)[members] & (trial.arrays[PREFIX + name] >= changes)
