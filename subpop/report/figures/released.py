"""Damages of a run on IMDB compared with the released trials: distributions, and damage against cluster size.

Victims trained in the same way share a colour: filled marks are ours, open ones were released. Nothing trains here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.report.figures.lines import COLOURS
from subpop.report.figures.parts import WIDTH, legend_line, new_figure
from subpop.report.figures.setups import by_setup, is_finite, short, titles_of
from subpop.results.metrics import eligible
from subpop.results.released import ALPHAS, VICTIMS, DamageTable, damage_table, trials_of
from subpop.types import Array, CellReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DATASETS = "imdb"
LOOKS: Mapping[str, tuple[str, str]] = {"bert_last_layer": ("#0072B2", "s"), "bert_fine_tuned": ("#D55E00", "^")}
"""Colour and marker of the released victims."""
OTHER_MARKERS = ("o", "D", "v", "P")
NEEDED = ("target_damage", "collateral_damage", "n_train", "n_test")
NEAR = 0.035
"""Points of a strip whose heights differ by less than this fraction of the panel are placed side by side."""
WIDEST = 0.3
RING: Mapping[str, Any] = {
    "marker": "o",
    "markersize": 8,
    "markerfacecolor": "none",
    "markeredgecolor": "black",
    "markeredgewidth": 0.9,
}
LINE_HEIGHT = 0.065
FEWEST_FOR_QUARTILES = 5
ALT = "target damage of clusters of IMDB reviews, this run next to the released trials, one column per alpha"
CAPTION = (
    "Target damage of clusters, this run (filled) and the trials released by the paper's authors (open). Above: clusters "
    "with enough test rows, their number, median and quartiles. Below: damage against the number of rows of a cluster in D; "
    "the worst cluster of each is ringed and named. Encoders, clusters and their number differ: informational, not gated. Each "
    "column has its own scale."
)


@dataclass(frozen=True, eq=False)
class Sample:
    """Damages of the subpopulations of one cell, (n,) each; collaterals: including those too small to be ranked.

    dataset: that of the run, empty for released trials.
    """

    label: str
    victim: str
    dataset: str
    names: tuple[str, ...]
    damages: Array
    collaterals: Array
    n_train: Array

    @property
    def ours(self) -> bool:
        return bool(self.dataset)

    @property
    def summed_up(self) -> DamageTable:
        return damage_table(self.damages, self.collaterals, self.n_train)


def comparable(reports: Iterable[CellReport]) -> list[CellReport]:
    """The undefended cells on IMDB at alphas with released trials."""
    return [
        report
        for report in reports
        if report.cell.dataset.startswith(DATASETS)
        and report.cell.defense == "none"
        and report.cell.rate in ALPHAS
        and _ranked(report)
    ]


def samples_of(reports: Sequence[CellReport]) -> dict[float, list[Sample]]:
    """Return samples by alpha: one per cell, those of released victims in their order, then the released ones."""
    found: dict[float, list[Sample]] = {}
    groups = by_setup(reports)
    for setup in sorted(groups, key=lambda setup: [*VICTIMS.values(), setup.victim].index(setup.victim)):
        rivals = [other for other in groups if (other.dataset, other.victim) == (setup.dataset, setup.victim)]
        settings = titles_of(rivals)[setup].partition("\n")[2]
        for report in groups[setup]:
            split = report.cell.option("split")
            words = [setup.victim, *([settings] if settings else []), *([f"split {split}"] if split else [])]
            found.setdefault(report.cell.rate, []).append(_ours(report, ", ".join(words)))
    return {rate: [*found[rate], *(released_sample(model, rate) for model in VICTIMS)] for rate in sorted(found)}


def _ranked(report: CellReport) -> list[Mapping[str, Any]]:
    """The subpopulations that worst-k ranks: those with both damages, sizes and enough test rows."""
    rows = report.result.table if report.result else ()
    known = [row for row in rows if all(is_finite(row.get(name)) for name in NEEDED)]
    return [row for row in known if eligible(float(row["n_test"]))]


def _ours(report: CellReport, label: str) -> Sample:
    rows = _ranked(report)
    table = report.result.table if report.result else ()
    others = [row["collateral_damage"] for row in table if is_finite(row.get("collateral_damage"))]
    columns = ([row[name] for row in rows] for name in ("target_damage", "n_train"))
    damages, sizes = (np.array(column, dtype=float) for column in columns)
    names = tuple(str(row["subpopulation"]) for row in rows)
    return Sample(label, report.cell.victim, report.cell.dataset, names, damages, np.array(others, dtype=float), sizes)


def released_sample(model: str, alpha: float) -> Sample:
    """The released trials of one model at one alpha."""
    trials = trials_of(model, alpha)
    names = tuple(f"{model} {trial.cluster}" for trial in trials)
    columns = ([getattr(trial, name) for trial in trials] for name in ("target_damage", "collateral_damage", "n_train"))
    return Sample(f"released {model}", VICTIMS[model], "", names, *(np.array(column, dtype=float) for column in columns))


# --- drawing ----------------------------------------------------------------------------------------------------------


def beside_released(reports: Sequence[CellReport]) -> Figure:
    """Draw two rows of panels, with one column per alpha."""
    samples = samples_of(reports)
    looks = looks_of(sample for of_rate in samples.values() for sample in of_rate)
    figure = new_figure(max(4.6, WIDTH * len(samples) / 3), 5.8)
    axes = figure.subplots(2, len(samples), squeeze=False, sharey="col")
    for column, (rate, of_rate) in zip(axes.T, samples.items(), strict=True):
        _limits(column, of_rate)
        _strips(column[0], of_rate, looks)
        _against_size(column[1], of_rate, looks)
        column[0].set_title(f"alpha {rate:g}", loc="left")
    figure.supylabel("target damage (%)", fontsize=9)
    ours = {sample.label for of_rate in samples.values() for sample in of_rate if sample.ours}
    names = {label: f"{label} (this run)" if label in ours else label for label in looks}
    handles = [legend_line(linestyle="none", label=names[label], **look) for label, look in looks.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=max(3, min(4, len(samples) + 1)), handletextpad=0.3)
    return figure


def looks_of(samples: Iterable[Sample]) -> dict[str, dict[str, Any]]:
    """Return colour and marker of each label: those of the released victim, otherwise unused ones."""
    looks: dict[str, dict[str, Any]] = {}
    free = [colour for colour in COLOURS if colour not in {own for own, _ in LOOKS.values()}]
    taken = set()
    for sample in sorted(samples, key=lambda sample: not sample.ours):
        if sample.label in looks:
            continue
        turn = len(looks)
        colour, marker = free[turn % len(free)], OTHER_MARKERS[turn % len(OTHER_MARKERS)]
        if sample.victim in LOOKS and (sample.victim, sample.ours) not in taken:
            colour, marker = LOOKS[sample.victim]
            taken.add((sample.victim, sample.ours))
        face = colour if sample.ours else "white"
        looks[sample.label] = {"color": colour, "marker": marker, "markerfacecolor": face, "markersize": 4.5}
    return looks


def _limits(column: Sequence[Axes], samples: Sequence[Sample]) -> None:
    from matplotlib.ticker import MaxNLocator

    heights = 100 * np.concatenate([sample.damages for sample in samples])
    low, high = min(0.0, heights.min()), max(0.0, heights.max())
    room = max(high - low, 1.0)
    for axis in column:
        axis.set_ylim(low - 0.06 * room, high + 0.1 * room)
        axis.axhline(0, color="#999999", linewidth=0.8, zorder=1)
        axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def _strips(axis: Axes, samples: Sequence[Sample], looks: Mapping[str, Mapping[str, Any]]) -> None:
    low, high = axis.get_ylim()
    for place, sample in enumerate(samples):
        heights, look = 100 * sample.damages, looks[sample.label]
        across = place + side_by_side(heights, NEAR * (high - low))
        axis.plot(across, heights, linestyle="none", alpha=0.75, **{**look, "markersize": 3.2, "markeredgewidth": 0.7})
        quarter, middle, three_quarters = np.quantile(heights, [0.25, 0.5, 0.75])
        axis.plot(place + 0.44, middle, linestyle="none", marker="_", color="black", markersize=8, markeredgewidth=2)
        if len(heights) >= FEWEST_FOR_QUARTILES:
            axis.vlines(place + 0.44, quarter, three_quarters, color="black", linewidth=1.2)
    axis.set_xlim(-0.55, len(samples) - 0.35)
    axis.set_xticks(range(len(samples)), [f"n = {len(sample.damages)}" for sample in samples])
    axis.tick_params(axis="x", length=0)
    axis.grid(visible=False, axis="x")


def side_by_side(heights: Array, near: float) -> Array:
    """Return (n,) shifts of up to WIDEST that separate points of similar height horizontally, the lowest in the middle."""
    shifts = np.zeros(len(heights))
    floors = np.floor(heights / near)
    most = max(int((floors == floor).sum()) for floor in np.unique(floors))
    step = min(0.1, 2 * WIDEST / max(1, most))
    for floor in np.unique(floors):
        there = np.flatnonzero(floors == floor)
        there = there[np.argsort(heights[there], kind="stable")]
        turns = np.arange(len(there))
        shifts[there] = step * np.where(turns % 2, (turns + 1) // 2, -(turns // 2))
    return shifts


def _against_size(axis: Axes, samples: Sequence[Sample], looks: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for sample in samples:
        look = {**looks[sample.label], "markersize": 3.6, "markeredgewidth": 0.8}
        axis.plot(np.maximum(sample.n_train, 1), 100 * sample.damages, linestyle="none", alpha=0.75, **look)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("rows of the cluster in D")
    _name_worst(axis, samples)


def _name_worst(axis: Axes, samples: Sequence[Sample]) -> None:
    """Mark the worst cluster of each sample with a ring and its name, moved down if another name is in the way."""
    from matplotlib.patheffects import withStroke

    axis.autoscale_view(scaley=False)  # otherwise the positions of points are not known yet
    to_panel = axis.transData + axis.transAxes.inverted()
    taken = np.inf
    for sample in sorted(samples, key=lambda sample: -sample.damages.max()):
        worst = int(np.argmax(sample.damages))
        point = (max(float(sample.n_train[worst]), 1.0), 100 * float(sample.damages[worst]))
        across, up = to_panel.transform(point)
        taken = min(up, taken - LINE_HEIGHT)
        right = across < 0.6
        place = (across + (0.05 if right else -0.05), taken)
        line = {"arrowstyle": "-", "color": "#777777", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4} if taken < up else None
        axis.plot(*point, **RING)
        label = axis.annotate(short(sample.names[worst], 18), point, place, textcoords="axes fraction", arrowprops=line)
        label.set(ha="left" if right else "right", va="center", fontsize=8)
        label.set_path_effects([withStroke(linewidth=2, foreground="white")])
