"""From a cell to its trials to its numbers: the only module that composes these stages.

The list of a cell's trials is split into chunks that depend on that list alone; a chunk is one fleet, one batch of defenses and
one transaction. So after a kill, unfinished chunks are run again as a whole, with bit-identical results. Chunks of plug-ins,
which may be slow, are run and stored in parts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from subpop.attacks import ATTACKS
from subpop.attacks.attacker import Attacker
from subpop.attacks.best_of_list import Rehearsal
from subpop.attacks.drawing import NO_POISON, check_attack, draw_poison, n_poison
from subpop.attacks.label_flip import AttackTask, Poison
from subpop.attacks.user_attacks import NOTE as USER_ATTACK
from subpop.attacks.user_attacks import user_attack
from subpop.datasets.stage import Stage
from subpop.defenses import DEFENSES, MATCHED, RETRAIN, filter_of, matched_random_filter
from subpop.experiments.collective import most_wrong_rows
from subpop.experiments.context import Context
from subpop.experiments.nearest_texts import nearest_texts
from subpop.experiments.parts import Parts
from subpop.experiments.rehearsal import check_rehearsal, rehearsal
from subpop.experiments.trial import REMOVED, TOLD, Prepared, grid, prepare, score, undefended
from subpop.experiments.undecided import Undecided, error_of, is_undecided
from subpop.harness.batching import FitMany, OnGreenlet, TrialBatch, job_of
from subpop.harness.manifest import KeepsRecords, Manifests
from subpop.harness.outcome import Outcome
from subpop.harness.plugins import MAX_FITS, DefenseSpec
from subpop.results.intervals import SUBPOPULATIONS, of_table
from subpop.results.metrics import Doubles, eligible
from subpop.results.summary.kept import kept_summary
from subpop.results.summary.ranked import seed_std
from subpop.runtime.cell_code import TRIALS, entry_text, modules_behind
from subpop.runtime.fingerprint import key_of, texts_hash
from subpop.runtime.memo import KeepsArrays
from subpop.runtime.output import Listener
from subpop.runtime.seeds import draw_identity, training_seed
from subpop.types import (
    CAN_COUNT,
    Array,
    BadInput,
    Bools,
    Cell,
    CellResult,
    Ints,
    Model,
    Number,
    TrainingSet,
    Trial,
    TrialResult,
    Victim,
)
from subpop.types.base import nearest
from subpop.types.roles import Trainable

CHUNK_TRIALS = 256
NEAR_A_TIE = (
    "{} with {}: in some trials the error of the solver could change a prediction or a selection, so that numbers may differ by "
    "one test row on another machine (`undecided` in results.json counts these trials)"
)
ACCURACY = "kkt_residual", "error_bound"
"""Fields of a model that say how exactly it was solved."""
SHOWN = 3
"""Number of subpopulations whose texts are shown."""
CHUNK_BYTES = 1 << 30
"""A chunk's gathered training sets stay below this many bytes."""


class KeepsTrials(KeepsArrays, KeepsRecords, Protocol):
    """The methods of a store that an experiment uses."""

    def has_chunk(self, key: str) -> bool: ...
    def get_chunk(self, key: str) -> list[TrialResult] | None: ...
    def put_chunk(
        self,
        key: str,
        cell: Cell,
        results: Sequence[TrialResult],
        device: str,
        *,
        replace: bool = False,
        instead_of: Sequence[str] = (),
    ) -> None: ...


class Observer(Protocol):
    """Observes the requests to `fit` and the outcomes of a plug-in's trials."""

    def watch(self, cell: Cell, prepared: Sequence[Prepared], fit_many: FitMany) -> FitMany:
        """Return the `fit_many` that the batch uses instead."""
        ...

    def note(self, cell: Cell, outcomes: Sequence[Outcome]) -> None:
        """Receive the outcomes of the last watched batch, after its child has ended."""
        ...

    def sampling(self, trials: Sequence[Trial]) -> AbstractContextManager[None]:
        """A context in which these trials are watched in several batches, and count as one."""
        ...


