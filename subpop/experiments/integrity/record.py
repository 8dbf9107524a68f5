"""Records of trials: the requests of a plug-in to `fit`, the returned models, and its result."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from subpop.experiments.trial import Prepared
from subpop.harness.batching import DefenseTask, FitMany
from subpop.harness.outcome import Outcome
from subpop.types import Array, Cell, Model, TrainingSet, Trial

SAMPLED = 4
"""Number of trials of a batch that are recorded. The first one of each child, and trials on clean data, may look honest alone."""


@dataclass(eq=False)
class Record:
    """One recorded trial."""

    prepared: Prepared
    requests: list[bytes] = field(default_factory=list)
    models: list[Model] = field(default_factory=list)
    outcome: Outcome | None = None

    @property
    def trace(self) -> tuple[bytes, ...]:
        """Digests of everything that the trial sent to the harness; equal traces mean byte-identical trials."""
        return (*self.requests, *([] if self.outcome is None else [outcome_digest(self.outcome)]))


class Recorder:
    """Records a secret sample of the trials of each batch that is watched; see `experiment.Observer`."""

    def __init__(self, sampled: int = SAMPLED) -> None:
        self._sampled = sampled
        self._chance = random.SystemRandom()
        self.started = time.time()
        """Seconds since the epoch. Files that are younger were written by trials, perhaps for others."""
        self._open: dict[int, Record] = {}
        self._chosen: set[Trial] | None = None
        self._records: dict[Cell, list[Record]] = {}

    @contextmanager
    def sampling(self, trials: Sequence[Trial]) -> Iterator[None]:
        """Draw the sample from these trials, which are watched in several batches."""
        self._chosen = set(self._chance.sample(list(trials), min(self._sampled, len(trials))))
        try:
            yield
        finally:
            self._chosen = None

    def watch(self, cell: Cell, prepared: Sequence[Prepared], fit_many: FitMany) -> FitMany:
        """Wrap `fit_many` to record the requests and models of the sampled trials."""
        chosen = self._chosen
        if chosen is None:
            chosen = {each.trial for each in self._chance.sample(list(prepared), min(self._sampled, len(prepared)))}
        self._open = {i: Record(each) for i, each in enumerate(prepared) if each.trial in chosen}
        open_records = self._open

        def watched(requests: list[tuple[int, TrainingSet]]) -> list[Model]:
            models = fit_many(requests)
            for (i, train), model in zip(requests, models, strict=True):
                if i in open_records:
                    open_records[i].requests.append(request_digest(train, open_records[i].prepared.task))
                    open_records[i].models.append(model)
            return models

        return watched

    def note(self, cell: Cell, outcomes: Sequence[Outcome]) -> None:
        """Close the records of the last watched batch."""
        for i, record in self._open.items():
            record.outcome = outcomes[i]
        self._records.setdefault(cell, []).extend(self._open.values())
        self._open = {}

    def take(self, cell: Cell) -> list[Record]:
        """Remove and return the records of a cell, in random order."""
        records = self._records.pop(cell, [])
        self._chance.shuffle(records)
        return records


def request_digest(train: TrainingSet, task: DefenseTask) -> bytes:
    """Digest of a training set as the child sent it: where its rows come from, which they are, and their labels."""
    digest = hashlib.blake2b(digest_size=16)
    holdout = task.know.clean_holdout
    if train._source is task.train._source:
        digest.update(b"train")
    elif holdout is not None and train._source is holdout._source:
        digest.update(b"holdout")
    else:
        x = np.ascontiguousarray(train.x)
        digest.update(f"new {x.dtype} {x.shape}".encode())
        digest.update(x.tobytes())
    digest.update(train.ids.tobytes())
    digest.update(train.y.tobytes())
    return digest.digest()


def outcome_digest(outcome: Outcome) -> bytes:
    """Return a digest of a trial's result: predictions, mask, radii and votes."""
    digest = hashlib.blake2b(digest_size=16)
    parts: dict[str, Array] = {
        **outcome.predictions,
        **{f"radius {name}": radii for name, radii in outcome.certified_radii.items()},
    }
    if outcome.keep is not None:
        parts["keep"] = outcome.keep
    if outcome.votes is not None:
        parts["votes"] = outcome.votes
    for name, values in sorted(parts.items()):
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.digest()
