"""A plug-in's trials in parts that take about a minute each and are stored as they finish, so that a kill costs one part at most.

All trials of a chunk run at once, because their victims are trained together. Of a plug-in that takes 20 seconds a trial, that
would be an hour's work. So the first two trials on a data set show how long one takes, and the parts that follow are as large as
a minute allows: for a fast plug-in, all the rest. Results do not depend on which trials run together. Each part runs in a child
of its own, so a plug-in that takes long to load has longer parts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate, pairwise, takewhile
from typing import Any, Protocol

from subpop.experiments.context import Context
from subpop.harness.manifest import KeepsRecords, Manifests
from subpop.runtime.store import Store
from subpop.types import Cell, Trial, TrialResult

SECONDS, LOADS = 60.0, 10.0
"""How long a part may take, unless a single trial takes longer: so many seconds, or so many times what loading takes."""
FIRST = 2
"""Trials of the first part, before it is known how long one takes."""
KIND = "parts"
"""The kind of the store's records of how chunks were divided."""
PART, WHOLE = "part", "whole chunk"
"""Kinds of the store's records: to which chunk a part belongs, with the key of the whole chunk that was stored before it (of an
earlier version of what the plug-in reads) or None; and under which key a whole chunk is stored."""


def drop_parts_of_whole_chunks(store: Store) -> None:
    """Delete parts whose whole chunk is in the store, too, as after merging an unfinished run with a finished one."""
    stored = {chunk: record["key"] for chunk, record in store.records(WHOLE).items() if store.has_chunk(record["key"])}
    parts = store.records(PART).items()
    store.drop_chunks([part for part, its in parts if stored.get(its["of"], part) not in (part, its["after"])])


class Samples(Protocol):
    """The part of an observer that parts use."""

    def sampling(self, trials: Sequence[Trial]) -> AbstractContextManager[None]: ...


class RunsChunks(Protocol):
    """The part of an experiment that parts use."""

    @property
    def store(self) -> KeepsRecords: ...
    @property
    def context(self) -> Context: ...
    @property
    def observer(self) -> Samples | None: ...
    @property
    def manifests(self) -> Manifests: ...
    def chunk_key(self, cell: Cell, chunk: Sequence[Trial]) -> str: ...
    def has_stored(self, cell: Cell, chunk: list[Trial]) -> bool: ...
    def stored(self, cell: Cell, chunk: list[Trial]) -> list[TrialResult] | None: ...
    def timed_chunk(self, cell: Cell, chunk: Sequence[Trial]) -> list[TrialResult]: ...
    def commit(self, cell: Cell, chunk: list[Trial], results: list[TrialResult]) -> None: ...


class Parts:
    """Runs the chunks of one experiment's plug-ins."""

    def __init__(self, experiment: RunsChunks) -> None:
        self._experiment = experiment
        self._pace: dict[tuple[str, str], tuple[float, float]] = {}
        self._began = 0.0
        self._own: Sequence[float] = ()
        self._finished: dict[str, list[list[Trial]]] = {}

    def begin(self) -> None:
        """Note that a child has imported the plug-in."""
        self._began = time.perf_counter()

    def end(self, seconds: Sequence[float]) -> None:
        """Note the own seconds of each trial of a child. The first may have loaded what the others use."""
        self._own = seconds

    def stored(self, cell: Cell, chunk: Sequence[Trial]) -> list[list[Trial]]:
        """The finished parts of a chunk that is not finished itself, in order."""
        return list(takewhile(lambda part: self._experiment.has_stored(cell, part), self._recorded(cell, chunk)))

    def _recorded(self, cell: Cell, chunk: Sequence[Trial]) -> list[list[Trial]]:
        """The parts in which a chunk was run, in order, whether they are still stored or not."""
        record: Any = self._experiment.store.get_record(self._experiment.chunk_key(cell, chunk), KIND) or {}
        ends = list(accumulate(record.get("sizes", ()), initial=0))
        return [list(chunk[start:end]) for start, end in pairwise(ends)]

    def take(self, cell: Cell, chunk: Sequence[Trial]) -> list[list[Trial]]:
        """The parts in which a chunk was run here, when it is stored as a whole. Another run may have divided it otherwise."""
        return self._finished.pop(self._experiment.chunk_key(cell, chunk), [])

    def run(self, cell: Cell, chunk: Sequence[Trial]) -> list[TrialResult]:
        """The trials of a chunk: finished parts from the store, the others run now."""
        experiment, key = self._experiment, self._experiment.chunk_key(cell, chunk)
        parts, results, before = list[list[Trial]](), list[TrialResult](), self._recorded(cell, chunk)
        for part in self.stored(cell, chunk):
            found = experiment.stored(cell, part)
            if found is None:  # another run has stored the whole chunk in its place
                break
            parts.append(part)
            results += found
        left, observer = chunk[len(results) :], experiment.observer
        with nullcontext() if observer is None else observer.sampling(left):
            while left:
                part, left = list(left[: self._size(cell)]), left[self._size(cell) :]
                ran = self._timed(cell, part)
                if len(part) == len(chunk):
                    self._finished[key] = before
                    return ran
                parts.append(part)
                experiment.store.put_record(key, {"sizes": [len(each) for each in parts]}, KIND)
                experiment.commit(cell, part, ran)
                self._note_part(key, experiment.manifests.key(experiment.chunk_key(cell, part)))
                results += ran
        self._finished[key] = [*parts, *(part for part in before if part not in parts)]  # which may follow a damaged one
        experiment.manifests.join(key, [experiment.chunk_key(cell, part) for part in parts])
        return results

    def note_whole(self, cell: Cell, chunk: Sequence[Trial], stored: str) -> None:
        """Note the key under which all trials of a chunk were stored."""
        self._experiment.store.put_record(self._experiment.chunk_key(cell, chunk), {"key": stored}, WHOLE)

    def _note_part(self, chunk: str, stored: str | None) -> None:
        if stored is not None:
            before = self._experiment.store.get_record(chunk, WHOLE) or {}
            self._experiment.store.put_record(stored, {"of": chunk, "after": before.get("key")}, PART)

    def _size(self, cell: Cell) -> int:
        if (cell.defense, cell.dataset) not in self._pace:
            return FIRST
        trial, loading = self._pace[cell.defense, cell.dataset]
        return max(1, int(max(SECONDS, LOADS * loading) / max(trial, 1e-6)))

    def _timed(self, cell: Cell, part: list[Trial]) -> list[TrialResult]:
        progress, (trial, loading) = self._experiment.context.progress, self._pace.get((cell.defense, cell.dataset), (0.0, 0.0))
        progress.forecast.under_way = len(part) * trial + loading
        started = self._began = time.perf_counter()
        ran = self._experiment.timed_chunk(cell, part)
        ended = time.perf_counter()
        if len(part) > 1:
            loading = self._began - started + max(0.0, self._own[0] - self._own[-1])
            self._pace[cell.defense, cell.dataset] = max(0.0, ended - started - loading) / len(part), loading
        progress.forecast.run_part(cell, len(part), ended - started)
        progress.tick()
        return ran
