"""Clusters of film reviews, compared with the trials on IMDB that the paper's authors released."""

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
    """Poisoning cells; those on IMDB are compared with the released trials."""

    def sections(self, reports: Sequence[CellReport]) -> list[str]:
        """A comparison with the released damages."""
        return beside_released_trials(reports)

    def figures(self, reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
        """The figures of poisoning cells, and a figure of damages with the released ones."""
        yield from poisoning_plans(reports, styles)
        if beside := comparable(reports):
            yield Plan("released", partial(beside_released, beside), ALT, CAPTION)
