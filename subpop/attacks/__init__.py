"""Attacks by name: members of a subpopulation in the attacker's sample -> poison rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from subpop.attacks.label_flip import Poison, label_flip, least_likely_label, poison_count, rarest_label

ATTACKS: Mapping[str, Callable[..., Poison]] = {"label_flip": label_flip}

__all__ = ["ATTACKS", "Poison", "label_flip", "least_likely_label", "poison_count", "rarest_label"]
