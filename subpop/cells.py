"""The earlier name of `subpop.types.grid`, for suites written against it."""

from subpop.types.grid import grid, mean_by_rate, sweep_id, sweeps

__all__ = ["grid", "mean_by_rate", "sweep_id", "sweeps"]
