"""Speed suites: a whole batch of victims against the same victims one at a time, in one run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from subpop.experiments.experiment import Experiment
from subpop.experiments.speed import measure_speed
from subpop.report.figures.lines import Styles
from subpop.report.figures.setups import aggregates, plain_number
from subpop.report.markdown import escape
from subpop.results.metric_registry import metric_of
from subpop.types import Cell, CellReport
from subpop.types.kinds import Kind, Measure, Plan
from subpop.types.metric import Tolerance


class Speed(Kind):
    """Ratios of seconds, measured in every run while nothing else runs."""

    is_stored = False
    runs_by_default = False
    on_scoreboard = False

    def measurer(self, experiment: Experiment) -> Measure:
        """Times are never read from the store."""
        return lambda cell: measure_speed(cell, experiment.context)

    def task_key(self, cell: Cell) -> None:
        """None: workers do not measure these cells."""
        return

    def is_compared(self, metric: str) -> bool:
        """Only the ratio; the suite asserts that the comparison is fair."""
        return metric_of(metric).tolerance is Tolerance.LOWER_BOUND

    def speedups(self, reports: Sequence[CellReport]) -> list[list[str]]:
        """Rows of comparison, ratio, reference and verdict."""
        rows = []
        for report in reports:
            verdicts = {verdict.number.metric: verdict for verdict in report.verdicts}
            for number in aggregates(report):
                if self.is_compared(number.metric):
                    verdict = verdicts.get(number.metric)
                    what = f"{report.cell.victim}, {report.cell.defense}: {report.cell.setting_text}"
                    bound = plain_number(verdict.reference if verdict else None)
                    spread = "" if number.half_width is None else f" ± {number.half_width:.1f}"
                    rows.append([escape(what), f"{number.value:.1f}{spread}", bound, report.status])
        return rows

    def figures(self, reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
        """No figures."""
        return iter(())
