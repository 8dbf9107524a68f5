"""The scoreboard: many defenses against the same attacks, of which only headlines have references."""

from __future__ import annotations

from collections.abc import Callable

from subpop.defenses import is_exact
from subpop.defenses.tuned import is_tuned
from subpop.report.tables.poisoning import Poisoning
from subpop.types import Cell
from subpop.victims import make_victim

HEADLINES = ("target_damage_mean", "defended_clean_accuracy")


class Board(Poisoning):
    """Poisoning cells of the scoreboard."""

    is_board = True

    def gates(self, cell: Cell) -> Callable[[str], bool]:
        """Two headlines of each defense that has no randomness of its own, and what no defense changes.

        In other tiers than the embedded one, and of stochastic victims, only the undefended cell has references. Tuned settings
        have none.
        """
        undefended = cell.defense == "none"
        # A report may be of somebody else's store, which must not make this process import and call what it names.
        if cell.tier == "embedded" and (":" in cell.victim or make_victim(cell.victim).exact):
            if undefended:
                return super().gates(cell)
            compared = HEADLINES if is_exact(cell.defense) and not is_tuned(cell.defense) else ()
        else:
            compared = HEADLINES if undefended else ()
        return lambda metric: metric in compared
