"""Clusters of film reviews, beside the trials on IMDB that the paper's authors released."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from subpop.report.figures.lines import Styles
from subpop.report.figures.plans import poisoning_plans
from subpop.report.figures.released import ALT, CAPTION, beside_released, comparable
from subpop.report.released import beside_released_trials
from subpop.report.tables.poisoning import Poisoning
from subpop.types import CellReport
from subpop.types.kinds import Plan


class Imdb(Poisoning):
    """Poisoning cells, compared with the released trials where they are of IMDB."""

    def sections(self, reports: Sequence[CellReport]) -> list[str]:
        """How the damages compare with the released ones."""
        return beside_released_trials(reports)

    def figures(self, reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
        """Those of poisoning cells, and damages beside the released ones."""
        yield from poisoning_plans(reports, styles)
        if beside := comparable(reports):
            yield Plan("released", partial(beside_released, beside), ALT, CAPTION)
