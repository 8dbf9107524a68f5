"""The impossibility suite: damage of local and global learners against alpha, and two indistinguishable worlds."""

from __future__ import annotations

import time
from dataclasses import replace

from subpop.experiments.experiment import Experiment
from subpop.experiments.impossibility.curves import measure_curve
from subpop.experiments.impossibility.measure import measure_worlds
from subpop.experiments.impossibility.runner import Runner
from subpop.types import Cell, CellResult


def measure_impossibility(cell: Cell, experiment: Experiment) -> CellResult:
    """The numbers of one cell: of the two worlds if the cell sets `worlds`, otherwise of one point of a curve."""
    started = time.perf_counter()
    runner = Runner.of(cell, experiment)
    if cell.two_worlds.worlds:
        result = measure_worlds(runner)
    else:
        result = measure_curve(runner)
    return replace(result, seconds=time.perf_counter() - started)


__all__ = ["measure_curve", "measure_impossibility", "measure_worlds"]
