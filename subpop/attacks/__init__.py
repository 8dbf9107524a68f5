"""Attacks by name. An attack makes poison rows from members of a subpopulation in D_aux."""

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
"""Attacks that optimise the inputs of the rows drawn by label flipping: (poison, target, attacker) -> poison outside the pool."""

ATTACKS: Mapping[str, Callable[..., Poison]] = {"label_flip": label_flip, **OPTIMISED}
"""Every attack by name.

Examples
--------
>>> from subpop import ATTACKS
>>> sorted(ATTACKS)
['gradient_match', 'influence', 'label_flip']
"""

__all__ = ["ATTACKS", "OPTIMISED", "Poison", "label_flip", "least_likely_label", "poison_count", "rarest_label"]
