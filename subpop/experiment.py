"""Cell -> trials -> numbers: the only module that composes the stages.

A cell's trials are listed once, in order, and cut into chunks from that list alone; a chunk is one fleet, one wave of
defenses and one transaction. So a run that was killed re-runs unfinished chunks whole and ends with the same bits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from subpop.batching import FitMany, job_of, run_wave
from subpop.datasets import load_dataset
from subpop.defenses import DEFENSES, MATCHED, RETRAIN, matched_random_filter
from subpop.fingerprint import data_hash, key_of, source_hash, versions
from subpop.outcome import Outcome
from subpop.plugins import DefenseSpec
from subpop.progress import Progress
from subpop.stage import Stage, build_stage, check_attack, derived_seed, label_rule, split_data
from subpop.summary import summarise
from subpop.trial import TOLD, Prepared, grid, panels, prepare, right_of, score
from subpop.types import (
    Array,
    BadInput,
    Bools,
    Cell,
    CellResult,
    FleetJob,
    Ints,
    Model,
    StoredModel,
    TrainingSet,
    Trial,
    TrialResult,
    Victim,
)
from subpop.victims import MODELS, make_victim

T = TypeVar("T")
CHUNK_TRIALS = 256
CHUNK_BYTES = 1 << 30
"""A chunk's gathered training sets stay below this many bytes."""


class KeepsTrials(Protocol):
    """What an experiment asks of its store."""

    def has_chunk(self, key: str) -> bool: ...
    def get_chunk(self, key: str) -> list[TrialResult] | None: ...
    def put_chunk(self, key: str, cell: Cell, results: Sequence[TrialResult], device: str, *, replace: bool = False) -> None: ...
    def get_arrays(self, key: str) -> dict[str, Array] | None: ...
    def put_arrays(self, key: str, arrays: Mapping[str, Array]) -> None: ...


