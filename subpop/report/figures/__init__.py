"""Figures of a run: damage against alpha, target against collateral damage, and the panels of Figure 2. Nothing trains here.

They are drawn with matplotlib's object interface (no pyplot, so no global state). Equal reports give byte-identical files.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.report.figures.lines import styles_of
from subpop.report.figures.parts import DPI
from subpop.report.figures.setups import by_setup, headline, metric_words
from subpop.runtime.threads import n_cores
from subpop.runtime.workers import worker_processes
from subpop.types import CellReport
from subpop.types.kinds import Plan, by_kind, kind_named

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
"""Minimum number of figures for which drawing in several processes is worthwhile."""


@dataclass(frozen=True)
class Picture:
    """A figure on disk, `<name>.svg` and `<name>.png`; alt: alternative text; caption: how to read it."""

    name: str
    kind: str
    stem: str
    tier: str
    dataset: str
    alt: str
    caption: str


def begin_to_draw(reports: Iterable[CellReport], directory: Path) -> tuple[list[Picture], Callable[[], None]]:
    """Draw every figure for which the reports have numbers, while this process does something else; one that is there with the
    same content is kept. Returns the figures and a function that waits for them."""
    pictures, missing, reports = [], [], list(reports)
    hashes = {id(report): _hash(report) for report in reports if report.result}  # several figures show the same report
    for (stem, tier, dataset), own, styles, plan in _plans(reports):
        key = content_key([hashes[id(report)] for report in own], repr(styles) + metric_words(headline(own)))
        path = directory / file_name(f"{stem}-{tier}-{dataset}-{plan.kind}")
        if not _is_drawn(path, key):
            missing.append((plan.draw, path, key))
        pictures.append(Picture(path.name, plan.kind, stem, tier, dataset, f"{dataset}: {plan.alt}", plan.caption))
    drawing = _draw_missing(missing, directory)
    return pictures, lambda: deque(drawing, maxlen=0).clear()


def figures_of(reports: Iterable[CellReport]) -> list[Figure]:
    """The figures for which the reports have numbers, drawn in memory, as `begin_to_draw` writes them."""
    from matplotlib import style

    with style.context(["default", STYLE]):
        return [plan.draw() for _, _, _, plan in _plans(reports)]


def _plans(reports: Iterable[CellReport]) -> Iterator[tuple[tuple[str, str, str], list[CellReport], Any, Plan]]:
    """Each figure with its suite, tier and data set, the reports that it shows, and the styles of defenses."""
    measured = [report for report in reports if report.result is not None]
    styles = styles_of(report.cell.defense for report in measured)
    groups: dict[tuple[str, str, str, str], list[CellReport]] = defaultdict(list)
    for kind, of_kind in by_kind(measured).items():
        for of_setup in by_setup(of_kind).values():
            cell = of_setup[0].cell
            groups[cell.stem, cell.tier, kind.figure_of(cell), cell.kind] += of_setup
    for (stem, tier, dataset, kind_name), own in groups.items():
        for plan in kind_named(kind_name).figures(own, styles):
            yield (stem, tier, dataset), own, styles, plan


def draw_once(draw: Callable[[], Figure], path: Path, key: str) -> None:
    """Draw one figure, unless it is there with the same content, whose hash is the key."""
    if not _is_drawn(path, key):
        path.parent.mkdir(exist_ok=True)
        _draw(draw, path, key)


def _draw_missing(missing: Sequence[tuple[Callable[[], Figure], Path, str]], directory: Path) -> Iterator[object]:
    """Draw missing figures as the iterator advances; if there are many, on all cores from now on, since each takes .3 s."""
    if missing:
        directory.mkdir(exist_ok=True)
    if len(missing) < FIGURES_THAT_PAY or n_cores() == 1:
        return starmap(_draw, missing)
    workers = worker_processes(min(n_cores(), len(missing)))
    begun = [workers.submit(_draw, *figure) for figure in missing]

    def drawn() -> Iterator[object]:
        try:
            for figure in begun:
                yield figure.result()
        finally:
            workers.shutdown(kill_workers=True)

    return drawn()


def _draw(draw: Callable[[], Figure], path: Path, key: str) -> None:
    from matplotlib import style

    with style.context(["default", STYLE]), warnings.catch_warnings():  # ignore the user's matplotlibrc
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # boxes stand for letters that this font lacks
        save(draw(), path, key)


def save(figure: Figure, path: Path, key: str = "") -> None:
    """Write `<path>.svg` and `<path>.png`, without date and version, so that equal figures give equal files."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.image import imsave

    # Laid out and rendered once per format; `savefig` would do both several times.
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")
    imsave(path.with_name(path.name + ".png"), canvas.buffer_rgba(), format="png", dpi=DPI, metadata={"Software": "subpop"})
    unfinished = path.with_name(path.name + ".svg.part")
    vectors: Any = FigureCanvasSVG(figure)
    vectors.print_svg(unfinished, metadata={"Date": None, "Creator": "subpop", "Identifier": key or None})
    unfinished.replace(path.with_name(path.name + ".svg"))


def content_key(hashes: Iterable[bytes], settings: str) -> str:
    """Return a hash of everything that a figure shows and of the code that draws it. hashes: of its reports."""
    library, sources = _drawn_by()
    return hashlib.blake2b(f"{library} {settings}".encode() + sources + b"".join(hashes), digest_size=16).hexdigest()


def _hash(report: CellReport) -> bytes:
    """A hash of all that figures show of a report with a result."""
    assert report.result is not None
    digest = hashlib.blake2b(repr((report.cell, report.result.numbers, report.result.table)).encode())
    for name, array in sorted(report.result.arrays.items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.digest()


@cache
def _drawn_by() -> tuple[str, bytes]:
    """The version of matplotlib and the sources of this package, as they were when this process first drew with them."""
    return version("matplotlib"), b"".join(module.read_bytes() for module in sorted(Path(__file__).parent.glob("*.py")))


def _is_drawn(path: Path, key: str) -> bool:
    """Return whether both files exist with this content; the SVG is written last and contains the key."""
    svg = path.with_name(path.name + ".svg")
    if not (svg.is_file() and path.with_name(path.name + ".png").is_file()):
        return False
    with svg.open(encoding="utf-8", errors="replace") as file:
        return key in file.read(4000)


def file_name(text: str) -> str:
    """Return a valid file name on all file systems; names that had to be changed are made distinct by a hash."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-")
    return (
        plain if plain == text else f"{plain}-{hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=4).hexdigest()}"
    )
