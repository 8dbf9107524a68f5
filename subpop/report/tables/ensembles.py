"""Certified damage of DPA beside the measured one: all at once and row by row, for insertions and for label flips."""

from __future__ import annotations

from collections.abc import Callable

from subpop.report.paper_tables import Column, Layout
from subpop.report.tables.poisoning import PaperTable
from subpop.types import Cell

DEFENDED = "dpa"
GATED = ("target_damage_mean", "collective_damage_mean")
LAYOUT = Layout(
    {"rate": "alpha"},
    [
        Column("damage, undefended", "target_damage_mean", "none"),
        Column("damage, DPA", "target_damage_mean", DEFENDED),
        Column("certified damage", "collective_damage_mean", DEFENDED),
        Column("certified row by row", "pointwise_damage_mean", DEFENDED),
        Column("certificates that say anything", "collective_share", DEFENDED),
        *(Column(f"certified at {m} insertions", f"collective_damage_mean_at_{m}", DEFENDED) for m in (1, 2, 5)),
        Column("certified accuracy, insertions", "certified_accuracy_mean:insertions", DEFENDED),
        Column("certified accuracy, label flips", "certified_accuracy_mean:label_flips", DEFENDED),
        Column("clean accuracy, undefended", "clean_accuracy", "none"),
        Column("clean accuracy, DPA", "defended_clean_accuracy", DEFENDED),
    ],
)


class Ensembles(PaperTable):
    """Poisoning cells in a table with measured and certified damages in the same row."""

    layout = LAYOUT

    def gates(self, cell: Cell) -> Callable[[str], bool]:
        """Mean damages, measured and certified; the claims of the suite compare them for each subpopulation."""
        return lambda metric: metric in GATED
