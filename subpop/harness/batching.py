"""`fit` as a batching point: many trials of a defense run at once, and their victims are trained together.

Each trial runs on its own thread, but only one runs at a time, in order: a thread has the turn until it calls `fit` or ends.
When every live trial waits for `fit`, all their training sets are passed to `fit_many` together. Authors therefore write plain
sequential code, a run is deterministic, and a trial's own time is the time during which it had the turn.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
import weakref
from bdb import BdbQuit
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue
from types import FrameType
from typing import Any, Protocol

import numpy as np
from greenlet import GreenletExit, getcurrent, greenlet

from subpop.harness.fit_log import kept_key, rows_key
from subpop.harness.outcome import Outcome, check_defended, seal
from subpop.runtime.fingerprint import PACKAGE
from subpop.runtime.threads import one_thread
from subpop.types import GRANTED, Array, BadInput, Defense, FleetJob, Floats, Ints, Knowledge, Model, Pool, TrainingSet, Unsolved
from subpop.types.printable import described, printable, said_by

FitMany = Callable[[list[tuple[int, TrainingSet]]], list[Model]]
OnTurn = Callable[[int, str], None]

DEFENSE, PREDICTIONS, HARNESS = "defense", "predictions", "harness"
"""Who has the turn: a trial's own code, the predictions of its result, or neither (`fit_many`)."""

FIT, READ, INPUTS, DONE, ERROR, CANCEL = "fit", "read", "inputs", "done", "error", "cancel"
"""Kinds of a trial's messages when it ends its turn, and the answer that cancels it."""
Message = tuple[str, Any]
"""A kind, and what it is about."""

CANCEL_SECONDS = 5.0


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PoolRows:
    """A row source over the shared pool. For the harness only: row numbers would reveal the poison."""

    pool: Pool
    """The rows that all trials share."""
    rows: Ints
    """(n,) int64 row numbers, as in FleetJob."""
    extra_x: Array | None = None
    """(e, ...) rows outside the pool, with numbers >= len(pool), or None."""

    @property
    def n_classes(self) -> int:
        return self.pool.n_classes

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, index: Ints) -> Array:
        chosen = self.rows[index]
        return FleetJob(self.pool, chosen, np.zeros(len(chosen), np.int64), extra_x=self.extra_x).x


_Reading = tuple[Any, PoolRows]
"""A model with `predict_together`, and the rows whose probabilities a trial waits for."""


def job_of(pool: Pool, train: TrainingSet) -> FleetJob:
    """Return the job that trains on `train`: with rows of the pool if they come from there, otherwise with its inputs as
    `extra_x`."""
    source = train._source
    if isinstance(source, PoolRows) and source.pool is pool:
        own = source.rows[train.ids]
        # Without rows from outside it is a job of the pool alone, so that D gives the clean victim bit for bit.
        return FleetJob(
            pool, own, train.y, extra_x=None if source.extra_x is None or own.max(initial=0) < len(pool) else source.extra_x
        )
    rows = len(pool) + np.arange(len(train))
    return FleetJob(pool, rows, train.y, extra_x=_inputs_like(pool.x[:1], train.x))


def _inputs_like(sample: Array, x: Array) -> Array:
    """Convert new inputs to the data's dtype; raises BadInput for another shape, an incompatible dtype and non-finite values."""
    if x.shape[1:] != sample.shape[1:] or not np.can_cast(x.dtype, sample.dtype, "same_kind"):
        raise BadInput(
            f"new inputs are {x.dtype} rows of shape {x.shape[1:]}; rows of this data are {sample.dtype} of shape "
            f"{sample.shape[1:]}: give TrainingSet.of such an array"
        )
    with np.errstate(over="ignore"):  # reported below
        x = x.astype(sample.dtype)
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise BadInput(f"new inputs contain NaN, infinite or too large values for {sample.dtype}; clip or remove them before fit")
    return x


