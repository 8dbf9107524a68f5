"""Time and memory of fleets against their size: `python tests/scale_curves.py`.

Every point is a process of its own, so that its peak of memory is its own. The rows are Gaussian, their labels those of a linear
teacher with noise; each victim's training set is D with one row in a hundred added again under another label. `--only rows`
measures one curve; `--seconds` is the time after which a point is given up. `--page PAGE` writes the table between the marks of a
page, and the figures beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from subpop.types import FleetJob, Pool
from subpop.victims.logistic import LogisticRegression
from subpop.victims.mlp import MLP

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"(?<=<!-- measured -->\n).*(?=<!-- end -->)", re.DOTALL)
EPOCHS = 10
"""Of the small network, which stops by itself after other numbers for other data."""
VICTIMS = {"logistic regression": LogisticRegression, "small network": lambda: MLP(max_epochs=EPOCHS)}
SIZES = {
    "victims": (10, 100, 1_000, 10_000),
    "rows": (1_000, 10_000, 100_000, 1_000_000),
    "features": (10, 100, 1_000, 4_000),
    "classes": (2, 5, 20, 100),
}
PER_BIN = 3
"""Points from which an exponent is fitted: the largest ones, where constant costs matter least."""


@dataclass(frozen=True)
class Point:
    """Sizes of one measurement."""

    victim: str
    victims: int = 32
    rows: int = 2_000
    features: int = 20
    classes: int = 2


@dataclass(frozen=True)
class Measured:
    """Seconds of training, and how many bytes the peak of memory exceeds that of the data."""

    seconds: float
    peak_bytes: int


def points(victim: str, curve: str) -> list[Point]:
    """The points of a curve. With a million rows or thousands of features there are 8 victims, so that a point takes minutes."""
    start = Point(victim, victims=32 if curve in ("victims", "classes") else 8)
    return [replace(start, **{curve: size}) for size in SIZES[curve]]


def fleet(point: Point) -> tuple[Pool, list[FleetJob]]:
    """The data and the training sets of a point."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((point.rows, point.features), dtype=np.float32)
    teacher = rng.standard_normal((point.features, point.classes)) / np.sqrt(point.features)
    y = (x @ teacher + 0.5 * rng.standard_normal((point.rows, point.classes))).argmax(axis=1).astype(np.int64)
    pool = Pool(x, y, point.rows, point.classes)
    jobs = []
    for _ in range(point.victims):
        extra = np.sort(rng.choice(point.rows, point.rows // 100, replace=False))
        rows = np.append(np.arange(point.rows), extra)
        jobs.append(FleetJob(pool, rows, np.append(y, (y[extra] + 1) % point.classes)).canonical())
    return pool, jobs


def measure(point: Point) -> Measured:
    """Train a point's fleet in this process, after a small one that compiles what is compiled, for wide data also in float32."""
    small = replace(point, victims=2, rows=200, features=min(100, point.features), classes=min(3, point.classes))
    VICTIMS[point.victim]().fit_many(fleet(small)[1], [0, 1])
    _, jobs = fleet(point)
    victim, before = VICTIMS[point.victim](), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    victim.fit_many(jobs, list(range(len(jobs))))
    seconds = time.perf_counter() - begun
    return Measured(seconds, 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def measured_apart(point: Point, limit: float) -> Measured | None:
    """`measure` in a process of its own; None if it takes longer than the limit."""
    command = [sys.executable, __file__, "--point", json.dumps(asdict(point))]
    try:
        done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=limit, check=True)
    except subprocess.TimeoutExpired:
        return None
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the values against the sizes on logarithmic scales, by least squares over the largest sizes."""
    x, y = np.log(np.asarray(sizes[-PER_BIN:], float)), np.log(np.maximum(np.asarray(values[-PER_BIN:], float), 1e-9))
    return float(np.polyfit(x, y, 1)[0])


def draw(found: dict[str, dict[str, list[tuple[int, Measured]]]], folder: Path) -> None:
    """One figure for each victim: seconds and memory against each size."""
    from matplotlib.figure import Figure

    for victim, curves in found.items():
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        axes = figure.subplots(2, len(curves), squeeze=False)
        for column, (curve, own) in enumerate(curves.items()):
            sizes = [size for size, _ in own]
            for row, (values, unit) in enumerate(
                [([m.seconds for _, m in own], "seconds"), ([m.peak_bytes / 2**20 for _, m in own], "MB above the data")]
            ):
                axis = axes[row][column]
                axis.plot(sizes, np.maximum(values, 1e-3), "o-", color="#0072B2")
                axis.set(xscale="log", yscale="log", xlabel=curve if row else "", ylabel=unit if not column else "")
                axis.set_title(f"exponent {exponent(sizes, values):.2f}" if len(own) > 1 else "", fontsize=9)
                axis.grid(color="#e6e6e6")
        figure.savefig(folder / f"scale_{victim.replace(' ', '_')}.svg", metadata={"Date": None})


def table(found: dict[str, dict[str, list[tuple[int, Measured]]]]) -> str:
    """The measurements as a table of markdown, with the exponents."""
    lines = [
        "| victim | varied | sizes | seconds | MB above the data | exponent of time | of memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for victim, curves in found.items():
        for curve, own in curves.items():
            sizes, seconds = [size for size, _ in own], [m.seconds for _, m in own]
            memory = [m.peak_bytes / 2**20 for _, m in own]
            slopes = [f"{exponent(sizes, values):.2f}" if len(own) > 1 else "" for values in (seconds, memory)]
            given_up = (
                "" if len(own) == len(SIZES[curve]) else f" (given up: {', '.join(f'{s:,}' for s in SIZES[curve][len(own) :])})"
            )
            told = ", ".join(f"{size:,}" for size in sizes) + given_up
            spent, held = ", ".join(f"{each:.3g}" for each in seconds), ", ".join(f"{each:.0f}" for each in memory)
            lines.append(f"| {victim} | {curve} | {told} | {spent} | {held} | {slopes[0]} | {slopes[1]} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=list(SIZES), help="measure one curve")
    parser.add_argument("--victim", choices=list(VICTIMS), help="measure one victim")
    parser.add_argument("--seconds", type=float, default=180, help="give a point up after so many seconds (default: 180)")
    parser.add_argument("--page", type=Path, help="write the table into this page, and the figures beside it")
    args = parser.parse_args()
    if args.point:
        print(json.dumps(asdict(measure(Point(**json.loads(args.point))))))
        return
    found: dict[str, dict[str, list[tuple[int, Measured]]]] = {}
    for victim in [args.victim] if args.victim else VICTIMS:
        for curve in [args.only] if args.only else SIZES:
            own = found.setdefault(victim, {}).setdefault(curve, [])
            for point in points(victim, curve):
                result = measured_apart(point, args.seconds)
                said = "given up" if result is None else f"{result.seconds:.2f} s, {result.peak_bytes / 2**20:.0f} MB"
                print(f"{victim}, {getattr(point, curve):,} {curve}: {said}", flush=True)
                if result is None:
                    break
                own.append((getattr(point, curve), result))
    print(table(found))
    if args.page:
        page = args.page.read_text(encoding="utf-8")
        args.page.write_text(MARK.sub(lambda _: table(found) + "\n", page), encoding="utf-8")
        draw(found, args.page.parent)


if __name__ == "__main__":
    main()
