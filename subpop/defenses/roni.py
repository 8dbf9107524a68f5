"""RONI (reject on negative impact): reject what makes a model worse on other rows, row by row or group by group.

*Source*: Nelson et al. 2008, "Exploiting Machine Learning to Subvert Your Spam Filter": a message is tested by training with and
without it, next to 20 messages, and counting how many of 50 others are classified rightly; five trials with other messages each
time; what costs clearly more than any clean message is rejected. From memory. This is `roni`; its limit of 5 rows is between the
costs that they report for clean and for attack messages. `group_roni` is our fleet-friendly form: the rows of each label are
clustered by their inputs, a group is tested by removing it from a random half of the training set, and the other half counts;
five halves; a group is rejected if the mean number of right rows rises without it.
*Deviations*: the calibration rows are rows of the training set, which are poisoned as much as the others. Where poison is the
minority of its neighbourhood the clean rows outvote it there; where it is the majority, the clean rows are what is rejected.
`group_roni_with_holdout` counts on the clean holdout instead. It has no card: without rows of the attacked subpopulation among
them, clean rows see its poison only as far as it damages other rows. `roni` trains repetitions * (rows + 1) models and is
therefore not registered; the others train at most repetitions * (groups + 1) + 1. k-means runs on one thread, on rows sorted by
content, with a constant seed, so that the order of rows does not matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from subpop.defenses.filters import filtered
from subpop.defenses.fits import fit_all
from subpop.defenses.holdouts import holdout_of_every_class
from subpop.runtime.threads import one_thread
from subpop.types import BadInput, Bools, Defended, Fit, Ints, Knowledge, Model, TrainingSet, content_order
from subpop.types.card import Card, Declared

GROUPS, REPETITIONS = 20, 5
BASE_ROWS, CALIBRATION_ROWS, LEAST_LOSS = 20, 50, 5.0
MOST_FITS = 20_000


def group_roni(
    train: TrainingSet,
    fit: Fit,
    know: Knowledge,
    *,
    seed: int,
    groups: int = GROUPS,
    repetitions: int = REPETITIONS,
    least_loss: float = 0.0,
) -> Defended:
    """Reject the groups of rows without which a model of one half of the training set is right more often on the other half.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    groups
        Number of groups over all labels, in proportion to their rows; at least one for each label.
    repetitions
        Number of random halves.
    least_loss
        A group is rejected if it costs more right rows than this, on average over the halves.

    Returns
    -------
    Defended
        With the diagnostics groups and rejected, the numbers of groups.

    Raises
    ------
    BadInput
        If `groups` or `repetitions` is not a whole number of at least 1, or `least_loss` is negative.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["group_roni"](toy.train(), toy.fit, Knowledge(), seed=0)
    >>> defended.diagnostics["rejected"] <= defended.diagnostics["groups"] <= 21
    True
    """
    return _without_groups(train, fit, None, seed, groups, repetitions, least_loss)


def group_roni_with_holdout(
    train: TrainingSet,
    fit: Fit,
    know: Knowledge,
    *,
    seed: int,
    groups: int = GROUPS,
    repetitions: int = REPETITIONS,
    least_loss: float = 0.0,
) -> Defended:
    """Reject the groups of rows without which a model of one half of the training set is right more often on the clean holdout.

    Parameters
    ----------
    train, fit, know, seed, groups, repetitions, least_loss
        See `group_roni`.

    Returns
    -------
    Defended
        With the diagnostics groups and rejected, the numbers of groups.

    Raises
    ------
    BadInput
        As for `group_roni`, and if there is no clean holdout or it lacks a class of the training set.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge, TrainingSet
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> know = Knowledge(clean_holdout=TrainingSet.of(toy.test_x, toy.test_y))
    >>> defended = DEFENSES["group_roni_with_holdout"](toy.train(), toy.fit, know, seed=0)
    >>> defended.diagnostics["rejected"] <= defended.diagnostics["groups"]
    True
    """
    holdout = holdout_of_every_class(know, train, "group_roni_with_holdout")
    return _without_groups(train, fit, holdout, seed, groups, repetitions, least_loss)


group_roni_with_holdout.needs = {"clean_holdout"}  # type: ignore[attr-defined]


def roni(
    train: TrainingSet,
    fit: Fit,
    know: Knowledge,
    *,
    seed: int,
    repetitions: int = REPETITIONS,
    base_rows: int = BASE_ROWS,
    calibration_rows: int = CALIBRATION_ROWS,
    least_loss: float = LEAST_LOSS,
) -> Defended:
    """Reject each row that makes models of a few other rows worse on some more; it trains repetitions * (rows + 1) models.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    repetitions
        Number of random sets of base and calibration rows.
    base_rows, calibration_rows
        Their sizes.
    least_loss
        A row is rejected if it costs more right calibration rows than this, on average over the repetitions.

    Returns
    -------
    Defended
        With the diagnostic rejected, the number of rows.

    Raises
    ------
    BadInput
        If a number is not whole or below 1, there are too few rows, or more than `MOST_FITS` models would be trained.

    Examples
    --------
    >>> from subpop import Knowledge
    >>> from subpop.defenses.roni import roni
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(60, 2, n_poison=6)
    >>> defended = roni(toy.train(), toy.fit, Knowledge(), seed=0, base_rows=10, calibration_rows=20, repetitions=2)
    >>> defended.diagnostics["rejected"] == (~defended.keep).sum()
    True
    """
    _check("roni", least_loss, repetitions=repetitions, base_rows=base_rows, calibration_rows=calibration_rows)
    n = len(train)
    if base_rows + calibration_rows > n:
        raise BadInput(
            f"roni needs base_rows={base_rows} and calibration_rows={calibration_rows} different rows; the training set has {n}: "
            "lower them, or use group_roni"
        )
    if repetitions * (n + 1) > MOST_FITS:
        raise BadInput(
            f"roni would train repetitions={repetitions} times {n + 1} models; at most {MOST_FITS} are allowed: lower "
            "repetitions, or use group_roni"
        )
    order, generator = content_order(train.x, train.y), np.random.default_rng(seed)
    drawn = [order[generator.permutation(n)] for _ in range(repetitions)]
    sets = [np.concatenate([rows[:base_rows], [i]]) for rows in drawn for i in range(n)]
    bases = [rows[:base_rows] for rows in drawn]
    models = fit_all(fit, [train[train.ids[rows]] for rows in [*bases, *sets]])
    cost = np.zeros(n)
    for i, rows in enumerate(drawn):
        calibration = train[train.ids[rows[base_rows : base_rows + calibration_rows]]]
        own = models[repetitions + i * n : repetitions + (i + 1) * n]
        cost += _right(models[i], calibration) - np.array([_right(model, calibration) for model in own])
    return _kept(train, fit, cost / repetitions > least_loss, {})


def _without_groups(
    train: TrainingSet,
    fit: Fit,
    holdout: TrainingSet | None,
    seed: int,
    groups: int,
    repetitions: int,
    least_loss: float,
) -> Defended:
    """Reject the groups that cost right rows of the holdout, or, without one, of the half that was not trained on."""
    _check("group_roni", least_loss, groups=groups, repetitions=repetitions)
    order, generator = content_order(train.x, train.y), np.random.default_rng(seed)
    group = clusters_within_labels(train, order, groups)
    halves = []
    for _ in range(repetitions):
        half = np.zeros(len(train), dtype=np.bool_)
        half[order[generator.permutation(len(train))[: (len(train) + 1) // 2]]] = True
        halves.append(half)
    judges = [train[~half] if holdout is None else holdout for half in halves]
    tested = [(i, g) for i, half in enumerate(halves) for g in np.unique(group[half]) if (half & (group != g)).any()]
    models = fit_all(fit, [train[half] for half in halves] + [train[halves[i] & (group != g)] for i, g in tested])
    right = [_right(model, judge) for model, judge in zip(models, judges, strict=False)]
    cost = np.zeros(int(group.max()) + 1)
    for (i, g), model in zip(tested, models[repetitions:], strict=True):
        cost[g] += _right(model, judges[i]) - right[i]
    rejected = cost / repetitions > least_loss
    return _kept(train, fit, rejected[group], {"groups": float(len(cost)), "rejected": float(rejected.sum())})


def clusters_within_labels(train: TrainingSet, order: Ints, groups: int) -> Ints:
    """Return (n,) group numbers from 0: k-means clusters of the standardised inputs of each label.

    order: (n,) rows sorted by content. A label has a share of the groups in proportion to its rows, but at least one, and no
    more than it has distinct rows.
    """
    from sklearn.cluster import KMeans

    x = np.asarray(train.x, dtype=np.float64).reshape(len(train), -1)
    deviation = x[order].std(axis=0)
    x = x / np.where(deviation > 0, deviation, 1.0)
    group, first = np.zeros(len(train), dtype=np.int64), 0
    for label in np.unique(train.y):
        rows = order[train.y[order] == label]
        count = min(max(1, round(groups * len(rows) / len(train))), len(np.unique(x[rows], axis=0)))
        with one_thread():  # with several threads, k-means sums in a different order each time
            group[rows] = first + KMeans(count, n_init=10, random_state=0).fit(x[rows]).labels_
        first += count
    return group


def _right(model: Model, rows: TrainingSet) -> int:
    return int((model.predict_proba(rows.x).argmax(axis=1) == rows.y).sum()) if len(rows) else 0


def _kept(train: TrainingSet, fit: Fit, rejected: Bools, diagnostics: dict[str, float]) -> Defended:
    """Train on the rows that are not rejected; if that leaves none, on all."""
    keep = ~rejected if not rejected.all() else np.ones(len(train), dtype=np.bool_)
    found = filtered(train, fit, keep)
    return Defended(found.model, keep, diagnostics={"rejected": float((~keep).sum()), **diagnostics})


def _check(defense: str, least_loss: float, **whole: int) -> None:
    for name, value in whole.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(f"{name}={value!r} of {defense} must be a whole number of at least 1, such as 5")
    if not 0 <= least_loss < float("inf"):
        raise BadInput(f"least_loss={least_loss} of {defense} must be finite and at least 0, such as 0")


CONFIGURATIONS = (
    {},
    *({"groups": groups} for groups in (10, 40, 80)),
    *({"least_loss": least_loss} for least_loss in (1.0, 2.0)),
    {"groups": 40, "least_loss": 1.0},
    {"repetitions": 10},
)
group_roni.configurations = group_roni_with_holdout.configurations = CONFIGURATIONS  # type: ignore[attr-defined]
_ONE_NEIGHBOUR: dict[str, Any] = {
    "dataset": "mixture_cells",
    "victim": "sklearn.neighbors:KNeighborsClassifier(n_neighbors=1)",
    "sampling": "distinct",
}
group_roni.card = Card(  # type: ignore[attr-defined]
    Declared(
        "poison is one cluster of its label, and a minority of its neighbourhood, so that held-out rows there are right more "
        "often without it",
        rate=0.5,
        **_ONE_NEIGHBOUR,
    ),
    Declared("poison is the majority of its neighbourhood: the clean rows are rejected", rate=2.0, **_ONE_NEIGHBOUR),
    is_filter=True,
)