# --- tasks and errors -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DefenseTask:
    """The arguments of one call of the defense (`train`, `know`, `seed`) and data for the evaluation, which it never receives."""

    train: TrainingSet
    """The training set, perhaps poisoned."""
    know: Knowledge
    """What the defense is told."""
    seed: int
    """The defense's seed."""
    name: str = ""
    """For error messages, such as "digit 3, seed 2"."""
    certify: Ints | None = None
    """(m,) test rows whose certified radius is asked for; None for all of them."""
    reference_y: Ints | None = None
    """(n,) labels with which a model that has `with_labels` is trained for the reference, or None."""


class DefenseError(RuntimeError):
    """A defense that failed. task: its number in the batch, None if no trial was running; details: traceback or output."""

    def __init__(self, task: int | None, reason: str, details: str = "", name: str = "") -> None:
        reason, details, name = printable(reason), printable(details), printable(name)  # a defense may raise any text
        super().__init__(task, reason, details, name)  # all of them, or the error could not travel between processes
        self.task, self.reason, self.details, self.name = task, reason, details, name

    def __str__(self) -> str:
        where = "" if self.task is None else f"trial {self.task}{f' ({self.name})' if self.name else ''}: "
        return f"{where}{self.reason}" + (f"\n{self.details.rstrip()}" if self.details.strip() else "")


# --- a batch of trials ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TrialBatch:
    """Tasks that run at once, and what the harness does for all of their trials."""

    tasks: Sequence[DefenseTask]
    """One for each trial."""
    fit_many: FitMany
    """Receives (task number, training set) pairs in task order, and returns one model per pair."""
    test_x: Array | Callable[[], Array]
    """(n_test, ...) rows to predict, or a function that returns them, called when predictions are first needed."""
    n_classes: int
    """Number of classes of the data."""

    def run(
        self,
        defense: Defense | Sequence[Defense],
        on_turn: OnTurn = lambda index, phase: None,
        carrier: type[_Carrier] | None = None,
    ) -> Iterator[Outcome]:
        """Run the defense (or one defense per task) on every task and yield the outcomes in task order.

        on_turn(task number or -1, phase) is called whenever the turn changes. The first trial that fails raises DefenseError and
        ends the batch; errors of `fit_many` are passed on. No thread outlives the iterator. carrier: what a trial runs on;
        None for a thread.
        """
        defenses = [defense] * len(self.tasks) if callable(defense) else list(defense)
        on = carrier or OnThread
        trials = [
            _Trial(i, task, own, self.n_classes, on) for i, (task, own) in enumerate(zip(self.tasks, defenses, strict=True))
        ]
        live, reported = trials, 0
        answers: list[Any] = [None for _ in trials]
        try:
            while live:
                # On the small matrices of defenses, several threads are up to twenty times slower.
                with one_thread("blas"):
                    for position, trial in enumerate(live):
                        on_turn(trial.index, DEFENSE)
                        kind = trial.resume(answers[position])
                        answers[position] = None  # from here on the models are the trial's alone
                        if kind == INPUTS:
                            on_turn(trial.index, PREDICTIONS)
                            trial.judge(_read_only_view(self.inputs()))
                        while reported < len(trials) and (outcome := trials[reported].outcome) is not None:
                            yield outcome
                            reported += 1
                live = [trial for trial in live if trial.waits_for or trial.reads]
                if live:
                    on_turn(-1, HARNESS)
                    answers = self._answers(live)
        finally:
            _cancel(trials)

    def _answers(self, live: Sequence[_Trial]) -> list[Any]:
        """For each trial the models of the sets that it waits for, or the probabilities that it reads."""
        asked = [(trial.index, train) for trial in live for train in trial.waits_for]
        made = iter(self.fit(asked) if asked else [])
        read = iter(_read([trial.reads for trial in live if trial.reads]))
        return [next(read) if trial.reads else [next(made) for _ in trial.waits_for] for trial in live]

    def inputs(self) -> Array:
        """Return the rows to predict, (n_test, ...)."""
        return self.test_x() if callable(self.test_x) else self.test_x

    def fit(self, requests: list[tuple[int, TrainingSet]]) -> list[Model]:
        """Call `fit_many`; a training set that cannot be solved raises a DefenseError that names its trial."""
        try:
            models = list(self.fit_many(requests))
        except Unsolved as error:
            index = requests[error.jobs[0]][0]
            reason = f"fit could not train on this training set: {error}"
            raise DefenseError(index, reason, name=self.tasks[index].name) from error
        if len(models) != len(requests):
            raise BadInput(
                f"fit_many returned {len(models)} models for {len(requests)} training sets; it must return one per training set"
            )
        return models


