"""Record and replay: does a trial give the same result in a separate process, in which no other trial ran before it?

The child gets one trial, and `fit` returns the recorded models as long as the requested training sets are byte-identical to the
recorded ones. State that outlives a trial (a global variable, a cache, an attribute of a module) is missing, so a defense that
used it makes other requests or returns another result. Training again would not work: the last bits of a victim depend on its
batch.

Files that a trial left, and data in processes that outlive the child, still exist in a replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from subpop.experiments.integrity.findings import FLAG, PASSED, VARIES, Finding
from subpop.experiments.integrity.record import Record, outcome_digest, request_digest
from subpop.harness.batching import DefenseError, DefenseTask, FitMany, TrialBatch
from subpop.harness.outcome import Outcome
from subpop.harness.plugins import DefenseSpec
from subpop.harness.sandbox import run_in_child
from subpop.types import Array, Model, TrainingSet

PROBE = "replay"


@dataclass(frozen=True)
class Arena:
    """What all children of a cell's probes share: the plug-in, the number of classes and the time limit."""

    spec: DefenseSpec
    n_classes: int
    timeout: float

    def run(self, tasks: Sequence[DefenseTask], fit_many: FitMany, test_x: Array) -> list[Outcome]:
        """Run the plug-in on these tasks in one child."""
        return list(run_in_child(self.spec, TrialBatch(tasks, fit_many, test_x, self.n_classes), self.timeout))


class AskedOtherwise(Exception):
    """The replayed trial requested a training set that the recorded trial did not."""


def replay(arena: Arena, records: Sequence[Record], test_x: Array) -> Finding:
    """Replay each trial once, and one that ends differently a second time, to distinguish a cheat from randomness."""
    for record in records:
        first = trace_of(arena, record, test_x)
        if first == record.trace:
            continue
        if trace_of(arena, record, test_x) != first:
            return Finding(PROBE, VARIES, "two identical replays differ")
        return Finding(PROBE, FLAG, "alone in a new process a trial ends otherwise", claim="something outlives a trial")
    return Finding(PROBE, PASSED, f"{len(records)} trials, byte for byte")


def trace_of(arena: Arena, record: Record, test_x: Array) -> tuple[bytes, ...]:
    """The trace of a replayed trial, up to its first request that differs from the record."""
    asked: list[bytes] = []
    try:
        outcomes = arena.run([record.prepared.task], answers(record, asked), test_x)
        return (*asked, *map(outcome_digest, outcomes))
    except AskedOtherwise:
        return tuple(asked)
    except DefenseError as error:
        return (*asked, error.reason.encode(errors="replace"))


def answers(record: Record, asked: list[bytes]) -> FitMany:
    """A `fit_many` for the one trial that answers from its record; `asked` collects the digests of its requests."""

    def fit_many(requests: list[tuple[int, TrainingSet]]) -> list[Model]:
        models = []
        for _, train in requests:
            asked.append(request_digest(train, record.prepared.task))
            if asked != record.requests[: len(asked)]:
                raise AskedOtherwise
            models.append(record.models[len(asked) - 1])
        return models

    return fit_many
