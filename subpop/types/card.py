"""What a defense declares about itself before it is measured: where it must succeed, and where it must fail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from subpop.types.base import BadInput


@dataclass(frozen=True)
class Declared:
    """An attack and a victim, with the outcome that a defense declares for them.

    Examples
    --------
    >>> from subpop.types.card import Declared
    >>> case = Declared("poison is a minority among its neighbours", dataset="mixture", victim="knn_1", rate=0.3)
    >>> case.cell["victim"]
    'knn_1'
    """

    why: str
    """Why the defense succeeds, or fails, here."""
    cell: Mapping[str, Any]
    """Arguments of `grid` for the cell; stem, tier, kind, defense and split are added."""
    settings: Mapping[str, Any]
    """Settings of the defense in this case; empty for its defaults."""

    def __init__(self, why: str, settings: Mapping[str, Any] | None = None, **cell: Any) -> None:
        missing = [name for name in ("dataset", "victim", "rate") if name not in cell]
        if missing:
            raise BadInput(f"a declared case needs dataset, victim and rate; {', '.join(missing)} is missing")
        fixed = [name for name in ("stem", "tier", "kind", "defense", "split") if name in cell]
        if fixed:
            raise BadInput(f"a declared case cannot set {', '.join(fixed)}: the suite of cards sets it")
        object.__setattr__(self, "why", why)
        object.__setattr__(self, "settings", settings or {})
        object.__setattr__(self, "cell", {"partition": "feature_match", **cell})


@dataclass(frozen=True)
class Card:
    """The card of a defense: an attribute `card` of its function.

    Both cases are part of the code before they are measured, and a suite asserts them (`benchmarks/test_cards.py`). A defense
    that succeeds removes at least 80 % of an undefended damage of .2 or more and costs at most .02 of clean accuracy. A defense
    that fails is not better by .05 than a random filter that removes as many rows of each label, or than no defense if it is no
    filter.
    """

    succeeds: Declared
    fails: Declared
    is_filter: bool = False
    """Whether the defense returns the rows that it kept, so that it has a matched random filter."""
