"""Spectral signatures: remove the rows with the largest features along the top singular direction of their label, refit once.

*Source*: Tran, Li, Madry 2018. For each given label: centre the features of the model trained on the poisoned set, take the top
right singular vector, score every row by its squared projection, remove the 1.5 eps n_c highest of the label's n_c rows, where
eps bounds the poison share of a label, and train again. `spectral_signatures_as_released` is what the paper's authors ran on
subpopulation attacks: rows above the 85th percentile of every label are removed, without any side information.
*Deviations*: eps n_c is n_poison, which the defense knows: all poison may have one label, which is unknown. So 1.5 n_poison
rows (rounded up) of *every* label are removed, but never more than half of a label: 1.5 x labels times as many rows as there is
poison, more than filters that remove n_poison in total. Ties of scores are broken by row id, which is random, and reported by the
diagnostic `tied`; a label whose features are all equal loses nothing. Where several singular vectors belong to the largest
singular value, as for one-hot features of groups of equal size, the score is the squared length of the projection on their span.
The official code projects uncentred features; the paper and the released runs centre them, as does this module. Features
are not rescaled: columns of larger spread weigh more, as in the paper.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from subpop.defenses.eigenspaces import steady, tie_decides, top_eigenspace
from subpop.defenses.filters import centred, highest, refitted, told_poison
from subpop.types import Array, Bools, Defended, Fit, Floats, Ints, Knowledge, TrainingSet


def spectral_signatures(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove 1.5 n_poison rows of every label, at most half of it; with n_poison = 0, none.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        With the diagnostics along_top_{label}, removed_share and tied.

    Raises
    ------
    BadInput
        If `know.n_poison` is missing, or not below the number of training rows.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["spectral_signatures"](toy.train(), toy.fit, Knowledge(n_poison=24), seed=0)
    >>> int((~defended.keep).sum())
    72
    """
    n_poison = told_poison(know, train, "spectral_signatures")
    budget = (3 * n_poison + 1) // 2
    return _filter(train, fit, lambda scores, ids: highest(scores, ids, min(budget, len(ids) // 2)) & (scores > 0))


spectral_signatures.needs = {"n_poison"}  # type: ignore[attr-defined]


def spectral_signatures_as_released(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove the rows of every label whose score exceeds the label's 85th percentile.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        With the diagnostics along_top_{label}, removed_share and tied.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["spectral_signatures_as_released"](toy.train(), toy.fit, Knowledge(), seed=0)
    >>> bool(0.1 < (~defended.keep).mean() < 0.2)
    True
    """
    return _filter(train, fit, lambda scores, ids: np.asarray(scores > np.percentile(scores, 85)))


def _filter(train: TrainingSet, fit: Fit, choose: Callable[[Array, Ints], Bools]) -> Defended:
    """Score the rows of each label, remove those that `choose` selects from scores and ids, and refit.

    Diagnostics: the fraction of each label's variance along its top directions, the fraction of rows removed, and tied: 1 if
    equal scores were on both sides of a threshold, so that the order of rows decided.
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
    """Return (n,) squared lengths of the projections on the label's top directions, and the fraction of variance of each label.

    Scores of a label whose features do not vary are 0.
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
