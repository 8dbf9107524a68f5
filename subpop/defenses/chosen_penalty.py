"""Logistic regression with a penalty that is as strong as cross-validation on the training set asks for.

*Source*: none; reviewers ask for it: is poison fitted because the victim is too flexible?
*Deviations*: `fit` trains the victim with its own penalty, so that this is an own learner: the exact solver of the victim
`logistic_regression`, whose penalty is one of the candidates. A candidate's score is the mean log loss over held-out rows of all
folds, which are poisoned as much as the others; equal scores go to the stronger penalty. Copies of a row are in one fold: rows
that are tested on a copy of themselves would favour weak penalties. Folds are drawn within labels from rows sorted by content.
One fit for each candidate and fold, and a last one. It has no card: in the two cases that were declared as successes it took
none and 34 % of the damage away, less than the 80 % of a success.
"""

from __future__ import annotations

import numpy as np

from subpop.defenses.own_learner import own_pool
from subpop.defenses.trim import given_label_loss
from subpop.types import BadInput, Defended, Fit, FleetJob, Ints, Knowledge, Pool, TrainingSet
from subpop.victims.logistic import LogisticRegression

FACTORS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
FOLDS = 5


def chosen_penalty(
    train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, folds: int = FOLDS, weakest: float = 1.0
) -> Defended:
    """Train logistic regression with the penalty of the lowest cross-validated log loss; `fit` is not used.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    folds
        Number of folds, a whole number of at least 2.
    weakest
        The weakest candidate, above 0. The others are 3 to 1,000 times as strong (`FACTORS`).

    Returns
    -------
    Defended
        A LinearModel, with the diagnostic penalty.

    Raises
    ------
    BadInput
        If a class has fewer distinct rows than folds, a setting is out of range, or inputs are tokens.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> DEFENSES["chosen_penalty"](toy.train(), toy.fit, Knowledge(), seed=0).diagnostics["penalty"] >= 1
    True
    """
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise BadInput(f"folds={folds!r} of chosen_penalty must be a whole number of at least 2, such as {FOLDS}")
    if not 0 < weakest < float("inf"):
        raise BadInput(f"weakest={weakest} of chosen_penalty must be finite and above 0, such as 1")
    pool = own_pool(train, "chosen_penalty")
    fold = folds_of(pool, folds, seed)
    penalties = [weakest * factor for factor in FACTORS]
    losses = [held_out_loss(pool, fold, penalty) for penalty in penalties]
    penalty = penalties[len(losses) - 1 - int(np.argmin(losses[::-1]))]
    return Defended(LogisticRegression(penalty).fit_many([pool.clean_job()], [0])[0], diagnostics={"penalty": penalty})


def folds_of(pool: Pool, folds: int, seed: int) -> Ints:
    """Return (n,) the fold of each row: random, even within each label, and the same for equal inputs of one label."""
    generator, fold = np.random.default_rng(seed), np.empty(len(pool), dtype=np.int64)
    for label in np.unique(pool.y):
        rows = np.flatnonzero(pool.y == label)
        distinct, which = np.unique(pool.x[rows], axis=0, return_inverse=True)
        if len(distinct) < folds:
            raise BadInput(
                f"class {label} has {len(distinct)} distinct rows, fewer than folds={folds} of chosen_penalty; lower folds or "
                "give more rows of that class"
            )
        fold[rows] = (generator.permutation(len(distinct)) % folds)[which.ravel()]
    return fold


def held_out_loss(pool: Pool, fold: Ints, penalty: float) -> float:
    """Return the mean log loss of every row under the model that was trained on the other folds."""
    parts = [np.flatnonzero(fold != each) for each in np.unique(fold)]
    jobs = [FleetJob(pool, rows, pool.y[rows]) for rows in parts]
    models = LogisticRegression(penalty).fit_many(jobs, [0] * len(jobs))
    held = [np.flatnonzero(fold == each) for each in np.unique(fold)]
    losses = [given_label_loss(model.predict_proba(pool.x[rows]), pool.y[rows]) for model, rows in zip(models, held, strict=True)]
    return float(np.round(np.concatenate(losses).mean(), 9))


chosen_penalty.configurations = (  # type: ignore[attr-defined]
    {},
    *({"folds": folds} for folds in (3, 10)),
    *({"weakest": weakest} for weakest in (0.01, 0.1, 10.0, 100.0, 1000.0)),
)
