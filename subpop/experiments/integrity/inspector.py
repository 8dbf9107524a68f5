"""Schedules probes: after a cell of a plug-in has been measured, its probes run in random order for as long as the cell took.

Findings are stored, with the secrets, once the last child has ended. If a run is killed before, all probes of that cell are
repeated.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from subpop.experiments.experiment import Experiment
from subpop.experiments.integrity import canaries, cost, draws, mixtures, moved, replay, user_attacks, views
from subpop.experiments.integrity.canary_rows import Canaries, candidates, choose_canaries
from subpop.experiments.integrity.findings import FLAG, NO_TIME, Finding, column, details, not_run
from subpop.experiments.integrity.learners import flat_inputs
from subpop.experiments.integrity.record import Record, Recorder
from subpop.experiments.integrity.replay import Arena
from subpop.experiments.trial import right_of
from subpop.harness.batching import DefenseError, job_of
from subpop.runtime.fingerprint import data_hash
from subpop.runtime.no_store import NoStore
from subpop.runtime.progress import Progress
from subpop.types import Array, BadInput, Bools, Cell, Dataset, FleetJob, Ints, Model, Trial, TrialResult

GRACE = 10.0
"""Initial time budget of a plug-in's probes in seconds, before its cells add to it."""
SETS, ENOUGH = 10, 1e-5
"""Maximum number of sets of canaries, each far from some subpopulation, and a reachable p value at which no more are drawn."""
CANDIDATE_DRAWS = 4
"""Maximum number of draws of candidates; the one with the most power is used. No plug-in has run yet, so the level is valid."""
VIEWS = 2
"""Secret views of the data, on each of which up to MOST_DRAWN trials run alone, each in a process of its own."""
MOST_DRAWN = 12
"""Subpopulations that a secret poison draw attacks."""


@dataclass(frozen=True)
class Integrity:
    """The findings of the probes of a cell."""

    findings: tuple[Finding, ...]
    deterministic: bool = True

    @property
    def column(self) -> str:
        """The value of the `integrity` column."""
        return column(self.findings, self.deterministic)

    @property
    def details(self) -> str:
        """Describe the findings in one line for the suite's page."""
        return details(self.findings)