def _read(asked: Sequence[_Reading]) -> list[Floats]:
    """The probabilities that trials wait for, computed together by models of one kind on rows of one pool."""
    alike: dict[tuple[type, int], list[int]] = {}
    for i, (model, chosen) in enumerate(asked):
        alike.setdefault((type(model), id(chosen.pool)), []).append(i)
    found: dict[int, Floats] = {}
    for (kind, _), members in alike.items():
        pool = asked[members[0]][1].pool
        models, rows = [asked[i][0] for i in members], [asked[i][1].rows for i in members]
        found.update(zip(members, kind.predict_together(models, pool.x, rows), strict=True))  # type: ignore[attr-defined]
    return [found[i] for i in range(len(asked))]


def _read_only_view(x: Array) -> Array:
    x = x.view()
    x.setflags(write=False)
    return x


def _cancel(trials: Sequence[_Trial]) -> None:
    """End the waiting threads one after another; a thread that does not end is left behind as a daemon thread."""
    deadline = time.monotonic() + CANCEL_SECONDS
    for trial in trials:
        trial.end(deadline)


# --- a trial, seen by the harness -------------------------------------------------------------------------------------


class _Trial:
    """One task on a thread or greenlet, which runs only between `resume` and its next call of `fit` or its end."""

    def __init__(self, index: int, task: DefenseTask, defense: Defense, n_classes: int, carrier: type[_Carrier]) -> None:
        self.index, self._task = index, task
        self.waits_for: Sequence[TrainingSet] = ()
        self.reads: _Reading | None = None
        self.outcome: Outcome | None = None
        self._made: list[tuple[Callable[[], object], TrainingSet]] = []
        self._n_fits, self._seconds = 0, 0.0
        self._carrier = carrier(index)
        fit = _Fit(self._carrier.ask, task, n_classes)
        self._carrier.carry(partial(_live, defense, task, fit, n_classes))

    def resume(self, answer: Any) -> str:
        """Give the turn to the trial, with what it waits for, and wait; returns FIT, READ, INPUTS or DONE."""
        if self.waits_for:
            self._made = [each for each in self._made if each[0]() is not None]
            self._made += [(_weakly(model), train) for model, train in zip(answer, self.waits_for, strict=True)]
        since = time.perf_counter()
        kind = self._run(answer)
        if self.outcome is None:
            self._seconds += time.perf_counter() - since
        return kind

    def judge(self, inputs: Array) -> None:
        """Let the trial compute predictions and check its result, after its defense has returned."""
        self._run(inputs)

    def _run(self, value: Any) -> str:
        self.waits_for, self.reads = (), None
        kind, said = self._carrier.resume(value)
        if kind == FIT:
            self.waits_for, self._n_fits = said, self._n_fits + len(said)
        elif kind == READ:
            self.reads = said
        elif kind == DONE:
            outcome, model = said
            self.outcome = replace(outcome, n_fits=self._n_fits, seconds=self._seconds, **self._origin(outcome, model))
        elif kind == ERROR:
            reason, details = said
            raise DefenseError(self.index, reason, details, self._task.name)
        return kind

    def _origin(self, outcome: Outcome, model: object) -> dict[str, bool]:
        own = [rows_key(train, self._task.train) for made, train in self._made if made() is model]
        kept = None if outcome.keep is None else kept_key(outcome.keep, self._task.train)
        return {"made_by_fit": bool(own), "keep_checked": kept is not None and kept in own}

    def end(self, deadline: float) -> None:
        self._carrier.cancel(deadline)


class _Carrier(Protocol):
    """What a trial runs on. The harness calls all methods but `ask`, which the trial calls to end its turn."""

    def __init__(self, index: int) -> None: ...
    def carry(self, work: Callable[[], Message]) -> None: ...
    def resume(self, value: Any) -> Message: ...
    def ask(self, message: Message) -> Any: ...
    def cancel(self, deadline: float) -> None: ...


