"""Susceptibility: how many label flips a subpopulation resists, and rank correlations with what may predict it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from subpop.experiments.experiment import Experiment
from subpop.experiments.kept_results import kept_result
from subpop.experiments.susceptibility import OUTCOMES, PREDICTORS, measure_susceptibility
from subpop.report.figures.lines import Styles
from subpop.report.figures.setups import NO_VALUE, is_finite
from subpop.report.figures.susceptibility import m50_against_predictors
from subpop.report.markdown import escape, folded, table
from subpop.types import Cell, CellReport, CellResult
from subpop.types.kinds import Kind, Measure, Plan

WORDS = {
    "size": "rows in D",
    "clean_accuracy": "clean accuracy",
    "loss_difference": "loss difference to a target model",
    "label_share": "attacker's label among similar rows",
    "m50": "m50",
    "m50_share": "m50 / rows in D",
}
HOW_TO_READ = (
    "m50: smallest number of label flips of distinct rows from which on half of the subpopulation's test rows or more are wrong "
    "(not comparable with published counts of model-targeted attacks). Kendall's tau over subpopulations with its 95 % interval "
    "over resampled subpopulations, which are disjoint; *partial*: after clean accuracy. Of subpopulations that resist all of "
    "their rows in D_aux, only pairs whose order is known count; subpopulations that are wrong without an attack are left out."
)
BOUND = (
    "*Model-targeted / bound*: rows that model-targeted poisoning adds to D_aux until half of the subpopulation's rows in it are "
    "wrong, and a lower bound on the number of flips of these rows that makes the victim the same model. It is a bound for "
    "reaching that model, not on any attack: other models may do the same harm with fewer rows. A dash: 256 rows are not enough."
)
CAPTION = (
    "Each point is a subpopulation, its m50 the median over draws. Triangles resist all of their rows in D_aux: m50 is larger. "
    "Subpopulations of which half is wrong without an attack are left out."
)


class Susceptibility(Kind):
    """The number of poison rows that every subpopulation of a cell resists."""

    on_scoreboard = False

    def measurer(self, experiment: Experiment) -> Measure:
        """The result is cached in the store."""
        return lambda cell: kept_result(
            cell, experiment, "subpop.experiments.susceptibility", lambda: measure_susceptibility(cell, experiment)
        )

    def expected_seconds(self, cell: Cell) -> float:
        """About a thousand fits of a linear victim."""
        return 2.0

    def tables(self, reports: Sequence[CellReport]) -> list[str]:
        """The correlations of every cell."""
        lines = [line for report in reports if report.result for line in _correlations(report.cell, report.result)]
        headings = [words for outcome in OUTCOMES for words in (WORDS[outcome], f"{WORDS[outcome]}, partial")]
        return [HOW_TO_READ, table(["data", "rank correlation with", *headings], lines, left=2)] if lines else []

    def sections(self, reports: Sequence[CellReport]) -> list[str]:
        """The subpopulations of every cell, the most susceptible ones first."""
        return [_subpopulations(report.cell, report.result) for report in reports if report.result]

    def figure_of(self, cell: Cell) -> str:
        """All data sets share one figure."""
        return "all"

    def figures(self, reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
        """m50 against each predictor."""
        if reports:
            alt = "poison rows that subpopulations resist, against size, clean accuracy, loss difference and similar rows' labels"
            yield Plan("m50", partial(m50_against_predictors, reports), alt, CAPTION)


def _correlations(cell: Cell, result: CellResult) -> Iterator[list[str]]:
    found = {number.metric: number.value for number in result.numbers}

    def words(name: str) -> str:
        if name not in found:
            return NO_VALUE
        return f"{found[name]:+.2f} [{found[f'{name}_low']:+.2f}, {found[f'{name}_high']:+.2f}]"

    for predictor in PREDICTORS:
        names = [f"{kind}_{outcome}_{predictor}" for outcome in OUTCOMES for kind in ("kendall", "partial_kendall")]
        if any(name in found for name in names):
            yield [escape(f"{cell.dataset}, {cell.partition}"), WORDS[predictor], *map(words, names)]


def _subpopulations(cell: Cell, result: CellResult) -> str:
    """A folded table; `>` marks a censored value."""

    def line(row: dict[str, float]) -> list[str]:
        above = "> " if row["m50_censored"] else ""
        counts = f"{above}{row['m50']:g}", f"{row['m50_low']:g} to {row['m50_high']:g}", f"{above}{row['m50_share']:.2f}"
        words = ["trivial", NO_VALUE, NO_VALUE] if row["m50_trivial"] else list(counts)
        sizes = [f"{row[name]:.0f}" for name in ("n_train", "n_aux", "n_test")]
        loss = f"{row['loss_difference']:.4f}" if is_finite(row["loss_difference"]) else NO_VALUE
        bound = f"{row['targeted_count']:.0f} / {row['targeted_bound']:.0f}" if is_finite(row["targeted_bound"]) else NO_VALUE
        others = [f"{row['target_clean_accuracy']:.2f}", loss, f"{row['label_share']:.2f}", bound]
        return [escape(row["subpopulation"]), *words, *sizes, *others]

    rows = sorted((dict(row) for row in result.table), key=lambda row: (row["m50_censored"], row["m50"], row["subpopulation"]))
    headings = ["subpopulation", "m50, median", "range", "m50 / rows in D", "in D", "in D_aux", "in D_test"]
    headings += ["clean accuracy", "loss difference", "attacker's label", "model-targeted / bound"]
    title = f"{cell.dataset} · {cell.victim} · {cell.partition} ({cell.tier})"
    return folded(title, f"{BOUND}\n\n" + table(headings, [line(row) for row in rows]))  # type: ignore[arg-type]
