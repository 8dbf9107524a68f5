"""What ensembles share: parts chosen by the content of an input, checks of these parts, and models that vote.

*Source*: the hash partition and the vote follow Levine and Feizi 2021, "Deep Partition Aggregation", of which only the released
code was read.
*Deviations*: an input is hashed by BLAKE2b of its bytes instead of the sum of its pixels. All members of a trial are trained with
the trial's seed, since `fit` has only one, where the released code gives member j the seed j. A part with a single class is not
trained: its member votes for that class, and the member of an empty part votes for class 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from subpop.defenses.fits import fit_all
from subpop.defenses.remembered import Remembered
from subpop.types import Array, BadInput, Fit, Floats, Ints, Model, TrainingSet
from subpop.types.card import Card, Declared

NEAREST = "sklearn.neighbors:KNeighborsClassifier(n_neighbors=1)"
LEAST_ROWS = 30
"""Rows that a part needs."""
ENOUGH_PARTS = 0.95
"""Share of the parts that must have these rows and at least two classes."""
ROOMY = 45
"""Rows per part at which nearly all parts of a random partition have `LEAST_ROWS`: used in advice only."""


# --- parts ------------------------------------------------------------------------------------------------------------


def content_hash(x: Array) -> NDArray[np.uint64]:
    """Hash each input (n, ...) by its bytes alone, the same on every machine: (n,) uint64.

    Bytes are little-endian, and a negative zero counts as zero, because it equals zero.
    """
    rows = np.ascontiguousarray(np.asarray(x).reshape(len(x), -1))
    rows = rows.astype(rows.dtype.newbyteorder("<"), copy=False)
    if rows.dtype.kind == "f":
        rows = rows + np.zeros((), rows.dtype)
    digests = b"".join(blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, np.dtype("<u8")).astype(np.uint64)


def partition(train: TrainingSet, k: int) -> list[TrainingSet]:
    """Return the k parts of a training set; raises BadInput for a k that leaves too poor parts, see `check_parts`."""
    part = parts_of(train, k)
    parts = [train[part == each] for each in range(k)]
    check_parts(parts, len(train))
    return parts


def parts_of(train: TrainingSet, k: int) -> Ints:
    """Return (n,) the part, from 0 to k - 1, of each row: its content hash modulo k, so that neither its label nor its position
    matters. Raises BadInput for a k that is not a whole number from 1 to the number of rows."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 1 <= k <= len(train):
        raise BadInput(
            f"k={k!r} parts of {len(train)} training rows: k must be a whole number of at least 1 and at most the number of rows"
        )
    return (content_hash(train.x) % np.uint64(k)).astype(np.int64)


def check_parts(parts: Sequence[TrainingSet], n_rows: int) -> None:
    """Raise BadInput unless nearly all members are trained on enough rows of at least two classes: otherwise most of them are
    constants, whose votes no poison changes and no certificate should praise."""
    rows = np.array([len(part) for part in parts])
    classes = np.array([len(np.unique(part.y)) for part in parts])
    poor = int(((rows < LEAST_ROWS) | (classes < 2)).sum())
    if len(parts) - poor < ENOUGH_PARTS * len(parts):
        raise BadInput(
            f"k={len(parts)}: {poor} of the {len(parts)} parts have fewer than {LEAST_ROWS} rows or a single class (the smallest "
            f"has {rows.min()} rows); {ENOUGH_PARTS:.0%} of the parts need {LEAST_ROWS} rows and two classes. With {n_rows} "
            f"training rows choose k of at most about {max(1, n_rows // ROOMY)}"
        )


# --- members ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Constant:
    """A member that was trained on one class only, or on nothing."""

    label: int
    n_classes: int

    def predict_proba(self, x: Array) -> Floats:
        """(n, C) float32, 1 in the column of the class."""
        proba = np.zeros((len(x), self.n_classes), np.float32)
        proba[:, self.label] = 1
        return proba

    def features(self, x: Array) -> Floats:
        """(n, d) float32: the inputs, flattened."""
        return np.asarray(x, np.float32).reshape(len(x), -1)