class OnThread:
    """A thread for each trial, so that what a defense sets for its thread, such as `torch.no_grad()`, stays its own."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._asks, self._answers = SimpleQueue[Message](), SimpleQueue[Any]()

    def carry(self, work: Callable[[], Message]) -> None:
        """Run this work from the first `resume` on."""
        self._thread = _Worker(self._index, partial(_tell_end, self._asks, work))

    def resume(self, value: Any) -> Message:
        """Give the turn to the trial with an answer, and wait for what it says next."""
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._answers.put(value)
        return self._asks.get()

    def ask(self, message: Message) -> Any:
        """End the turn with a message, and wait for its answer."""
        self._asks.put(message)
        return self._answers.get()

    def cancel(self, deadline: float) -> None:
        """End the trial if it waits; a thread that does not end until the deadline is left behind as a daemon thread."""
        if self._thread.is_alive():
            self._answers.put(CANCEL)
            self._thread.join(max(0.0, deadline - time.monotonic()))


class OnGreenlet:
    """A greenlet for each trial, in the harness's own thread: changing turns takes microseconds, where threads need a hundred.

    For built-in defenses only, which set nothing for their thread while they call `fit`.
    """

    def __init__(self, index: int) -> None:
        self._hub: greenlet | None = None

    def carry(self, work: Callable[[], Message]) -> None:
        """Run this work from the first `resume` on."""
        self._greenlet = greenlet(work)

    def resume(self, value: Any) -> Message:
        """Give the turn to the trial with an answer, and wait for what it says next."""
        self._hub = self._greenlet.parent = getcurrent()
        said: Message = self._greenlet.switch(value) if self._greenlet else self._greenlet.switch()
        return said

    def ask(self, message: Message) -> Any:
        """End the turn with a message, and wait for its answer."""
        assert self._hub is not None
        return self._hub.switch(message)

    def cancel(self, deadline: float) -> None:
        """End the trial if it waits."""
        if self._greenlet:
            self.resume(CANCEL)


def _tell_end(asks: SimpleQueue[Message], work: Callable[[], Message]) -> None:
    asks.put(work())


class _Worker(threading.Thread):
    """The thread of one trial. It drops its reference to the work when it starts, so that the list of threads gives no access to
    trials."""

    def __init__(self, index: int, work: Callable[[], None]) -> None:
        super().__init__(name=f"trial {index}", daemon=True)
        self._work: list[Callable[[], None]] = [work]

    def run(self) -> None:
        self._work.pop()()


def _weakly(thing: object) -> Callable[[], object]:
    """A weak reference if the object allows one, otherwise a strong one."""
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: thing


# --- a trial, on its own thread ---------------------------------------------------------------------------------------


class _Cancelled(BaseException):
    """Raised inside `fit` when the trial has been cancelled."""


class _Fit:
    """The `fit` of a defense: a way to ask, and data that the defense already has; it gives no access to other trials or test
    rows."""

    __slots__ = ("_ask", "_holdout", "_n_classes", "_over", "_owner", "_train")

    def __init__(self, ask: Callable[[Message], Any], task: DefenseTask, n_classes: int) -> None:
        self._ask, self._n_classes = ask, n_classes
        self._train, self._holdout = task.train, task.know.clean_holdout
        self._owner: tuple[object, ...] = ()
        self._over = False

    def own(self) -> None:
        """Make the calling thread the owner."""
        self._owner = (os.getpid(), threading.get_ident())

    def __call__(self, train: TrainingSet) -> Model:
        """Train the victim on `train`."""
        return self.many([train])[0]

    def many(self, trains: Sequence[TrainingSet]) -> list[Model]:
        """Train the victim on each of several training sets, all in one batch."""
        if (os.getpid(), threading.get_ident()) != self._owner:
            raise BadInput(
                "fit was called from a thread or process that the defense started; call it from the defense's own thread, one "
                "call after another: the harness trains the victims of all trials together"
            )
        asked = [checked_request(train, self._train, self._holdout, self._n_classes) for train in trains]
        models: list[Model] = self.wait(FIT, asked) if asked else []
        return list(models)

    def probabilities(self, model: Model, train: TrainingSet) -> Floats:
        """`model.predict_proba(train.x)`, together with what other trials ask where they share rows."""
        source = train._source
        # A class that inherits `predict_together` may predict in another way.
        if "predict_together" not in vars(type(model)) or not isinstance(source, PoolRows) or source.extra_x is not None:
            return model.predict_proba(train.x)
        proba: Floats = self.wait(READ, (model, PoolRows(source.pool, source.rows[train.ids])))
        return proba

    def wait(self, kind: str, said: Any) -> Any:
        """End the turn and wait until it returns with an answer."""
        if self._over:
            raise _Cancelled
        answer = self._ask((kind, said))
        if answer is CANCEL:
            self._over = True
            raise _Cancelled
        return answer


def _live(defense: Defense, task: DefenseTask, fit: _Fit, n_classes: int) -> Message:
    """Run a trial; returns its last message."""
    fit.own()
    try:
        sealed = seal(task.train)
        defended = defense(task.train, fit, task.know, seed=task.seed)
        inputs = fit.wait(INPUTS, None)
        outcome = check_defended(defended, task.train, sealed, inputs, n_classes, task.certify, task.reference_y)
        return DONE, (outcome, defended.model)
    except GreenletExit:
        raise
    except _Cancelled as error:
        return ERROR, ("the defense went on after it was cancelled", _author_traceback(error))
    except BaseException as error:  # sys.exit() in a defense must end this trial, not the harness
        return ERROR, (_reason(error) + _hint(error, task.know), _author_traceback(error))


def checked_request(train: object, own: TrainingSet, holdout: TrainingSet | None, n_classes: int) -> TrainingSet:
    """Check the argument of `fit`, at a place where the author's traceback points to the call."""
    if not isinstance(train, TrainingSet):
        raise BadInput(f"fit takes a TrainingSet, not {type(train).__name__}: use fit(train[keep]) or fit(TrainingSet.of(x, y))")
    if not len(train):
        raise BadInput("fit was given an empty training set; keep at least one row")
    if not 0 <= train.y.min() <= train.y.max() < n_classes:
        wrong = train.y[(train.y < 0) | (train.y >= n_classes)][0]
        raise BadInput(f"fit was given the label {wrong}; labels are 0 to {n_classes - 1}: correct the call of relabel or of")
    if train._source is own._source or (holdout is not None and train._source is holdout._source):
        return train
    return TrainingSet.of(_inputs_like(own._source.gather(own.ids[:1]), train.x), train.y)