@dataclass
class Inspector:
    """Probes the plug-ins of one experiment. share: seconds of probes per second of the plug-in's own cells."""

    experiment: Experiment
    share: float = 1.0
    grace: float = GRACE
    recorder: Recorder = field(default_factory=Recorder)
    _earned: dict[str, float] = field(default_factory=dict)
    _spent: dict[str, float] = field(default_factory=dict)
    _sets: dict[object, list[Canaries]] = field(default_factory=dict)
    _attacks: dict[object, Integrity] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.experiment.observer = self.recorder

    def inspect(self, cell: Cell) -> Integrity:
        """Return the integrity of a measured cell of a plug-in: from the store, otherwise by running the probes now."""
        spec = self.experiment.plugins[cell.defense]
        results, _ = self.experiment.trials(cell)
        key = self._key(cell, results)
        stored = None if self.experiment.context.fresh or key is None else self.experiment.store.get_arrays(key)
        if stored is None:
            seconds = sum(result.seconds for result in results)
            self._earned[cell.defense] = self._earned.get(cell.defense, self.grace) + self.share * seconds
            with self._unseen():
                findings = self.probe(cell, results)
            text = json.dumps([asdict(finding) for finding in findings])
            if key is not None:
                arrays = {"findings": np.frombuffer(text.encode(), np.uint8)}
                self.experiment.store.put_arrays(key, arrays, replace=self.experiment.context.fresh)
        else:
            findings = [Finding(**found) for found in json.loads(stored["findings"].tobytes())]
        return Integrity(tuple(findings), spec.deterministic)

    def inspect_attack(self, cell: Cell) -> Integrity:
        """Return the integrity of a measured cell's own attack, which is probed once for all cells of the same data."""
        key = cell.attack, cell.data, cell.subpopulations
        if key not in self._attacks:
            with self._unseen():
                self._attacks[key] = Integrity(tuple(user_attacks.probe(self.experiment, cell)))
        return self._attacks[key]

    @contextmanager
    def _unseen(self) -> Iterator[None]:
        """Hide progress: probes train victims that are not in the plan."""
        progress, self.experiment.context.progress = self.experiment.context.progress, Progress()
        try:
            yield
        finally:
            self.experiment.context.progress = progress

    def _key(self, cell: Cell, results: Sequence[TrialResult]) -> str | None:
        """Return a hash of the cell, its trials and their results, and of the probes; None if the plug-in may not be reused."""
        trials = self.experiment.trials_key(cell)
        if trials is None:
            return None
        bits = data_hash(*(array for result in results for _, array in sorted(result.arrays.items())))
        what = cell.with_(stem="", tier="", kind="poisoning")
        return self.experiment.context.memo.key({__name__}, integrity=what, trials=trials, bits=bits)

    # --- the probes of a cell -----------------------------------------------------------------------------------------

    def probe(self, cell: Cell, results: Sequence[TrialResult]) -> list[Finding]:
        """Run the probes of a cell in random order until their time is used up."""
        run = Probes(self, cell, results)
        names = list(run.probes)
        order = [names[i] for i in _generator().permutation(len(names))]
        found: dict[str, list[Finding]] = {}
        for name in order:
            if self._spent.get(cell.defense, 0.0) >= self._earned.get(cell.defense, self.grace):
                found[name] = [not_run(name, NO_TIME)]
                continue
            started = time.monotonic()
            found[name] = run.findings(name)
            self._spent[cell.defense] = self._spent.get(cell.defense, 0.0) + time.monotonic() - started
        return [finding for name in names for finding in found[name]]

    def canary_sets(self, cell: Cell) -> list[Canaries]:
        """Sets of canaries, chosen once for all cells of the same data and victim."""
        experiment, stage = self.experiment, self.experiment.context.stage(cell)
        key = (stage.fingerprint, experiment.context.victim_identity(cell))
        if key not in self._sets:

            def power(sets: list[Canaries]) -> float:
                return canaries.best_p_value(sets, stage.pool.y)

            best = self._canary_sets(cell)
            for _ in range(CANDIDATE_DRAWS - 1):
                if power(best) > ENOUGH:
                    best = min(best, self._canary_sets(cell), key=power)
            self._sets[key] = best
        return self._sets[key]

    def _canary_sets(self, cell: Cell) -> list[Canaries]:
        """Training sets that share one secret draw of candidates; the data determine how many canaries they contain."""
        experiment, stage, generator = self.experiment, self.experiment.context.stage(cell), _generator()
        flat = flat_inputs(stage.pool.x, int(generator.integers(2**31)))
        victim = lambda rows: answers_of_victim(experiment, cell, rows)  # noqa: E731
        found, sets = candidates(stage, flat, generator), list[Canaries]()
        while len(sets) < SETS and canaries.best_p_value(sets, stage.pool.y) > ENOUGH:
            name = stage.attacked[int(generator.integers(len(stage.attacked)))]
            sets.append(choose_canaries(stage, name, flat, found, victim, generator))
        return sets


def answers_of_victim(experiment: Experiment, cell: Cell, rows: Ints) -> Ints:
    """(N,) predictions for all rows of the pool by the undefended victim, trained on some of them."""
    pool = experiment.context.data(cell).pool
    rows = np.sort(rows)
    model = experiment.context.fit(cell, [FleetJob(pool, rows, pool.y[rows])], [0])[0]
    return np.asarray(model.predict_proba(pool.x).argmax(axis=1))


def _generator() -> np.random.Generator:
    """Make a random generator from a new secret."""
    return np.random.default_rng(int.from_bytes(os.urandom(8), "big"))


