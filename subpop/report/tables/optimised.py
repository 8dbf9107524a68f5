"""Optimised poison: damage of rows that gradient matching or influence moved, compared with label flipping."""

from __future__ import annotations

from collections.abc import Sequence

from subpop.report.claims_table import claim_lines
from subpop.report.paper_tables import Column, Layout, paper_tables
from subpop.report.tables.poisoning import PaperTable
from subpop.types import CellReport

LAYOUT = Layout(
    {"attack": "attack", "objective": "objective", "epsilon": "epsilon (levels)", "rate": "alpha"},
    [
        Column("worst-5", "target_damage_worst_5"),
        Column("mean", "target_damage_mean"),
        Column("mean, less label flipping", "gain_over_label_flip"),
    ],
    errors=True,
)


class Optimised(PaperTable):
    """Poisoning cells in a table with a row for each attack and alpha."""

    layout = LAYOUT

    def tables(self, reports: Sequence[CellReport]) -> list[str]:
        """A row for each attack and alpha, and whether moving the rows increases damage."""
        return paper_tables(LAYOUT, reports, claim_lines)
