"""Spectral signatures: drop the rows whose features lie farthest along the top singular direction of their label, refit once.

*Source*: Tran, Li, Madry 2018. For each given label: centre the features of the model trained on the poisoned set, take the top
right singular vector, score every row by its squared projection, remove the 1.5 eps n_c highest of the label's n_c rows, where
eps bounds the poison share of a label, and train again. `spectral_signatures_as_released` is what the paper's authors ran on
subpopulation attacks: what lies above the 85th percentile of every label goes, and it is told nothing.
*Deviations*: eps n_c is n_poison, which the defense is told: all poison may carry one label, nobody says which. So 1.5 n_poison
rows of *every* label go, half up, but never more than half of a label: 1.5 x labels times as many rows as there is poison, more
than any filter that removes n_poison in all. Equal scores go by row id, which is random, and are marked by the diagnostic `tied`;
a label whose features are all the same loses nothing. Where several singular vectors belong to the largest singular value, as of
one-hot features of groups of one size, the score is the squared length of the projection on the space of all of them.
The official code projects the features uncentred; the paper and the released runs centre them, and so does this file. Features
are not rescaled: columns of larger spread weigh more, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from subpop.defenses.controls import finite, told_poison
from subpop.defenses.eigenspaces import steady, tie_decides, top_eigenspace
from subpop.defenses.trim import highest
from subpop.types import Array, Bools, Defended, Fit, Floats, Ints, Knowledge, Model, TrainingSet

ROUNDING = 1e-7
"""A column whose deviation is below this share of its largest value is constant: less is rounding of float32."""


def spectral_signatures(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove 1.5 n_poison rows of every label, at most half of it; told 0, it is the undefended model."""
    n_poison = told_poison(know, train, "spectral_signatures")
    budget = (3 * n_poison + 1) // 2
    return _filter(train, fit, lambda scores, ids: highest(scores, ids, min(budget, len(ids) // 2)) & (scores > 0))


spectral_signatures.needs = {"n_poison"}  # type: ignore[attr-defined]


def spectral_signatures_as_released(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove the rows of every label whose score exceeds its 85th percentile."""
    return _filter(train, fit, lambda scores, ids: np.asarray(scores > np.percentile(scores, 85)))


def _filter(train: TrainingSet, fit: Fit, choose: Callable[[Array, Ints], Bools]) -> Defended:
    """choose: scores and ids of a label's rows -> which of them go.

    Diagnostics: the share of each label's variance along its top directions, how much of the set was removed, and tied, 1 where
    equal scores stood on both sides of a cut, so that the order of rows decided.
    """
    model = fit(train)
    scores, along = signature_scores(model.features(train.x), train.y)
    keep, tied = np.ones(len(train), dtype=np.bool_), False
    for label in along:
        members = np.flatnonzero(train.y == label)
        chosen = choose(scores[members], train.ids[members])
        tied |= tie_decides(scores[members], chosen)
        keep[members] = ~chosen
    diagnostics = {f"along_top_{label}": share for label, share in along.items()}
    return refitted(train, fit, model, keep, {**diagnostics, "removed_share": float(1 - keep.mean()), "tied": float(tied)})


def signature_scores(features: Floats, y: Ints) -> tuple[Array, dict[int, float]]:
    """(n,) squared length of each row's projection on its label's top directions, and their share of each label's variance.

    0 throughout a label whose features do not vary.
    """
    scores = np.zeros(len(y))
    along = {}
    for label in np.unique(y).tolist():
        members = y == label
        columns = centred(features[members])
        projected = columns @ top_eigenspace(columns)
        scores[members] = steady(np.einsum("ij,ij->i", projected, projected))
        total = float(np.einsum("ij,ij->", columns, columns))
        along[label] = float(scores[members].sum() / total) if total else 0.0
    return scores, along


def centred(features: Floats) -> Array:
    """(n, d') float64 features less their mean; columns that are constant but for rounding are left out.

    BadInput for NaN and infinite features.
    """
    columns = np.array(finite(features), dtype=np.float64)
    columns -= columns.mean(axis=0)
    deviation = np.sqrt(np.einsum("ij,ij->j", columns, columns) / len(columns))
    varies = deviation > ROUNDING * np.abs(features).max(axis=0)
    return columns if varies.all() else np.ascontiguousarray(columns[:, varies])


def refitted(train: TrainingSet, fit: Fit, model: Model, keep: Bools, diagnostics: Mapping[str, float]) -> Defended:
    """The victim trained again on the rows kept; the model that there is where nothing goes."""
    return Defended(model if keep.all() else fit(train[keep]), keep, diagnostics=diagnostics)
