"""The figures that can be drawn for poisoning cells."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from subpop.report.figures.differences import MOST_LINES, compared_rows, difference_against_alpha
from subpop.report.figures.holdouts import accuracy_against_holdout, holdout_groups
from subpop.report.figures.lines import Styles, damage_against_alpha
from subpop.report.figures.scatters import (
    LABELLED,
    columns_and_letters,
    draw_panels,
    panel_order,
    panel_title,
    target_against_collateral,
)
from subpop.report.figures.setups import Setup, by_setup, headline, is_control, metric_words, rates_of, summarize, titles_of
from subpop.results.intervals import FEWEST_VALUES
from subpop.results.metric_registry import metric_of
from subpop.types import CellReport
from subpop.types.kinds import Plan


def poisoning_plans(reports: Sequence[CellReport], styles: Styles) -> Iterator[Plan]:
    """The figures of poisoning cells of one data set in one suite."""
    groups = by_setup(reports)
    swept = {setup: of_setup for setup, of_setup in groups.items() if _n_attacked_rates(of_setup) > 1}
    compared = {setup: of_setup for setup, of_setup in swept.items() if compared_rows(of_setup)}
    if compared:
        yield _difference_plan(compared, styles)
    if len(compared) < len(swept):
        yield _damage_plan({setup: own for setup, own in swept.items() if setup not in compared}, styles)
    with_panels = [panels for of_setup in groups.values() if (panels := panel_order(of_setup))]
    for i, panels in enumerate(with_panels):
        yield _panels_plan(i, panels)
    with_holdouts = holdout_groups(r for of_setup in groups.values() for r in of_setup)
    for i, ((victim, defense), own) in enumerate(with_holdouts.items()):
        yield _holdout_plan(i, victim, defense, own)
    clouds = {
        setup: of_setup
        for setup, of_setup in groups.items()
        if sum(len(r.result.table) for r in of_setup if r.result) > len(of_setup) and not dict(setup.setting).get("holdout")
    }
    yield from _cloud_plans(clouds)


def _n_attacked_rates(reports: Sequence[CellReport]) -> int:
    metric = headline(reports)
    return len(rates_of(r for r in reports if r.cell.rate > 0 and summarize([r], metric)))


def _damage_plan(groups: Mapping[Setup, list[CellReport]], styles: Styles) -> Plan:
    reports = [report for of_setup in groups.values() for report in of_setup]
    metric = metric_of(headline(reports))
    words, better = metric_words(metric.name), metric.better.value
    n_splits = max((s.n_splits for r in reports for s in [summarize([r], headline([r]))] if s), default=1)
    n_splits = max(n_splits, len({r.cell.option("split") for r in reports}))
    bars = (
        f"the sample deviation over {n_splits} splits"
        if n_splits > 1
        else f"95 % intervals of the expectation over seeds and test rows, of at least {FEWEST_VALUES} seeds"
    )
    alt = f"{words} against alpha, a line for each defense, in {len(groups)} panels"
    caption = f"{words} against the poisoning rate alpha; {better} is better for the defender. Bars: {bars}."
    return Plan("damage", partial(damage_against_alpha, groups, styles), alt, caption)


def _difference_plan(groups: Mapping[Setup, list[CellReport]], styles: Styles) -> Plan:
    most = max(len(compared_rows(of_setup)) for of_setup in groups.values())
    some = f" Of {most} defenses, the {MOST_LINES} with the least damage." if most > MOST_LINES else ""
    metric = metric_words(headline(r for of_setup in groups.values() for r in of_setup)).lower()
    caption = (
        "Target damage less that of no defense against the poisoning rate alpha: below the line, a defense helps. Bars: 95 % "
        f"intervals of the paired difference over the subpopulations that are hurt. In parentheses: the {metric} in % without a "
        f"defense.{some}"
    )
    alt = f"difference from no defense against alpha, a line for each defense, in {len(groups)} panels"
    return Plan("difference", partial(difference_against_alpha, groups, styles), alt, caption)


def _cloud_plans(groups: Mapping[Setup, list[CellReport]]) -> Iterator[Plan]:
    """Plan one figure with a panel per set-up if there is no defense; otherwise one figure per set-up with a panel per
    defense."""
    caption = (
        "Each circle is a subpopulation: its area is the number of its rows in D, its colour alpha. High: large damage; far "
        f"right: large collateral damage. The {LABELLED} with the largest damage are ringed and named.{{}}"
    )
    undefended: list[tuple[str, list[CellReport]]] = []
    note, titles = "", titles_of(groups, columns_and_letters(len(groups))[1])
    for i, (setup, of_setup) in enumerate(groups.items()):
        splits = sorted({report.cell.option("split") for report in of_setup})
        note = f" Split {splits[0]} only." if len(splits) > 1 else ""
        panels = _panels_by_defense(report for report in of_setup if report.cell.option("split") == splits[0])
        if [name for name, _ in panels] == ["none"]:
            undefended.append((titles[setup], panels[0][1]))
        elif panels:
            alt = f"target against collateral damage, {setup.victim}, {setup.partition}, a panel for each defense"
            yield Plan(f"collateral-{i + 1}", partial(target_against_collateral, panels), alt, caption.format(note))
    if undefended:
        alt = "target against collateral damage, undefended"
        yield Plan("collateral", partial(target_against_collateral, undefended), alt, caption.format(note))


def _panels_by_defense(reports: Iterable[CellReport]) -> list[tuple[str, list[CellReport]]]:
    """The attacked cells of each defense except controls, with `none` first."""
    panels: dict[str, list[CellReport]] = defaultdict(list)
    for report in reports:
        cell = report.cell
        if cell.rate > 0 and not cell.option("n_poison_told") and (cell.defense == "none" or not is_control(cell.defense)):
            panels[cell.defense].append(report)
    return sorted(panels.items(), key=lambda panel: (panel[0] != "none", panel[0]))


def _holdout_plan(i: int, victim: str, defense: str, reports: Sequence[CellReport]) -> Plan:
    caption = f"{victim} under {defense}. Bars, no intervals: sample deviation over {reports[0].cell.n_seeds} runs."
    alt = f"accuracy of attacked, pruned and fine-tuned {victim} against the size of the holdout, a panel a subpopulation"
    return Plan(f"holdout-{i + 1}", partial(accuracy_against_holdout, reports), alt, caption)


def _panels_plan(i: int, panels: Sequence[CellReport]) -> Plan:
    titles = "; ".join(panel_title(report).replace("\n", ", ") for report in panels)
    caption = (
        "Blue and orange are the two classes, as labelled in training; the shading shows the victim's predictions. "
        "Triangles are poison rows, filled with the colour of their label. Crosses are rows that the defense removed, "
        "red for poison and black for clean rows. The green outline encloses the target."
    )
    return Plan(f"panels-{i + 1}", partial(draw_panels, panels), f"decision regions: {titles}", caption)
