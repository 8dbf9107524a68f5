"""The audit of a user's data: from a table and an estimator to what was found about every group.

Everything that is trained is an ordinary cell of the benchmark or is kept in the store by the hash of what it depends on, so
that an interrupted audit resumes. With a budget, work is done in this order: accuracy of all groups, damage at alpha 1 of the
first `FIRST` groups, the other alphas, filters and certificates, m50 of these groups, then group after group. Groups are ordered
by the square root of their size times the share of their rows that the model is right about, but not sure of.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

from subpop.audit.attacked import ALPHAS, M50, M50_DRAWS, NEEDED, SEEDS, Attacks, GroupDamage, Target
from subpop.audit.estimator import estimator_of
from subpop.audit.folds import OutOfFold, out_of_fold
from subpop.audit.groups import Groups, groupings
from subpop.audit.pictures import few_columns
from subpop.audit.protection import FILTERS, deleted, flips, insertions, seconds_of_insertions
from subpop.audit.result import Audit, Facts, Measured, summarised
from subpop.audit.suspicion import scan
from subpop.audit.table import Table, read_table
from subpop.datasets import DATASETS
from subpop.datasets.download import data_root
from subpop.experiments.experiment import Experiment
from subpop.runtime.estimate import readable_seconds
from subpop.runtime.memo import Memo, NotStored
from subpop.runtime.options import budget_seconds, place
from subpop.runtime.store import Store
from subpop.runtime.threads import n_cores
from subpop.types import BadInput, Cell, Dataset, FleetJob
from subpop.types.printable import printable

STORE = "runs/audit.sqlite"
DEFAULT = "logistic_regression"
OWN = "own data"
"""The name of data of the user's own in cells. Seeds derive from it, and must not depend on what a file is called."""
FOLDS = 5
"""Folds of the accuracy of groups, as in `out_of_fold`."""
FIRST = 5
"""Groups that come first under a budget."""
BLOCK = 40
"""Groups of one grouping that the exact fleet trains together."""
LINE_SECONDS, SILENT_SECONDS = 10.0, 15.0
LEAST_SECONDS = 30.0
"""A training is ended after the budget, but not before so many seconds: starting a process takes some."""
REACHED = (0.5, 0.8)
"""Probabilities of a row's own label between which a small change of the model may turn it."""
M50_FITS = 3 * M50_DRAWS
"""Fits of a search for m50, as planned."""
WARM_ROWS, TIMED = 200, (2, 32)
"""Rows of a first training in each process, whose time does not count, and numbers of trainings that are timed together, the
second one of fast ones: in a fleet one takes a fraction of the time that two take alone."""
FAST_SECONDS, TIMING_SHARE = 0.5, 0.1
"""Trainings of less than so many seconds are timed again if that takes no larger share of the budget."""


def audit(
    x: Any,
    y: Any = None,
    *,
    groups: str | Sequence[str] | None = None,
    estimator: Any = None,
    budget: str | float | None = None,
    out: str | PathLike[str] | None = None,
    store: str | PathLike[str] | None = None,
) -> Audit:
    """Measure how badly each group of your data can be hurt, by how few mislabelled rows, and what would help.

    Nothing leaves this machine, and nothing fails, since there are no references. A plan and the progress are printed to standard
    error. Finished work is kept in the store, so that an interrupted audit resumes.

    Parameters
    ----------
    x
        A frame; an array of rows; the path of a CSV, parquet or npz file or of a folder of pictures; or a `Dataset`.
    y
        The name of the label's column, or labels (n,). None where the data has its own labels.
    groups
        Columns that make the groups, as a list or separated by commas. None for every categorical column, every pair of them,
        and clusters of rows.
    estimator
        A scikit-learn classifier or Pipeline, its class, a function that returns one, or its name as
        `package.module:Class(argument=value)` or `path.py:function`. None for logistic regression on vectorised columns.
    budget
        Time, such as "5m", "90s" or a number of seconds; None for all groups. At least half of it is for measurements, however
        long it takes to read the data and to start the estimator.
    out
        Folder for README.md, index.html and audit.json; None to write nothing but the store.
    store
        File of finished work; None for `audit.sqlite` in `out`, or `runs/audit.sqlite`.

    Returns
    -------
    Audit
        The groups as a frame and the summary in words, both of which can be saved.

    Raises
    ------
    BadInput
        If the data or the estimator cannot be used, or the accuracy of groups exceeds the budget; it says what to change.

    Examples
    --------
    >>> import subpop
    >>> from sklearn.datasets import load_wine
    >>> found = subpop.audit(*load_wine(return_X_y=True), store=":memory:")
    >>> found.groups[["rows", "accuracy", "damage_1", "m50"]].dtypes.unique().tolist()
    [dtype('int64'), dtype('float64')]
    >>> found.words.split(",")[0]
    'How bad is it? With a mislabelled row for each row of the group in a training set (alpha 1)'
    """
    started, seconds = time.monotonic(), budget_seconds(budget)
    folder = None if out is None else place(str(out), Path.cwd())
    table, data = _read(x, y)
    named = [each.strip() for each in groups.split(",")] if isinstance(groups, str) else list(groups or ())
    found = groupings(table, [each for each in named if each])
    path = store if store is not None else (STORE if folder is None else folder / "audit.sqlite")
    kept = _store(path)
    run = _Run(table, _annotated(data, found), found, kept, _Clock(started, seconds))
    result = run.audited(estimator)
    if folder is not None:
        result.save(folder)
    return result


