"""Trials with different training sets in one batch of a victim, run with the steps of the harness but without its store.

Each draw of the two worlds has its own pool. To train their victims as one fleet nevertheless, the rows of all jobs are copied,
in the order in which the harness passes them to a victim, into one common pool.
"""

from __future__ import annotations

import secrets
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np

from subpop.datasets.stage import Stage
from subpop.defenses import DEFENSES
from subpop.experiments.experiment import Experiment, without_accuracy
from subpop.experiments.impossibility.learners import make_learner
from subpop.experiments.trial import Prepared, right_of
from subpop.harness.batching import OnGreenlet, TrialBatch, job_of
from subpop.harness.outcome import Outcome
from subpop.runtime.seeds import training_seed
from subpop.types import Array, BadInput, Bools, Cell, Defense, FleetJob, Model, Pool, TrainingSet, Victim
from subpop.types.base import nearest


def gathered(jobs: Sequence[FleetJob]) -> list[FleetJob]:
    """The same training sets as jobs of one pool, in which each job has its own copies of its rows."""
    x, y = np.concatenate([job.x for job in jobs]), np.concatenate([job.y for job in jobs])
    pool = Pool(x, y, len(jobs[0]), jobs[0].pool.n_classes)
    ends = np.cumsum([len(job) for job in jobs])
    rows = [np.arange(end - len(job), end) for job, end in zip(jobs, ends, strict=True)]
    return [FleetJob(pool, own, job.y, job.weights) for own, job in zip(rows, jobs, strict=True)]


@dataclass(frozen=True)
class Runner:
    """The victim and the defense of a cell, ready to run on trials of any stage."""

    cell: Cell
    experiment: Experiment
    victim: Victim
    secret: str
    """Unknown to a plug-in, which would need it to reproduce its shuffle; empty for built-in defenses, which have references."""

    @classmethod
    def of(cls, cell: Cell, experiment: Experiment) -> Runner:
        """Build the victim of a cell and draw the secret of its defense."""
        victim = make_learner(cell.victim, cell.dataset, experiment.context.device)
        return cls(cell, experiment, victim, secrets.token_hex(16) if cell.defense in experiment.plugins else "")

    @property
    def stage(self) -> Stage:
        """The cell's own stage."""
        return self.experiment.context.stage(self.cell)

    @property
    def needs(self) -> frozenset[str]:
        """The side information that the defense needs."""
        return self.experiment.needs(self.cell)

    def run(
        self, trials: Sequence[tuple[Stage, Prepared]], test_x: Array, extra: Mapping[str, Defense] = MappingProxyType({})
    ) -> list[Outcome]:
        """Run the defense on all trials, each with its own stage, on the same test rows.

        extra: defenses that only the caller knows, by name. Certificates are not requested.
        """
        cell, experiment = self.cell, self.experiment
        tasks = [replace(prepared.task, certify=np.zeros(0, np.int64), reference_y=None) for _, prepared in trials]
        one_pool = len({id(stage.pool) for stage, _ in trials}) == 1

        def fit_many(requests: list[tuple[int, TrainingSet]]) -> list[Model]:
            jobs = [job_of(trials[i][0].pool, train).canonical() for i, train in requests]
            seeds = [training_seed(cell, trials[i][1].trial.seed) for i, _ in requests]
            return [without_accuracy(model) for model in self.victim.fit_many(jobs if one_pool else gathered(jobs), seeds)]

        batch = TrialBatch(tasks, fit_many, test_x, trials[0][0].dataset.n_classes)
        if cell.defense in experiment.plugins:
            from subpop.harness.sandbox import run_in_child

            noted = partial(experiment.manifests.note, experiment.whole_key) if experiment.whole_key else None
            return list(run_in_child(experiment.plugins[cell.defense], batch, experiment.timeout, note_manifest=noted))
        known = ChainMap(dict(extra), DEFENSES)  # type: ignore[arg-type]
        if cell.defense not in known:
            advice = nearest(cell.defense, known, ", or your own with --defense file.py:function")
            raise BadInput(f"unknown defense {cell.defense!r}; {advice}")
        return list(batch.run(known[cell.defense], carrier=OnGreenlet))

    def clean(self) -> list[Bools]:
        """Return, for each seed, (n_test,) bool: which test rows the undefended victim gets right without an attack."""
        stage, seeds = self.stage, range(self.cell.n_seeds)
        jobs = [stage.pool.clean_job().canonical() for _ in seeds]
        models = self.victim.fit_many(jobs, [training_seed(self.cell, seed) for seed in seeds])
        return [right_of(model, stage.data.test_x, stage.data.test_y) for model in models]
