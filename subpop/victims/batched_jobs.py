"""Shared code of victims that train in batches: validation of jobs, positions of their rows, and the rows of each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from subpop.types import Array, BadInput, FleetJob, Ints
from subpop.victims.job_checks import check_job

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7
"""Those of Keras' Adam, which the released scripts use; torch has the epsilon 1e-8."""


def present_jobs(jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[FleetJob]:
    """The jobs in canonical order, without rows of weight 0, after checking them with `check_jobs`."""
    check_jobs(jobs, seeds)
    return [present(job) for job in jobs]


def check_jobs(jobs: Sequence[FleetJob], seeds: Sequence[int]) -> None:
    """Raises BadInput for jobs that no victim can be trained on, for weights other than 0 and 1, and for negative seeds."""
    if len(jobs) != len(seeds):
        raise BadInput(f"{len(jobs)} jobs and {len(seeds)} seeds; give one seed per job")
    if any(seed < 0 for seed in seeds):
        raise BadInput(f"seed {min(seeds)} is negative; seeds are 0, 1, 2, ...")
    for job in jobs:
        check_job(job, jobs[0].pool)
        if job.weights is not None and not np.isin(job.weights, (0, 1)).all():
            raise BadInput("this victim takes no weights other than 0 and 1; repeat or leave out rows instead")


def present(job: FleetJob) -> FleetJob:
    """The job in canonical order, without rows of weight 0."""
    if job.weights is not None:
        kept = job.weights == 1
        job = replace(job, rows=job.rows[kept], y=job.y[kept], weights=None)
    return job.canonical()


def stacked(jobs: Sequence[FleetJob]) -> tuple[Array, list[Ints]]:
    """Return the pool's inputs followed by all inputs outside it, and the positions of each job's rows among them."""
    pool = jobs[0].pool
    parts, places, size = [pool.x], dict[int, int](), len(pool)
    for job in jobs:
        if job.extra_x is not None and id(job.extra_x) not in places:
            parts.append(job.extra_x)
            places[id(job.extra_x)], size = size, size + len(job.extra_x)
    x = parts[0] if len(parts) == 1 else np.concatenate(parts)
    shifts = [0 if job.extra_x is None else places[id(job.extra_x)] - len(pool) for job in jobs]
    return x, [np.where(job.rows < len(pool), job.rows, job.rows + shift) for job, shift in zip(jobs, shifts, strict=True)]


@dataclass(frozen=True)
class Recipe:
    """How Adam or AdamW trains a network. Raises BadInput for values that cannot train one."""

    epochs: int
    learning_rate: float
    batch_size: int
    shift: float = 0.0
    """Largest random shift of a picture, as a fraction of its side."""
    flip: bool = False
    """Whether pictures are mirrored at random."""
    weight_decay: float = 0.0
    """Weight decay of AdamW. torch's default, .01, reduces a weight by less than a thousandth in total at a rate of 1e-5."""

    def __post_init__(self) -> None:
        counts = self.epochs >= 0 and self.batch_size >= 1
        if not (counts and self.learning_rate > 0 and 0 <= self.shift < 1 and self.weight_decay >= 0):
            allowed = "epochs >= 0, batch_size >= 1, learning_rate > 0, 0 <= shift < 1, weight_decay >= 0"
            raise BadInput(f"{self} cannot train; give {allowed}")


@dataclass(frozen=True, eq=False)
class Batches:
    """The rows of each step of one victim. rows, labels: (steps, B) int32, padded at the end of an epoch.

    counts: (steps,) number of rows without padding; padding is row 0.
    """

    rows: NDArray[np.int32]
    labels: NDArray[np.int32]
    counts: Ints

    def __len__(self) -> int:
        return len(self.counts)

    @classmethod
    def of(cls, keys: Ints, rows: Ints, y: Ints, seed: int, epochs: int, size: int) -> Batches:
        """Make the batches. keys: (n,) ascending, determine the order with the seed; rows: (n,) positions; y: (n,) labels."""
        from subpop.victims.batch_order import BatchOrder

        orders, each = BatchOrder(seed, keys).epochs(0, epochs), -(-len(keys) // size)
        padded = np.zeros((2, epochs, each * size), np.int32)
        padded[0, :, : len(keys)], padded[1, :, : len(keys)] = rows[orders], y[orders]
        counts = np.full((epochs, each), size)
        counts[:, -1] = len(keys) - (each - 1) * size
        rows_of, labels = padded.reshape(2, epochs * each, size)
        return cls(rows_of, labels, counts.ravel())


def longest_first(batches: Sequence[Batches]) -> list[int]:
    """The order in which a batch stacks its victims: those that finish first come last."""
    return sorted(range(len(batches)), key=lambda i: -len(batches[i]))


def stretches(batches: Sequence[Batches]) -> Iterator[tuple[int, slice]]:
    """(members, steps) in which the same victims train: the first `members` of `batches`, which are in the order above."""
    first = 0
    for end in sorted({len(own) for own in batches}):
        yield sum(len(own) >= end for own in batches), slice(first, end)
        first = end
