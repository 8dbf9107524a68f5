"""The controls that stand beside every defense: nothing, the ceiling, the floor, and filters that only look like one.

*Source*: none; each answers one question about a defense's score. `none`: what does the attack do? `perfect_filter`: what is
left if exactly the poison goes? `random_filter` and `matched_random_filter`: is it more than dropping as many rows, overall or
of each label? `drop_duplicates`: does the way poison was drawn give it away?
*Deviations*: `drop_duplicates` drops every copy of a row that has a twin, not all but one: poison drawn with replacement repeats
itself, so what has a twin is suspect as a whole. With distinct poison and no twins in the data it removes nothing; natural
twins in the data go too.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from subpop.types import Array, BadInput, Bools, Defended, Defense, Fit, Ints, Knowledge, TrainingSet


def none(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """No defense: the victim as it is."""
    return Defended(fit(train))


def perfect_filter(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Drop exactly the poison, which it is told: the ceiling of all filters."""
    mask = know.poison_mask
    if mask is None or mask.shape != (len(train),) or mask.dtype != np.bool_:
        raise BadInput(f"perfect_filter must be told poison_mask, ({len(train)},) bool; grant it in the cell's knowledge")
    return filtered(train, fit, ~mask)


perfect_filter.needs = {"poison_mask"}  # type: ignore[attr-defined]


def random_filter(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Drop n_poison rows at random: the floor of all filters told n_poison."""
    n_drop = told_poison(know, train, "random_filter")
    keep = np.ones(len(train), dtype=np.bool_)
    keep[np.random.default_rng(seed).permutation(len(train))[:n_drop]] = False
    return filtered(train, fit, keep)


random_filter.needs = {"n_poison"}  # type: ignore[attr-defined]


def drop_duplicates(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Drop every row that has a twin: the same input with the same label."""
    return filtered(train, fit, twin_counts(train.x, train.y) == 1)


def matched_random_filter(removed: Mapping[int, int]) -> Defense:
    """A defense that drops removed[c] rows with label c at random: as many as another filter removed in the same trial."""

    def matched(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
        generator = np.random.default_rng(seed)
        keep = np.ones(len(train), dtype=np.bool_)
        for label, count in sorted(removed.items()):
            members = np.flatnonzero(train.y == label)
            if not 0 <= count <= len(members):
                raise BadInput(f"cannot drop {count} rows with label {label}: the training set has {len(members)}")
            keep[generator.permutation(members)[:count]] = False
        return filtered(train, fit, keep)

    return matched


def filtered(train: TrainingSet, fit: Fit, keep: Bools) -> Defended:
    """The victim trained on the rows kept; BadInput if none is."""
    if not keep.any():
        raise BadInput(f"a filter removed all {len(train)} training rows; at least one must stay")
    return Defended(fit(train[keep]), keep)


def told_poison(know: Knowledge, train: TrainingSet, defense: str) -> int:
    """The number of poison rows that a defense was told; BadInput if it was not told, or if it does not leave a row."""
    if know.n_poison is None or not 0 <= know.n_poison < len(train):
        raise BadInput(
            f"{defense} must be told n_poison, at least 0 and below its {len(train)} training rows; got {know.n_poison}. "
            "Grant n_poison in the cell's knowledge"
        )
    return know.n_poison


def finite(features: Array) -> Array:
    """The features of a model as they are; BadInput for NaN and infinite ones."""
    if not np.isfinite(features).all():
        n_bad = int((~np.isfinite(features)).any(axis=1).sum())
        raise BadInput(
            f"features of the model hold NaN or infinite values in {n_bad} of {len(features)} rows; standardise or clip the "
            "inputs, or use another victim"
        )
    return features


def twin_counts(x: Array, y: Ints) -> Ints:
    """(n,) how many rows, itself included, have the same input and the same label; 0.0 and -0.0 are the same."""
    flat = np.ascontiguousarray(x.reshape(len(x), -1))
    if flat.dtype.kind == "f":
        flat = flat + flat.dtype.type(0)  # turns -0.0 into 0.0, whose bytes differ
    labels = np.ascontiguousarray(y).view(np.uint8).reshape(len(x), -1)
    content = np.ascontiguousarray(np.hstack([flat.view(np.uint8).reshape(len(x), -1), labels]))
    _, group, counts = np.unique(content.view(f"V{content.shape[1]}").ravel(), return_inverse=True, return_counts=True)
    return counts[group].astype(np.int64)
