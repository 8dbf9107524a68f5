"""SEVER: drop the rows whose gradients stand out along the top singular direction of their label, refit, again.

*Source*: Diakonikolas et al. 2019, in the form of the official classification runs: each label has its own mean and its own top
singular vector of the loss gradients; two rounds of removal, then a refit. It is told the number of poison rows.
`sever_as_released` is the stand-in that the paper's authors released under the name.
*Deviations*: the gradients are those of the last linear layer, outer(p - onehot(y), features), with features standardised over
the rows left and a column of ones for the bias: unscaled, the singular vector is the axis with the largest unit, and without
the bias an average row has no gradient however wrong it is (the official runs use the weights alone). `sever` removes n_poison
rows in all, as other filters do: equal shares a round, the highest scores of all labels together. The official budget is one
fraction of every label, n_poison / (rows of the smallest label) in all, enough wherever the poison is; it removes n_poison
times the number of labels, or more, and is `sever_per_label`. There at least half of every label stays, as for spectral
signatures; the official runs are on two classes of similar size and have no such limit. Where several singular vectors belong to
the largest singular value, the projection is on the space of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from subpop.defenses.controls import finite, told_poison
from subpop.defenses.eigenspaces import steady, tie_decides, top_eigenspace, top_eigenspace_of
from subpop.defenses.trim import highest, keep_lowest
from subpop.types import Array, Bools, Defended, Fit, Knowledge, Model, TrainingSet

N_ROUNDS = 2
RELEASED_ROUNDS = 5


def sever(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove n_poison rows in all, whatever their labels."""
    n_poison = told_poison(know, train, "sever")

    def choose(scores: Array, round_: int) -> Bools:
        return _positive_highest(scores, train, n_poison * (round_ + 1) // N_ROUNDS - n_poison * round_ // N_ROUNDS)

    return _rounds(train, fit, choose, [np.ones(len(train), dtype=np.bool_)])


sever.needs = {"n_poison"}  # type: ignore[attr-defined]


def sever_per_label(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove the same fraction of every label, so many that poison would go even if all of it had the rarest label.

    Never more than half of a label: a rare label would otherwise cost nearly all rows of the others.
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
    """Drop the n_poison rows with the largest p_y (1 - p_y) |phi(x)|, refit, at most 5 rounds: no mean, no singular vector.

    phi: the representation that the cell grants; without one, the features of the undefended model, in all rounds.
    """
    n_poison = told_poison(know, train, "sever_as_released")
    lengths: list[Array] = []

    def score(model: Model) -> Array:
        if not lengths:
            lengths.append(np.linalg.norm(_doubles(finite((know.representation or model).features(train.x))), axis=1))
        own = _doubles(model.predict_proba(train.x))[np.arange(len(train)), train.y]
        return np.asarray((own * (1 - own) * lengths[0]) ** 2)

    return keep_lowest(train, fit, n_poison, score, RELEASED_ROUNDS)


sever_as_released.needs = {"n_poison", "representation"}  # type: ignore[attr-defined]


def _rounds(train: TrainingSet, fit: Fit, choose: Callable[[Array, int], Bools], groups: Sequence[Bools]) -> Defended:
    """Score, remove, refit; a round that removes nothing refits nothing.

    choose: (scores, round) -> (n,) bool to remove; groups: (n,) bool each, the rows that compete with each other.
    Diagnostics: tied, 1 where equal scores stood on both sides of a cut, so that the order of rows decided.
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
    """The `count` highest scores, less those that do not stand out at all (0) or are gone (-1)."""
    return highest(scores, train.ids, count) & (scores > 0)


def outlier_scores(model: Model, train: TrainingSet) -> Array:
    """(n,) how far each row's gradient lies from its label's mean along the label's top singular vector: >= 0, 0 for noise.

    Where several vectors tie, the length of the projection on the space of all of them.
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
    """(n, d + 1) columns of mean 0 and deviation 1 and a column of ones; a constant column becomes 0."""
    design = np.ones((len(features), features.shape[1] + 1))
    columns = design[:, :-1]
    np.subtract(features, features.mean(axis=0, dtype=np.float64), out=columns)
    deviation = np.sqrt(np.einsum("ij,ij->j", columns, columns) / len(columns))
    constant = deviation <= 1e-7 * np.abs(features).max(axis=0)  # float32 inputs: less is rounding
    columns *= np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    return design


def _along_top_directions(residual: Array, design: Array) -> Array:
    """(n,) length of the projection of g_i - mean g on the top eigenspace, for the gradients g_i = outer(residual_i, design_i).

    Two classes: the columns of residual are each other's negative, so (n, d) gradients hold all. More: they are never formed.
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
