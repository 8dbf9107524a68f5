"""Workers that train ahead of the tests.

Workers send their results to this process, which alone writes to the store. Chunks are the same wherever they run, and kernels
whose results depend on the number of threads are limited to one, so the results are identical to those of a run without workers.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition, Thread

from subpop.experiments.experiment import Experiment
from subpop.experiments.pools import ClusterGone, pool_of
from subpop.experiments.shared_arrays import SharedArrays
from subpop.experiments.tasks import Answer, Settings, Task, stored_for_controls
from subpop.harness.batching import DefenseError
from subpop.runtime.scratch import Scratch
from subpop.runtime.store import Unusable
from subpop.runtime.threads import one_core_here
from subpop.types import BadInput, Cell
from subpop.types.kinds import kind_of
from subpop.types.printable import in_one_line

LONG = 0.02
"""Tasks that take longer than this share of the work of a worker begin first, the longest of all first; the others follow in the
order of the tests, which read what is ready in the meantime. So at the end no worker waits for long."""
PATIENCE = 0.5
"""Polling interval, in seconds, for requests to stop."""
GIVEN_UP = (
    "the process that trained it died twice while it trained nothing else: {}. The usual cause is lack of memory "
    "(`dmesg` shows it); free some, or run this cell alone with `-n 1` to see what happens"
)
CANCELLED = "the scheduler of the cluster has ended, or somebody cancelled its tasks"
OTHER_WORKER = "the worker {} has other code, data or libraries than this process, as after an edit; its results were not used"


@dataclass(frozen=True)
class Span:
    """What a worker did and when. worker: its machine and process; started, ended: on its clock; cpu: processor seconds."""

    task: str
    worker: str
    started: float
    ended: float
    cpu: float


class Ahead:
    """Workers that train ahead of the tests, in the order of the tasks.

    Results are committed as they arrive; a test waits only for its own cells.

    If a worker dies, the tasks that it may have been working on are tried again, one at a time and with each chunk alone. What
    loses its worker twice while nothing else is on its way is given up: its own test fails, and no other. A death while others
    are on their way does not count, since it may be theirs: loky loses them all, and Dask those in the queue of the dead worker.

    room: with a limit of time, how long a task may take that begins now, in seconds; 0 once it is over, which ends the workers.
    A test then waits for no task that is sent after others, and other tasks that are too long are not sent.
    """

    def __init__(
        self,
        experiment: Experiment,
        tasks: Sequence[Task],
        executor: str,
        n_workers: int,
        room: Callable[[], float] | None = None,
    ) -> None:
        self._experiment, self._executor, self._n_workers, self._tasks = experiment, executor, n_workers, tasks
        self._task_of = {token: task for task in tasks for token in self._tokens(task)}
        self._pending = set(self._task_of)
        self._room, self._wanted, self._cut = room, "", set[str]()
        self._waiting, self._suspects = deque(tasks), deque[Task]()
        self._alone: Task | None = None
        self._known = self._keys_at_hand()
        self._given_up: dict[str, str] = {}
        self._died_of: set[str] = set()
        self._made: set[str] = set()
        self._changed, self._limits, self._is_stopping = Condition(), ExitStack(), False
        self._thread = Thread(target=self._receive_all, name="receives from workers", daemon=True)
        self.error: BaseException | None = None
        """Why the workers did not finish their work, if they did not; the rest is then trained here."""
        self.n_deaths = 0
        """How often workers died."""
        self._has_reported = False
        self.failures: list[str] = []
        """What failed in a worker, whose tests then try it here."""
        self.spans: list[Span] = []
        self.idle: Callable[[], None] = lambda: None
        """Called regularly while waiting, and for what the limit of time has cut; it may raise an exception."""

    def start(self) -> None:
        self._limits.enter_context(one_core_here())
        self._thread.start()

    def wait(self, token: str) -> None:
        """Wait until the results for this token (the key of a chunk, or a cell) have arrived, or no more will arrive.

        Raises DefenseError if workers died twice while they worked on it, and Unusable if the store takes no more results.
        """
        while True:
            with self._changed:
                if token in self._given_up:
                    raise DefenseError(None, self._given_up[token])
                if token not in self._pending:
                    break
                self._wanted = token
                self._changed.wait(PATIENCE)
            self.idle()
        if token in self._cut:
            self.idle()
        if isinstance(self.error, Unusable):
            raise self.error
        if not self._thread.is_alive():
            self._limits.close()

    def has_made(self, cell: Cell) -> bool:
        """Wait for a cell; returns whether workers made any of it. Raises DefenseError as `wait` does."""
        kind = kind_of(cell)
        if kind.trains_trials:
            tokens = [self._experiment.chunk_key(cell, chunk) for chunk in self._experiment.chunks(cell)]
        elif kind.task_key(cell) is None:
            self.join()  # it measures times, for which it needs the machine alone
            tokens = []
        else:
            tokens = self._whole_tokens(cell)
        for token in tokens:
            self.wait(token)
        return not self._made.isdisjoint(tokens)

    def check(self, cell: Cell) -> None:
        """Raise DefenseError if workers died twice while they measured a cell without trials."""
        for token in self._whole_tokens(cell):
            if token in self._given_up:
                raise DefenseError(None, self._given_up[token])

    def _whole_tokens(self, cell: Cell) -> list[str]:
        return [_token(task.whole, task.part) for task in self._tasks if task.whole and _same_task(task.whole, cell)]

    def news(self) -> str:
        """Why the workers did not finish their work, in words, when this is asked for the first time after it happened."""
        if self.error is None or isinstance(self.error, Unusable) or self._has_reported:
            return ""
        self._has_reported = True
        is_gone, reason = isinstance(self.error, ClusterGone), in_one_line(self.error)
        return str(self.error) if is_gone else f"the training processes failed ({reason})"

    def join(self) -> None:
        """Wait until all results have arrived."""
        while self._thread.is_alive():
            self._thread.join(PATIENCE)
            self.idle()
        self._limits.close()

    def stop(self) -> None:
        """End the workers, whatever they are doing."""
        self._is_stopping, self.idle = True, lambda: None
        if self._thread.is_alive():
            self._thread.join(20 * PATIENCE)
        self._limits.close()

    # --- in the thread that receives ----------------------------------------------------------------------------------

    def _receive_all(self) -> None:
        try:
            if self._waiting and not self._is_over:
                self._run_all()
        except BaseException as error:
            self.error = None if self._is_stopping else error
        finally:
            with self._changed:
                self._cut |= self._pending if self._is_over else set()
                self._pending.clear()
                self._changed.notify_all()

    def _run_all(self) -> None:
        running: dict[Future[Answer], Task] = {}
        gpu = self._experiment.context.device != "cpu"
        with closing(pool_of(self._executor, self._n_workers, gpu)) as pool, Scratch("arrays") as folder:
            shared = self._handed_out(Path(folder)) if pool.is_local else None
            settings = Settings.of(self._experiment, shared)
            if pool.places_gpus:
                settings = replace(settings, device="cuda")  # the one that the pool gives a task
            while (self._waiting or self._suspects or running) and not self._is_over:
                for task in self._next(len(running), pool.n_workers):
                    running[pool.submit(settings, task)] = task
                if not running:  # no task is short enough
                    time.sleep(PATIENCE)
                done = wait(running, timeout=PATIENCE, return_when=FIRST_COMPLETED).done
                cancelled = {each for each in done if each.cancelled()}
                done -= cancelled
                if any(isinstance(each.exception(), pool.LOST) for each in done) and pool.loses_all:
                    done = wait(running, timeout=20 * PATIENCE).done
                received = [self._received(running.pop(future), future, pool.LOST) for future in done]
                lost = [each for each in received if each is not None]
                if lost:
                    self.n_deaths += 1
                    lost += [running.popitem()[1] for _ in range(len(running)) if pool.loses_all]
                    self._lose(lost, is_certain=self._alone is not None)
                    pool.mend()
                if cancelled:
                    raise ClusterGone(CANCELLED)
                pool.check()

    def _handed_out(self, folder: Path) -> Path:
        """The folder that workers share, with what the plan has read or made: partitions, attackers' and clean models."""
        context, shared = self._experiment.context, SharedArrays(folder)
        for key in sorted(self._known):
            arrays = context.store.get_arrays(key)
            if arrays is not None:
                shared.put(key, arrays)
        return folder

    def _next(self, n_running: int, n_workers: int) -> Iterator[Task]:
        """Tasks to be sent: one more than there are workers, or a single suspect while nothing else runs."""
        if self._suspects or self._alone:
            if not n_running and self._suspects:
                self._alone = self._suspects.popleft()
                yield replace(self._alone, stored=stored_for_controls(self._experiment, self._alone.chunks))
            return
        while n_running <= n_workers and (found := self._first()) is not None:
            n_running += 1
            yield found

    def _first(self) -> Task | None:
        """Take the task that is sent next: the first; with a limit of time, what a test waits for, or the first that fits."""
        room = math.inf if self._room is None else self._room()
        fitting = [number for number, task in enumerate(self._waiting) if task.seconds <= room]
        if self._room is not None:
            wanted = self._task_of.get(self._wanted)
            fitting = [number for number, task in enumerate(self._waiting) if task is wanted] + fitting
        if not fitting:
            return None
        task = self._waiting[fitting[0]]
        del self._waiting[fitting[0]]
        return task

    @property
    def _is_over(self) -> bool:
        return self._is_stopping or (self._room is not None and self._room() <= 0)

    def _received(self, task: Task, future: Future[Answer], lost: tuple[type[BaseException], ...]) -> Task | None:
        """Commit a task's results; returns the task if its worker died."""
        error = future.exception()
        if isinstance(error, lost):
            return task
        self._alone = None
        if error is None:
            self._commit(task, future.result())
        else:
            self.error = self.error or error
        self._finish(self._tokens(task))
        return None

    def _lose(self, tasks: Sequence[Task], is_certain: bool) -> None:
        """Try tasks again whose workers may have died of them; give up those of which that is certain for the second time."""
        self._alone = None
        for part in (part for task in tasks for part in task.alone()):
            tokens = set(self._tokens(part))
            if is_certain and tokens & self._died_of:
                self._given_up |= {token: GIVEN_UP.format(part) for token in tokens}
                self._finish(tokens)
                continue
            self._died_of |= tokens if is_certain else set()
            self._suspects.append(part)

    def _commit(self, task: Task, answer: Answer) -> None:
        self.spans.append(Span(str(task), answer.worker, answer.started, answer.ended, answer.cpu))
        self.failures += answer.errors
        for key, arrays in answer.arrays.items():
            self._experiment.context.memo.receive(key, arrays)
        for (cell, chunk), own_key, results in zip(task.chunks, answer.keys, answer.chunks, strict=True):
            key = self._experiment.chunk_key(cell, chunk)
            if results is not None and own_key != key:
                raise BadInput(OTHER_WORKER.format(answer.worker))
            if results is not None:
                self._experiment.receive_chunk(key, cell, results)
                self._made.add(key)
        if task.whole is not None and answer.arrays:
            self._made.add(_token(task.whole, task.part))

    def _finish(self, tokens: Iterable[str]) -> None:
        with self._changed:
            self._pending.difference_update(tokens)
            self._changed.notify_all()

    def _tokens(self, task: Task) -> list[str]:
        keys = [self._experiment.chunk_key(cell, chunk) for cell, chunk in task.chunks]
        return [*keys, *([_token(task.whole, task.part)] if task.whole else [])]

    def _keys_at_hand(self) -> set[str]:
        """Keys of stored arrays that workers will ask for: those that the plan asked for, and those of clean models."""
        context = self._experiment.context
        cells = {(cell.data, cell.learner, cell.n_seeds): cell for task in self._tasks for cell, _ in task.chunks}
        models = {
            context.model_key(cell, role, seed)
            for cell in cells.values()
            for seed in range(cell.n_seeds)
            for role in ("clean", "right")
        }
        return context.memo.served | {key for key in models if context.memo.may_serve(key)}


def _token(cell: Cell, part: int) -> str:
    return f"part {part} of {cell!r}"


def _same_task(one: Cell, other: Cell) -> bool:
    return one.kind == other.kind and kind_of(one).task_key(one) == kind_of(other).task_key(other)


def in_order(tasks: Sequence[Task], n_workers: int) -> list[Task]:
    """Long tasks, the longest first, and then the others as they come.

    Those that train a model on a data set for the first time come before its further ones: workers that began with two of them
    would wait for each other's clean models.
    """
    limit = LONG * sum(task.seconds for task in tasks) / max(1, n_workers)
    long = sorted((task for task in tasks if task.seconds > limit), key=lambda task: -task.seconds)
    first = {_needs(task): task for task in reversed(long)}.values()
    further = [task for task in long if not any(task is each for each in first)]
    return sorted(first, key=lambda task: -task.seconds) + further + [task for task in tasks if task.seconds <= limit]


def _needs(task: Task) -> tuple[object, ...]:
    """What tasks have in common that need the same clean models."""
    cell = task.whole or task.chunks[0][0]
    return cell.data, cell.learner
