"""Pictures of a run: damage against alpha, target against collateral damage, and the panels of Figure 2. Never trains.

Drawn with matplotlib's object interface (no pyplot, so no global state): the same reports give the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from joblib import Parallel, delayed
from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.image import imsave

from subpop.figures.holdouts import accuracy_against_holdout, holdout_groups
from subpop.figures.impossibility import ALT, CAPTION, draw_impossibility, is_impossibility
from subpop.figures.impossibility import STEM as IMPOSSIBILITY
from subpop.figures.influence import attacked_pictures, attacked_sets, success_against_epsilon, with_pictures
from subpop.figures.lines import Styles, damage_against_alpha, styles_of
from subpop.figures.pictures import draw_clusters, has_pictures
from subpop.figures.released import ALT as RELEASED_ALT
from subpop.figures.released import CAPTION as RELEASED_CAPTION
from subpop.figures.released import beside_released, comparable
from subpop.figures.scatters import (
    DPI,
    LABELLED,
    columns_and_letters,
    draw_panels,
    panel_order,
    panel_title,
    target_against_collateral,
)
from subpop.figures.setups import Setup, by_setup, headline, is_control, metric_words, rates_of, summarize, titles_of
from subpop.metric_registry import metric_of
from subpop.types import CellReport

STYLE: Any = {
    "svg.hashsalt": "subpop",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
FIGURES_THAT_PAY = 12
"""Figures from which on processes of their own are worth their start."""


@dataclass(frozen=True)
class Picture:
    """A figure on disk: `<name>.svg` and `<name>.png`; alt: what it shows, for who cannot see it; caption: how to read it."""

    name: str
    kind: str
    stem: str
    tier: str
    dataset: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Plan:
    """A figure that can be drawn."""

    kind: str
    draw: Callable[[], Figure]
    alt: str
    caption: str


def draw_all(reports: Iterable[CellReport], directory: Path, made_by: str = "") -> list[Picture]:
    """Draw every figure that the reports have numbers for; `made_by`: the command, kept in each file's metadata."""
    measured = [report for report in reports if report.result is not None]
    styles = styles_of(report.cell.defense for report in measured)
    groups: dict[tuple[str, str, str], dict[Setup, list[CellReport]]] = defaultdict(dict)
    for setup, of_setup in by_setup(measured).items():
        dataset = "all" if setup.stem == IMPOSSIBILITY else setup.dataset
        groups[setup.stem, setup.tier, dataset][setup] = of_setup
    pictures, missing = [], []
    for (stem, tier, dataset), of_dataset in groups.items():
        own = [report for of_setup in of_dataset.values() for report in of_setup]
        key = content_key(own, made_by + repr(styles) + metric_words(headline(own)))
        for plan in _plans(of_dataset, styles):
            path = directory / file_name(f"{stem}-{tier}-{dataset}-{plan.kind}")
            if not _is_drawn(path, key):
                missing.append((plan.draw, path, made_by, key))
            pictures.append(Picture(path.name, plan.kind, stem, tier, dataset, f"{dataset}: {plan.alt}", plan.caption))
    _draw_missing(missing, directory)
    return pictures


def _draw_missing(missing: Sequence[tuple[Callable[[], Figure], Path, str, str]], directory: Path) -> None:
    """Draw figures that are not there yet: many of them on all cores, since a figure takes a third of a second of one."""
    if missing:
        directory.mkdir(exist_ok=True)
    n_jobs = -1 if len(missing) >= FIGURES_THAT_PAY else 1
    Parallel(n_jobs=n_jobs)(delayed(_draw)(*figure) for figure in missing)


def _draw(draw: Callable[[], Figure], path: Path, made_by: str, key: str) -> None:
    with style.context(["default", STYLE]):  # not the reader's own matplotlibrc
        save(draw(), path, made_by, key)


def save(figure: Figure, path: Path, made_by: str = "", key: str = "") -> None:
    """Write `<path>.svg` and `<path>.png`; no date, no version, so that equal figures are equal bytes."""
    told = {"Description": made_by} if made_by else {}
    # Laid out and rendered once a format: `savefig` would do both several times over.
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")
    imsave(
        path.with_name(path.name + ".png"), canvas.buffer_rgba(), format="png", dpi=DPI, metadata={"Software": "subpop", **told}
    )
    unfinished = path.with_name(path.name + ".svg.part")
    vectors: Any = FigureCanvasSVG(figure)
    vectors.print_svg(unfinished, metadata={"Date": None, "Creator": "subpop", "Identifier": key or None, **told})
    unfinished.replace(path.with_name(path.name + ".svg"))


def content_key(reports: Iterable[CellReport], settings: str) -> str:
    """A hash of all that a figure shows and of what draws it."""
    digest = hashlib.blake2b(f"{mpl.__version__} {settings}".encode(), digest_size=16)
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    for report in reports:
        assert report.result is not None
        digest.update(repr((report.cell, report.result.numbers, report.result.table)).encode())
        for name, array in sorted(report.result.arrays.items()):
            digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _is_drawn(path: Path, key: str) -> bool:
    """Whether both files are there and hold these contents; the SVG is written last and bears the key."""
    svg = path.with_name(path.name + ".svg")
    if not (svg.is_file() and path.with_name(path.name + ".png").is_file()):
        return False
    with svg.open(encoding="utf-8", errors="replace") as file:
        return key in file.read(4000)


