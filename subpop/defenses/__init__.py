"""Defenses by name. `matched_random_filter` is a factory: the harness makes one for each trial of a filter defense."""

from __future__ import annotations

from collections.abc import Mapping

from subpop.defenses.controls import drop_duplicates, matched_random_filter, none, perfect_filter, random_filter
from subpop.defenses.sever import sever, sever_as_released, sever_per_label
from subpop.defenses.trim import trim
from subpop.types import Defense

DEFENSES: Mapping[str, Defense] = {
    "none": none,
    "perfect_filter": perfect_filter,
    "random_filter": random_filter,
    "drop_duplicates": drop_duplicates,
    "trim": trim,
    "sever": sever,
    "sever_per_label": sever_per_label,
    "sever_as_released": sever_as_released,
}

__all__ = ["DEFENSES", "matched_random_filter"]