class Probes:
    """The probes of one cell, by name."""

    def __init__(self, inspector: Inspector, cell: Cell, results: Sequence[TrialResult]) -> None:
        self.inspector, self.cell, self.results = inspector, cell, results
        self.experiment = inspector.experiment
        self.stage = self.experiment.context.stage(cell)
        spec = replace(self.experiment.plugins[cell.defense], hidden_since=inspector.recorder.started)
        self.arena = Arena(spec, self.stage.dataset.n_classes, self.experiment.timeout)
        self._records: list[Record] | None = None
        self.probes: dict[str, Callable[[np.random.Generator], list[Finding]]] = {
            replay.PROBE: self._replay,
            "moved test rows": self._moved,
            "label canaries": self._canaries,
            draws.PROBE: self._draw,
            "secret mixture": self._mixture,
            views.PROBE: self._view,
            cost.PROBE: self._cost,
        }

    def findings(self, name: str) -> list[Finding]:
        """Run one probe; a defense that fails in it, on data like the cell's own, is flagged."""
        secret = int.from_bytes(os.urandom(8), "big")
        try:
            found = self.probes[name](np.random.default_rng(secret))
        except DefenseError as error:
            found = [Finding(name, FLAG, error.reason, claim=f"fails in a probe ({name})")]
        except BadInput as error:
            found = [not_run(name, str(error))]
        return [replace(finding, secret=f"{secret:016x}") for finding in found]

    @property
    def records(self) -> list[Record]:
        """Records of some of the cell's trials; if they came from the store, the first chunk is run again to record it."""
        if self._records is None:
            self._records = self.inspector.recorder.take(self.cell)
            if not self._records:
                self.experiment.run_chunk(self.cell, self.experiment.chunks(self.cell)[0])
                self._records = self.inspector.recorder.take(self.cell)
        return self._records

    def _replay(self, generator: np.random.Generator) -> list[Finding]:
        return [replay.replay(self.arena, self.records, self.experiment.asked_rows(self.cell))]

    def _moved(self, generator: np.random.Generator) -> list[Finding]:
        records = self.records[:3]
        return moved.probe_moved(self.arena, records, self._undefended(records), self.stage.data.test_x, generator)

    def _undefended(self, records: Sequence[Record]) -> list[Model]:
        """The victims of the recorded trials without a defense."""
        jobs = [job_of(self.stage.pool, record.prepared.task.train).canonical() for record in records]
        return self.experiment.context.fit(self.cell, jobs, [record.prepared.trial.seed for record in records])

    def _canaries(self, generator: np.random.Generator) -> list[Finding]:
        if self.stage.pool.x.dtype.kind == "i":
            return [not_run(probe, "texts have no neighbours") for probe in (canaries.TRAINING, canaries.ANSWERS)]
        pairs, seeds = [], []
        for own in self.inspector.canary_sets(self.cell):
            seed = int(generator.integers(2**31))
            for attacked in (False, True):
                prepared = self.experiment.prepare(self.cell, Trial(own.target, seed, attacked))
                pairs.append(canaries.compose(self.stage, own, prepared, generator))
                seeds += [seed, seed]
        fit_many = self.experiment.fleet_of(self.cell, seeds)
        return canaries.run_canaries(self.arena, self.stage, pairs, fit_many, generator)

    def _draw(self, generator: np.random.Generator) -> list[Finding]:
        if not self.cell.rate:
            return [not_run(draws.PROBE, "no attack")]
        names = [self.stage.attacked[i] for i in generator.permutation(len(self.stage.attacked))[:MOST_DRAWN]]
        public = [Trial(name, int(generator.integers(self.cell.n_seeds))) for name in names]
        secret = [Trial(name, int(generator.integers(2**31))) for name in names]
        right = {result.trial: np.asarray(result.arrays["right"], bool) for result in self.results}
        ours = _scores(self.experiment, self.cell, public, [right[trial] for trial in public])
        defended = self.experiment.defended_right(self.cell, secret)
        theirs = _scores(self.experiment, self.cell, secret, defended)
        return [draws.compare(draws.PROBE, "knows the public poison draw", ours, theirs, paired=True)]

    def _mixture(self, generator: np.random.Generator) -> list[Finding]:
        if self.stage.pool.x.dtype != np.float32 or self.stage.pool.x.ndim != 2 or not self.cell.rate:
            return [not_run(mixtures.ACCURACY, "the victim's inputs are not rows of numbers, or there is no attack")]
        spec = mixtures.spec_for(self.cell.dataset, int(generator.integers(2**31)))
        cell = mixtures.secret_cell(self.cell)
        own = self._other_experiment()
        own.context.supply(cell, mixtures.secret_dataset(self.cell.dataset, spec))
        names = own.context.stage(cell).attacked[:MOST_DRAWN]
        trials = [Trial(name, int(generator.integers(2**31))) for name in names]
        try:
            defended = own.defended_right(cell, trials)
        except DefenseError as error:
            return [not_run(mixtures.ACCURACY, f"the defense fails on rows like these: {error.reason}")]
        found = [mixtures.above_bayes(np.stack(defended), spec)]
        if mixtures.is_mixture(self.cell):
            theirs = _scores(own, cell, trials, defended)
            words = "is better on the public mixture than on a secret one"
            found.append(self._beside_public(mixtures.SCORE, words, theirs, generator))
        return found

    def _view(self, generator: np.random.Generator) -> list[Finding]:
        data = self.experiment.context.loaded(self.cell.dataset)
        if not self.cell.rate or not views.can_be_turned(data.x) or not np.array_equal(data.x[:1], self._inputs[:1]):
            return [not_run(views.PROBE, "the victim's inputs are not rows of numbers or pictures, or there is no attack")]
        theirs = [score for _ in range(VIEWS) for score in self._alone(views.turned(data, generator), generator)]
        return [self._beside_public(views.PROBE, views.WORDS, theirs, generator)]

    def _alone(self, data: Dataset, generator: np.random.Generator) -> list[draws.Score]:
        """Scores of secret trials on other data under the cell's name, each in a separate process."""
        own = self._other_experiment()
        own.context.supply(self.cell, data)
        names = own.context.stage(self.cell).attacked
        chosen = [names[i] for i in generator.permutation(len(names))[:MOST_DRAWN]]
        trials = [Trial(name, int(generator.integers(2**31))) for name in chosen]
        defended = [bits for trial in trials for bits in own.defended_right(self.cell, [trial])]
        return _scores(own, self.cell, trials, defended)

    def _other_experiment(self) -> Experiment:
        """An experiment on the probe's own data, which does not write to the store."""
        context, plugins = self.experiment.context, self.experiment.plugins
        timeout, attacks = self.arena.timeout, context.attacks
        return Experiment.on(NoStore(), device=context.device, timeout=timeout, plugins=plugins, attacks=attacks)

    def _cost(self, generator: np.random.Generator) -> list[Finding]:
        attacked = [result for result in self.results if result.trial.attacked]
        if not attacked:
            return [not_run(cost.PROBE, "no attack")]
        chosen = [attacked[i] for i in generator.permutation(len(attacked))[:MOST_DRAWN]]
        data, trials = self.stage.data, [result.trial for result in chosen]
        tasks = [self.experiment.prepare(self.cell, trial).task for trial in trials]
        jobs = [job_of(data.pool, task.train).canonical() for task in tasks]
        models = self.experiment.context.fit(self.cell, jobs, [trial.seed for trial in trials])
        undefended = [right_of(model, data.test_x, data.test_y) for model in models]
        members = [self.stage.test_members(trial.subpopulation) for trial in trials]
        defended = [np.asarray(result.arrays["right"], bool) for result in chosen]
        clean = [self.experiment.context.clean_right(self.cell, trial.seed) for trial in trials]
        return [cost.cost_to_others(members, clean, undefended, defended)]

    @property
    def _inputs(self) -> Array:
        return self.experiment.context.dataset(self.cell).x

    def _beside_public(self, probe: str, words: str, theirs: Sequence[draws.Score], generator: np.random.Generator) -> Finding:
        names = [self.stage.attacked[i] for i in generator.permutation(len(self.stage.attacked))[:MOST_DRAWN]]
        trials = [Trial(name, int(generator.integers(self.cell.n_seeds))) for name in names]
        right = {result.trial: np.asarray(result.arrays["right"], bool) for result in self.results}
        ours = _scores(self.experiment, self.cell, trials, [right[trial] for trial in trials])
        return draws.compare(probe, words, ours, theirs, paired=False)


def _scores(experiment: Experiment, cell: Cell, trials: Sequence[Trial], defended: Sequence[Bools]) -> list[draws.Score]:
    """Return each trial with the same trial without a defense, and the clean victim of its seed."""
    stage = experiment.context.stage(cell)
    data = stage.data
    tasks = [experiment.prepare(cell, trial).task for trial in trials]
    models = experiment.context.fit(cell, [job_of(data.pool, task.train).canonical() for task in tasks], [t.seed for t in trials])
    undefended = [right_of(model, data.test_x, data.test_y) for model in models]
    clean = experiment.context.fit(cell, [data.pool.clean_job().canonical()] * len(trials), [trial.seed for trial in trials])
    before = [right_of(model, data.test_x, data.test_y) for model in clean]
    members = [stage.test_members(trial.subpopulation) for trial in trials]
    return [draws.score_of(*bits) for bits in zip(members, before, undefended, defended, strict=True)]
