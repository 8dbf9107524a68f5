"""The impossibility suite: damage of local and global learners against alpha, and two indistinguishable worlds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from subpop.defenses import is_exact
from subpop.experiments.experiment import Experiment
from subpop.experiments.impossibility import measure_impossibility
from subpop.experiments.kept_results import kept_result
from subpop.report.figures.impossibility import ALT, CAPTION, can_be_drawn, draw_impossibility
from subpop.report.figures.lines import Styles
from subpop.types import Cell, CellReport
from subpop.types.kinds import Kind, Measure, Plan

ASSERTED = ("can_run", "error_sum_min", "error_sum_max", "identical_share")
"""Numbers that the suite's claims fix for every defense."""


class TwoWorlds(Kind):
    """Points of a curve, and pairs of worlds."""

    def gates(self, cell: Cell) -> Callable[[str], bool]:
        """Numbers that claims of the suite assert need no reference; those of a defense that trains by random steps have none."""
        compared = is_exact(cell.defense)
        return lambda metric: compared and metric not in ASSERTED

    def measurer(self, experiment: Experiment) -> Measure:
        """The result is cached in the store."""
        return lambda cell: kept_result(
            cell, experiment, "subpop.experiments.impossibility", lambda: measure_impossibility(cell, experiment)
        )

    def expected_seconds(self, cell: Cell) -> float:
        """Training sets are small."""
        return 0.06

    def figure_of(self, cell: Cell) -> str:
        """All data sets share one figure."""
        return "all"

    def figures(self, reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
        """Curves above, worlds below."""
        if can_be_drawn(reports):
            yield Plan("impossibility", partial(draw_impossibility, reports), ALT, CAPTION)
