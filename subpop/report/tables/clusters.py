"""Figure 3: pictures and composition of the clusters of ClusterMatch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from subpop.experiments.clusters import describe_clusters
from subpop.experiments.experiment import Experiment
from subpop.experiments.kept_results import kept_result
from subpop.report.figures.lines import Styles
from subpop.report.figures.pictures import draw_clusters, has_pictures
from subpop.types import Cell, CellReport
from subpop.types.kinds import Kind, Measure, Plan

CAPTION = (
    "Six clusters whose make-up is least like that of the data; of each, the pictures of D_aux nearest to its centroid. "
    "Below: the most common value of each annotation among all of its rows, and of the label."
)


class Clusters(Kind):
    """Pictures and composition of the most distinctive clusters."""

    on_scoreboard = False

    def measurer(self, experiment: Experiment) -> Measure:
        """Describes clusters of D_aux; the result is cached in the store."""
        return lambda cell: kept_result(
            cell, experiment, "subpop.experiments.clusters", lambda: describe_clusters(cell, experiment.context)
        )

    def expected_seconds(self, cell: Cell) -> float:
        """Assumes that the clusters are recorded."""
        return 0.1

    def figures(self, reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
        """The pictures of one cell."""
        for report in filter(has_pictures, reports):
            yield Plan("clusters-1", partial(draw_clusters, report), "pictures of six clusters", CAPTION)
            return
