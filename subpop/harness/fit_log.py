"""A log of the models that `fit` trained in each trial, and on which rows, to check returned masks and models.

The log is kept by the harness and does not rely on anything that a plug-in claims about its model. A mask is accepted only if
the returned model predicts like a model that `fit` trained on exactly the rows in the mask, with their own labels.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from subpop.harness.outcome import Outcome
from subpop.runtime.threads import one_thread
from subpop.types import Array, Bools, Ints, Model, StoredModel, TrainingSet

ROOM_BYTES = 1 << 28
"""Memory limit of the logs of all trials of a batch; the oldest models of a trial are dropped first."""
ALWAYS_KEPT = 8
"""Number of a trial's models that are always kept; of large ones, only the predictions."""
TIE = 1e-5
"""Two processes may predict different classes if the two most likely ones are this close, because kernels round differently."""


def rows_key(asked: TrainingSet, train: TrainingSet) -> bytes | None:
    """A digest of the rows of `train` in `asked`; None if `asked` has other rows or changed labels."""
    if asked._source is not train._source or not np.array_equal(train.y[train._positions(asked.ids)], asked.y):
        return None
    return _digest(asked.ids)


def kept_key(keep: Bools, train: TrainingSet) -> bytes:
    """The `rows_key` of the rows that a mask keeps."""
    return _digest(train.ids[keep])


def _digest(ids: Ints) -> bytes:
    """A digest of a multiset of ids >= 0: of one bit per id where none repeats, as their whole numbers are slow to hash."""
    counts = np.bincount(ids)
    once = counts.max(initial=0) <= 1
    kept = np.packbits(counts.astype(np.bool_)) if once else counts
    return hashlib.blake2b(kept.tobytes(), digest_size=16, person=b"once" if once else b"repeated").digest()


@dataclass(frozen=True, eq=False)
class Answers:
    """A model's predictions on the test rows. close: (n,) bool, where the two most likely classes nearly tie."""

    predicted: Array
    close: Bools

    @classmethod
    def of(cls, model: Model, x: Array) -> Answers:
        with one_thread("blas"):
            proba = np.asarray(model.predict_proba(x), np.float64)
        second, first = np.partition(proba, -2, axis=1)[:, -2:].T
        return cls(proba.argmax(axis=1).astype(np.min_scalar_type(proba.shape[1])), first - second <= TIE)

    def agree(self, predicted: Ints) -> bool:
        """Whether other predictions agree with these, except for near ties in at most one row in a thousand."""
        wrong = predicted != self.predicted
        return int(wrong.sum()) <= max(1, len(wrong) // 1000) and bool(self.close[wrong].all())

    @property
    def nbytes(self) -> int:
        return self.predicted.nbytes + self.close.nbytes


class FitLog:
    """The models that `fit` trained for each trial of a batch."""

    def __init__(self, trains: Sequence[TrainingSet], test_x: Array) -> None:
        self._trains, self._test_x = trains, test_x
        self._room = ROOM_BYTES // max(1, len(trains))
        self._made: list[deque[tuple[bytes | None, Model | Answers, int]]] = [deque() for _ in trains]
        self._held, self._forgot = [0] * len(trains), [False] * len(trains)

    def note(self, requests: Sequence[tuple[int, TrainingSet]], models: Sequence[Model]) -> None:
        """Log the models that were trained on these training sets."""
        for (index, asked), model in zip(requests, models, strict=True):
            size = _size(model)
            kept: Model | Answers = model
            if size is None or size > self._room // ALWAYS_KEPT:
                kept = Answers.of(model, self._test_x)
                size = kept.nbytes
            made = self._made[index]
            made.append((rows_key(asked, self._trains[index]), kept, size))
            self._held[index] += size
            while self._held[index] > self._room and len(made) > ALWAYS_KEPT:
                self._held[index] -= made.popleft()[2]
                self._forgot[index] = True

    def checked(self, index: int, outcome: Outcome) -> Outcome:
        """The outcome of a trial, with `made_by_fit` and `keep_checked` as determined from the log."""
        predicted, made = outcome.predictions[""], self._made[index]
        kept = None if outcome.keep is None else kept_key(outcome.keep, self._trains[index])
        own = [answer for key, answer, _ in made if kept is not None and key == kept]
        keep_checked = any(self._agrees(answer, predicted) for answer in reversed(own))
        by_fit = keep_checked or any(self._agrees(answer, predicted) for _, answer, _ in reversed(made))
        self._made[index] = deque()
        return replace(outcome, made_by_fit=True if by_fit else None if self._forgot[index] else False, keep_checked=keep_checked)

    def _agrees(self, answer: Model | Answers, predicted: Ints) -> bool:
        answers = answer if isinstance(answer, Answers) else Answers.of(answer, self._test_x)
        return answers.agree(predicted)


def _size(model: Model) -> int | None:
    """Size of a model in bytes; None if it is unknown."""
    return sum(array.nbytes for array in model.state().values()) if isinstance(model, StoredModel) else None