@dataclass
class Experiment:
    """Runs cells of trials."""

    store: KeepsTrials
    context: Context
    """Builds data, victims and attackers, with the same store."""
    timeout: float = 300.0
    """Time limit of a plug-in for a trial, in seconds."""
    plugins: Mapping[str, DefenseSpec] = field(default_factory=dict)
    """Plug-in defenses, by the name that reports use."""
    listener: Listener | None = None
    """Receives the output of plug-ins."""
    observer: Observer | None = None
    whole_key: str = field(default="", repr=False)
    """Key of the cell being measured as a whole, under which `manifests` records what a plug-in reads."""
    await_chunk: Callable[[str], None] = field(default=lambda key: None, repr=False)
    """Returns once no worker is working on the chunk with this key."""

    @classmethod
    def on(
        cls,
        store: KeepsTrials,
        root: Path | None = None,
        device: str = "cpu",
        *,
        timeout: float = 300.0,
        plugins: Mapping[str, DefenseSpec] | None = None,
        listener: Listener | None = None,
        **places: Any,
    ) -> Experiment:
        """An experiment with a new context; places: further fields of `Context`."""
        return cls(store, Context(store, root, device, **places), timeout, plugins or {}, listener)

    # --- the whole cell -----------------------------------------------------------------------------------------------

    def run(self, cell: Cell) -> CellResult:
        """All numbers of a cell; trials that are not in the store are trained."""
        stage = self.context.stage(cell)
        results, from_store = self.trials(cell)
        clean = np.stack([self.context.clean_right(cell, seed) for seed in range(cell.n_seeds)])
        exact = self.context.victim(cell).exact and getattr(DEFENSES.get(cell.defense), "exact", True)
        found = kept_summary(
            self.store,
            self.context.memo,
            cell,
            stage,
            results,
            clean,
            exact=exact,
            ranked_by=self._ranking(cell),
            most_wrong=most_wrong_rows(stage, cell, results, self.context.memo),
        )
        found = replace(found, knowledge=self.knowledge(cell), from_store=from_store)
        if cell.defense in self.plugins and self.plugins[cell.defense].max_fits > MAX_FITS:
            found = replace(found, max_fits=self.plugins[cell.defense].max_fits)
        own = (USER_ATTACK.format(cell.attack),) if cell.attack in self.context.attacks else ()
        found = replace(found, notes=(*found.notes, *own, *self._not_reusable(cell)))
        if exact and (n_undecided := self._n_undecided(cell, results)) is not None:
            notes = (NEAR_A_TIE.format(cell.victim, cell.defense),) if n_undecided else ()
            found = replace(found, notes=(*found.notes, *notes), n_undecided=n_undecided)
        if cell.plain() != cell:
            return replace(found, numbers=(*found.numbers, *gain(cell, stage, results, self.trials(cell.plain())[0])))
        if stage.dataset.texts is not None and cell.partition == "cluster_match" and cell.defense == "none":
            return replace(found, arrays={**found.arrays, **self._examples(cell, found)})
        return found

    def _examples(self, cell: Cell, found: CellResult) -> dict[str, Array]:
        """The texts nearest to the centroids of the most damaged subpopulations."""
        stage = self.context.stage(cell)
        hurt = sorted(found.table, key=lambda row: (-float(row["target_damage"]), str(row["subpopulation"])))
        names = [str(row["subpopulation"]) for row in hurt[:SHOWN]]
        memo, texts = self.context.memo, stage.dataset.texts or ()
        key = memo.key(
            ["subpop.experiments.nearest_texts"],
            texts=(names, memo.once(("texts", cell.dataset), lambda: texts_hash(texts))),
            subpopulations=self.context.partition_key(cell),
        )
        return dict(memo.arrays(key, lambda: nearest_texts(stage, self.context.cluster_space(cell), names))[0])

    def _ranking(self, cell: Cell) -> list[TrialResult] | None:
        """The trials whose damages rank the cell's subpopulations: those of the defense `ranked_by`; None for its own."""
        return None if cell.ranked_by == cell.defense else self.trials(cell.with_(defense=cell.ranked_by))[0]

    def _n_undecided(self, cell: Cell, results: Sequence[TrialResult]) -> int | None:
        """How many trials, clean models and labels of a cell the error of its solver could change; None if that is not known."""
        context, own_filter = self.context, filter_of(cell.defense)
        attack_asks = cell.poisoning.moves_rows or cell.poisoning.asks_model
        are_computed = context.rows(cell) is not None or attack_asks or not context.has_fixed_partition(cell)
        if are_computed or own_filter in self.plugins:
            return None
        used = {own_filter: (), cell.ranked_by: (), cell.defense: results}
        found = [context.clean_undecided(cell, seed) for seed in range(cell.n_seeds)]
        for name, own in used.items():
            ranks_rows = getattr(DEFENSES.get(name), "ranks_rows", not name.startswith(MATCHED))
            own = own or self.trials(cell.with_(defense=name))[0]
            found += [is_undecided(result, ranks_rows=ranks_rows) for result in own]
        attacker = context.label_attacker(cell)
        if attacker is not None:
            stage = context.stage(cell)
            undecided = Undecided(stage.data)
            found += [float(undecided.least_likely(attacker, stage.aux_members(name))) for name in stage.attacked]
        return None if np.isnan(found).any() else int(np.count_nonzero(found))

    def trials(self, cell: Cell) -> tuple[list[TrialResult], bool]:
        """Every trial of a cell, in order, and whether all of them came from the store."""
        results: list[TrialResult] = []
        all_stored = True
        for chunk in self.chunks(cell):
            stored = self.stored(cell, chunk)
            if self.context.memo.was_received(self.chunk_key(cell, chunk)):
                all_stored = False
            all_stored &= stored is not None
            results += self._chunk(cell, chunk) if stored is None else stored
        return results, all_stored

    def _chunk(self, cell: Cell, chunk: list[Trial]) -> list[TrialResult]:
        """The trials of a chunk, from the store, or trained and stored."""
        results = self.stored(cell, chunk)
        if results is None:
            run = self.parts.run if cell.defense in self.plugins else self.timed_chunk
            with self.context.progress.showing(cell.id):
                results = run(cell, chunk)
            self.commit(cell, chunk, results)
        return results

    def list_trials(self, cell: Cell) -> list[Trial]:
        """Attacked trials of all subpopulations and seeds, then the defense on clean data."""
        seeds = range(cell.n_seeds)
        names = self.context.stage(cell).attacked
        trials = [Trial(name, seed) for name in names for seed in seeds]
        if cell.defense in ("none", RETRAIN):
            return trials
        # This side information depends on the subpopulation: the number of its poison rows, a holdout without its rows, groups.
        depends = {"n_poison", "clean_holdout", "groups"} & self.needs(cell.with_(defense=filter_of(cell.defense)))
        return trials + [Trial(name, seed, attacked=False) for name in (names if depends else [""]) for seed in seeds]

    def chunks(self, cell: Cell) -> list[list[Trial]]:
        """A cell's trials split in order, so that a chunk's gathered training sets fit into the memory budget.

        Victims that are trained one after another anyway have one trial a chunk: a kill then costs one training at most.
        """
        return self.context.memo.once(("chunks", cell), lambda: self._cut(cell))

    def _cut(self, cell: Cell) -> list[list[Trial]]:
        stage = self.context.stage(cell)
        check_attack(stage, cell, is_own=cell.attack in self.context.attacks)
        self._check_granted(cell)
        trials = self.list_trials(cell)
        row_bytes = stage.pool.x[:1].nbytes
        size = max(1, min(CHUNK_TRIALS, CHUNK_BYTES // (2 * stage.pool.n_train * row_bytes)))
        if getattr(self.context.victim(cell), "one_by_one", False):
            size = 1
        return [trials[i : i + size] for i in range(0, len(trials), size)]

    def missing_chunks(self, cell: Cell) -> list[tuple[Cell, list[Trial]]]:
        """The chunks that the next `run` has to train; of a plug-in's, without the parts that are stored."""
        found = [(cell, chunk) for chunk in self.chunks(cell) if not self.has_stored(cell, chunk)]
        if cell.defense in self.plugins:
            found = [(cell, chunk[sum(map(len, self.parts.stored(cell, chunk))) :]) for cell, chunk in found]
        return found

    def commit(self, cell: Cell, chunk: list[Trial], results: list[TrialResult]) -> None:
        """Store a chunk's trials, in one transaction, in place of the parts of it that are stored."""
        key = self._key_of_trials(cell, chunk)
        if key is None:  # files that a plug-in read have changed since
            return
        is_own = cell.defense in self.plugins
        parts = self.parts.take(cell, chunk) if is_own else ()
        keys = [each for part in parts if (each := self._key_of_trials(cell, part)) is not None]
        again = self.context.fresh or filter_of(cell.defense) in self.plugins
        self.store.put_chunk(key, cell, results, self.context.device, replace=again, instead_of=keys)
        if is_own and chunk in self.chunks(cell):
            self.parts.note_whole(cell, chunk, key)
        self.context.memo.note(key)

    def receive_chunk(self, key: str, cell: Cell, results: Sequence[TrialResult]) -> None:
        """Store trials that a worker trained. The first cell that requests them counts as having trained them."""
        self.store.put_chunk(key, cell, results, self.context.device, replace=self.context.fresh)
        self.context.memo.note(key, received=True)
        n_fits, seconds = sum(result.n_fits for result in results), sum(result.seconds for result in results)
        self.context.progress.forecast.receive(cell, n_fits, seconds)

    def stored(self, cell: Cell, chunk: list[Trial]) -> list[TrialResult] | None:
        """The trials of a chunk if they are stored, after waiting for workers that are training them; otherwise None."""
        self.await_chunk(self.chunk_key(cell, chunk))
        key = self._key_of_stored(cell, chunk)
        return None if key is None else self.store.get_chunk(key)

    def has_stored(self, cell: Cell, chunk: list[Trial]) -> bool:
        """Whether the trials of a chunk are stored and may be used."""
        return self._key_of_stored(cell, chunk) is not None

    def _key_of_stored(self, cell: Cell, chunk: list[Trial]) -> str | None:
        """The key of stored trials that may be used; None if the chunk has to be run."""
        key = self._key_of_trials(cell, chunk)
        if key is None or not self.context.memo.may_serve(key):
            return None
        return key if self.store.has_chunk(key) else None

    def _key_of_trials(self, cell: Cell, chunk: Sequence[Trial]) -> str | None:
        """The key of a chunk's trials; for a plug-in and controls matched to it, None if its manifest no longer holds."""
        key, own = self.chunk_key(cell, chunk), filter_of(cell.defense)
        if own not in self.plugins:
            return key
        if own == cell.defense:
            return self.manifests.key(key)
        beside = cell.with_(defense=own)
        keys = [self._key_of_trials(beside, each) for each in self.chunks(beside)]
        return None if None in keys else key_of({"specification": key, "beside": keys})

    def trials_key(self, cell: Cell) -> str | None:
        """Hash of everything that a cell's trials depend on; None if they may not be reused."""
        if self._not_reusable(cell):
            return None
        keys = [self._key_of_trials(cell, chunk) for chunk in self.chunks(cell)]
        return None if None in keys else key_of({"trials": keys})

    @property
    def manifests(self) -> Manifests:
        """The manifests of plug-ins: what they read in addition to their own source."""
        return self.context.memo.once(("manifests",), lambda: Manifests(self.store))

    @property
    def parts(self) -> Parts:
        """What divides the chunks of plug-ins."""
        return self.context.memo.once(("parts",), lambda: Parts(self))

    def _not_reusable(self, cell: Cell) -> tuple[str, ...]:
        """A note if the trials of a plug-in cannot be reused and run again each time."""
        if cell.defense not in self.plugins:
            return ()
        found = {reason for chunk in self.chunks(cell) for reason in self.manifests.reasons(self.chunk_key(cell, chunk))}
        return (f"{cell.defense} is not reusable and runs again each time: {'; '.join(sorted(found))}",) if found else ()

    # --- one chunk ----------------------------------------------------------------------------------------------------

    def timed_chunk(self, cell: Cell, chunk: Sequence[Trial]) -> list[TrialResult]:
        """`run_chunk`, with each trial's share of the seconds that the chunk took."""
        started = time.perf_counter()
        results = self.run_chunk(cell, chunk)
        share = (time.perf_counter() - started) / max(1, len(results))
        return [replace(result, seconds=share) for result in results]

    def run_chunk(self, cell: Cell, chunk: Sequence[Trial]) -> list[TrialResult]:
        """Train and defend the trials of one chunk as one fleet; uses the store for clean models only."""
        if cell.defense == RETRAIN:
            return [self._retrained(cell, trial) for trial in chunk]
        stage = self.context.stage(cell)
        prepared = [self.prepare(cell, trial) for trial in chunk]
        accuracy = np.tile([np.nan, 0.0], (len(chunk), 1))
        fit_many = self.fleet_of(cell, [trial.seed for trial in chunk], accuracy)
        outcomes = self._defend(cell, prepared, fit_many, self.asked_rows(cell))
        undecided = Undecided(stage.data)
        found = zip(prepared, outcomes, accuracy, strict=True)
        return [score(stage, own, outcome, undecided, a, cell.panels) for own, outcome, a in found]

    def asked_rows(self, cell: Cell) -> Array:
        """(n, ...) the rows for which a cell's models predict: the test rows, then those of the panels, if any."""
        stage = self.context.stage(cell)
        return stage.data.test_x if not cell.panels else np.concatenate([stage.data.test_x, grid(stage)[0]])

    def defended_right(self, cell: Cell, trials: Sequence[Trial]) -> list[Bools]:
        """(n_test,) correct predictions of the cell's defense in trials that are not stored; used by probes."""
        observer, self.observer = self.observer, None
        try:
            results = self.run_chunk(cell, trials)
        finally:
            self.observer = observer
        return [np.asarray(result.arrays["right"], bool) for result in results]

    def fleet_of(self, cell: Cell, seeds: Sequence[int], accuracy: Doubles | None = None) -> FitMany:
        """The `fit_many` of a batch. seeds: one per trial; accuracy: (n, 2) filled with each trial's largest KKT residual, NaN if
        there is none, and largest error bound, NaN if one is missing."""
        pool = self.context.data(cell).pool

        def fit_many(requests: list[tuple[int, TrainingSet]]) -> list[Model]:
            jobs = [job_of(pool, train).canonical() for _, train in requests]
            models = self.context.fit(cell, jobs, [seeds[i] for i, _ in requests], blindly=cell.defense in self.plugins)
            for (i, _), model in zip(requests, models, strict=True):
                if accuracy is not None:
                    accuracy[i, 0] = np.fmax(accuracy[i, 0], getattr(model, "kkt_residual", np.nan))
                    accuracy[i, 1] = np.maximum(accuracy[i, 1], error_of(model))
            self.context.progress.advance(len(requests))
            return [without_accuracy(model) for model in models]

        return fit_many

    def _defend(self, cell: Cell, prepared: Sequence[Prepared], fit_many: FitMany, test_x: Array) -> list[Outcome]:
        batch = TrialBatch([p.task for p in prepared], fit_many, test_x, self.context.stage(cell).dataset.n_classes)
        if cell.defense in self.plugins:
            from subpop.harness.sandbox import run_in_child

            if self.observer is not None:
                batch = replace(batch, fit_many=self.observer.watch(cell, prepared, fit_many))
            key = self.chunk_key(cell, [p.trial for p in prepared])
            heard = (self.listener, lambda manifest: self.manifests.note(key, manifest), self.parts.begin)
            outcomes = list(run_in_child(self.plugins[cell.defense], batch, self.timeout, *heard))
            self.parts.end([outcome.seconds for outcome in outcomes])
            if self.observer is not None:
                self.observer.note(cell, outcomes)
            return outcomes
        if cell.defense == "none":
            return undefended(batch)
        if cell.defense.startswith(MATCHED):
            counts = self._removed_per_class(cell, [p.trial for p in prepared])
            defenses = [matched_random_filter(dict(enumerate(counts[p.trial].tolist()))) for p in prepared]
            return list(batch.run(defenses, carrier=OnGreenlet))
        return list(batch.run(DEFENSES[cell.defense], carrier=OnGreenlet))

    def prepare(self, cell: Cell, trial: Trial) -> Prepared:
        """Prepare one trial for its defense."""
        context, name = self.context, trial.subpopulation
        stage, needs, poison = context.stage(cell), self.needs(cell), NO_POISON
        if trial.attacked:
            poison = draw_poison(
                stage,
                cell,
                name,
                trial.seed,
                context.label_attacker(cell),
                optimiser=self._optimiser(cell, name),
                victim=context.victim(cell),
                attack=self._own_attack(cell),
            )
        count = n_poison(stage, cell, name) if "n_poison" in needs else 0
        training = trainable(context.victim(cell), cell, trial.seed) if "training" in needs else None
        return prepare(
            stage,
            cell,
            trial,
            poison,
            needs=needs,
            n_poison=count,
            secret=self._secret(cell),
            training=training,
            shuffled=cell.defense != "none" or cell.panels,
        )

    def _optimiser(self, cell: Cell, name: str) -> Attacker | Rehearsal | None:
        """What the attack optimises poison against: the attacker's model, or the cell's defense on the attacker's rows."""
        if not cell.poisoning.asks_defense:
            return self.context.optimiser(cell)
        return rehearsal(self.context.stage(cell), cell, name, self.context.victim(cell), self.needs(cell))

    def _own_attack(self, cell: Cell) -> Callable[[AttackTask[Any]], Poison] | None:
        """The attack of a cell whose attack is no registered one."""
        spec = self.context.attacks.get(cell.attack)
        return None if spec is None else user_attack(spec, self.timeout, self.listener)

    def _secret(self, cell: Cell) -> str:
        """A secret without which a plug-in cannot reproduce its shuffle: drawn once per store, never sent to a child."""
        if cell.defense not in self.plugins:
            return ""  # references must not depend on the store
        if self.store.get_arrays("secret") is None:
            self.store.put_arrays("secret", {"secret": np.frombuffer(os.urandom(16), np.uint8)})
        return str((self.store.get_arrays("secret") or {})["secret"].tobytes().hex())

    # --- defenses ------------------------------------------------------------------------------------------------------

    def needs(self, cell: Cell) -> frozenset[str]:
        """Names of the Knowledge fields that the cell's defense needs."""
        if cell.defense in self.plugins:
            return frozenset(self.plugins[cell.defense].needs)
        if cell.defense == RETRAIN:
            return frozenset()
        if cell.defense.startswith(MATCHED):
            return frozenset()
        if cell.defense not in DEFENSES:
            names = [*DEFENSES, *self.plugins, MATCHED + "<filter>", RETRAIN]
            advice = nearest(cell.defense, names, ", or your own with --defense file.py:function")
            raise BadInput(f"unknown defense {cell.defense!r}; {advice}")
        return frozenset(getattr(DEFENSES[cell.defense], "needs", ()))

    def knowledge(self, cell: Cell) -> str:
        """The `knowledge` column: the side information of the defense, and what it can infer from its number of rows."""
        if cell.defense == RETRAIN:
            return ""
        if cell.defense.startswith(MATCHED):
            return "the filter's counts"
        granted = {"n_poison", "poison_mask", "groups"} | ({"clean_holdout"} if cell.defender.holdout is not None else set())
        received = sorted(self.needs(cell) & granted)
        variant = cell.defender.n_poison_told
        words = {
            "clean_holdout": f"clean_holdout of {cell.option('holdout')} of the test rows",
            "groups": f"groups ({cell.defender.groups_told})",
        }
        if variant != "exact":
            words["n_poison"] = f"n_poison x {TOLD[variant]:g}"
        knows_count = "poison_mask" in received or ("n_poison" in received and variant == "exact")
        inferred = [CAN_COUNT] if cell.rate > 0 and not knows_count else []
        return ", ".join([*(words.get(name, name) for name in received), *inferred])

    def _check_granted(self, cell: Cell) -> None:
        """Raise BadInput for a cell that does not grant what its defense needs, before anything is trained."""
        if "clean_holdout" in self.needs(cell) and cell.defender.holdout is None:
            raise BadInput(
                f"{cell.defense} needs clean_holdout, and {cell.id} grants none: its setting has no holdout. Choose cells whose "
                "setting names one, such as holdout=0.05 (-k holdout), or take clean_holdout out of the defense's needs"
            )
        if cell.poisoning.asks_defense:
            check_rehearsal(self.context.stage(cell), cell, self.needs(cell))

    def _retrained(self, cell: Cell, trial: Trial) -> TrialResult:
        """The noise floor: the clean victim of another seed replaces the poisoned one."""
        right = self.context.clean_right(cell, trial.seed + cell.n_seeds)
        return TrialResult(trial, {"n_poison": 0.0, "n_flipped": 0.0}, {"right": right})

    def _removed_per_class(self, cell: Cell, trials: Sequence[Trial]) -> dict[Trial, Ints]:
        """The numbers of rows that the matched filter removed in each trial: {trial: (C,) rows per class}."""
        base = cell.with_(defense=filter_of(cell.defense))
        results = [result for chunk in self._chunks_read(cell, trials) for result in self._chunk(base, chunk)]
        if any(REMOVED not in result.arrays for result in results):
            raise BadInput(
                f"{cell.defense}: {base.defense} does not say which rows it removes, so that nothing can be matched to it; "
                f"name a filter, such as {MATCHED}trim"
            )
        return {result.trial: np.asarray(result.arrays[REMOVED]) for result in results}

    def _chunks_read(self, cell: Cell, trials: Sequence[Trial]) -> list[list[Trial]]:
        """The filter's chunks on which trials of its matched control depend; none for other defenses."""
        own = filter_of(cell.defense)
        if own == cell.defense:
            return []
        asked = set(trials)
        # Stored trials of a control matched to a plug-in depend on all of the plug-in's trials.
        return [chunk for chunk in self.chunks(cell.with_(defense=own)) if asked & set(chunk) or own in self.plugins]

    # --- keys -----------------------------------------------------------------------------------------------------------

    def chunk_key(self, cell: Cell, chunk: Sequence[Trial]) -> str:
        """The key of a chunk: a hash of everything that its trials depend on, including the keys of results that they read."""
        what = (cell.data, cell.subpopulations, cell.poisoning, cell.rate, cell.learner, cell.defender, cell.panels)
        key = ("chunk", *what, cell.named, cell.n_seeds, self.plugins.get(filter_of(cell.defense)), tuple(chunk))
        return self.context.memo.once(key, lambda: self._chunk_key(cell, chunk))

    def _chunk_key(self, cell: Cell, chunk: Sequence[Trial]) -> str:
        context = self.context
        read = [self.chunk_key(cell.with_(defense=filter_of(cell.defense)), each) for each in self._chunks_read(cell, chunk)]
        read += [context.model_key(cell, "clean", seed) for seed in sorted({trial.seed for trial in chunk})]
        read += [context.model_key(cell, "attacker", 0)]
        return context.memo.key(
            self.code(cell),
            draws=draw_identity(cell),
            attack=(cell.poisoning, cell.rate),
            defender=cell.defender,
            entries=self.entries(cell.attack, cell.defense),
            panels=cell.panels,
            trials=[(t.subpopulation, t.seed, t.attacked) for t in chunk],
            spare=cell.n_seeds if cell.defense == RETRAIN else 0,
            data=(context.stage(cell).fingerprint, context.data(cell).dataset.n_classes),
            victim=context.victim_identity(cell),
            read=read,
        )

    def entries(self, attack: str, defense: str) -> tuple[object, ...]:
        """What the names of an attack and a defense refer to: entries of the registries, or the source of a plug-in."""
        spec, own, built_in = self.plugins.get(filter_of(defense)), self.context.attacks.get(attack), DEFENSES.get(defense)
        made = entry_text(ATTACKS[attack]) if own is None else _source_of(own)
        return made, "" if built_in is None else entry_text(built_in), "" if spec is None else _source_of(spec)

    def code(self, cell: Cell) -> frozenset[str]:
        """The modules on which the cell's trials depend; keys also cover their imports (see `subpop.runtime.cell_code`)."""
        context = self.context
        parts = context.data_code(cell) | context.partition_code(cell) | context.victim_code(cell) | context.attack_code(cell)
        parts |= {"subpop.experiments.rehearsal"} if cell.poisoning.asks_defense else frozenset()
        return parts | self.defense_code(cell) | set(TRIALS)

    def defense_code(self, cell: Cell) -> frozenset[str]:
        """The modules of the cell's defense; for a matched control, without those of the filter, whose results it reads."""
        if cell.defense in self.plugins:
            return frozenset(["subpop.harness.sandbox"])
        if cell.defense == RETRAIN:
            return frozenset()
        entry = matched_random_filter if cell.defense.startswith(MATCHED) else DEFENSES[cell.defense]
        return frozenset(modules_behind(entry))


def trainable(victim: Victim, cell: Cell, seed: int) -> Trainable | None:
    """How the victim of a trial is trained step by step; None if it is not."""
    recipe = getattr(victim, "trainable", None)
    return None if recipe is None else recipe(training_seed(cell, seed))


def _source_of(spec: DefenseSpec) -> tuple[str, ...]:
    """What tells a plug-in from another."""
    return spec.source, str(spec.path), spec.module, spec.function, spec.arguments


def gain(cell: Cell, stage: Stage, results: Sequence[TrialResult], flipped: Sequence[TrialResult]) -> list[Number]:
    """The additional damage of an attack over label flipping, paired by trial: mean over subpopulations eligible for worst-k.

    Of a control, its negative is the damage of label flipping net of the control.

    Its standard error is over subpopulations. The list is empty if no subpopulation is large enough.
    """
    before, after = ({r.trial: r.arrays["right"].astype(float) for r in each} for each in (flipped, results))
    members = {name: stage.test_members(name) for name in stage.attacked}
    large = [name for name, own in members.items() if eligible(int(own.sum()))]
    if not large:
        return []
    trials = [[Trial(name, seed) for seed in range(cell.n_seeds)] for name in large]
    more = np.array([[(before[t] - after[t])[members[t.subpopulation]].mean() for t in own] for own in trials])
    error = float(more.mean(1).std(ddof=1) / len(large) ** 0.5) if len(large) > 1 else None
    width, by_seed = of_table(more), tuple(more.mean(axis=0))
    found = Number("gain_over_label_flip", float(more.mean()), error, std=seed_std(more), half_width=width, varies=SUBPOPULATIONS)
    return [replace(found, by_seed=by_seed)]


def without_accuracy(model: Model) -> Model:
    """A model that does not say how exactly it was solved, which could reveal to a defense whether it was trained on clean D."""
    if is_dataclass(model) and not isinstance(model, type):
        return replace(model, **{name: np.nan for name in ACCURACY if hasattr(model, name)})
    return model
