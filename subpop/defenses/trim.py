"""TRIM: train, drop the rows with the largest losses, train again, until the kept set repeats.

*Source*: the paper's Algorithm 4 (TRIM of Jagielski et al. 2018, for classification). It is told the number of poison rows.
*Deviations*: equal losses go by row id; a set seen in any earlier round ends the loop, not only the last one; at most 20
rounds where the released image scripts stop after 5. For a learner that minimises the summed loss on a set of fixed size
plus a fixed regulariser exactly, no round raises the trimmed objective, so the loop ends by itself: the limit is for others.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from subpop.defenses.controls import told_poison
from subpop.defenses.eigenspaces import tie_decides
from subpop.types import Array, Bools, Defended, Fit, Ints, Knowledge, Model, TrainingSet

MAX_ROUNDS = 20


def trim(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, max_rounds: int = MAX_ROUNDS) -> Defended:
    """Keep the n - n_poison rows that fit best."""
    n_drop = told_poison(know, train, "trim")
    x = train.x
    return keep_lowest(train, fit, n_drop, lambda model: given_label_loss(model.predict_proba(x), train.y), max_rounds)


trim.needs = {"n_poison"}  # type: ignore[attr-defined]


def keep_lowest(train: TrainingSet, fit: Fit, n_drop: int, score: Callable[[Model], Array], max_rounds: int) -> Defended:
    """Refit on the n - n_drop rows of lowest score, (n,) under the last model, until a set repeats.

    `keep` is the set that the returned model was trained on. With n_drop = 0 that is the undefended model.
    Diagnostics: rounds; converged, 1 or 0; tied, 1 where in some round equal scores stood on both sides of the cut.
    """
    tied = False
    following = np.ones(len(train), dtype=np.bool_)
    seen: set[bytes] = set()
    while following.tobytes() not in seen and len(seen) < max_rounds:
        keep = following
        seen.add(keep.tobytes())
        model = fit(train[keep])
        scores = score(model)
        following = ~highest(scores, train.ids, n_drop)
        tied |= tie_decides(scores, ~following)
    converged = float(np.array_equal(following, keep))
    return Defended(model, keep, diagnostics={"rounds": float(len(seen)), "converged": converged, "tied": float(tied)})


def highest(score: Array, ids: Ints, count: int) -> Bools:
    """(n,) bool: the `count` rows of highest score; of equal scores the higher ids, which the shuffle of rows makes random."""
    if count == 0:
        return np.zeros(len(score), dtype=np.bool_)
    limit = np.partition(score, len(score) - count)[len(score) - count]
    chosen = np.asarray(score > limit)
    ties = np.flatnonzero(score == limit)
    chosen[ties[np.argsort(ids[ties], kind="stable")][len(ties) - (count - int(chosen.sum())) :]] = True
    return chosen


def given_label_loss(proba: Array, y: Ints) -> Array:
    """(n,) float64 log loss of the given labels y from probabilities (n, C), finite.

    A confident row is measured by what the other classes have: 1 - 1e-12 is 1 in float32, 1e-12 is not 0.
    """
    proba = np.asarray(proba, dtype=np.float64)
    rows = np.arange(len(y))
    own = proba[rows, y]
    others = proba.copy()
    others[rows, y] = 0
    small = np.finfo(np.float64).tiny
    return np.where(own > 0.5, -np.log1p(-np.minimum(others.sum(axis=1), 0.5)), -np.log(np.maximum(own, small)))
