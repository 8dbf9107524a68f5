"""SEVER: remove the rows whose gradients are outliers along the top singular direction of their label, refit, repeat.

*Source*: Diakonikolas et al. 2019, in the form of the official classification runs: each label has its own mean and its own top
singular vector of the loss gradients; two rounds of removal, then a refit. It needs the number of poison rows.
`sever_as_released` is the simplified variant that the paper's authors released under this name.
*Deviations*: the gradients are those of the last linear layer, outer(p - onehot(y), features), with features standardised over
the remaining rows and a column of ones for the bias: without scaling, the singular vector is the feature with the largest unit,
and without the bias an average row has a zero gradient even if its label is wrong (the official runs use the weights alone).
`sever` removes n_poison rows in total, as other filters do: an equal share in each round, the highest scores over all labels. The
official budget is one fraction of every label, n_poison / (rows of the smallest label) in total, which suffices whatever label
the poison has; it removes n_poison times the number of labels, or more. This is `sever_per_label`, which leaves at least half of
every label, as for spectral signatures; the official runs have two classes of similar size and no such limit. Where several
singular vectors belong to the largest singular value, the projection is on the space of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from subpop.defenses.eigenspaces import steady, tie_decides, top_eigenspace, top_eigenspace_of
from subpop.defenses.filters import finite, highest, keep_lowest, told_poison
from subpop.types import Array, Bools, Defended, Fit, Knowledge, Model, TrainingSet

N_ROUNDS = 2
RELEASED_ROUNDS = 5
STEEPEST = 6 * math.sqrt(3)
"""If a margin changes by dz, p (1 - p) changes by at most dz / STEEPEST."""


def sever(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove n_poison rows in total, over all labels, in two rounds of outlier scores.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        With the diagnostic tied: 1 if equal scores were on both sides of a threshold.

    Raises
    ------
    BadInput
        If `know.n_poison` is missing, or not below the number of training rows.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["sever"](toy.train(), toy.fit, Knowledge(n_poison=24), seed=0)
    >>> int((~defended.keep).sum()) <= 24
    True
    """
    n_poison = told_poison(know, train, "sever")

    def choose(scores: Array, round_: int) -> Bools:
        return _positive_highest(scores, train, n_poison * (round_ + 1) // N_ROUNDS - n_poison * round_ // N_ROUNDS)

    return _rounds(train, fit, choose, [np.ones(len(train), dtype=np.bool_)])


sever.needs = {"n_poison"}  # type: ignore[attr-defined]


def sever_per_label(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove the same fraction of every label, enough to remove all poison even if it has the rarest label.

    At most half of the rows of a label are removed: otherwise a rare label would cost nearly all rows of the others.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        With the diagnostic tied: 1 if equal scores were on both sides of a threshold.

    Raises
    ------
    BadInput
        If `know.n_poison` is missing, or not below the number of training rows.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["sever_per_label"](toy.train(), toy.fit, Knowledge(n_poison=24), seed=0)
    >>> bool((~defended.keep).mean() <= 0.5)
    True
    """
    n_poison = told_poison(know, train, "sever_per_label")
    labels, sizes = np.unique(train.y, return_counts=True)
    fraction = n_poison / int(sizes.min()) / N_ROUNDS

    def choose(scores: Array, round_: int) -> Bools:
        chosen = np.zeros(len(train), dtype=np.bool_)
        for label, size in zip(labels, sizes, strict=True):
            members = (train.y == label) & (scores >= 0)
            left = int(members.sum())
            count = min(round(fraction * left), left - int(size + 1) // 2)
            chosen |= _positive_highest(np.where(members, scores, -1.0), train, count)
        return chosen

    return _rounds(train, fit, choose, [train.y == label for label in labels])


sever_per_label.needs = {"n_poison"}  # type: ignore[attr-defined]


def sever_as_released(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove the n_poison rows with the largest p_y (1 - p_y) |phi(x)| and refit, at most 5 times.

    There is neither a mean nor a singular vector. phi is the granted representation; without one, the features of the undefended
    model, in all rounds.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        With the diagnostics of `trim`.

    Raises
    ------
    BadInput
        If `know.n_poison` is missing, or not below the number of training rows.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["sever_as_released"](toy.train(), toy.fit, Knowledge(n_poison=24), seed=0)
    >>> int((~defended.keep).sum())
    24
    """
    n_poison = told_poison(know, train, "sever_as_released")
    lengths: list[Array] = []

    def score(model: Model) -> Array:
        if not lengths:
            lengths.append(np.linalg.norm(_doubles(finite((know.representation or model).features(train.x))), axis=1))
        own = _doubles(model.predict_proba(train.x))[np.arange(len(train)), train.y]
        return np.asarray((own * (1 - own) * lengths[0]) ** 2)

    return keep_lowest(train, fit, n_poison, score, RELEASED_ROUNDS, lambda scores: STEEPEST * np.sqrt(scores) / lengths[0].max())


sever_as_released.needs = {"n_poison", "representation"}  # type: ignore[attr-defined]


def _rounds(train: TrainingSet, fit: Fit, choose: Callable[[Array, int], Bools], groups: Sequence[Bools]) -> Defended:
    """Score, remove and refit in rounds; a round that removes nothing does not refit.

    choose: (scores, round) -> (n,) bool, rows to remove; groups: (n,) bool each, rows that are ranked together.
    Diagnostics: tied, 1 if equal scores were on both sides of a threshold, so that the order of rows decided.
    """
    keep, tied = np.ones(len(train), dtype=np.bool_), False
    model = fit(train)
    for round_ in range(N_ROUNDS):
        scores = np.full(len(train), -1.0)  # -1: already removed
        scores[keep] = outlier_scores(model, train[keep])
        worst = choose(scores, round_)
        if worst.any():
            tied |= any(tie_decides(scores[group & keep], worst[group & keep]) for group in groups)
            keep = keep & ~worst
            model = fit(train[keep])
    return Defended(model, keep, diagnostics={"tied": float(tied)})


def _positive_highest(scores: Array, train: TrainingSet, count: int) -> Bools:
    """Select the `count` highest scores, except rows that are no outliers (0) or already removed (-1)."""
    return highest(scores, train.ids, count) & (scores > 0)


def outlier_scores(model: Model, train: TrainingSet) -> Array:
    """Return (n,) distances >= 0 of each row's gradient from its label's mean along the label's top singular vector; 0 for noise.

    If several singular vectors tie, this is the length of the projection on the space that they span.
    """
    x, y = train.x, train.y
    residual = _doubles(model.predict_proba(x))
    residual[np.arange(len(y)), y] -= 1
    design = _standardised(finite(model.features(x)))
    norms = np.linalg.norm(residual, axis=1) * np.linalg.norm(design, axis=1)
    scores = np.zeros(len(y))
    for label in np.unique(y):
        members = y == label
        scores[members] = _along_top_directions(residual[members], design[members])
    return steady(np.where(scores > 1e-9 * norms.max(), scores, 0.0))


def _standardised(features: Array) -> Array:
    """Return (n, d + 1): columns of mean 0 and deviation 1, and a column of ones; constant columns become 0."""
    design = np.ones((len(features), features.shape[1] + 1))
    columns = design[:, :-1]
    np.subtract(features, features.mean(axis=0, dtype=np.float64), out=columns)
    deviation = np.sqrt(np.einsum("ij,ij->j", columns, columns) / len(columns))
    constant = deviation <= 1e-7 * np.abs(features).max(axis=0)  # float32 inputs: less is rounding
    columns *= np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    return design


def _along_top_directions(residual: Array, design: Array) -> Array:
    """Return (n,) lengths of the projections of g_i - mean g on the top eigenspace; g_i = outer(residual_i, design_i).

    With two classes the columns of residual are negatives of each other, so that (n, d) gradients suffice. With more classes
    the gradients are never formed.
    """
    shape = (residual.shape[1], design.shape[1])
    if shape[0] == 2:
        gradients = design * (math.sqrt(2) * residual[:, 1:])
        gradients -= gradients.mean(axis=0)
        return np.asarray(np.linalg.norm(gradients @ top_eigenspace(gradients), axis=1))

    def project(direction: Array) -> Array:
        along = ((design @ direction.reshape(shape).T) * residual).sum(axis=1)
        return np.asarray(along - along.mean())

    def covariance(direction: Array) -> Array:
        return ((residual * project(direction)[:, None]).T @ design).ravel()

    directions = top_eigenspace_of(covariance, shape[0] * shape[1])
    return np.asarray(np.linalg.norm([project(direction) for direction in directions.T], axis=0))


def _doubles(values: Array) -> Array:
    return np.array(values, dtype=np.float64)
