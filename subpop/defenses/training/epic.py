"""EPIC: rows that stand alone in the space of gradients are dropped while the victim is trained.

*Source*: Yang, Liu, Mirzasoleiman 2022, "Not All Poisons are Created Equal: Robust Training against Data Poisoning", and its
released code: the gradient of a row is approximated by softmax output minus one-hot label. Every second epoch, after the first
quarter of the epochs (40 epochs, `subset_freq` 2, `drop_after` 10), each class is clustered around `share` of its rows as
medoids, chosen greedily for the smallest sum of Euclidean distances; rows in clusters of one row are dropped for good. Clusters
are formed of all rows, also those that were dropped before. The examples use shares of .1, .2 and .3.
*Deviations*: the architecture, optimiser and number of epochs are the victim's, `after` is a share of them, and there is no
augmentation. The released code stops dropping before the last step of its learning rate, which is constant here. The poison
rows of one subpopulation have almost the same gradient, so that each is in a cluster with the others; rows that stand alone are
hard ones.
"""

from __future__ import annotations

import heapq

import numpy as np

from subpop.defenses.training.loops import LogLoss, stepwise
from subpop.types import Array, BadInput, Bools, Defended, Fit, Ints, Knowledge, TrainingSet, content_order

SHARE, EVERY, AFTER, LARGEST = 0.1, 2, 0.25, 1


def epic(
    train: TrainingSet,
    fit: Fit,
    know: Knowledge,
    *,
    seed: int,
    share: float = SHARE,
    every: int = EVERY,
    after: float = AFTER,
    largest: int = LARGEST,
) -> Defended:
    """Train the victim, and drop rows in small clusters of gradients meanwhile. `fit` and `seed` are not used.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    share
        Share of the rows of each class that become medoids, above 0 and below 1.
    every
        Number of epochs from one clustering to the next.
    after
        Share of the epochs before the first clustering, from 0 to 1.
    largest
        Size of the largest cluster that is dropped.

    Returns
    -------
    Defended
        The model, with the diagnostic `dropped`, the number of rows that it was not trained on in the last epoch.

    Raises
    ------
    BadInput
        If the victim is not trained step by step, or a setting is out of range.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge, make_victim
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> know = Knowledge(training=make_victim("logistic_regression").trainable(seed=0))
    >>> defended = DEFENSES["epic"](toy.train(), toy.fit, know, seed=0)
    >>> 0 < defended.diagnostics["dropped"] < 264
    True
    """
    if not (0 < share < 1 and every >= 1 and 0 <= after <= 1 and largest >= 0):
        raise BadInput(
            f"share={share}, every={every}, after={after}, largest={largest} of epic: give 0 < share < 1, every >= 1, "
            "0 <= after <= 1 and largest >= 0"
        )
    recipe = stepwise(know, "epic")
    order = content_order(train.x, train.y)  # ties of gains are decided by content
    rows = train[train.ids[order]]
    network, x, y = recipe.begin(rows), rows.x, rows.y
    keep = np.ones(len(y), dtype=np.bool_)
    first = round(after * recipe.epochs)
    for epoch in range(recipe.epochs):
        if epoch >= first and (epoch - first) % every == 0:
            following = keep & ~isolated(network.proba(x), y, share, largest)
            keep = following if following.any() else keep
        left = np.flatnonzero(keep)
        for batch in recipe.batches(rows[rows.ids[left]], epoch):
            network.descend(x[left[batch]], LogLoss(y[left[batch]]))
    return Defended(network.model(), diagnostics={"dropped": float((~keep).sum())})


epic.needs = {"training"}  # type: ignore[attr-defined]
epic.exact = False  # type: ignore[attr-defined]  # the steps are stochastic for every victim
epic.configurations = (  # type: ignore[attr-defined]
    {},
    {"share": 0.2},
    {"share": 0.3},
    {"every": 1},
    {"every": 5},
    {"share": 0.2, "every": 1},
    {"share": 0.3, "every": 1},
    {"after": 0.5},
)


def isolated(proba: Array, y: Ints, share: float, largest: int) -> Bools:
    """(n,) bool: rows in clusters of at most `largest` rows, from probabilities (n, C) and labels."""
    from scipy.spatial.distance import cdist

    gradients = np.array(proba, dtype=np.float64)
    gradients[np.arange(len(y)), y] -= 1
    alone = np.zeros(len(y), dtype=np.bool_)
    for label in np.unique(y):
        own = np.flatnonzero(y == label)
        distances = cdist(gradients[own], gradients[own])
        chosen = medoids(distances, max(1, int(share * len(own))))
        cluster = distances[:, chosen].argmin(axis=1)
        alone[own] = np.bincount(cluster, minlength=len(chosen))[cluster] <= largest
    return alone


def medoids(distances: Array, count: int) -> Ints:
    """Choose `count` rows one after another, each the one that most reduces the sum of distances to the nearest chosen row.

    A gain can only shrink as rows are chosen, so that only the rows at the top of the list are computed again.
    """
    nearest = np.full(len(distances), distances.max())
    waiting = [(-float((nearest - row).sum()), i) for i, row in enumerate(distances)]
    heapq.heapify(waiting)
    chosen: list[int] = []
    while len(chosen) < count:
        _, best = heapq.heappop(waiting)
        gain = float(np.maximum(nearest - distances[best], 0).sum())
        if waiting and (-gain, best) > waiting[0]:
            heapq.heappush(waiting, (-gain, best))
            continue
        chosen.append(best)
        nearest = np.minimum(nearest, distances[best])
    return np.array(chosen)