def _store(path: str | PathLike[str]) -> Any:
    from subpop.runtime.no_store import NoStore

    return NoStore() if str(path) == ":memory:" else Store(place(str(path), Path.cwd()))


def _read(x: Any, y: Any) -> tuple[Table, Dataset]:
    """The table, and the data set of the default victim: a registered one keeps its name, and so has the seeds of the suites."""
    if isinstance(x, Dataset):
        words = {name: said for name, said in x.words.items() if name != "y"}
        classes = tuple(x.words.get("y") or map(str, range(x.n_classes)))
        if x.holds_texts:
            raise BadInput(
                f"{x.name} holds texts, which are not audited; give features of them, such as embeddings in an npz file"
            )
        table = Table(x.name, x.x, x.y, classes, annotations=x.annotations, words=words, official_test=x.official_test)
        return table, x if x.name in DATASETS else replace(x, name=OWN)
    table, data = few_columns(read_table(x, y))
    return table, replace(data, name=OWN)


def _annotated(data: Dataset, found: Groups) -> Dataset:
    """The data with an annotation for each grouping that is not made of annotations by exact equality."""
    more = {}
    for each in found.groupings:
        parts = each.name.split(" x ")
        if not all(name in data.annotations for name in parts):
            more[each.name] = each.codes
    return replace(data, annotations={**data.annotations, **more})


# --- time -------------------------------------------------------------------------------------------------------------


@dataclass
class _Clock:
    """The time that is left, and messages of progress."""

    started: float
    budget: float
    said: float = field(default=-math.inf)
    free: float = 0.0
    """Seconds that do not count, so that the start leaves at least half of the budget for measurements."""

    @property
    def passed(self) -> float:
        return time.monotonic() - self.started

    def allows(self, seconds: float) -> bool:
        """Whether work of so many seconds fits."""
        return self.passed - self.free + seconds <= self.budget

    def say(self, text: str, *, always: bool = True) -> None:
        """Print a line; of those that need not be printed, at most one every LINE_SECONDS."""
        now = time.monotonic()
        if always or now - self.said >= LINE_SECONDS:
            self.said = now
            print(f"subpop: {text}", file=sys.stderr, flush=True)


