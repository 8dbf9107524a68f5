"""Steps that several filters share: which rows are removed, and the victim trained on those that remain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from subpop.types import Array, BadInput, Bools, Defended, Fit, Floats, Ints, Knowledge, Model, TrainingSet

SAMPLED = 16
"""One in this many scores is enough to find a number that more than the highest ones exceed."""
ROUNDING = 1e-7
"""A column that deviates by less than this, relative to its largest value, is constant up to float32 rounding."""


def filtered(train: TrainingSet, fit: Fit, keep: Bools) -> Defended:
    """Train the victim on the rows of the mask; raises BadInput if there are none."""
    if not keep.any():
        raise BadInput(f"a filter removed all {len(train)} training rows; keep at least one")
    return Defended(fit(train[keep]), keep)


def told_poison(know: Knowledge, train: TrainingSet, defense: str) -> int:
    """Return the known number of poison rows; raises BadInput if it is missing or would leave no row."""
    if know.n_poison is None or not 0 <= know.n_poison < len(train):
        raise BadInput(
            f"{defense} needs n_poison, at least 0 and below its {len(train)} training rows; got {know.n_poison}. "
            "Grant n_poison in the cell's knowledge"
        )
    return know.n_poison


def finite(features: Array) -> Array:
    """Return the features unchanged; raises BadInput if some are NaN or infinite."""
    if not np.isfinite(features).all():
        n_bad = int((~np.isfinite(features)).any(axis=1).sum())
        raise BadInput(
            f"features of the model contain NaN or infinite values in {n_bad} of {len(features)} rows; standardise or clip the "
            "inputs, or use another victim"
        )
    return features


def keep_lowest(
    train: TrainingSet,
    fit: Fit,
    n_drop: int,
    score: Callable[[Model], Array],
    max_rounds: int,
    by_margin: Callable[[Array], Array] = np.asarray,
) -> Defended:
    """Refit on the n - n_drop rows of lowest score, (n,) under the last model, until a set repeats.

    `keep` is the set that the returned model was trained on. With n_drop = 0, this is the undefended model.
    by_margin maps scores to numbers of the same order that change by at most as much as the row's margin between two classes.
    Diagnostics: rounds; converged, 1 or 0; tied, 1 if in some round rows of equal scores were on both sides of the threshold; if
    rows are removed, gap: the smallest difference of these numbers between a removed and a remaining row, over all rounds.
    """
    tied, gaps = False, []
    following = np.ones(len(train), dtype=np.bool_)
    seen: set[bytes] = set()
    while following.tobytes() not in seen and len(seen) < max_rounds:
        keep = following
        seen.add(keep.tobytes())
        model = fit(train[keep])
        scores = score(model)
        dropped = highest(scores, train.ids, n_drop)
        following = ~dropped
        if n_drop:
            least, most = scores[dropped].min(), scores[following].max()
            tied |= bool(least == most)
            gaps.append(float(by_margin(least) - by_margin(most)))
    converged = float(np.array_equal(following, keep))
    diagnostics = {"rounds": float(len(seen)), "converged": converged, "tied": float(tied)}
    return Defended(model, keep, diagnostics={**diagnostics, "gap": min(gaps)} if gaps else diagnostics)


def highest(score: Array, ids: Ints, count: int) -> Bools:
    """Select the `count` rows of highest score, (n,) bool; ties go to higher ids, which are random because rows are shuffled."""
    if count == 0:
        return np.zeros(len(score), dtype=np.bool_)
    limit = _nth_highest(score, count)
    chosen = np.asarray(score > limit)
    ties = np.flatnonzero(score == limit)
    chosen[ties[np.argsort(ids[ties], kind="stable")][len(ties) - (count - int(chosen.sum())) :]] = True
    return chosen


def _nth_highest(score: Array, count: int) -> Any:
    """The score of rank `count` from the top, among those that exceed a low estimate of it from a sample of the scores."""
    sample = score[::SAMPLED]
    rank = min(len(sample), 2 * -(-count // SAMPLED) + SAMPLED)
    top = score[score >= np.partition(sample, -rank)[-rank]]
    top = score if len(top) < count else top
    return np.partition(top, -count)[-count]


def centred(features: Floats) -> Array:
    """Return (n, d') centred float64 features without columns that are constant up to rounding.

    Raises BadInput for NaN and infinite features.
    """
    columns = np.array(finite(features), dtype=np.float64)
    columns -= columns.mean(axis=0)
    deviation = np.sqrt(np.einsum("ij,ij->j", columns, columns) / len(columns))
    varies = deviation > ROUNDING * np.abs(features).max(axis=0)
    return columns if varies.all() else np.ascontiguousarray(columns[:, varies])


def refitted(train: TrainingSet, fit: Fit, model: Model, keep: Bools, diagnostics: Mapping[str, float]) -> Defended:
    """Train the victim again on the remaining rows; if nothing was removed, return the existing model."""
    return Defended(model if keep.all() else fit(train[keep]), keep, diagnostics=diagnostics)
