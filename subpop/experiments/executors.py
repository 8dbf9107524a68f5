"""Training in this process, or in joblib workers (processes, a Dask or a Ray cluster) that train ahead of the tests.

Workers send their results to this process, which alone writes to the store. Chunks are the same wherever they run, and kernels
whose results depend on the number of threads are limited to one, so the results are identical to those of `here`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Condition, Thread, current_thread
from typing import Any

from subpop.defenses import MATCHED
from subpop.experiments.experiment import Experiment
from subpop.runtime.no_store import NoStore
from subpop.runtime.seeds import draw_identity
from subpop.types import Array, BadInput, Cell, Trial, TrialResult
from subpop.types.kinds import Measurers, kind_of

EXECUTORS = ("here", "loky", "dask", "ray")
NEEDED_PACKAGE = {"dask": "distributed", "ray": "ray"}
REMOVED = "removed_per_class"


def check_executor(name: str) -> None:
    """Raise BadInput for an executor that is unknown or whose package is not installed."""
    if name not in EXECUTORS:
        raise BadInput(f"--executor {name} is unknown; use one of {', '.join(EXECUTORS)}")
    package = NEEDED_PACKAGE.get(name)
    if package and find_spec(package) is None:
        raise BadInput(
            f"--executor {name} needs the package {package}, which is not installed; run `python -m pip install -e '.[{name}]'` "
            "in the clone, or use here or loky"
        )


# --- messages ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A unit of work for a worker.

    chunks: trained in order; told: stored results on which the chunks depend; whole: a cell without trials to measure.
    """

    chunks: tuple[tuple[Cell, tuple[Trial, ...]], ...] = ()
    told: tuple[tuple[Cell, tuple[Trial, ...], tuple[TrialResult, ...]], ...] = ()
    whole: Cell | None = None


@dataclass
class Answer:
    """The results of a task. chunks: trials of each chunk, None if it failed; then its own test will report the failure."""

    number: int
    chunks: list[list[TrialResult] | None] = field(default_factory=list)
    arrays: dict[str, dict[str, Array]] = field(default_factory=dict)


def tasks_of(experiment: Experiment, cells: Iterable[Cell]) -> list[Task]:
    """The tasks of workers for these cells, in order. The tests themselves run speed cells, and plug-ins in their own child.

    A control matched to a defense is in the same task as that defense's chunk. So are cells of a stochastic victim that differ
    only in their defense: they start from the same fleet, which is then trained only once.
    """
    together: dict[Any, list[tuple[Cell, tuple[Trial, ...]]] | Cell] = {}  # in the order of the tests, which wait for them
    seen: set[str] = set()
    for cell in cells:
        kind = kind_of(cell)
        if not kind.trains_trials:
            company = kind.company(cell)
            if company is not None and cell.defense not in experiment.plugins:
                together.setdefault(("whole", company), cell)
            continue
        for needed, chunk in _missing(experiment, cell):
            key = experiment.chunk_key(needed, chunk)
            if key not in seen:
                seen.add(key)
                chunks = together.setdefault(_company(experiment, needed, chunk), [])
                assert isinstance(chunks, list)
                chunks.append((needed, tuple(chunk)))
    return [
        Task(whole=each) if isinstance(each, Cell) else Task(tuple(each), _told(experiment, each)) for each in together.values()
    ]


def _missing(experiment: Experiment, cell: Cell) -> list[tuple[Cell, list[Trial]]]:
    """The missing chunks of a cell, after those of cells that it is ranked by or compared with; none if a cell cannot run."""
    base = cell.with_(defense=cell.defense.removeprefix(MATCHED))
    related = dict.fromkeys([cell.with_(defense=cell.ranked_by), cell.plain(), base, cell])
    found = []
    for each in related:
        if each.defense.removeprefix(MATCHED) not in experiment.plugins:
            with suppress(Exception):
                found += experiment.missing_chunks(each)
    return found


def _company(experiment: Experiment, cell: Cell, chunk: Sequence[Trial]) -> Any:
    """A key that is equal for chunks of the same task."""
    if not experiment.context.victim(cell).exact:
        return (cell.data, cell.subpopulations, cell.poisoning, cell.rate, cell.learner, draw_identity(cell))
    base = cell.with_(defense=cell.defense.removeprefix(MATCHED))
    return experiment.chunk_key(base, chunk)


