"""What workers do: the tasks that a run's missing chunks and cells make, and their execution in a worker process.

A worker never opens the store. It returns the results of a task with the keys under which it would have stored them, and the
harness accepts only what has the key that it expects.
"""

from __future__ import annotations

import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from subpop.defenses import filter_of
from subpop.experiments.experiment import Experiment
from subpop.experiments.shared_arrays import SharedArrays
from subpop.experiments.trial import REMOVED
from subpop.runtime.fingerprint import keep_code_in
from subpop.runtime.memo import NotStored
from subpop.runtime.no_store import NoStore
from subpop.runtime.seeds import draw_identity
from subpop.runtime.workers import settle
from subpop.types import Array, Cell, CellResult, Trial, TrialResult
from subpop.types.kinds import Measurers, kind_of
from subpop.types.printable import described

KEPT = 256 << 20
"""Bytes of arrays that a worker keeps from task to task, if it can read them again."""

# --- messages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A unit of work for a worker."""

    chunks: tuple[tuple[Cell, tuple[Trial, ...]], ...] = ()
    """Cells and some of their trials, trained in this order."""
    stored: tuple[tuple[Cell, tuple[Trial, ...], tuple[TrialResult, ...]], ...] = ()
    """Stored results on which the chunks depend."""
    whole: Cell | None = None
    """A cell without trials to measure, or one part of it."""
    part: int = 0
    seconds: float = 0.0
    """An estimate."""

    def __str__(self) -> str:
        cells = [self.whole] if self.whole else [cell for cell, _ in self.chunks]
        return ", ".join(dict.fromkeys(f"{cell.stem} {cell.id}" for cell in cells))

    def alone(self) -> list[Task]:
        """The same work with each chunk in a task of its own, for what may have killed a worker."""
        if len(self.chunks) < 2:
            return [self]  # `stored` is looked up again when it is sent
        return [Task((each,), seconds=self.seconds / len(self.chunks)) for each in self.chunks]


@dataclass
class Answer:
    """The results of a task."""

    chunks: list[list[TrialResult] | None] = field(default_factory=list)
    """The trials of each chunk, None if it failed."""
    keys: list[str] = field(default_factory=list)
    """The keys of these chunks, as the worker computes them."""
    arrays: dict[str, dict[str, Array]] = field(default_factory=dict)
    """What was made besides, by key."""
    errors: list[str] = field(default_factory=list)
    """What failed."""
    worker: str = ""
    """The machine and the process."""
    started: float = 0.0
    """Seconds on the worker's clock, as is `ended`."""
    ended: float = 0.0
    cpu: float = 0.0
    """Processor seconds."""


Seconds = Callable[[Cell, int], float]
"""Estimates how long the trials of a cell take, from their number; 0 trials: a cell without trials."""


Kept = Callable[[Cell, CellResult], None]
"""Receives the stored result of a cell without trials."""


def tasks_of(
    experiment: Experiment,
    cells: Iterable[Cell],
    seconds: Seconds = lambda cell, n_trials: 0.0,
    kept: Kept = lambda cell, result: None,
) -> list[Task]:
    """The tasks of workers for these cells, in order, with estimates of their length.

    Cells that are in the store need none. The tests themselves run speed cells, plug-ins (in their own child), and cells whose
    data, victim or attack workers cannot find by its name.
    A control matched to a defense is in the same task as that defense's chunk. So are chunks of a stochastic victim that begin
    with the same trial and differ only in their defense: they start from the same fleet, which is then trained only once.
    """
    together: dict[Any, list[tuple[Cell, tuple[Trial, ...]]]] = {}  # in the order of the tests, which wait for them
    whole: dict[Any, tuple[Cell, int]] = {}
    expected: dict[Any, float] = defaultdict(float)
    seen: set[str] = set()
    measure = Measurers(experiment)
    for cell in cells:
        kind = kind_of(cell)
        if not kind.trains_trials:
            shared = kind.task_key(cell)
            if shared is not None and cell.defense not in experiment.plugins and experiment.context.is_found_by_name(cell):
                for part in range(kind.parts(cell)):
                    if not _is_kept(experiment, measure, cell, part, kept):
                        key = ("whole", cell.kind, shared, part)
                        together.setdefault(key, [])
                        whole.setdefault(key, (cell, part))
                        expected[key] += seconds(cell, 0) / kind.parts(cell)
            continue
        for needed, chunk in _missing(experiment, cell):
            chunk_key = experiment.chunk_key(needed, chunk)
            if chunk_key not in seen:
                seen.add(chunk_key)
                task_key = _task_key(experiment, needed, chunk)
                together.setdefault(task_key, []).append((needed, tuple(chunk)))
                expected[task_key] += seconds(needed, len(chunk))
    tasks = [
        Task(tuple(chunks), stored_for_controls(experiment, chunks), seconds=expected[key]) for key, chunks in together.items()
    ]
    parts = [whole.get(key, (None, 0)) for key in together]
    return [replace(task, whole=cell, part=part) for task, (cell, part) in zip(tasks, parts, strict=True)]


