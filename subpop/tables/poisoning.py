"""Poisoning cells: victims trained with and without poison of a subpopulation, under a defense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from subpop.experiment import Experiment
from subpop.figures.lines import Styles
from subpop.figures.plans import poisoning_plans
from subpop.kinds import Kind, Measure, Plan
from subpop.settings import check_settings
from subpop.types import Cell, CellReport


class Poisoning(Kind):
    """Trials of a subpopulation and a seed each. Tables of the paper that are made of them derive from this class."""

    trains_trials = True

    def measurer(self, experiment: Experiment) -> Measure:
        """Trains what the store lacks."""
        return experiment.run

    def check(self, cell: Cell) -> None:
        """Raise BadInput for a rate or a setting that no cell can have."""
        check_settings(cell)

    def figures(self, reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
        """Damage against alpha, decision regions, accuracy against the holdout, target against collateral damage."""
        return poisoning_plans(reports, styles)
