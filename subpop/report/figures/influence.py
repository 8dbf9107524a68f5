"""Figures of Table 16: success against epsilon for clusters and random sets, and an example of an attacked picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from subpop.report.figures.parts import new_figure
from subpop.types import Array, CellReport, Number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


PANELS = {"success_worst_1": "worst-1", "success_worst_5": "worst-5", "success_mean": "mean of all sets"}
LOOKS = {
    "random": ("random sets", {"color": "#0072B2", "marker": "o", "linestyle": "-"}),
    "cluster_match": ("sets from one cluster", {"color": "#D55E00", "marker": "s", "linestyle": "--"}),
    "koh_dog": ("Koh and Liang's dog", {"color": "#009E73", "marker": "^", "linestyle": ":"}),
}
SHOWN_EPSILONS = 4


def attacked_sets(reports: Iterable[CellReport]) -> list[CellReport]:
    """The cells that attacked target sets."""
    return [r for r in reports if r.result is not None and any(n.metric == "success_mean" for n in r.result.numbers)]


def epsilon_of(report: CellReport) -> float:
    return report.cell.epsilon or 0.0


def success_against_epsilon(reports: Sequence[CellReport]) -> Figure:
    """Draw one panel per number and one line per kind of set; bars: the sample deviation over draws."""
    figure = new_figure(9.6, 3.4)
    axes = figure.subplots(1, len(PANELS), sharey=True, squeeze=False)[0]
    epsilons = sorted({epsilon_of(report) for report in reports})
    kinds = [kind for kind in LOOKS if any(report.cell.partition == kind for report in reports)]
    for axis, (metric, title) in zip(axes, PANELS.items(), strict=True):
        axis.set_title(title, loc="left")
        for place, kind in enumerate(kinds):
            own = sorted((r for r in reports if r.cell.partition == kind), key=epsilon_of)
            _draw(axis, own, metric, kind, 1 + 0.06 * (place - (len(kinds) - 1) / 2))
        axis.set_xscale("log", base=2)
        axis.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
        axis.minorticks_off()
        axis.set_ylim(-4, 104)
    figure.supxlabel("epsilon: how far a pixel may move (8-bit levels)", fontsize=9)
    figure.supylabel("targets misclassified (%)", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8)
    return figure


def _draw(axis: Axes, reports: Sequence[CellReport], metric: str, kind: str, shift: float) -> None:
    """Draw one line, shifted slightly, since bars of two lines at the same epsilon would overlap."""
    found = [(epsilon_of(report), number) for report in reports if (number := _number(report, metric))]
    errors = [100 * (number.std or 0.0) if np.isfinite(number.std or 0.0) else 0.0 for _, number in found]
    label, look = LOOKS[kind]
    places = [epsilon * shift for epsilon, _ in found]
    values = [100 * number.value for _, number in found]
    axis.errorbar(places, values, errors, label=label, linewidth=1.4, markersize=5, elinewidth=0.9, capsize=2, **look)  # type: ignore[arg-type]


def _number(report: CellReport, metric: str) -> Number | None:
    numbers = report.result.numbers if report.result else ()
    return next((number for number in numbers if number.metric == metric), None)


def with_pictures(reports: Sequence[CellReport]) -> list[CellReport]:
    """For up to SHOWN_EPSILONS evenly spread epsilons, the cell with the most successful set; ties go to the later kind."""
    by_epsilon: dict[float, CellReport] = {}
    for report in sorted(reports, key=lambda r: (epsilon_of(r), _best(r), list(LOOKS).index(r.cell.partition))):
        if report.result is not None and "attacked" in report.result.arrays:
            by_epsilon[epsilon_of(report)] = report
    epsilons = sorted(by_epsilon)
    count = min(SHOWN_EPSILONS, len(epsilons))
    chosen = {epsilons[round(i * (len(epsilons) - 1) / max(1, count - 1))] for i in range(count)}
    return [by_epsilon[epsilon] for epsilon in sorted(chosen)]


def _best(report: CellReport) -> float:
    success = report.result.arrays.get("success") if report.result else None
    return -1.0 if success is None else float(success[0])


def attacked_pictures(reports: Sequence[CellReport]) -> Figure:
    """Draw one column per epsilon: the original picture, the attacked one, and the difference, with epsilon black or white."""
    figure = new_figure(min(9.6, 1.2 + 2.1 * len(reports)), 6.6)
    axes = figure.subplots(3, len(reports), squeeze=False)
    for column, report in enumerate(reports):
        assert report.result is not None
        original, attacked = (report.result.arrays[name].astype(np.float64) for name in ("original", "attacked"))
        scaled = 127.5 + 127.5 * (attacked - original) / epsilon_of(report)
        for axis, picture in zip(axes[:, column], (original, attacked, scaled), strict=True):
            _show(axis, picture)
        axes[0, column].set_title(f"epsilon {epsilon_of(report):g}\n{LOOKS[report.cell.partition][0]}", loc="left")
        axes[2, column].set_xlabel(f"{100 * _best(report):.0f} % of the targets fall", fontsize=8)
    for axis, words in zip(axes[:, 0], ("original", "attacked", "difference, scaled"), strict=True):
        axis.set_ylabel(words)
    return figure


def _show(axis: Axes, picture: Array) -> None:
    """Show a picture, (c, h, w) in 0..255."""
    grey = picture.shape[0] == 1
    pixels = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
    axis.imshow(pixels[0] if grey else pixels.transpose(1, 2, 0), cmap="gray" if grey else None, vmin=0, vmax=255)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    for side in axis.spines.values():
        side.set_visible(False)
