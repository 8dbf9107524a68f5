"""Speed of a defense on all trials of a cell: with the batching `fit`, against one trial after another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from subpop.datasets.stage import Stage
from subpop.defenses import DEFENSES
from subpop.experiments.speed.roofline import of_solver
from subpop.experiments.speed.timing import ROUNDS, attacks, ratio_of_medians
from subpop.harness.batching import DefenseTask, OnGreenlet, PoolRows, TrialBatch, job_of
from subpop.types import Cell, FleetJob, Knowledge, Model, Number, TrainingSet
from subpop.victims import make_victim


def trim(cell: Cell, stage: Stage) -> tuple[list[Number], int]:
    """TRIM on all trials of a cell, with the batching `fit` and one trial after another, with the same solver."""
    victim = make_victim(cell.victim)
    tasks = [_task(stage, job) for seed in range(cell.n_seeds) for job, _ in attacks(cell, stage, seed, (cell.rate,))]
    victim.fit_many([stage.pool.clean_job()], [0])  # both sides start from the clean optimum

    def fit_many(requests: Sequence[tuple[int, TrainingSet]]) -> list[Model]:
        return victim.fit_many([job_of(stage.pool, train).canonical() for _, train in requests], [0] * len(requests))

    def defend(chosen: Sequence[DefenseTask]) -> list[Any]:
        return list(
            TrialBatch(chosen, fit_many, stage.data.test_x[:1], stage.dataset.n_classes).run(DEFENSES["trim"], carrier=OnGreenlet)
        )

    numbers, ours, theirs = ratio_of_medians(lambda: defend(tasks), lambda: [defend([task])[0] for task in tasks])
    numbers += of_solver(lambda: defend(tasks), next(each.value for each in numbers if each.metric == "fleet_seconds"))
    differ = sum(not np.array_equal(a.keep, b.keep) for a, b in zip(ours, theirs, strict=True))
    numbers += [Number("n_victims", float(len(tasks))), Number("trials_that_differ", float(differ))]
    return numbers, 2 * ROUNDS * sum(outcome.n_fits for outcome in ours)


def _task(stage: Stage, job: FleetJob) -> DefenseTask:
    order = np.random.default_rng(0).permutation(len(job))
    train = TrainingSet(PoolRows(stage.pool, job.rows[order]), np.arange(len(job)), job.y[order])
    return DefenseTask(train, Knowledge(n_poison=len(job) - stage.pool.n_train), 0)
