"""Every attack against every defense as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from subpop.report.figures.parts import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


LARGEST = 60.0
"""Damage in percent of the darkest colour."""


def heat_map(
    values: NDArray[np.float64], defenses: Sequence[str], attacks: Sequence[str], framed: Sequence[int], n_compared: int
) -> Figure:
    """Draw damages in percent.

    values: (defenses, attacks), NaN where there is none; framed: the column that gets a frame in each row; n_compared: the number
    of columns before the vertical line.
    """
    from matplotlib.patches import Rectangle

    figure = new_figure(2.6 + 0.75 * len(attacks), 1.3 + 0.23 * len(defenses))
    axis = figure.subplots()
    image = axis.imshow(values, cmap="RdBu_r", vmin=-LARGEST, vmax=LARGEST, aspect="auto")
    for i, j in np.argwhere(np.isfinite(values)):
        colour = "white" if abs(values[i, j]) > 0.7 * LARGEST else "black"
        axis.text(j, i, f"{round(values[i, j])}", ha="center", va="center", fontsize=6, color=colour)
    for i, j in enumerate(framed):
        axis.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=1.2))
    axis.axvline(n_compared - 0.5, color="black", linewidth=2)
    axis.set_xticks(range(len(attacks)), attacks, rotation=35, ha="left", fontsize=7)
    axis.xaxis.tick_top()
    axis.set_yticks(range(len(defenses)), defenses, fontsize=7)
    axis.tick_params(length=0)
    axis.grid(visible=False)
    figure.colorbar(image, ax=axis, shrink=0.5, label="damage net of controls, %")
    return figure