def _reason(error: BaseException) -> str:
    if isinstance(error, BadInput):
        return said_by(error)
    if isinstance(error, SystemExit):
        return f"the defense called sys.exit({said_by(error)}); return a Defended instead"
    if isinstance(error, BdbQuit):
        return "breakpoint() found no terminal, since trials run in a child process; use `subpop debug file.py:function`"
    return described(error)


def _hint(error: BaseException, know: Knowledge) -> str:
    """Explain the usual mistakes: another call of `fit`, writing into the training set, and a field of `know` that is None."""
    said = said_by(error)
    if isinstance(error, TypeError) and "_Fit.__call__()" in said:
        return " (fit takes one TrainingSet: fit(train[keep]) or fit(TrainingSet.of(x, y)))"
    if isinstance(error, ValueError) and "read-only" in said:
        return " (rows and labels of a training set cannot be changed; work on copies: y = train.y.copy(), then train.relabel(y))"
    lines = traceback.extract_tb(error.__traceback__)[-1:]
    line = (lines[0].line or "") if lines else ""
    for name in GRANTED:
        if getattr(know, name) is None and f"know.{name}" in line:
            return f" (know.{name} is None here; declare it in the defense: my_defense.needs = {{'{name}'}})"
    return ""


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(str(PACKAGE) + os.sep)


def _author_traceback(error: BaseException) -> str:
    """Return the traceback from the author's first line on; empty if the result of the author's code was invalid."""
    frame = error.__traceback__
    if isinstance(error, BadInput) and all(_is_ours(each) for each, _ in traceback.walk_tb(frame)):
        return ""
    while frame is not None and frame.tb_frame.f_code.co_filename == __file__:
        frame = frame.tb_next
    return "" if frame is None else "".join(traceback.format_exception(type(error), error, frame))
