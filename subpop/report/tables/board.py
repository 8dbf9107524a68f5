"""The scoreboard: many defenses against the same attacks, of which only headlines have references."""

from __future__ import annotations

from subpop.report.tables.poisoning import Poisoning
from subpop.types import Cell

HEADLINES = ("target_damage_mean", "defended_clean_accuracy")


class Board(Poisoning):
    """Poisoning cells of the scoreboard."""

    def gates(self, cell: Cell, metric: str) -> bool:
        """Two headlines of each defense, and what no defense changes; a change of the rest would move one of them."""
        return super().gates(cell, metric) and (metric in HEADLINES or cell.defense == "none")