def train_members(parts: Sequence[TrainingSet], fit: Fit, n_classes: int) -> tuple[Model, ...]:
    """Train a member on each part that has two classes."""
    trained = [len(np.unique(part.y)) > 1 for part in parts]
    models = iter(fit_all(fit, [part for part, has_two in zip(parts, trained, strict=True) if has_two]))
    return tuple(
        next(models) if has_two else Constant(int(part.y[0]) if len(part) else 0, n_classes)
        for part, has_two in zip(parts, trained, strict=True)
    )


@dataclass(frozen=True, eq=False)
class VotingModel:
    """The class with most votes of the members; ties go to the smaller class."""

    members: tuple[Model, ...]
    n_classes: int

    @cached_property
    def _remembered(self) -> Remembered[NDArray[np.float64]]:
        return Remembered(self._all_probabilities)

    def probabilities(self, x: Array) -> NDArray[np.float64]:
        """(n, k, C) probabilities of each member; raises BadInput if a member has another number of classes or rows."""
        return self._remembered(x)

    def _all_probabilities(self, x: Array) -> NDArray[np.float64]:
        found = np.empty((len(x), len(self.members), self.n_classes))
        for i, member in enumerate(self.members):
            proba = np.asarray(member.predict_proba(x))
            if proba.shape != (len(x), self.n_classes):
                raise BadInput(
                    f"member {i} of {len(self.members)} returned probabilities of shape {proba.shape} for {len(x)} rows; every "
                    f"member must return shape ({len(x)}, {self.n_classes}): train all members with the victim of the same data"
                )
            found[:, i] = proba
        return found

    def votes(self, x: Array) -> Ints:
        """(n, k) the class that each member predicts, ties to the smaller class."""
        return np.asarray(self.probabilities(x).argmax(axis=2), np.int64)

    def predict_proba(self, x: Array) -> Floats:
        """(n, C) float32 share of the votes that each class has."""
        return np.asarray(counts_of(self.votes(x), self.n_classes) / len(self.members), np.float32)

    def features(self, x: Array) -> Floats:
        """(n, C) float32: the shares of the votes."""
        return self.predict_proba(x)


def counts_of(votes: Ints, n_classes: int) -> Ints:
    """(n, C) how many of the votes (n, k) each class has."""
    return np.stack([(votes == label).sum(axis=1) for label in range(n_classes)], axis=1).astype(np.int64)


def leads_of(votes: Ints, n_classes: int) -> tuple[Ints, Ints]:
    """(n,) the winner, and (n, C) by how many votes it leads each rival after ties: at least 0, and where it is below 0 the rival
    would win. In the winner's own column it is larger than any number of votes."""
    counts = counts_of(votes, n_classes)
    winner, rows = counts.argmax(axis=1), np.arange(len(counts))
    leads = counts[rows, winner][:, None] - counts - (np.arange(n_classes) < winner[:, None])
    leads[rows, winner] = 4 * votes.shape[1] + 4
    return winner.astype(np.int64), leads.astype(np.int64)


# --- what they declare ------------------------------------------------------------------------------------------------


def card_of(dataset: str) -> Card:
    """The card of an ensemble: a vote protects members that copy one row each, and not members that all see the same poison."""
    return Card(
        succeeds=Declared(
            "one nearest neighbour copies a single row, which is a clean one for most members: the poison is a minority nearby",
            dataset=dataset,
            victim=NEAREST,
            rate=0.35,
            sampling="distinct",
            n_seeds=2,
            n_attacked=8,
        ),
        fails=Declared(
            "each member sees the poison in the proportion of the whole set, so that a linear one is turned like the victim",
            dataset=dataset,
            victim="logistic_regression",
            rate=1.0,
            sampling="distinct",
            n_seeds=2,
            n_attacked=8,
        ),
    )
