"""k-NN filters: a row's label is compared with the labels of its nearest neighbours, and replaced or removed if it differs.

`knn_relabel` gives a row the label of the majority of its k nearest neighbours in input space, if the majority is at least a
share eta of them; `knn_filter` removes such rows instead. `deep_knn` compares a row with its k nearest neighbours in the
features of the victim, trained on all rows, and removes it if another label is more frequent than its own.

*Source*: label sanitisation by k-NN, Paudice et al. 2018; Deep k-NN, Peri et al. 2020. We had neither paper's full text:
k = 10 and eta = .5 are from memory of the first; k = 50, the row itself among its neighbours, and the sweep of k from 1 to 500
are those of the released code of the second.
*Deviations*: all rows that are exactly as far as the k-th neighbour are neighbours too, so that no order of rows decides among
equal distances, such as those of duplicates. A row keeps its label, or stays, if its own label is among the most frequent ones;
and it keeps its label if several other labels are equally frequent. The victim is trained again from scratch, where Deep k-NN
fine-tunes. Repeating the rows of small classes, an option of the released code of Deep k-NN, is omitted, and with fewer than 50
rows its default is the number of rows.

The rows that are kept do not depend on how a processor rounds matrix products (`ranks_rows` is False): distances within ROUGH of
the k-th are computed again, one column after another. Features of a network do depend on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from subpop.defenses.filters import filtered, finite
from subpop.types import Array, BadInput, Defended, Fit, Ints, Knowledge, TrainingSet
from subpop.types.card import Card, Declared

K, ETA, DEEP_K = 10, 0.5, 50
CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {},
    {"k": 5},
    {"k": 20},
    {"k": 50},
    {"eta": 0.7},
    {"eta": 0.9},
    {"k": 20, "eta": 0.7},
    {"k": 50, "eta": 0.7},
)
NEAREST = "sklearn.neighbors:KNeighborsClassifier(n_neighbors=1)"
MINORITY = Declared(
    "poison is a quarter of its surroundings, whose nearest rows outvote it, and the victim copies the nearest row",
    dataset="mixture",
    victim=NEAREST,
    rate=0.33,
    n_seeds=2,
    sampling="distinct",
    alpha_base="train",
)
MAJORITY = Declared(
    "poison is the majority of its surroundings and outvotes the clean rows, which are relabelled or removed",
    dataset="mixture",
    victim=NEAREST,
    rate=1.5,
    n_seeds=1,
    sampling="distinct",
    protocol="reserve",
)
DEEP_CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {},
    {"k": 5},
    {"k": 10},
    {"k": 20},
    {"k": 30},
    {"k": 40},
    {"k": 100},
    {"k": 200},
)
"""Settings to choose from: values of the released sweep and some between them. With k of 1 or 2, no row can be removed."""
ROUGH = 1e-9
"""Bound of the rounding errors of squared distances from matrix products, relative to the largest squared length of a row."""
BATCH = 1024
"""Number of rows whose distances are in memory at once."""


def knn_relabel(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, k: int = K, eta: float = ETA) -> Defended:
    """Give every row the label of the majority of its k nearest neighbours, then train.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    k
        Number of neighbours, without the row itself.
    eta
        The smallest share of the neighbours, from .5 to 1, that counts as a majority.

    Returns
    -------
    Defended
        With the diagnostic relabelled, the number of rows with another label.

    Raises
    ------
    BadInput
        If there are not k other rows, or eta is not between .5 and 1.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["knn_relabel"](toy.train(), toy.fit, Knowledge(), seed=0)
    >>> defended.diagnostics["relabelled"] > 12
    True
    """
    y = sanitised_labels(train, k, eta)
    return Defended(fit(train.relabel(y)), diagnostics={"relabelled": float((y != train.y).sum())})


knn_relabel.ranks_rows = False  # type: ignore[attr-defined]
knn_relabel.configurations = CONFIGURATIONS  # type: ignore[attr-defined]
knn_relabel.card = Card(MINORITY, MAJORITY)  # type: ignore[attr-defined]


def knn_filter(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, k: int = K, eta: float = ETA) -> Defended:
    """Remove every row whose label differs from that of the majority of its k nearest neighbours, then train.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    k
        Number of neighbours, without the row itself.
    eta
        The smallest share of the neighbours, from .5 to 1, that counts as a majority.

    Returns
    -------
    Defended
        The model and the rows that it was trained on.

    Raises
    ------
    BadInput
        If there are not k other rows, eta is not between .5 and 1, or no row is left.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["knn_filter"](toy.train(), toy.fit, Knowledge(), seed=0)
    >>> bool((~defended.keep & toy.poison).sum() > 12)
    True
    """
    return filtered(train, fit, sanitised_labels(train, k, eta) == train.y)


knn_filter.ranks_rows = False  # type: ignore[attr-defined]
knn_filter.configurations = CONFIGURATIONS  # type: ignore[attr-defined]
knn_filter.card = Card(MINORITY, MAJORITY, is_filter=True)  # type: ignore[attr-defined]


def deep_knn(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, k: int | None = None) -> Defended:
    """Remove every row whose label is not the most frequent one among its k nearest neighbours in the victim's features.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    k
        Number of neighbours, with the row itself. None stands for 50, or all rows if there are fewer.

    Returns
    -------
    Defended
        The model and the rows that it was trained on.

    Raises
    ------
    BadInput
        If there are fewer than k rows, or the features contain NaN or infinite values.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["deep_knn"](toy.train(), toy.fit, Knowledge(), seed=0)
    >>> bool((~defended.keep & toy.poison).sum() > 12)
    True
    """
    k = min(DEEP_K, len(train)) if k is None else _allowed(k, "deep_knn", len(train), "rows")
    model = fit(train)
    votes = neighbour_votes(finite(model.features(train.x)), train.y, k, with_self=True)
    keep = votes[np.arange(len(train)), train.y] == votes.max(axis=1)
    return Defended(model, keep) if keep.all() else filtered(train, fit, keep)


deep_knn.ranks_rows = False  # type: ignore[attr-defined]
deep_knn.configurations = DEEP_CONFIGURATIONS  # type: ignore[attr-defined]
deep_knn.card = Card(  # type: ignore[attr-defined]
    Declared(
        "poison is a quarter of a subpopulation that is larger than the 50 neighbours, and the victim copies the nearest row",
        dataset="mixture_2d",
        victim=NEAREST,
        rate=0.33,
        sampling="distinct",
        alpha_base="train",
    ),
    Declared(
        "poison outnumbers the clean rows among the neighbours, which are dropped instead",
        dataset="mixture_2d",
        victim=NEAREST,
        rate=1.5,
        sampling="distinct",
        protocol="reserve",
    ),
    is_filter=True,
)


def sanitised_labels(train: TrainingSet, k: int, eta: float) -> Ints:
    """Return (n,) labels: those of the training set, or of the majority of a row's k neighbours if it differs."""
    if train.x.dtype == np.int64:
        raise BadInput("k-NN label sanitisation compares inputs, and numbers of tokens have no distances; use deep_knn for texts")
    _allowed(k, "k-NN label sanitisation", len(train) - 1, "other rows")
    if not 0.5 <= eta <= 1:
        raise BadInput(f"eta={eta} of k-NN label sanitisation must be a share from .5 to 1, such as {ETA}")
    votes = neighbour_votes(train.x.reshape(len(train), -1), train.y, k, with_self=False)
    most = votes.max(axis=1)
    own = votes[np.arange(len(train)), train.y] == most
    clear = ((votes == most[:, None]).sum(axis=1) == 1) & (most >= eta * votes.sum(axis=1))
    return np.where(clear & ~own, votes.argmax(axis=1), train.y)


