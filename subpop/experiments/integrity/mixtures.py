"""A secret mixture: drawn from a secret seed, so that no table, loader or repeated split contains its rows.

How well the labels of a mixture can be predicted is known: they contain label noise, and no learner can be correct more often
than the Bayes classifier. A defense that is has seen test labels. If the cell's own data is a mixture, the score on the public
one is also compared with the score on the secret one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from subpop.datasets.mixture import BOUNDS, SIZES, SPECS, MixtureSpec, make_mixture
from subpop.experiments.integrity.findings import Finding, tested
from subpop.types import Bools, Cell, Dataset

SCORE, ACCURACY = "secret mixture: score", "secret mixture: accuracy"
NAME = "mixture"
NOISE = 0.1
"""Label noise if the cell's own data is not a mixture with noise: enough for a Bayes accuracy well below 1."""


def spec_for(dataset: str, seed: int) -> MixtureSpec:
    """The specification of the cell's own mixture with another seed, or one of the first mixture with more label noise."""
    if dataset in SPECS:
        return replace(SPECS[dataset], seed=seed)
    return replace(SPECS[NAME], seed=seed, label_noise=NOISE)


def secret_dataset(dataset: str, spec: MixtureSpec) -> Dataset:
    """Make the mixture, with the name and sizes of the one that it replaces."""
    name = dataset if dataset in SPECS else NAME
    return replace(make_mixture(spec, name, BOUNDS.get(name, (0, float("inf")))), sizes=SIZES.get(name))


def secret_cell(cell: Cell) -> Cell:
    """Return the cell on the secret mixture: the same cell if its data is one, otherwise a plain one with this victim, rate and
    defense."""
    if is_mixture(cell):
        return cell
    names = (cell.stem, cell.tier, NAME, cell.victim, "feature_match", "label_flip", cell.rate or 1.0, cell.defense)
    return Cell.of(*names, protocol="reserve", sampling="distinct", holdout=cell.defender.holdout)


def is_mixture(cell: Cell) -> bool:
    """Whether the cell's own data is a mixture."""
    return cell.dataset in SPECS


def bayes_accuracy(spec: MixtureSpec) -> float:
    """Return the fraction of rows with the class of their component, which is the Bayes accuracy."""
    shares = np.array(spec.noise_shares)
    return float(1 - (shares * np.array(spec.row_counts)).sum() / sum(spec.row_counts))


def above_bayes(right: Bools, spec: MixtureSpec) -> Finding:
    """Test whether accuracy exceeds Bayes accuracy. right: (trials, n_test) bits; each row, shared by all trials, counts once."""
    from scipy.stats import binomtest

    n_rows, bayes = right.shape[1], bayes_accuracy(spec)
    mean = float(right.mean())
    p_value = float(binomtest(round(mean * n_rows), n_rows, bayes, "greater").pvalue) if bayes < 1 else 1.0
    figures = f"accuracy {mean:.1%}, Bayes accuracy {bayes:.1%} on {n_rows} rows"
    return tested(ACCURACY, p_value, "is right more often than the rows allow", figures)