@dataclass
class Experiment:
    """Runs cells against one store. `plugins`: defenses from other people's files, by the name reports use."""

    store: KeepsTrials
    root: Path | None = None
    device: str = "cpu"
    timeout: float = 300.0
    plugins: Mapping[str, DefenseSpec] = field(default_factory=dict)
    fresh: bool = False
    progress: Progress = field(default_factory=Progress)
    _memory: dict[Any, Any] = field(default_factory=dict, repr=False)

    # --- the whole cell -----------------------------------------------------------------------------------------------

    def run(self, cell: Cell) -> CellResult:
        """All numbers of a cell: trials from the store where they are there, trained where not."""
        stage = self.stage(cell)
        results, from_store = self.trials(cell)
        clean = np.stack([self.clean_right(cell, seed) for seed in range(cell.n_seeds)])
        seconds = sum(result.seconds for result in results)
        return summarise(
            cell,
            stage,
            results,
            clean,
            exact=self.victim(cell).exact,
            knowledge=self.knowledge(cell),
            seconds=seconds,
            from_store=from_store,
        )

    def trials(self, cell: Cell) -> tuple[list[TrialResult], bool]:
        """Every trial of a cell, in order, and whether all of them came from the store."""
        results: list[TrialResult] = []
        all_stored = True
        for chunk in self.chunks(cell):
            stored = self._stored(cell, chunk)
            if stored is None:
                all_stored = False
                with self.progress.showing(cell.id):
                    stored = self.timed_chunk(cell, chunk)
                self.commit(cell, chunk, stored)
            results += stored
        return results, all_stored

    def list_trials(self, cell: Cell) -> list[Trial]:
        """Attacked trials of all subpopulations and seeds, then the defense on clean data."""
        seeds = range(cell.n_seeds)
        names = self.stage(cell).attacked
        trials = [Trial(name, seed) for name in names for seed in seeds]
        if cell.defense in ("none", RETRAIN):
            return trials
        told = "n_poison" in self.needs(cell.with_(defense=cell.defense.removeprefix(MATCHED)))
        return trials + [Trial(name, seed, attacked=False) for name in (names if told else [""]) for seed in seeds]

    def chunks(self, cell: Cell) -> list[list[Trial]]:
        """A cell's trials cut in order, so that a chunk's gathered training sets fit the memory budget."""
        return self._once(("chunks", cell), lambda: self._cut(cell))

    def _cut(self, cell: Cell) -> list[list[Trial]]:
        stage = self.stage(cell)
        check_attack(stage, cell)
        trials = self.list_trials(cell)
        row_bytes = stage.pool.x[:1].nbytes
        size = max(1, min(CHUNK_TRIALS, CHUNK_BYTES // (2 * stage.pool.n_train * row_bytes)))
        return [trials[i : i + size] for i in range(0, len(trials), size)]

    def missing_chunks(self, cell: Cell) -> list[tuple[Cell, list[Trial]]]:
        """The chunks that the next `run` has to train."""
        return [(cell, chunk) for chunk in self.chunks(cell) if not self._is_stored(self._chunk_key(cell, chunk))]

    def commit(self, cell: Cell, chunk: list[Trial], results: list[TrialResult]) -> None:
        """Keep a chunk's trials, in one transaction."""
        key = self._chunk_key(cell, chunk)
        self.store.put_chunk(key, cell, results, self.device, replace=self.fresh)
        self._done_now.add(key)

    def _stored(self, cell: Cell, chunk: list[Trial]) -> list[TrialResult] | None:
        key = self._chunk_key(cell, chunk)
        return self.store.get_chunk(key) if self._is_stored(key) else None

    def _is_stored(self, key: str) -> bool:
        return (not self.fresh or key in self._done_now) and self.store.has_chunk(key)

    # --- one chunk ----------------------------------------------------------------------------------------------------

    def timed_chunk(self, cell: Cell, chunk: Sequence[Trial]) -> list[TrialResult]:
        """`run_chunk`, with each trial's share of the seconds that the chunk took."""
        started = time.perf_counter()
        results = self.run_chunk(cell, chunk)
        share = (time.perf_counter() - started) / max(1, len(results))
        return [replace(result, seconds=share) for result in results]

    def run_chunk(self, cell: Cell, chunk: Sequence[Trial]) -> list[TrialResult]:
        """Train and defend the trials of one chunk as one fleet; touches the store for clean models only."""
        if cell.defense == RETRAIN:
            return [self._retrained(cell, trial) for trial in chunk]
        stage = self.stage(cell)
        prepared = [self.prepare(cell, trial) for trial in chunk]
        residuals = np.full(len(chunk), np.nan)
        test_x = stage.data.test_x if not panels(cell) else np.concatenate([stage.data.test_x, grid(stage)[0]])

        def fit_many(requests: list[tuple[int, TrainingSet]]) -> list[Model]:
            jobs = [job_of(stage.pool, train).canonical() for _, train in requests]
            models = self._fit(cell, jobs, [prepared[i].trial.seed for i, _ in requests])
            for (i, _), model in zip(requests, models, strict=True):
                residuals[i] = np.fmax(residuals[i], getattr(model, "kkt_residual", np.nan))
            self.progress.advance(len(requests))
            return [without_residual(model) for model in models]

        outcomes = self._defend(cell, prepared, fit_many, test_x)
        return [score(stage, p, o, float(r), panels(cell)) for p, o, r in zip(prepared, outcomes, residuals, strict=True)]

    def _defend(self, cell: Cell, prepared: Sequence[Prepared], fit_many: FitMany, test_x: Array) -> list[Outcome]:
        tasks = [p.task for p in prepared]
        n_classes = self.stage(cell).dataset.n_classes
        if cell.defense in self.plugins:
            from subpop.sandbox import run_in_child

            return list(run_in_child(self.plugins[cell.defense], tasks, fit_many, test_x, n_classes, self.timeout))
        if cell.defense.startswith(MATCHED):
            counts = self._removed_per_class(cell)
            defenses = [matched_random_filter(dict(enumerate(counts[p.trial].tolist()))) for p in prepared]
            return list(run_wave(defenses, tasks, fit_many, test_x, n_classes))
        return list(run_wave(DEFENSES[cell.defense], tasks, fit_many, test_x, n_classes))

    def prepare(self, cell: Cell, trial: Trial) -> Prepared:
        """One trial, ready for its defense."""
        attacker = self._attacker(cell) if trial.attacked else None
        return prepare(self.stage(cell), cell, trial, self.needs(cell), attacker, self._secret(cell))

    def _secret(self, cell: Cell) -> str:
        """What a plug-in would have to know to rebuild its shuffle: drawn once a store, never sent to a child."""
        if cell.defense not in self.plugins:
            return ""  # references must not depend on the store
        if self.store.get_arrays("secret") is None:
            self.store.put_arrays("secret", {"secret": np.frombuffer(os.urandom(16), np.uint8)})
        return str((self.store.get_arrays("secret") or {})["secret"].tobytes().hex())

    def _fit(self, cell: Cell, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """One model a job, each distinct training set trained once; the clean set's model is the stored clean model."""
        victim = self.victim(cell)
        keys = [(_job_key(job), 0 if victim.exact else seed) for job, seed in zip(jobs, seeds, strict=True)]
        clean = _job_key(self.stage(cell).pool.clean_job())
        known = {key: self.clean_model(cell, key[1]) for key in set(keys) if key[0] == clean}
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        fresh = sorted(i for key, i in first.items() if key not in known)
        trained = victim.fit_many([jobs[i] for i in fresh], [self._training_seed(cell, seeds[i]) for i in fresh]) if fresh else []
        known |= {keys[i]: model for i, model in zip(fresh, trained, strict=True)}
        return [known[key] for key in keys]

    # --- parts, each built once ---------------------------------------------------------------------------------------

    def stage(self, cell: Cell) -> Stage:
        """The cell's data, split and partitioned: shared by all cells of that set-up."""
        data = (cell.dataset, cell.option("split", "0"), cell.option("protocol", "default"))
        dataset = self._once(("dataset", cell.dataset), lambda: load_dataset(cell.dataset, self.root))
        made = self._once(("data", *data), lambda: split_data(cell, dataset))
        return self._once(("stage", *data, cell.partition, cell.option("partition_seed", "0")), lambda: build_stage(cell, made))

    def victim(self, cell: Cell) -> Victim:
        return self._once(("victim", cell.victim), lambda: make_victim(cell.victim, self.device))

    def needs(self, cell: Cell) -> frozenset[str]:
        """Names of the Knowledge fields that the cell's defense asks for."""
        if cell.defense in self.plugins:
            return frozenset(self.plugins[cell.defense].needs)
        if cell.defense == RETRAIN:
            return frozenset()
        if cell.defense.startswith(MATCHED):
            return frozenset()
        if cell.defense not in DEFENSES:
            names = [*DEFENSES, *self.plugins, MATCHED + "<filter>", RETRAIN]
            raise BadInput(
                f"no defense is named {cell.defense!r}; there are {', '.join(names)}; your own: --defense file.py:function"
            )
        return frozenset(getattr(DEFENSES[cell.defense], "needs", ()))

    def knowledge(self, cell: Cell) -> str:
        """The `knowledge` column: what the defender was told."""
        if cell.defense.startswith(MATCHED):
            return "the filter's counts"
        told = sorted(self.needs(cell) & {"n_poison", "poison_mask"})  # what no cell grants yet is told to nobody
        variant = cell.option("n_poison_told", "exact")
        return ", ".join(f"{name} x {TOLD[variant]:g}" if name == "n_poison" and variant != "exact" else name for name in told)

    def clean_model(self, cell: Cell, seed: int) -> Model:
        """The victim trained on D alone: trained once per (data set, split, victim, seed), shared by all suites."""
        return self._once(("clean", *self._clean_identity(cell, seed)), lambda: self._clean_model(cell, seed))

    def clean_right(self, cell: Cell, seed: int) -> Bools:
        """(n_test,) bool: which test rows the clean undefended victim gets right."""
        stage, model = self.stage(cell), self.clean_model(cell, seed)
        return self._once(
            ("right", *self._clean_identity(cell, seed)), lambda: right_of(model, stage.data.test_x, stage.data.test_y)
        )

    def _clean_model(self, cell: Cell, seed: int) -> Model:
        key = self._key(clean=self._clean_identity(cell, seed), data=self.stage(cell).data.fingerprint)
        state = self.store.get_arrays(key) if cell.victim in MODELS and not self.fresh else None
        if state is not None:
            return MODELS[cell.victim].from_state(state)
        model = self.victim(cell).fit_many([self.stage(cell).pool.clean_job().canonical()], [self._training_seed(cell, seed)])[0]
        if isinstance(model, StoredModel):
            self.store.put_arrays(key, model.state())
        return model

    def _clean_identity(self, cell: Cell, seed: int) -> tuple[object, ...]:
        exact = self.victim(cell).exact
        return (cell.dataset, cell.victim, cell.option("split", "0"), cell.option("protocol", "default"), 0 if exact else seed)

    def _attacker(self, cell: Cell) -> Model | None:
        stage = self.stage(cell)
        if label_rule(cell, stage.dataset.n_classes) != "common":
            return None
        key = ("attacker", *self._clean_identity(cell, 0))
        seed = derived_seed("attacker", cell.dataset)
        return self._once(key, lambda: self.victim(cell).fit_many([stage.aux_job()], [seed])[0])

    def _retrained(self, cell: Cell, trial: Trial) -> TrialResult:
        """The noise floor: the clean victim of another seed stands where the poisoned one would."""
        right = self.clean_right(cell, trial.seed + cell.n_seeds)
        return TrialResult(trial, {"n_poison": 0.0, "n_flipped": 0.0}, {"right": right})

    def _removed_per_class(self, cell: Cell) -> dict[Trial, Ints]:
        """What the matched filter removed in each trial: {trial: (C,) rows per class}."""
        results, _ = self.trials(cell.with_(defense=cell.defense.removeprefix(MATCHED)))
        return {result.trial: np.asarray(result.arrays["removed_per_class"]) for result in results}

    def _training_seed(self, cell: Cell, seed: int) -> int:
        return derived_seed("train", cell.dataset, cell.option("split", "0"), seed) % 2**32

    def _chunk_key(self, cell: Cell, chunk: Sequence[Trial]) -> str:
        what = cell.with_(stem="", tier="", n_seeds=0)
        own = cell.defense.removeprefix(MATCHED)
        plugin = self.plugins[own].source if own in self.plugins else ""
        trials = [(t.subpopulation, t.seed, t.attacked) for t in chunk]
        spare = cell.n_seeds if cell.defense == RETRAIN else 0
        return self._key(cell=repr(what), trials=trials, spare=spare, data=self.stage(cell).fingerprint, plugin=plugin)

    def seconds_per_fit(self, cell: Cell) -> float:
        """A rough guess for two cores, from the size of D; nothing but the plan rests on it."""
        rough = {"logistic_regression": 1e-8, "mlp": 1e-7, "mlp_wide": 1e-6}.get(cell.victim, 2e-6)  # seconds a value of D
        return float(rough * self.stage(cell).pool.n_train * self.stage(cell).pool.x[0].size)

    def _key(self, **parts: Any) -> str:
        source = self._once(("source",), lambda: source_hash(["subpop.experiment"]))
        return key_of({**parts, "source": source, "versions": versions(), "device": self.device.split(":")[0]})

    @property
    def _done_now(self) -> set[str]:
        done: set[str] = self._memory.setdefault("done now", set())
        return done

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._memory:
            self._memory[key] = make()
        made: T = self._memory[key]
        return made


def without_residual(model: Model) -> Model:
    """A model as a defense gets it: how exactly it was solved would tell whether it was trained on clean D."""
    if is_dataclass(model) and not isinstance(model, type) and hasattr(model, "kkt_residual"):
        return replace(model, kkt_residual=float("nan"))
    return model


def _job_key(job: FleetJob) -> str:
    return data_hash(*(part for part in (job.rows, job.y, job.weights, job.extra_x) if part is not None))
