"""Figure 3: the pictures nearest to the centroids of six clusters, and the composition of the clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from subpop.report.figures.parts import new_figure
from subpop.types import Array, CellReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PREFIX = "pictures:"
ACROSS = 6
GAP = 2
"""Pixels between two pictures, at their original size."""


def has_pictures(report: CellReport) -> bool:
    return report.result is not None and any(name.startswith(PREFIX) for name in report.result.arrays)


def draw_clusters(report: CellReport) -> Figure:
    """Draw one panel per cluster: its pictures in rows, its name and size above, the composition of its rows below."""
    assert report.result is not None
    pictures = {n.removeprefix(PREFIX): p for n, p in report.result.arrays.items() if n.startswith(PREFIX)}
    rows = {str(row["subpopulation"]): row for row in report.result.table}
    lines = len(make_up(next(iter(rows.values()))))
    figure = new_figure(9.6, 2 * (2.45 + 0.17 * lines))
    axes = figure.subplots(2, 3).ravel()
    for axis, letter, (name, images) in zip(axes, "abcdef", pictures.items(), strict=False):
        axis.imshow(mosaic(images), cmap="gray_r" if images.shape[1] == 1 else None, interpolation="antialiased")
        axis.set_title(f"({letter}) {name}, {float(rows[name]['n_aux']):.0f} rows", loc="left", fontweight="bold")
        axis.set_xlabel("\n".join(make_up(rows[name])), loc="left")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.grid(visible=False)
        for side in axis.spines.values():
            side.set_visible(False)
    return figure


def make_up(row: Mapping[str, float | str]) -> list[str]:
    """`race: White (91 %)` for each annotation of a cluster."""
    names = [name for name in row if f"{name}_share" in row]
    return [f"{name.replace('_', ' ')}: {row[name]} ({100 * float(row[f'{name}_share']):.0f} %)" for name in names]


def mosaic(images: Array) -> Array:
    """(h, w, 3) or (h, w): pictures, uint8 (n, c, h, w), in rows of ACROSS, with a white gap between them."""
    n, channels, height, width = images.shape
    down = -(-n // ACROSS)
    white = 0 if channels == 1 else 255  # one channel is drawn with dark ink
    sheet = np.full((channels, down * (height + GAP) - GAP, ACROSS * (width + GAP) - GAP), white, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // ACROSS) * (height + GAP), (i % ACROSS) * (width + GAP)
        sheet[:, top : top + height, left : left + width] = image
    return sheet[0] if channels == 1 else sheet.transpose(1, 2, 0)