def neighbour_votes(points: Array, y: Ints, k: int, *, with_self: bool) -> Ints:
    """Count the labels of each point's k nearest neighbours.

    points: (n, d). Returns (n, C) int64. All points that are as near as the k-th are counted, so that a row may sum to more than
    k.
    """
    from sklearn.metrics import euclidean_distances
    from sklearn.utils import gen_batches

    columns = np.array(points, dtype=np.float64)
    by_column = np.ascontiguousarray(columns.T)
    columns -= columns.mean(axis=0)
    error = ROUGH * np.einsum("ij,ij->i", columns, columns).max()
    votes = np.zeros((len(y), int(y.max()) + 1), dtype=np.int64)
    for batch in gen_batches(len(y), BATCH):
        squared = euclidean_distances(columns[batch], columns, squared=True)
        own = np.arange(len(squared))
        squared[own, batch.start + own] = 0 if with_self else np.inf
        rows, neighbours = _nearest(squared, by_column, batch.start, k, error)
        np.add.at(votes, (batch.start + rows, y[neighbours]), 1)
    return votes


def _nearest(squared: Array, by_column: Array, start: int, k: int, error: float) -> tuple[Ints, Ints]:
    """Select the k nearest points of some rows, and those that are as near as the k-th.

    squared: (r, n) rough squared distances of the points start, start + 1, ..., with errors of at most `error`; by_column: (d, n)
    the points. Returns rows and points, (p,) each.
    """
    limit = np.partition(squared, k - 1, axis=1)[:, k - 1]
    rows, points = np.nonzero(squared <= (limit + 2 * error)[:, None])
    sure = squared[rows, points] < (limit - 2 * error)[rows]
    left = k - np.bincount(rows[sure], minlength=len(squared))
    close, others = rows[~sure], points[~sure]
    exact = np.zeros(len(close))
    for column in by_column:
        exact += (column[others] - column[start + close]) ** 2
    first = np.searchsorted(close, np.arange(len(squared)))
    farthest = exact[np.lexsort((exact, close))][first + left - 1]  # the k-th, in each row
    near = exact <= farthest[close]
    return np.concatenate([rows[sure], close[near]]), np.concatenate([points[sure], others[near]])


def _allowed(k: int, defense: str, most: int, what: str) -> int:
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        raise BadInput(f"k={k!r} neighbours of {defense} must be a whole number from 1 to {most}, its number of {what}; lower k")
    return k
