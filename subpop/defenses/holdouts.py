"""Clean rows that a defense was granted, and two baselines that only train on them.

`holdout_only` trains on the clean rows alone; `train_and_holdout` adds them to the training set. Whatever else uses a clean
holdout should be better than both.

*Source*: none; reviewers ask for both. *Deviations*: none. The harness's holdout contains no row of the attacked subpopulation,
and neither baseline has a card. Clean rows of other subpopulations do not outvote poison in this one. `holdout_only` can only
repair a subpopulation that resembles others: of the four cases that were declared as successes, it took 62 to 86 % of the damage
away, and each time more than .02 of clean accuracy.
"""

from __future__ import annotations

import numpy as np

from subpop.types import BadInput, Defended, Fit, Knowledge, TrainingSet, content_order


def clean_holdout(know: Knowledge, defense: str) -> TrainingSet:
    """Return the clean rows that were granted; raises BadInput if there are none."""
    if know.clean_holdout is None or not len(know.clean_holdout):
        raise BadInput(f"{defense} needs clean_holdout, at least one clean row; grant it in the cell's knowledge")
    return know.clean_holdout


def holdout_of_every_class(know: Knowledge, train: TrainingSet, defense: str) -> TrainingSet:
    """Return the clean rows that were granted; raises BadInput if a label of the training set does not occur among them."""
    holdout = clean_holdout(know, defense)
    missing = np.setdiff1d(train.y, holdout.y)
    if len(missing):
        raise BadInput(
            f"{defense} needs clean rows of every class; none of the {len(holdout)} rows of clean_holdout has the label "
            f"{missing[0]}: raise the setting holdout, or give rows of that class"
        )
    return holdout


def holdout_only(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Train the victim on the clean holdout alone.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        The model of the clean rows, with the diagnostic holdout_rows.

    Raises
    ------
    BadInput
        If there is no clean holdout, or it lacks a class of the training set.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge, TrainingSet
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> know = Knowledge(clean_holdout=TrainingSet.of(toy.test_x, toy.test_y))
    >>> DEFENSES["holdout_only"](toy.train(), toy.fit, know, seed=0).diagnostics["holdout_rows"]
    100.0
    """
    holdout = holdout_of_every_class(know, train, "holdout_only")
    return Defended(fit(holdout), diagnostics={"holdout_rows": float(len(holdout))})


holdout_only.needs = {"clean_holdout"}  # type: ignore[attr-defined]


def train_and_holdout(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, copies: int = 1) -> Defended:
    """Train the victim on the training set and the clean holdout together.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    copies
        How often each clean row is added, a whole number of at least 1.

    Returns
    -------
    Defended
        The model of all rows, with the diagnostic holdout_rows, the number of distinct clean rows.

    Raises
    ------
    BadInput
        If there is no clean holdout, or `copies` is not a whole number of at least 1.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge, TrainingSet
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> know = Knowledge(clean_holdout=TrainingSet.of(toy.test_x, toy.test_y))
    >>> DEFENSES["train_and_holdout"](toy.train(), toy.fit, know, seed=0).diagnostics["holdout_rows"]
    100.0
    """
    if isinstance(copies, bool) or not isinstance(copies, int) or copies < 1:
        raise BadInput(f"copies={copies!r} of train_and_holdout must be a whole number of at least 1, such as 1")
    holdout = clean_holdout(know, "train_and_holdout")
    x = np.concatenate([train.x, *[holdout.x] * copies])
    y = np.concatenate([train.y, *[holdout.y] * copies])
    order = content_order(x, y)
    return Defended(fit(TrainingSet.of(x[order], y[order])), diagnostics={"holdout_rows": float(len(holdout))})


train_and_holdout.needs = {"clean_holdout"}  # type: ignore[attr-defined]
train_and_holdout.configurations = (  # type: ignore[attr-defined]
    {},
    *({"copies": copies} for copies in (2, 3, 5, 10, 20, 50, 100)),
)
