"""Empty figures and entries of legends. matplotlib takes most of a second to import: figures import it when they are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDTH, DPI = 8.0, 200


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of this size, in inches, which lays itself out."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def legend_line(**look: Any) -> Line2D:
    """Return a line without points, for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **look)
