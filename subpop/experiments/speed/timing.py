"""Timing two ways of doing the same work alternately in one run, and the attacked training sets that both get."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from subpop.attacks.drawing import draw_poison
from subpop.datasets.stage import Stage
from subpop.results.intervals import TIMINGS, of_rounds
from subpop.types import Cell, FleetJob, Number

RATES = (0.5, 1.0, 2.0)
ROUNDS = 3


def ratio_of_medians(
    ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = ROUNDS, victims: tuple[int, int] = (1, 1)
) -> tuple[list[Number], Any, Any]:
    """Run both alternately; returns the numbers, by victims that each trains if several, and the last result of each."""
    seconds: tuple[list[float], list[float]] = ([], [])
    answers: list[Any] = [None, None]
    for _ in range(rounds):
        for side, run in enumerate((ours, theirs)):
            started = time.perf_counter()
            answers[side] = run()
            seconds[side].append((time.perf_counter() - started) / victims[side])
    named = {"fleet_seconds": statistics.median(seconds[0]), "one_at_a_time_seconds": statistics.median(seconds[1])}
    return [speed_ratio(*seconds), *(Number(name, value) for name, value in named.items())], *answers


def speed_ratio(ours: ArrayLike, theirs: ArrayLike) -> Number:
    """The ratio of the medians of their and our seconds, round by round, with its interval where there are enough rounds."""
    mine, other = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    ratio = float(np.median(other) / np.median(mine))
    return Number("speed_ratio", ratio, half_width=of_rounds(other / mine, ratio), varies=TIMINGS)


def attacks(cell: Cell, stage: Stage, seed: int = 0, rates: Sequence[float] = RATES) -> list[tuple[FleetJob, str]]:
    """One attacked training set for each subpopulation and rate, with the subpopulation's name."""
    attacks = []
    for name in stage.attacked:
        for rate in rates:
            poison = draw_poison(stage, cell.with_(rate=rate), name, seed, None)
            attacks.append((stage.attacked_job(poison.rows, poison.y), name))
    return attacks
