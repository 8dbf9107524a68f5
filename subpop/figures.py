"""Pictures of a run: damage against alpha, target against collateral damage, and the panels of Figure 2. Never trains.

Drawn with matplotlib's object interface (no pyplot, so no global state): the same reports give the same bytes. Colours are those
of Okabe and Ito, which colour-blind readers tell apart; markers and dashes say the same once more.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from subpop.panels import draw_panels, has_panels
from subpop.setups import MATCHED, Row, Setup, by_setup, headline, is_control, is_finite, rates_of, rows_of, summarize
from subpop.types import CellReport

COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)))
CONTROL_STYLES: Mapping[str, Mapping[str, Any]] = {
    "none": {"color": "black", "linewidth": 2.2, "marker": "o"},
    "perfect_filter": {"color": "#555555", "linestyle": (0, (5, 1.5)), "marker": "*"},
    "random_filter": {"color": "#777777", "linestyle": (0, (1, 1)), "marker": "x"},
    "drop_duplicates": {"color": "#777777", "linestyle": "-.", "marker": "+"},
    "retrain": {"color": "#999999", "linestyle": "none", "marker": "_"},
}
STYLE = {
    "svg.hashsalt": "subpop",
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
DPI = 200
WIDTH = 8.0
# At this many subpopulations' worth of rows a marker has this area, in points squared.
AREA_PER_ROW, SMALLEST_AREA, LARGEST_AREA = 0.9, 10.0, 320.0


@dataclass(frozen=True)
class Picture:
    """A figure on disk: `<name>.svg` and `<name>.png`; alt: what it shows, for who cannot see it; caption: how to read it."""

    name: str
    stem: str
    dataset: str
    alt: str
    caption: str


def draw_all(reports: Iterable[CellReport], directory: Path, made_by: str = "") -> list[Picture]:
    """Draw every figure that the reports have numbers for; `made_by`: the command, kept in each file's metadata."""
    measured = [report for report in reports if report.result is not None]
    groups: dict[tuple[str, str, str], dict[Setup, list[CellReport]]] = defaultdict(dict)
    for setup, of_setup in by_setup(measured).items():
        groups[setup.stem, setup.tier, setup.dataset][setup] = of_setup
    pictures: list[Picture] = []
    for (stem, tier, dataset), setups in groups.items():
        for kind, draw, alt, caption in _plans(setups):
            name = file_name(f"{stem}-{tier}-{dataset}-{kind}")
            with mpl.rc_context(STYLE):
                save(draw(), directory / name, made_by)
            pictures.append(Picture(name, stem, dataset, f"{dataset}: {alt}", caption))
    return pictures