def file_name(text: str) -> str:
    """A name that every file system takes; what had to be changed to get it is told apart by a hash."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-")
    return (
        plain if plain == text else f"{plain}-{hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"
    )


# --- which figures there are ------------------------------------------------------------------------------------------


def _plans(groups: Mapping[Setup, list[CellReport]], styles: Styles) -> Iterator[Plan]:
    """The figures of one data set in one suite."""
    found = [r for of_setup in groups.values() for r in of_setup]
    if is_impossibility(found):
        yield Plan("impossibility", partial(draw_impossibility, found), ALT, CAPTION)
        return
    if targets := attacked_sets(found):
        yield from _influence_plans(targets)
        return
    swept = {setup: of_setup for setup, of_setup in groups.items() if _n_attacked_rates(of_setup) > 1}
    if swept:
        yield _damage_plan(swept, styles)
    if beside := comparable(found):
        yield Plan("released", partial(beside_released, beside), RELEASED_ALT, RELEASED_CAPTION)
    with_panels = [panels for of_setup in groups.values() if (panels := panel_order(of_setup))]
    for i, panels in enumerate(with_panels):
        yield _panels_plan(i, panels)
    for i, report in enumerate(r for of_setup in groups.values() for r in of_setup if has_pictures(r)):
        yield _clusters_plan(i, report)
        return
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
    n_splits = max(n_splits, len({r.cell.option("split", "") for r in reports}))
    bars = f"the sample deviation over {n_splits} splits" if n_splits > 1 else "standard errors"
    alt = f"{words} against alpha, a line for each defense, in {len(groups)} panels"
    caption = f"{words} against the poisoning rate alpha; {better} is better for the defender. Bars: {bars}."
    return Plan("damage", partial(damage_against_alpha, groups, styles), alt, caption)


def _cloud_plans(groups: Mapping[Setup, list[CellReport]]) -> Iterator[Plan]:
    """One figure with a panel a set-up where nobody defends; else one a set-up, with a panel a defense."""
    caption = (
        "Each circle is a subpopulation: its area is the number of its rows in D, its colour alpha. High: it is hurt; far right: "
        f"others are hurt with it. The {LABELLED} that are hurt most are ringed and named.{{}}"
    )
    undefended: list[tuple[str, list[CellReport]]] = []
    note, titles = "", titles_of(groups, columns_and_letters(len(groups))[1])
    for i, (setup, of_setup) in enumerate(groups.items()):
        splits = sorted({report.cell.option("split", "") for report in of_setup})
        note = f" Split {splits[0]} only." if len(splits) > 1 else ""
        panels = _panels_by_defense(report for report in of_setup if report.cell.option("split", "") == splits[0])
        if [name for name, _ in panels] == ["none"]:
            undefended.append((titles[setup], panels[0][1]))
        elif panels:
            alt = f"target against collateral damage, {setup.victim}, {setup.partition}, a panel for each defense"
            yield Plan(f"collateral-{i + 1}", partial(target_against_collateral, panels), alt, caption.format(note))
    if undefended:
        alt = "target against collateral damage, undefended"
        yield Plan("collateral", partial(target_against_collateral, undefended), alt, caption.format(note))


def _panels_by_defense(reports: Iterable[CellReport]) -> list[tuple[str, list[CellReport]]]:
    """The attacked cells of each defense that is no control, after those of `none`."""
    panels: dict[str, list[CellReport]] = defaultdict(list)
    for report in reports:
        cell = report.cell
        if cell.rate > 0 and not cell.option("n_poison_told", "") and (cell.defense == "none" or not is_control(cell.defense)):
            panels[cell.defense].append(report)
    return sorted(panels.items(), key=lambda panel: (panel[0] != "none", panel[0]))


def _holdout_plan(i: int, victim: str, defense: str, reports: Sequence[CellReport]) -> Plan:
    caption = f"{victim} under {defense}. Bars: sample deviation over {reports[0].cell.n_seeds} runs."
    alt = f"accuracy of attacked, pruned and fine-tuned {victim} against the size of the holdout, a panel a subpopulation"
    return Plan(f"holdout-{i + 1}", partial(accuracy_against_holdout, reports), alt, caption)


def _influence_plans(reports: Sequence[CellReport]) -> Iterator[Plan]:
    n_draws = reports[0].cell.n_seeds
    bars = f" Bars: sample deviation over {n_draws} draws of the sets." if n_draws > 1 else ""
    caption = f"Share of a set's targets that one changed training picture has misclassified.{bars}"
    alt = "success of the attack against epsilon, random sets beside sets from one cluster"
    yield Plan("success", partial(success_against_epsilon, reports), alt, caption)
    if shown := with_pictures(reports):
        caption = (
            "The changed training picture of the most successful set, at some epsilons. Difference: grey is none, black and "
            "white are epsilon. Attacked pictures exist in float pixels; here they are rounded, which at half a level restores "
            "the original."
        )
        yield Plan("pictures", partial(attacked_pictures, shown), "training pictures before and after the attack", caption)


def _clusters_plan(i: int, report: CellReport) -> Plan:
    caption = (
        "Six clusters whose make-up is least like that of the data; of each, the pictures of D_aux nearest to its centroid. "
        "Below: the most common value of each annotation among all of its rows, and of the label."
    )
    return Plan(f"clusters-{i + 1}", partial(draw_clusters, report), "pictures of six clusters", caption)


def _panels_plan(i: int, panels: Sequence[CellReport]) -> Plan:
    titles = "; ".join(panel_title(report).replace("\n", ", ") for report in panels)
    caption = (
        "Blue and orange are the two classes, as labelled in training; the shading is what the victim predicts. "
        "Triangles are poison, crosses what the defense removed (red: poison), the green outline holds the target subpopulation."
    )
    return Plan(f"panels-{i + 1}", partial(draw_panels, panels), f"decision regions: {titles}", caption)