def _is_kept(experiment: Experiment, measure: Measurers, cell: Cell, part: int, kept: Kept) -> bool:
    """Whether a part of a cell without trials needs no worker: it is in the store, or its test will report why it cannot run."""
    try:
        with experiment.context.memo.reading():
            result = measure.part(cell, part)
    except NotStored:
        return False
    except Exception:
        return True
    if result is not None:
        kept(cell, result)
    return True


def _missing(experiment: Experiment, cell: Cell) -> list[tuple[Cell, list[Trial]]]:
    """The missing chunks of a cell, after those of cells that it is ranked by or compared with; none if a cell cannot run."""
    base = cell.with_(defense=filter_of(cell.defense))
    related = dict.fromkeys([cell.with_(defense=cell.ranked_by), cell.plain(), base, cell])
    found = []
    for each in related:
        if filter_of(each.defense) not in experiment.plugins and experiment.context.is_found_by_name(each):
            with suppress(Exception):
                found += experiment.missing_chunks(each)
    return found


def _task_key(experiment: Experiment, cell: Cell, chunk: Sequence[Trial]) -> Any:
    """A key that is equal for chunks of the same task."""
    if not experiment.context.victim(cell).exact:
        return (cell.data, cell.subpopulations, cell.poisoning, cell.rate, cell.learner, draw_identity(cell), chunk[0])
    base = cell.with_(defense=filter_of(cell.defense))
    return experiment.chunk_key(base, chunk)


def stored_for_controls(experiment: Experiment, chunks: Sequence[tuple[Cell, tuple[Trial, ...]]]) -> tuple[Any, ...]:
    """Stored results of the defenses to which controls in these chunks are matched."""
    found = []
    for cell, chunk in chunks:
        base = cell.with_(defense=filter_of(cell.defense))
        if base != cell and (base, chunk) not in chunks:
            results = [r for own in experiment.chunks(base) if set(own) & set(chunk) for r in _at_hand(experiment, base, own)]
            short = [TrialResult(r.trial, {}, {REMOVED: r.arrays[REMOVED]}) for r in results]
            found.append((base, chunk, tuple(short)))
    return tuple(found)


def _at_hand(experiment: Experiment, cell: Cell, chunk: Sequence[Trial]) -> Sequence[TrialResult]:
    """The stored trials of a chunk, without waiting for workers."""
    key = experiment.chunk_key(cell, chunk)
    return (experiment.store.get_chunk(key) or ()) if experiment.context.memo.may_serve(key) else ()


# --- in a worker ------------------------------------------------------------------------------------------------------


