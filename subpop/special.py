"""Suites that train no trials: the speed suites, what the clusters look like, attacks on sets of targets, two worlds."""

from __future__ import annotations

from collections.abc import Callable

from subpop.clusters import describe_clusters
from subpop.experiment import Experiment
from subpop.kept_results import kept_result
from subpop.types import Cell, CellResult

SPEED_SUITES = ("speed_fleet", "speed_last_layer", "speed_influence", "speed_text")
SHARED_BY_DRAW = ("table16_influence",)
"""Suites whose cells are all measured together with the first of a set-up."""


def special_suites(experiment: Experiment) -> dict[str, Callable[[Cell], CellResult]]:
    """How the cells of these suites are measured, by stem."""
    from subpop.speed import measure_speed
    from subpop.theory import measure_impossibility
    from subpop.training_set_attack.measure import TargetSuite

    return {
        **dict.fromkeys(SPEED_SUITES, lambda cell: measure_speed(cell, experiment)),
        "figure3_clusters": lambda cell: kept_result(describe_clusters, cell, experiment),
        "table16_influence": TargetSuite(experiment).measure,
        "impossibility": lambda cell: kept_result(measure_impossibility, cell, experiment),
    }