@contextmanager
def _telling(clock: _Clock, what: str) -> Iterator[None]:
    """Print a line every SILENT_SECONDS while the block runs."""
    over = Event()

    def tell() -> None:
        while not over.wait(SILENT_SECONDS):
            clock.say(f"{what}, {readable_seconds(clock.passed)} so far")

    Thread(target=tell, name="tells that the audit goes on", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _with_flips(job: FleetJob, seed: int) -> FleetJob:
    """A training set with one row in a hundred flipped, which takes as long as an attacked one."""
    y = job.y.copy()
    chosen = np.random.default_rng(seed).choice(len(y), max(1, len(y) // 100), replace=False)
    y[chosen] = (y[chosen] + 1) % job.pool.n_classes
    return replace(job, y=y)


# --- the audit --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Run:
    table: Table
    data: Dataset
    found: Groups
    store: Any
    clock: _Clock
    fit_seconds: float = math.nan
    """Seconds of one fit of the estimator: those of the start until attacks are timed, then a running mean of theirs."""
    has_timed_attacks: bool = False
    memos: list[Memo] = field(default_factory=list)
    """Of all attacks."""
    start_seconds: float = 0.0
    """Seconds until the data was read and the estimator started and timed."""

    def audited(self, spec: object) -> Audit:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Found unknown categories")  # which count as none, in many fits
            warnings.filterwarnings("ignore", "The number of unique classes")  # is large in small parts of D; they are classes
            return self._audited(spec)

    def _audited(self, spec: object) -> Audit:
        own, note = self._attacks(spec)
        default = own if spec is None else self._supplied(self.data, DEFAULT)[0]
        targets = [own.target(each) for each in self.found.each()]
        attackable = [each for each in targets if not each.obstacle]
        self._time_a_fit(own)
        self.start_seconds = self.clock.passed
        self.clock.free = max(0.0, self.start_seconds - self.clock.budget / 2)
        self._plan(own, len(targets), len(attackable))
        folds = self._out_of_fold(own)
        findings = scan(folds, self.data.y, [(each.group.name, each.group.rows) for each in targets])
        ordered = sorted(attackable, key=lambda each: -self._risk(each, folds))
        measured = Measured(own, default)
        for task in self._tasks(list(self._blocks(ordered, own)), measured):
            if self._is_stored(task):
                continue
            seconds = task.seconds(self.fit_seconds)
            if self.clock.allows(seconds):
                self.clock.say(f"{task.what}; {len(measured.damages)} of {len(attackable)} groups attacked", always=False)
                self._do(task)
            else:
                for name in task.names or (task.what,):
                    measured.left[name] = measured.left.get(name, 0.0) + seconds / max(1, len(task.names))
        facts = Facts(
            data=printable(self.table.name),
            classes=self.table.classes,
            estimator=own.victim,
            notes=(*self.table.notes, *note, *self.found.notes, *measured.notes),
            n_rows=len(self.data.y),
            n_train=self._n_train(own),
            seconds=self.clock.passed,
            start_seconds=self.start_seconds,
            lacking=self.found.lacking,
            budget=None if math.isinf(self.clock.budget) else self.clock.budget,
        )
        return summarised(facts, targets, findings, measured, folds, self.data.y)

    # --- preparation --------------------------------------------------------------------------------------------------

    def _supplied(self, data: Dataset, victim: str) -> tuple[Attacks, Cell]:
        experiment = Experiment.on(self.store, data_root(None))
        self.memos.append(experiment.context.memo)
        made = Attacks(experiment, data.name, victim, data)
        experiment.context.supply(made.plain, data)
        return made, made.plain

    def _attacks(self, spec: object) -> tuple[Attacks, tuple[str, ...]]:
        if spec is None:
            said = "the estimator is logistic regression on vectorised columns, solved exactly"
            said += "; give your own with --estimator, in Python with estimator="
            return self._supplied(self.data, DEFAULT)[0], (said,)
        limit = None if math.isinf(self.clock.budget) else max(LEAST_SECONDS, self.clock.budget)
        own = estimator_of(spec, self.table, time_limit=limit)
        data = replace(self.data, x=self.table.dataset(as_rows=True).x)
        attacks, cell = self._supplied(data, printable(own.name).replace(";", ","))
        attacks.experiment.context.supply_victim(cell, own.victim, own.identity)
        return attacks, own.notes

    def _n_train(self, own: Attacks) -> int:
        return own.experiment.context.data(own.plain).pool.n_train

    def _time_a_fit(self, own: Attacks) -> None:
        """Time one fit on D; it is read from the store if the audit was interrupted."""
        context = own.experiment.context
        pool = context.data(own.plain).pool
        key = context.memo.key([__name__], victim=context.victim_identity(own.plain), data=context.data(own.plain).fingerprint)

        def timed() -> dict[str, Any]:
            victim, job = context.victim(own.plain), pool.clean_job().canonical()
            few = replace(job, rows=job.rows[:WARM_ROWS], y=job.y[:WARM_ROWS])
            n_first = 1 if own.victim == DEFAULT else max(2, n_cores())  # code is compiled, or all processes are started, once
            victim.fit_many([job if own.victim == DEFAULT else few] * n_first, [0] * n_first)
            each = math.nan
            for count in TIMED:
                flipped = [_with_flips(job, seed) for seed in range(count)]
                begun = time.monotonic()
                for model in victim.fit_many(flipped, list(range(count))):
                    model.predict_proba(context.data(own.plain).test_x)
                each = (time.monotonic() - begun) / count
                if each > FAST_SECONDS or TIMED[-1] * each > TIMING_SHARE * self.clock.budget:
                    break
            return {"seconds": np.array(each)}

        with _telling(self.clock, "starting the estimator and timing one fit"):
            self.fit_seconds = float(context.memo.arrays(key, timed)[0]["seconds"])

    def _plan(self, own: Attacks, n_groups: int, n_attackable: int) -> None:
        fits = 5 * 3 + n_attackable * (SEEDS * len(ALPHAS) + M50_FITS)
        self.clock.say(
            f"plan: {len(self.data.y):,} rows, {n_groups:,} groups, {n_attackable:,} of them large enough to be attacked (a "
            f"group needs {NEEDED}); {own.victim} is trained about {fits:,} times on {self._n_train(own):,} rows, roughly "
            f"{readable_seconds(fits * self.fit_seconds)}"
            + ("" if math.isinf(self.clock.budget) else f" without the budget of {readable_seconds(self.clock.budget)}")
            + "; certificates and filters take further time"
        )

    def _out_of_fold(self, own: Attacks) -> OutOfFold:
        context, data = own.experiment.context, own.data
        self.clock.say("accuracy of each group, out of fold")
        key = context.memo.key(
            context.victim_code(own.plain) | {"subpop.audit.folds"},
            victim=context.victim_identity(own.plain),
            data=context.data(own.plain).fingerprint,
        )

        def made() -> dict[str, Any]:
            self._check_time_of_folds(own)
            found = out_of_fold(context.victim(own.plain), data.x, data.y, data.n_classes, names=self.table.classes)
            return {"proba": found.proba, "raw": found.raw, "folds": found.folds}

        with _telling(self.clock, "accuracy of each group"):
            return OutOfFold(**{name: np.asarray(a) for name, a in context.memo.arrays(key, made)[0].items()})

    def _check_time_of_folds(self, own: Attacks) -> None:
        """Raise BadInput if as many trainings on D as there are folds, which are larger, do not fit into the whole budget.

        What reading the data and starting the estimator took does not count: there is a result whenever the budget allows one.
        """
        least, n_rows, budget = FOLDS * self.fit_seconds, len(self.data.y), self.clock.budget
        if least > budget:
            likely = least * (1 - 1 / FOLDS) * n_rows / self._n_train(own)
            enough = self.clock.passed + likely + 2 * SEEDS * self.fit_seconds
            raise BadInput(
                f"the accuracy of all groups takes {FOLDS} trainings of {own.victim} on {1 - 1 / FOLDS:.0%} of {n_rows:,} rows, "
                f"about {readable_seconds(likely)}, longer than the budget of {readable_seconds(budget)}; with an attack on one "
                f"group it takes about {readable_seconds(enough)}: give more time, fewer rows or a faster setting"
            )

    def _risk(self, target: Target, folds: OutOfFold) -> float:
        rows = target.group.rows
        sure = folds.proba[rows, self.data.y[rows]]
        return math.sqrt(len(rows)) * float(((sure >= REACHED[0]) & (sure < REACHED[1])).mean())

    # --- work ---------------------------------------------------------------------------------------------------------

    def _blocks(self, ordered: Sequence[Target], own: Attacks) -> Iterator[list[Target]]:
        """Groups that are trained together: one by one, or up to BLOCK of a grouping for the exact fleet."""
        if own.victim != DEFAULT:
            yield from ([each] for each in ordered)
            return
        by_grouping: dict[str, list[Target]] = {}
        for each in ordered:
            by_grouping.setdefault(each.group.grouping, []).append(each)
        for members in by_grouping.values():
            members = sorted(members, key=lambda each: each.name)  # a block does not depend on rounding of the order
            yield from (members[i : i + BLOCK] for i in range(0, len(members), BLOCK))

    def _tasks(self, blocks: Sequence[list[Target]], measured: Measured) -> Iterator[_Task]:
        own, default = measured.own, measured.default

        def damage(block: list[Target], alphas: Sequence[float]) -> _Task:
            def do() -> None:
                for each, found in zip(block, own.damages(block, alphas), strict=True):
                    before = measured.damages.setdefault(each.group.name, GroupDamage({}, {}, {}))
                    before.damage.update(found.damage)
                    before.half_width.update(found.half_width)
                    before.n_poison.update(found.n_poison)

            return _Task("damage", _names(block), SEEDS * len(alphas) * len(block), do)

        def search(block: list[Target]) -> _Task:
            return _Task("m50", _names(block), M50_FITS * len(block), lambda: measured.m50.update(_m50(own, block)))

        n_first = next((i + 1 for i in range(len(blocks)) if sum(map(len, blocks[: i + 1])) >= FIRST), len(blocks))
        first, others = blocks[:n_first], blocks[n_first:]
        for i, block in enumerate(first):
            task = damage(block, ALPHAS[1:2])
            yield replace(task, fits=task.fits + SEEDS) if not i else task  # the clean victims are trained once
        yield from (damage(block, (ALPHAS[0], ALPHAS[2])) for block in first)
        yield _Task("the certificate of label flips", (), 0, lambda: _certify_flips(measured))
        whole = default if own is default and self.table.frame is None else self._whole(own)
        known = (lambda: 0.0) if math.isinf(self.clock.budget) else (lambda: seconds_of_insertions(whole))
        yield _Task("the certificate of insertions", (), 0, lambda: _certify_insertions(measured, whole), known)
        for name in FILTERS:
            yield _Task(f"what {name} would delete", (), 1, partial(_filter_with, measured, name))
        yield from (search(block) for block in first)
        for block in others:
            yield damage(block, ALPHAS)
            yield search(block)

    def _whole(self, own: Attacks) -> Attacks:
        """The estimator whose preprocessing is fitted on each training set: the user's own, or the default in front of skrub."""
        if own.victim != DEFAULT:
            return own
        from sklearn.linear_model import LogisticRegression
        from skrub import tabular_pipeline

        return self._attacks(tabular_pipeline(LogisticRegression(max_iter=1000)))[0]  # which scales the columns

    def _is_stored(self, task: _Task) -> bool:
        """Whether a task could be done from the store alone, which takes no time of the budget; then it is done."""
        try:
            with ExitStack() as stack:
                for memo in self.memos:
                    stack.enter_context(memo.reading())
                task.do()
        except NotStored:
            return False
        return True

    def _do(self, task: _Task) -> None:
        begun = time.monotonic()
        with _telling(self.clock, f"{task.what} of {', '.join(task.names[:2])}" if task.names else task.what):
            task.do()
        took = (time.monotonic() - begun) / max(1, task.fits)
        if task.names and took > 0:
            self.fit_seconds = 0.5 * (self.fit_seconds + took) if self.has_timed_attacks else took
            self.has_timed_attacks = True


@dataclass(frozen=True, eq=False)
class _Task:
    what: str
    names: tuple[str, ...]
    fits: int
    do: Callable[[], None]
    more: Callable[[], float] = float
    """Finds the seconds in addition to those of the fits."""

    def seconds(self, of_a_fit: float) -> float:
        return self.fits * of_a_fit + self.more()


def _names(block: Sequence[Target]) -> tuple[str, ...]:
    return tuple(each.group.name for each in block)


def _m50(own: Attacks, block: Sequence[Target]) -> dict[str, M50]:
    return {each.group.name: found for each, found in zip(block, own.m50(block), strict=True)}


def _certify_insertions(measured: Measured, attacks: Attacks) -> None:
    try:
        measured.insertions = insertions(attacks)
    except BadInput as error:
        measured.notes.append(f"there is no bound on insertions: {error}")


def _certify_flips(measured: Measured) -> None:
    try:
        measured.flips = flips(measured.default)
    except BadInput as error:
        measured.notes.append(f"there is no bound on label flips: {error}")


def _filter_with(measured: Measured, name: str) -> None:
    found = deleted(measured.default, [name])
    measured.filters += found
    if not found:
        measured.notes.append(f"the filter {name} cannot run on this data")
