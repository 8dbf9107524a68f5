"""The scoreboard: many defenses against the same attacks, of which only headlines have references."""

from __future__ import annotations

from collections.abc import Callable

from subpop.defenses import is_exact
from subpop.report.tables.poisoning import Poisoning
from subpop.types import Cell

HEADLINES = ("target_damage_mean", "defended_clean_accuracy")


class Board(Poisoning):
    """Poisoning cells of the scoreboard."""

    is_board = True

    def gates(self, cell: Cell) -> Callable[[str], bool]:
        """Two headlines of each defense that has no randomness of its own, and what no defense changes.

        Only the undefended cells of other tiers than the embedded one are compared.
        """
        if cell.tier != "embedded":
            compared = HEADLINES if cell.defense == "none" else ()
        elif cell.defense == "none":
            return super().gates(cell)
        else:
            compared = HEADLINES if is_exact(cell.defense) else ()
        return lambda metric: metric in compared
