"""Attacks by name: members of a subpopulation in the attacker's sample -> poison rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from subpop.attacks.attacker import Attacker, Target
from subpop.attacks.gradient_match import gradient_match
from subpop.attacks.influence import influence
from subpop.attacks.label_flip import Poison, label_flip, least_likely_label, poison_count, rarest_label

OPTIMISED: Mapping[str, Callable[[Poison, Target, Attacker], Poison]] = {
    "gradient_match": gradient_match,
    "influence": influence,
}
"""Attacks that move rows: (what label flipping drew, the target, the attacker) -> poison outside the pool."""

ATTACKS: Mapping[str, Callable[..., Poison]] = {"label_flip": label_flip, **OPTIMISED}

__all__ = ["ATTACKS", "OPTIMISED", "Poison", "label_flip", "least_likely_label", "poison_count", "rarest_label"]
