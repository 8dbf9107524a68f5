"""The paper's released results on IMDB with BERT, by cluster, and a comparison of a run's damages with them.

180 trials: 30 clusters (the 10 least, 10 middle and 10 most confident of 100) x alpha .5, 1 and 2 x two models. LL trains BERT's
last block and its classifier, FT all of BERT. Each trial trains one victim; all trials of a model share one clean model. The
clusters are the same at each alpha but differ between LL and FT.

Source: result files (`results/bert/*.npy`) that the authors of Jagielski et al., CCS 2021, released with their code. A line of
the table is one trial: accuracy of the clean model and of the victim on the cluster's test reviews, damages, rows of the cluster
in the defender's half (train_size) and in the test set, rows of poison.

Deviations: none in the numbers, which are stored as released, to 6 decimals. 87 of the 90 collateral damages of LL are negative
(mean -.0042). Its clean model was probably trained with different batches than its victims, so its target damages may be too
low by the same amount.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from subpop.types import Array, BadInput

TABLE = "imdb_bert_per_cluster.csv"
VICTIMS = {"LL": "bert_last_layer", "FT": "bert_fine_tuned"}
"""Our names of the released models."""
ALPHAS = (0.5, 1.0, 2.0)
WORST = (1, 5, 10)
DECIMALS = 6


@dataclass(frozen=True)
class ReleasedTrial:
    """One trial: fractions and numbers of rows. cluster: its index among the 100 clusters of its model."""

    model: str
    alpha: float
    cluster: int
    clean_accuracy: float
    poisoned_accuracy: float
    target_damage: float
    collateral_damage: float
    n_train: int
    n_test: int
    n_poison: int


@dataclass(frozen=True)
class DamageTable:
    """Summary of the damages of subpopulations. A worst-k is NaN if there are fewer than k.

    share_unhurt: fraction of subpopulations without damage; n_train: mean number of their rows in the victim's training set.
    """

    n: int
    worst_1: float
    worst_5: float
    worst_10: float
    collateral_max: float
    collateral_mean: float
    mean: float
    median: float
    share_unhurt: float
    n_train: float


@dataclass(frozen=True)
class TwoSamples:
    """A comparison of two samples of damages. difference: first mean minus second mean."""

    ks_statistic: float
    ks_p: float
    mann_whitney_p: float
    difference: float


@cache
def released_trials() -> tuple[ReleasedTrial, ...]:
    """All 180 released trials, in the order of the file."""
    text = files(__name__).joinpath(TABLE).read_text(encoding="utf-8")
    return tuple(
        ReleasedTrial(
            model=row["model"],
            alpha=float(row["alpha"]),
            cluster=int(row["cluster"]),
            clean_accuracy=float(row["base_acc"]),
            poisoned_accuracy=float(row["poisoned_acc"]),
            target_damage=float(row["target_damage"]),
            collateral_damage=float(row["collateral_damage"]),
            n_train=int(row["train_size"]),
            n_test=int(row["test_size"]),
            n_poison=int(row["poison_count"]),
        )
        for row in csv.DictReader(io.StringIO(text, newline=""))
    )


def trials_of(model: str, alpha: float) -> tuple[ReleasedTrial, ...]:
    """The 30 trials of one model (`LL` or `FT`) at one alpha. Raises BadInput for others."""
    if model not in VICTIMS or alpha not in ALPHAS:
        raise BadInput(
            f"no trials of {model!r} at alpha {alpha:g} were released; ask for {' or '.join(VICTIMS)} at alpha {ALPHAS}"
        )
    return tuple(trial for trial in released_trials() if (trial.model, trial.alpha) == (model, alpha))


def damage_table(damages: ArrayLike, collaterals: ArrayLike, n_train: ArrayLike) -> DamageTable:
    """Summarise target and collateral damages and sizes, one per subpopulation. Raises BadInput if one is empty or not finite."""
    target, others, sizes = (_sample(values) for values in (damages, collaterals, n_train))
    # Averaging accuracies over seeds can turn a damage of zero into 1e-17.
    ranked = np.sort(np.round(target, DECIMALS + 3))[::-1]
    worst = {k: float(ranked[:k].mean()) if k <= len(ranked) else float("nan") for k in WORST}
    return DamageTable(
        n=len(ranked),
        worst_1=worst[1],
        worst_5=worst[5],
        worst_10=worst[10],
        collateral_max=float(others.max()),
        collateral_mean=float(others.mean()),
        mean=float(ranked.mean()),
        median=float(np.median(ranked)),
        share_unhurt=float((ranked <= 0).mean()),
        n_train=float(sizes.mean()),
    )


def two_samples(ours: ArrayLike, released: ArrayLike) -> TwoSamples:
    """Test whether two samples of damages, one value per subpopulation, have the same distribution; the difference of means.

    Clusters and encoders differ between a run and the released trials, so this compares distributions and is not gated. The
    tests are two-sided: Kolmogorov-Smirnov is exact (conservative with ties), Mann-Whitney is exact for small samples without
    ties. The difference of means has no interval: with tails as long as those of the released damages, Student's interval covers
    the difference of the populations in 84 to 96 % of simulated comparisons only (`tests/interval_coverage.py`).
    """
    from scipy.stats import ks_2samp, mannwhitneyu

    # Rounded like the released numbers: more digits would break ties between the samples.
    first, second = (np.round(_sample(values), DECIMALS) for values in (ours, released))
    kolmogorov: Any = ks_2samp(first, second)
    mann_whitney: Any = mannwhitneyu(first, second)
    difference = float(first.mean() - second.mean())
    return TwoSamples(float(kolmogorov.statistic), float(kolmogorov.pvalue), float(mann_whitney.pvalue), difference)


def _sample(values: ArrayLike) -> Array:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or not len(sample) or not np.isfinite(sample).all():
        raise BadInput(
            f"a sample of shape {sample.shape} cannot be summarised; give one finite value per subpopulation, at least one"
        )
    return sample
