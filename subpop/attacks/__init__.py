"""The registry of attacks. An attack makes poison rows from members of a subpopulation in D_aux."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from subpop.attacks.adaptive import search_poison
from subpop.attacks.best_of_list import choose_worst
from subpop.attacks.control_attacks import flip_another_group, keep_labels, scatter_flips
from subpop.attacks.gradient_match import match_gradients
from subpop.attacks.influence import follow_influence
from subpop.attacks.label_flip import AttackTask, Poison, flip_labels, label_flip, least_likely_label, poison_count, rarest_label
from subpop.attacks.model_targeted import pursue_model
from subpop.attacks.neighbours import flip_neighbours
from subpop.attacks.proportional import sample_in_proportion

ATTACKS: Mapping[str, Callable[[AttackTask[Any]], Poison]] = {
    "label_flip": flip_labels,
    "gradient_match": match_gradients,
    "influence": follow_influence,
    "near_neighbours": flip_neighbours,
    "proportional": sample_in_proportion,
    "model_targeted": pursue_model,
    "best_of_list": choose_worst,
    "adaptive": search_poison,
    "own_label": keep_labels,
    "scattered_flips": scatter_flips,
    "other_group": flip_another_group,
}
"""Attacks by name: functions of an `AttackTask[S]`, where `S` is the class of the attack's settings, in the attack's own file.

Examples
--------
>>> from subpop import ATTACKS
>>> "label_flip" in ATTACKS
True
"""

__all__ = ["ATTACKS", "AttackTask", "Poison", "label_flip", "least_likely_label", "poison_count", "rarest_label"]