class TaskStore(NoStore):
    """The store of a worker: it keeps trials until the next task, tracks new arrays, and shares them with other workers."""

    def __init__(self, shared: SharedArrays | None = None) -> None:
        super().__init__()
        self._shared = shared
        self.new_arrays: dict[str, dict[str, Array]] = {}
        self._chunks: dict[str, list[TrialResult]] = {}

    def begin_task(self) -> None:
        if self._shared is not None and sum(each.nbytes for one in self._arrays.values() for each in one.values()) > KEPT:
            self._arrays.clear()  # they are read again from the folder
        self.new_arrays = {}
        self._chunks.clear()

    def has_chunk(self, key: str) -> bool:
        return key in self._chunks

    def get_chunk(self, key: str) -> list[TrialResult] | None:
        return self._chunks.get(key)

    def put_chunk(self, key: str, cell: Cell, results: Sequence[TrialResult], *_: Any, **__: Any) -> None:
        self._chunks[key] = list(results)

    def get_arrays(self, key: str) -> dict[str, Array] | None:
        found = super().get_arrays(key)
        if found is None and self._shared is not None and (found := self._shared.get(key)) is not None:
            super().put_arrays(key, found)
        return found

    def put_arrays(self, key: str, arrays: Any, *, replace: bool = False) -> None:
        super().put_arrays(key, arrays)
        self.new_arrays[key] = dict(arrays)
        if self._shared is not None:
            self._shared.put(key, arrays)

    def end_task(self) -> None:
        if self._shared is not None:
            self._shared.release()


@dataclass(frozen=True)
class Settings:
    """What an experiment is made of in a worker.

    shared: folder of arrays that workers share; None where they have no disk in common.
    """

    root: Path | None
    device: str
    cache: Path | None
    weights_root: Path | None
    partitions: Path | None
    shared: Path | None = None

    @classmethod
    def of(cls, experiment: Experiment, shared: Path | None = None) -> Settings:
        own = experiment.context
        return cls(own.root, own.device, own.cache, own.weights_root, own.partitions, shared)


def work(settings: Settings, task: Task) -> Answer:
    """Run a task in a worker."""
    answer = Answer(worker=f"{platform.node()} {os.getpid()}", started=time.time())
    cpu = time.process_time()
    settle()
    store, experiment, measure = _worker(settings)
    store.begin_task()
    try:
        for cell, chunk, results in task.stored:
            experiment.commit(cell, list(chunk), list(results))
        for cell, chunk in task.chunks:
            answer.chunks.append(None)
            answer.keys.append("")
            with _noting(answer, cell):
                answer.chunks[-1], answer.keys[-1] = _trained(experiment, cell, list(chunk))
        if task.whole is not None:
            with _noting(answer, task.whole):
                measure.part(task.whole, task.part)
    finally:
        store.end_task()
    answer.arrays = store.new_arrays
    answer.ended, answer.cpu = time.time(), time.process_time() - cpu
    return answer


@contextmanager
def _noting(answer: Answer, cell: Cell) -> Iterator[None]:
    """Note an error of a cell, which its own test will meet again and report, unless it is the worker's alone."""
    try:
        yield
    except Exception as error:
        answer.errors.append(f"{cell.stem} {cell.id} on {answer.worker}: {described(error)}")


def _trained(experiment: Experiment, cell: Cell, chunk: list[Trial]) -> tuple[list[TrialResult], str]:
    results = experiment.stored(cell, chunk)  # a control matched to it may have come first, and have needed it
    if results is None:
        results = experiment.timed_chunk(cell, chunk)
        experiment.commit(cell, chunk, results)  # for the controls matched to it
    for seed in range(cell.n_seeds):
        experiment.context.clean_right(cell, seed)  # needed for the summary of the cell
    return results, experiment.chunk_key(cell, chunk)


@lru_cache(maxsize=1)
def _worker(settings: Settings) -> tuple[TaskStore, Experiment, Measurers]:
    """The experiment of a worker process, cached so that data is split and clustered once."""
    if settings.cache is not None:
        keep_code_in(settings.cache.with_name("code"))
    store = TaskStore(None if settings.shared is None else SharedArrays(settings.shared))
    experiment = Experiment.on(
        store,
        settings.root,
        settings.device,
        cache=settings.cache,
        weights_root=settings.weights_root,
        partitions=settings.partitions,
    )
    return store, experiment, Measurers(experiment)