def _told(experiment: Experiment, chunks: Sequence[tuple[Cell, tuple[Trial, ...]]]) -> tuple[Any, ...]:
    """Stored results of the defenses to which controls in these chunks are matched."""
    told = []
    for cell, chunk in chunks:
        base = cell.with_(defense=cell.defense.removeprefix(MATCHED))
        if base != cell and (base, chunk) not in chunks:
            results = [r for own in experiment.chunks(base) if set(own) & set(chunk) for r in experiment.stored(base, own) or ()]
            short = [TrialResult(r.trial, {}, {REMOVED: r.arrays[REMOVED]}) for r in results]
            told.append((base, chunk, tuple(short)))
    return tuple(told)


# --- in a worker ------------------------------------------------------------------------------------------------------


class TaskStore(NoStore):
    """The store of a worker: it keeps trials until the next task, and tracks new arrays."""

    def __init__(self) -> None:
        super().__init__()
        self.new_arrays: dict[str, dict[str, Array]] = {}
        self._chunks: dict[str, list[TrialResult]] = {}

    def begin_task(self) -> None:
        self.new_arrays = {}
        self._chunks.clear()

    def has_chunk(self, key: str) -> bool:
        return key in self._chunks

    def get_chunk(self, key: str) -> list[TrialResult] | None:
        return self._chunks.get(key)

    def put_chunk(self, key: str, cell: Cell, results: Sequence[TrialResult], device: str, *, replace: bool = False) -> None:
        self._chunks[key] = list(results)

    def put_arrays(self, key: str, arrays: Any, *, replace: bool = False) -> None:
        super().put_arrays(key, arrays)
        self.new_arrays[key] = dict(arrays)


Settings = tuple[Path | None, str, Path | None, Path | None, Path | None]


def _work(settings: Settings, number: int, task: Task, harness: int) -> Answer:
    """Run a task in a worker."""
    store, experiment, measure = _worker(*settings, harness)
    store.begin_task()
    for cell, chunk, results in task.told:
        experiment.commit(cell, list(chunk), list(results))
    answer = Answer(number)
    for cell, chunk in task.chunks:
        answer.chunks.append(_trained(experiment, cell, list(chunk)))
    if task.whole is not None:
        with suppress(Exception):  # its own test will report the error
            measure(task.whole)
    answer.arrays = store.new_arrays
    return answer


def _trained(experiment: Experiment, cell: Cell, chunk: list[Trial]) -> list[TrialResult] | None:
    try:
        results = experiment.timed_chunk(cell, chunk)
        experiment.commit(cell, chunk, results)  # for the controls matched to it
        for seed in range(cell.n_seeds):
            experiment.context.clean_right(cell, seed)  # needed for the summary of the cell
    except Exception:
        return None
    return results


@lru_cache(maxsize=1)
def _worker(
    root: Path | None, device: str, cache: Path | None, weights_root: Path | None, partitions: Path | None, harness: int
) -> tuple[TaskStore, Experiment, Measurers]:
    """The experiment of a worker process, cached so that data is split and clustered once."""
    if harness and os.getpid() != harness and os.getppid() == harness:
        _end_with(harness)
    store = TaskStore()
    experiment = Experiment.on(store, root, device, cache=cache, weights_root=weights_root, partitions=partitions)
    return store, experiment, Measurers(experiment)


def _end_with(harness: int) -> None:
    """Make a worker end when the harness does, even by kill -9, and ignore Ctrl-C."""
    import signal
    import time

    def watch() -> None:
        while os.getppid() == harness:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    if current_thread().name == "MainThread":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=watch, daemon=True).start()


# --- in the harness ---------------------------------------------------------------------------------------------------


