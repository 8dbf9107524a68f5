"""Checks of training jobs that all victims share."""

from __future__ import annotations

import numpy as np

from subpop.types import BadInput, FleetJob, Pool


def check_job(job: FleetJob, pool: Pool) -> None:
    """Raise BadInput for a job on which no victim can be trained."""
    if job.pool is not pool:
        raise BadInput("the jobs of one fleet must share one pool; call fit_many once for each pool")
    if pool.n_classes < 2:
        raise BadInput(f"n_classes={pool.n_classes}; a classifier needs at least 2")
    extra = 0 if job.extra_x is None else len(job.extra_x)
    weights = job.rows if job.weights is None else np.asarray(job.weights)
    if job.rows.ndim != 1 or job.rows.shape != job.y.shape or job.rows.shape != weights.shape:
        shapes = f"{job.rows.shape} rows, {job.y.shape} labels and {weights.shape} weights"
        raise BadInput(f"a job has {shapes}; give a label and a weight for each row")
    if not len(job) or not (job.weights is None or (np.isfinite(weights).all() and weights.min() >= 0 and weights.sum() > 0)):
        raise BadInput(f"a job of {len(job)} rows has no usable weights; weights must be finite, >= 0 and not all 0")
    if job.rows.min() < 0 or job.rows.max() >= len(pool) + extra:
        raise BadInput(f"rows {job.rows.min()}..{job.rows.max()} are not all in the pool and extra_x: 0..{len(pool) + extra - 1}")
    if job.y.min() < 0 or job.y.max() >= pool.n_classes:
        raise BadInput(f"labels {job.y.min()}..{job.y.max()} are not all in 0..{pool.n_classes - 1}; relabel them")
    if job.extra_x is not None and not np.isfinite(job.extra_x).all():
        raise BadInput("extra_x holds NaN or infinite values; remove or impute them first")
