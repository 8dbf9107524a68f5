"""Table 12 as a picture: accuracy of the attacked, the pruned and the fine-tuned model against the size of the clean holdout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from subpop.report.figures.parts import legend_line, new_figure
from subpop.types import CellReport, Number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


STAGES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "attacked": ("attacked", {"color": "black", "marker": "o"}),
    "pruned": ("pruned", {"color": "#0072B2", "marker": "s"}),
    "finetuned": ("pruned, then fine-tuned", {"color": "#D55E00", "marker": "^"}),
}
WHERE: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "target": ("on the subpopulation", {"linestyle": "-", "linewidth": 1.6, "markersize": 5}),
    "test": ("on all test rows", {"linestyle": (0, (1, 1.5)), "linewidth": 1.0, "markersize": 3}),
}


def holdout_groups(reports: Iterable[CellReport]) -> dict[tuple[str, str], list[CellReport]]:
    """Cells that differ only in their holdout, by victim and defense; groups with a single size are left out."""
    groups: dict[tuple[str, str], list[CellReport]] = defaultdict(list)
    for report in reports:
        if report.result is not None and report.cell.defender.holdout is not None:
            groups[report.cell.victim, report.cell.defense].append(report)
    return {key: sorted(own, key=_size) for key, own in groups.items() if len({_size(report) for report in own}) > 1}


def accuracy_against_holdout(reports: Sequence[CellReport]) -> Figure:
    """Draw one panel per subpopulation; bars: the sample deviation over the runs of a cell."""
    names = sorted({number.subpopulation for r in reports if r.result for number in r.result.numbers if number.subpopulation})
    figure = new_figure(min(9.6, 1.4 + 2.7 * len(names)), 3.6)
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        axis.set_title(name, loc="left")
        for stage in STAGES:
            for where in WHERE:
                _draw(axis, reports, name, stage, where)
        sizes = sorted({_size(report) for report in reports})
        axis.set_xscale("log")
        axis.set_xticks(sizes, [f"{100 * size:g}" for size in sizes])
        axis.minorticks_off()
        axis.set_ylim(0, 102)
    figure.supxlabel("clean holdout (% of the test rows)", fontsize=9)
    figure.supylabel("accuracy (%)", fontsize=9)
    handles = [legend_line(label=label, linestyle="-", **look) for label, look in STAGES.values()]
    handles += [legend_line(label=label, color="#666666", **look) for label, look in WHERE.values()]
    figure.legend(handles=handles, loc="outside upper center", ncols=5, fontsize=8)
    return figure


def _draw(axis: Axes, reports: Sequence[CellReport], name: str, stage: str, where: str) -> None:
    found = [(_size(report), number) for report in reports if (number := _number(report, f"{stage}_{where}_accuracy", name))]
    errors = [100 * (number.std or 0.0) for _, number in found] if where == "target" else None
    values = [100 * number.value for _, number in found]
    shift = 1 + 0.05 * (list(STAGES).index(stage) - 1)  # or bars at one size would hide each other
    axis.errorbar([size * shift for size, _ in found], values, errors, elinewidth=0.9, **STAGES[stage][1], **WHERE[where][1])


def _number(report: CellReport, metric: str, subpopulation: str) -> Number | None:
    numbers = report.result.numbers if report.result else ()
    return next((n for n in numbers if n.metric == metric and n.subpopulation == subpopulation), None)


def _size(report: CellReport) -> float:
    return report.cell.defender.holdout or 0.0