class Ahead:
    """Workers that train ahead of the tests. Results are committed as they arrive; a test waits only for its own cells."""

    def __init__(self, experiment: Experiment, tasks: Sequence[Task], executor: str, jobs: int = -1) -> None:
        self._experiment, self._tasks, self._executor, self._jobs = experiment, tasks, executor, jobs
        self._keys = [[experiment.chunk_key(cell, chunk) for cell, chunk in task.chunks] for task in tasks]
        tokens = [[*keys, *([_token(t.whole)] if t.whole else [])] for keys, t in zip(self._keys, tasks, strict=True)]
        self._pending = {token for each in tokens for token in each}
        self._tokens = tokens
        self._made: set[str] = set()
        self._changed = Condition()
        self._is_stopping = False
        self.error: BaseException | None = None
        self._thread = Thread(target=self._receive_all, name="receives from workers", daemon=True)
        self.idle: Callable[[], None] = lambda: None
        """Called regularly while waiting."""

    def start(self) -> None:
        self._thread.start()

    def wait(self, token: str) -> None:
        """Wait until the results for this token (the key of a chunk, or a cell) have arrived, or no more will arrive."""
        while True:
            with self._changed:
                if token not in self._pending:
                    return
                self._changed.wait(0.5)
            self.idle()

    def has_made(self, cell: Cell) -> bool:
        """Wait for a cell; returns whether workers made any of it."""
        if not kind_of(cell).trains_trials:
            tokens = [_token(task.whole) for task in self._tasks if task.whole and _same_company(task.whole, cell)]
        else:
            tokens = [self._experiment.chunk_key(cell, chunk) for chunk in self._experiment.chunks(cell)]
        for token in tokens:
            self.wait(token)
        return not self._made.isdisjoint(tokens)

    def join(self) -> None:
        """Wait until all results have arrived."""
        self._thread.join()

    def stop(self) -> None:
        """End the workers, whatever they are doing."""
        if not self._thread.is_alive():
            return
        self._is_stopping = True
        if self._executor == "loky":
            from joblib.externals.loky import get_reusable_executor

            get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)
            self._thread.join(10)

    def _receive_all(self) -> None:
        try:
            for answer in self._answers():
                if self._is_stopping:
                    break
                self._commit(answer)
        except BaseException as error:
            self.error = None if self._is_stopping else error  # what is missing will be trained here
        finally:
            with self._changed:
                self._pending.clear()
                self._changed.notify_all()

    def _answers(self) -> Iterator[Answer]:
        from joblib import Parallel, delayed

        own = self._experiment
        settings = (own.context.root, own.context.device, own.context.cache, own.context.weights_root, own.context.partitions)
        harness = os.getpid() if self._executor == "loky" else 0
        work = (delayed(_work)(settings, number, task, harness) for number, task in enumerate(self._tasks))
        with _backend(self._executor, self._jobs):
            yield from Parallel(return_as="generator_unordered", pre_dispatch="n_jobs + 1", batch_size=1)(work)

    def _commit(self, answer: Answer) -> None:
        for key, arrays in answer.arrays.items():
            self._experiment.context.memo.receive(key, arrays)
        task = self._tasks[answer.number]
        for (cell, _), key, results in zip(task.chunks, self._keys[answer.number], answer.chunks, strict=True):
            if results is not None:
                self._experiment.receive_chunk(key, cell, results)
                self._made.add(key)
        if task.whole is not None and answer.arrays:
            self._made.add(_token(task.whole))
        with self._changed:
            self._pending.difference_update(self._tokens[answer.number])
            self._changed.notify_all()


def _token(cell: Cell) -> str:
    return f"whole {cell!r}"


def _same_company(one: Cell, other: Cell) -> bool:
    return one.kind == other.kind and kind_of(one).company(one) == kind_of(other).company(other)


def prefill(experiment: Experiment, cells: Sequence[Cell], executor: str) -> None:
    """Train every missing chunk of the cells on the executor's workers, each committed as it comes back."""
    check_executor(executor)
    if executor == "here":
        return
    ahead = Ahead(experiment, tasks_of(experiment, cells), executor)
    ahead.start()
    ahead.join()


@contextmanager
def _backend(executor: str, jobs: int) -> Iterator[None]:
    from joblib import parallel_config

    if executor == "ray":
        from ray.util.joblib import register_ray

        register_ray()
    elif executor == "dask":
        from distributed import Client

        Client(os.environ.get("DASK_SCHEDULER_ADDRESS"))
    with parallel_config(backend=executor, n_jobs=jobs):
        yield
