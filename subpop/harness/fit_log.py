"""Which models `fit` made in each trial, and on which rows: what a returned mask or model is checked against.

The harness keeps the log itself and believes nothing that a plug-in says of its own model: a mask counts only where the
returned model predicts as the one that `fit` made from exactly the kept rows, under their own labels.
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
"""What the logs of all trials of a wave may take; the oldest models of a trial are forgotten first."""
ALWAYS_KEPT = 8
"""Models of a trial that are remembered however large they are: then by what they predict."""
TIE = 1e-5
"""Two processes may name different classes where the two most likely ones are this close: kernels round differently."""


def rows_key(asked: TrainingSet, train: TrainingSet) -> bytes | None:
    """A digest of the rows of `train` that were asked for, each under its own label; None for any other training set."""
    if asked._source is not train._source or not np.array_equal(train[asked.ids].y, asked.y):
        return None
    return _digest(asked.ids)


def kept_key(keep: Bools, train: TrainingSet) -> bytes:
    """The `rows_key` of the rows that a mask keeps."""
    return _digest(train.ids[keep])


def _digest(ids: Ints) -> bytes:
    return hashlib.blake2b(np.sort(ids).tobytes(), digest_size=16).digest()


@dataclass(frozen=True, eq=False)
class Answers:
    """A model's classes of the test rows. close: (n,) bool, where the two most likely classes nearly tie."""

    predicted: Array
    close: Bools

    @classmethod
    def of(cls, model: Model, x: Array) -> Answers:
        with one_thread("blas"):
            proba = np.asarray(model.predict_proba(x), np.float64)
        second, first = np.partition(proba, -2, axis=1)[:, -2:].T
        return cls(proba.argmax(axis=1).astype(np.min_scalar_type(proba.shape[1])), first - second <= TIE)

    def agree(self, predicted: Ints) -> bool:
        """Whether other predictions are these, but for one in a thousand that nearly tie."""
        wrong = predicted != self.predicted
        return int(wrong.sum()) <= max(1, len(wrong) // 1000) and bool(self.close[wrong].all())

    @property
    def nbytes(self) -> int:
        return self.predicted.nbytes + self.close.nbytes


class FitLog:
    """What `fit` made for each trial of a wave."""

    def __init__(self, trains: Sequence[TrainingSet], test_x: Array) -> None:
        self._trains, self._test_x = trains, test_x
        self._room = ROOM_BYTES // max(1, len(trains))
        self._made: list[deque[tuple[bytes | None, Model | Answers, int]]] = [deque() for _ in trains]
        self._held, self._forgot = [0] * len(trains), [False] * len(trains)

    def note(self, requests: Sequence[tuple[int, TrainingSet]], models: Sequence[Model]) -> None:
        """Remember the models that were made from these training sets."""
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
        """The outcome of a trial with the harness's own word on its model and its mask."""
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
    """Bytes of a model, None where only the model itself could tell."""
    return sum(array.nbytes for array in model.state().values()) if isinstance(model, StoredModel) else None
