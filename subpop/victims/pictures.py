"""Validation of pictures: uint8, (n, channels, height, width), all of one size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from subpop.types import Array, BadInput, FleetJob


def check_pictures(sources: Sequence[Array]) -> None:
    """Raise BadInput for arrays that are not pictures, or not of the size of the first."""
    for x in sources:
        if x.dtype != np.uint8 or x.ndim != 4:
            found = f"inputs are {x.dtype} of shape {x.shape}"
            raise BadInput(f"{found}; this victim takes uint8 pictures (n, channels, height, width)")
        if x.shape[1:] != sources[0].shape[1:]:
            raise BadInput(f"pictures have different shapes, {x.shape[1:]} and {sources[0].shape[1:]}; resize them to one size")


def check_picture_jobs(jobs: Sequence[FleetJob]) -> None:
    """Raise BadInput for jobs of one pool whose inputs are not pictures."""
    if jobs:
        check_pictures([jobs[0].pool.x, *(job.extra_x for job in jobs if job.extra_x is not None)])
