"""Table 16: attacks on sets of targets by changing one training picture within epsilon."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import partial

from subpop.experiments.experiment import Experiment
from subpop.experiments.target_sets.measure import TargetSuite
from subpop.features.networks.frozen import is_frozen
from subpop.report.claims_table import claim_lines
from subpop.report.figures.influence import attacked_pictures, attacked_sets, success_against_epsilon, with_pictures
from subpop.report.figures.lines import Styles
from subpop.report.paper_tables import Column, Layout, paper_tables
from subpop.types import Cell, CellReport
from subpop.types.kinds import Kind, Measure, Plan

LAYOUT = Layout(
    {"epsilon": "epsilon (levels)", "partition": "selection"},
    [
        Column("worst-1", "success_worst_1"),
        Column("worst-5", "success_worst_5"),
        Column("iterations", "iterations_successful"),
        Column("mean", "success_mean"),
        Column("sets completed", "share_complete"),
        Column("mean, less random", "success_mean_difference"),
    ],
    errors=True,
)
CHANGED = (
    "The changed training picture of the most successful set, at some epsilons. Difference: grey is none, black and white are "
    "epsilon. Attacked pictures exist in float pixels; here they are rounded, which at half a level restores the original."
)


class TargetSets(Kind):
    """Cells of one set-up share the draws of their target sets, and are measured together."""

    on_scoreboard = False

    def measurer(self, experiment: Experiment) -> Measure:
        """Each draw is stored separately."""
        return TargetSuite(experiment.context).measure

    def expected_seconds(self, cell: Cell) -> float:
        """Time per cell, given that cells share their draws; a convolutional network of the hub takes long for each picture."""
        return 30.0 if is_frozen(cell.victim) else 1.5

    def parts(self, cell: Cell) -> int:
        """Each draw is a part."""
        return cell.n_seeds

    def measure_part(self, experiment: Experiment, cell: Cell, part: int) -> None:
        """One draw of all kinds of sets at all epsilons."""
        TargetSuite(experiment.context).measure_draw(cell, part)

    def task_key(self, cell: Cell) -> Hashable:
        """Cells with any kind of set and any epsilon are measured together."""
        return cell.stem, cell.dataset, cell.data.split

    def tables(self, reports: Sequence[CellReport]) -> list[str]:
        """A row for each epsilon and kind of set, and the verdicts on whether clusters are easier targets."""
        return paper_tables(LAYOUT, reports, claim_lines)

    def figures(self, reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
        """Success against epsilon, and changed pictures."""
        targets = attacked_sets(reports)
        if not targets:
            return
        n_draws = targets[0].cell.n_seeds
        bars = f" Bars, no intervals: sample deviation over {n_draws} draws of the sets." if n_draws > 1 else ""
        caption = f"Share of a set's targets that one changed training picture has misclassified.{bars}"
        alt = "success of the attack against epsilon, random sets beside sets from one cluster"
        yield Plan("success", partial(success_against_epsilon, targets), alt, caption)
        if shown := with_pictures(targets):
            yield Plan("pictures", partial(attacked_pictures, shown), "training pictures before and after the attack", CHANGED)
