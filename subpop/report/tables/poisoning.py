"""Poisoning cells: victims trained with and without poison of a subpopulation, under a defense."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

from subpop.experiments.experiment import Experiment
from subpop.report.figures.lines import Styles
from subpop.report.figures.plans import poisoning_plans
from subpop.report.paper_tables import Layout, paper_tables
from subpop.types import Cell, CellReport
from subpop.types.kinds import Kind, Measure, Plan

UNDEFENDED = ("n_flipped", "clean_accuracy")
"""Numbers that no defense changes."""


class Poisoning(Kind):
    """Cells with one trial per subpopulation and seed."""

    trains_trials = True

    def gates(self, cell: Cell) -> Callable[[str], bool]:
        """Numbers that no defense changes are gated in the cell without a defense."""
        shown = () if cell.defense == "none" else UNDEFENDED
        return lambda metric: metric not in shown

    def measurer(self, experiment: Experiment) -> Measure:
        """Trains the trials that are not in the store."""
        return experiment.run

    def figures(self, reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
        """Damage against alpha, decision regions, accuracy against the holdout, target against collateral damage."""
        return poisoning_plans(reports, styles)


class PaperTable(Poisoning, ABC):
    """Poisoning cells of a table of the paper: that table is shown instead of rows on the scoreboard."""

    on_scoreboard = False
    layout: ClassVar[Layout]
    """The rows and columns of the table."""

    def gates(self, cell: Cell) -> Callable[[str], bool]:
        """All numbers, because not every set-up has a cell without a defense."""
        return lambda metric: True

    def tables(self, reports: Sequence[CellReport]) -> list[str]:
        """The table of each data set and victim."""
        return paper_tables(self.layout, reports)
