"""SEVER: drop the rows whose gradients stand out along the top singular direction of their label, refit, again.

*Source*: Diakonikolas et al. 2019, in the form of the official classification runs: each label has its own mean and its own top
singular vector of the loss gradients; two rounds of removal, then a refit. It is told the number of poison rows.
`sever_as_released` is the stand-in that the paper's authors released under the name.
*Deviations*: the gradients are those of the last linear layer, outer(p - onehot(y), features), with features standardised over
the rows left and a column of ones for the bias: unscaled, the singular vector is the axis with the largest unit, and without
the bias an average row has no gradient however wrong it is (the official runs use the weights alone). `sever` removes n_poison
rows in all, as other filters do: equal shares a round, the highest scores of all labels together. The official budget is one
fraction of every label, n_poison / (rows of the smallest label) in all, enough wherever the poison is; it removes n_poison
times the number of labels, or more, and is `sever_per_label`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from subpop.defenses.controls import told_poison
from subpop.defenses.trim import highest, keep_lowest
from subpop.types import Array, Bools, Defended, Fit, Knowledge, Model, TrainingSet

N_ROUNDS = 2
DIRECT_SIZE = 256
LANCZOS_STEPS = 100
RELEASED_ROUNDS = 5


def sever(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove n_poison rows in all, whatever their labels."""
    n_poison = told_poison(know, train, "sever")

    def choose(scores: Array, round_: int) -> Bools:
        return _positive_highest(scores, train, n_poison * (round_ + 1) // N_ROUNDS - n_poison * round_ // N_ROUNDS)

    return _rounds(train, fit, choose)


sever.needs = {"n_poison"}  # type: ignore[attr-defined]


def sever_per_label(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove the same fraction of every label, so many that poison would go even if all of it had the rarest label."""
    n_poison = told_poison(know, train, "sever_per_label")
    labels, sizes = np.unique(train.y, return_counts=True)
    fraction = n_poison / int(sizes.min()) / N_ROUNDS

    def choose(scores: Array, round_: int) -> Bools:
        chosen = np.zeros(len(train), dtype=np.bool_)
        for label in labels:
            members = (train.y == label) & (scores >= 0)
            count = min(round(fraction * members.sum()), int(members.sum()) - 1)  # a label never disappears
            chosen |= _positive_highest(np.where(members, scores, -1.0), train, count)
        return chosen

    return _rounds(train, fit, choose)


sever_per_label.needs = {"n_poison"}  # type: ignore[attr-defined]


def sever_as_released(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Drop the n_poison rows with the largest p_y (1 - p_y) |phi(x)|, refit, at most 5 rounds: no mean, no singular vector.

    phi: the representation that the cell grants; without one, the features of the undefended model, in all rounds.
    """
    n_poison = told_poison(know, train, "sever_as_released")
    lengths: list[Array] = []

    def score(model: Model) -> Array:
        if not lengths:
            lengths.append(np.linalg.norm(_doubles((know.representation or model).features(train.x)), axis=1))
        own = _doubles(model.predict_proba(train.x))[np.arange(len(train)), train.y]
        return np.asarray((own * (1 - own) * lengths[0]) ** 2)

    return keep_lowest(train, fit, n_poison, score, RELEASED_ROUNDS)


sever_as_released.needs = {"n_poison", "representation"}  # type: ignore[attr-defined]


def _rounds(train: TrainingSet, fit: Fit, choose: Callable[[Array, int], Bools]) -> Defended:
    """Score, remove, refit; a round that removes nothing refits nothing. choose: (scores, round) -> (n,) bool to remove."""
    keep = np.ones(len(train), dtype=np.bool_)
    model = fit(train)
    for round_ in range(N_ROUNDS):
        scores = np.full(len(train), -1.0)  # -1: already removed
        scores[keep] = outlier_scores(model, train[keep])
        worst = choose(scores, round_)
        if worst.any():
            keep = keep & ~worst
            model = fit(train[keep])
    return Defended(model, keep)


def _positive_highest(scores: Array, train: TrainingSet, count: int) -> Bools:
    """The `count` highest scores, less those that do not stand out at all (0) or are gone (-1)."""
    return highest(scores, train.ids, count) & (scores > 0)


def outlier_scores(model: Model, train: TrainingSet) -> Array:
    """(n,) how far each row's gradient lies from its label's mean along the label's top singular vector: >= 0, 0 for noise."""
    x, y = train.x, train.y
    residual = _doubles(model.predict_proba(x))
    residual[np.arange(len(y)), y] -= 1
    design = _standardised(model.features(x))
    norms = np.linalg.norm(residual, axis=1) * np.linalg.norm(design, axis=1)
    scores = np.zeros(len(y))
    for label in np.unique(y):
        members = y == label
        scores[members] = np.abs(_along_top_direction(residual[members], design[members]))
    return np.where(scores > 1e-9 * norms.max(), scores, 0.0)


def _standardised(features: Array) -> Array:
    """(n, d + 1) columns of mean 0 and deviation 1 and a column of ones; a constant column becomes 0."""
    design = np.ones((len(features), features.shape[1] + 1))
    columns = design[:, :-1]
    np.subtract(features, features.mean(axis=0, dtype=np.float64), out=columns)
    deviation = np.sqrt(np.einsum("ij,ij->j", columns, columns) / len(columns))
    constant = deviation <= 1e-7 * np.abs(features).max(axis=0)  # float32 inputs: less is rounding
    columns *= np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    return design


def _along_top_direction(residual: Array, design: Array) -> Array:
    """(n,) (g_i - mean g) . v for the gradients g_i = outer(residual_i, design_i); v up to its sign.

    Two classes: the columns of residual are each other's negative, so (n, d) gradients hold all. More: they are never formed.
    """
    shape = (residual.shape[1], design.shape[1])
    if shape[0] == 2:
        gradients = design * (math.sqrt(2) * residual[:, 1:])
        gradients -= gradients.mean(axis=0)
        if shape[1] <= DIRECT_SIZE:
            return np.asarray(gradients @ np.linalg.eigh(gradients.T @ gradients)[1][:, -1])
        return np.asarray(gradients @ top_eigenvector(lambda v: gradients.T @ (gradients @ v), shape[1]))

    def project(direction: Array) -> Array:
        along = ((design @ direction.reshape(shape).T) * residual).sum(axis=1)
        return np.asarray(along - along.mean())

    def covariance(direction: Array) -> Array:
        return ((residual * project(direction)[:, None]).T @ design).ravel()

    return project(top_eigenvector(covariance, shape[0] * shape[1]))


def top_eigenvector(multiply: Callable[[Array], Array], size: int) -> Array:
    """(size,) eigenvector of the largest eigenvalue: Lanczos from a fixed start, so the same bits each time."""
    start = np.random.default_rng(0).standard_normal(size)
    n_steps = min(size, LANCZOS_STEPS)
    basis, tridiagonal = np.zeros((n_steps, size)), np.zeros((n_steps, n_steps))
    basis[0] = start / np.linalg.norm(start)
    for step in range(n_steps):
        new = multiply(basis[step])
        tridiagonal[step, step] = new @ basis[step]
        for _ in range(2):  # once is not enough to stay orthogonal
            new = new - basis[: step + 1].T @ (basis[: step + 1] @ new)
        length = np.linalg.norm(new)
        values, vectors = np.linalg.eigh(tridiagonal[: step + 1, : step + 1])
        residual = length * abs(vectors[-1, -1])  # of the top eigenpair found so far
        if step + 1 == n_steps or residual <= 1e-8 * values[-1]:
            break
        tridiagonal[step, step + 1] = tridiagonal[step + 1, step] = length
        basis[step + 1] = new / length
    return np.asarray(basis[: step + 1].T @ vectors[:, -1])


def _doubles(values: Array) -> Array:
    return np.array(values, dtype=np.float64)
