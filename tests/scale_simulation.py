"""Simulate a paper-tier run on several GPUs that fail: `python tests/scale_simulation.py` prints the table of docs/scale.md.

Chunks are dealt out longest first, each to the machine that is free first. A machine fails after exponential times with a stated
mean, loses the chunk that it works on, and is back after a repair. Chunk times are operations of `subpop.session.planning` over
assumed rates of a GPU, not measurements.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from subpop.session.planning import SHARE, SHEETS, cells_of_tier, expected_fits, flops_of_fit, n_rows_of

SUITES = Path(__file__).parents[1] / "benchmarks"
TOGETHER = 64
"""Fits in a chunk of last layers; networks that are trained as a whole have chunks of one."""


@dataclass(frozen=True)
class Run:
    """What a simulated run took: seconds to its end, of finished and of lost work, and failures in the middle of a chunk."""

    makespan: float
    useful: float
    lost: float
    failures: int


def simulate(chunks: Sequence[float], machines: int, mean_life: float = math.inf, repair: float = 0.0, seed: int = 0) -> Run:
    """Deal out chunks longest first; seconds throughout."""
    rng = np.random.default_rng(seed)
    life = lambda: math.inf if math.isinf(mean_life) else float(rng.exponential(mean_life))  # noqa: E731
    free = [(0.0, machine, life()) for machine in range(machines)]
    left = [-seconds for seconds in chunks]
    heapq.heapify(left)
    end = useful = lost = 0.0
    failures = 0
    while left:
        begin, machine, fails = heapq.heappop(free)
        if fails <= begin:
            heapq.heappush(free, (fails + repair if fails + repair > begin else begin, machine, begin + life()))
            continue
        seconds = -heapq.heappop(left)
        if fails < begin + seconds:
            lost, failures, back = lost + fails - begin, failures + 1, fails + repair
            heapq.heappush(left, -seconds)
            heapq.heappush(free, (back, machine, back + life()))
        else:
            useful, end = useful + seconds, max(end, begin + seconds)
            heapq.heappush(free, (begin + seconds, machine, fails))
    return Run(end, useful, lost, failures)


def paper_chunks() -> list[float]:
    """Seconds of each chunk on an A100 at the assumed share of its data sheet's rate."""
    found: list[float] = []
    for cell in cells_of_tier("paper", SUITES):
        fits, size = expected_fits(cell), TOGETHER if cell.victim.endswith("last_layer") else 1
        each = (flops_of_fit(cell.victim, cell.dataset, n_rows_of(cell)) or 0.0) / (SHEETS["A100"] * SHARE) if fits else 0.0
        found += [each * min(size, fits - start) for start in range(0, fits, size)]
    return found


def main() -> None:
    chunks = paper_chunks()
    print("| GPUs | mean time between failures | hours | ideal | hours / ideal | failures | work lost |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for machines in (1, 8, 64):
        ideal = max(sum(chunks) / machines, max(chunks)) / 3600
        for days in (math.inf, 1.0, 0.1):
            runs = [simulate(chunks, machines, 86_400 * days, 600.0, seed) for seed in range(20)]
            hours = float(np.mean([run.makespan for run in runs])) / 3600
            told = "none" if math.isinf(days) else f"{24 * days:g} h"
            failures, lost = np.mean([run.failures for run in runs]), np.mean([run.lost / run.useful for run in runs])
            print(f"| {machines} | {told} | {hours:.3f} | {ideal:.3f} | {hours / ideal:.2f} | {failures:.1f} | {lost:.1%} |")


if __name__ == "__main__":
    main()
