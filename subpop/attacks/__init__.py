"""The registry of attacks. An attack makes poison rows from members of a subpopulation in D_aux."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from subpop.attacks.gradient_match import match_gradients
from subpop.attacks.influence import follow_influence
from subpop.attacks.label_flip import AttackTask, Poison, flip_labels, label_flip, least_likely_label, poison_count, rarest_label

ATTACKS: Mapping[str, Callable[[AttackTask], Poison]] = {
    "label_flip": flip_labels,
    "gradient_match": match_gradients,
    "influence": follow_influence,
}
"""Attacks by name; an attack with additional settings also has a class in `subpop.types.specifications`.

Examples
--------
>>> from subpop import ATTACKS
>>> "label_flip" in ATTACKS
True
"""

__all__ = ["ATTACKS", "AttackTask", "Poison", "label_flip", "least_likely_label", "poison_count", "rarest_label"]
