"""Confident learning: estimate from out-of-fold predictions how many labels are wrong, and remove as many rows of each label.

Five models are trained, each on four fifths of the rows, and predict the probabilities of the last fifth. A row counts as a
confident example of a class if its probability is at least the average of the rows with that label; the counts of confident
examples by label and class, scaled to the number of rows of each label, say how many rows of a label belong to another class,
and those with the largest difference between the two probabilities are removed.

*Source*: Northcutt, Jiang and Chuang 2021, as in cleanlab 2.9.0 (`filter.find_label_issues`), whose answers it reproduces for
given probabilities: five folds, `prune_by_noise_rate`, at least one row left of each label, a row whose label is the most
likely class is never removed.
*Deviations*: folds are drawn from the content of the rows, in equal shares of every label. Rows with equal differences are
ranked by content, where cleanlab's order depends on that of the rows. A label with fewer rows than folds is refused. The
scores by which cleanlab ranks issues, and its other ways of choosing them, are omitted.

The method assumes that a label is wrong with a probability that depends on its class only. Poison in one subpopulation is the
opposite: among the out-of-fold predictions of a local learner, its rows confirm each other.

The successful case of the card was searched for and is optimistic: it is the fourth that was measured on its splits (the earlier
ones removed 29, 70 and 91 % of the damage, the last of these of an undefended damage below .2), after about 25 trials of
victims, data, rates and settings on other splits. No success of the defaults was found.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from subpop.defenses.filters import filtered, highest
from subpop.defenses.fits import fit_all
from subpop.types import Array, BadInput, Bools, Defended, Fit, Ints, Knowledge, TrainingSet, content_order
from subpop.types.card import Card, Declared

FOLDS = 5
SLACK = 1e-6
"""Probabilities that differ by less are equal, in favour of a confident example and of the given label."""
FILTERS = ("prune_by_noise_rate", "confident_learning", "predicted_neq_given")
"""Names of cleanlab: as many rows as estimated, all confident examples of another class, all rows predicted as another class."""


def confident_learning(
    train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, folds: int = FOLDS, filter_by: str = FILTERS[0]
) -> Defended:
    """Remove the rows whose label is probably wrong according to models that were trained without them.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    folds
        Number of parts of the cross-validation, at least 2.
    filter_by
        Which rows are removed: `prune_by_noise_rate`, `confident_learning` or `predicted_neq_given`.

    Returns
    -------
    Defended
        With the diagnostic gap: by how much a probability, or a difference of two, is away from another decision at least.

    Raises
    ------
    BadInput
        If a label has fewer rows than there are folds, or a setting has no meaning.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["confident_learning"](toy.train(), toy.fit, Knowledge(), seed=0)
    >>> bool((~defended.keep & toy.poison).sum() > 12)
    True
    """
    if filter_by not in FILTERS:
        raise BadInput(f"filter_by={filter_by!r} of confident_learning is unknown; choose one of {', '.join(FILTERS)}")
    check_folds(train, folds)
    order = content_order(train.x, train.y)
    proba = out_of_fold(train[train.ids[order]], fit, folds, seed)
    issues, gap = label_issues(proba, train.y[order], filter_by)
    keep = np.ones(len(train), dtype=np.bool_)
    keep[order[issues]] = False
    found = filtered(train, fit, keep)
    return Defended(found.model, keep, diagnostics={"gap": gap})


CONFIGURATIONS: tuple[dict[str, Any], ...] = (
    {},
    {"folds": 3},
    {"folds": 10},
    {"filter_by": "confident_learning"},
    {"filter_by": "confident_learning", "folds": 10},
    {"filter_by": "predicted_neq_given"},
    {"filter_by": "predicted_neq_given", "folds": 3},
    {"filter_by": "predicted_neq_given", "folds": 10},
)
confident_learning.configurations = CONFIGURATIONS  # type: ignore[attr-defined]
confident_learning.card = Card(  # type: ignore[attr-defined]
    Declared(
        "the errors of a vote of 15 neighbours are few, and all of them are removed: with the defaults, poison in one cell is "
        "hardly ever predicted as confidently as other rows, and stays",
        {"filter_by": "predicted_neq_given"},
        dataset="mixture_cells",
        victim="sklearn.neighbors:KNeighborsClassifier(n_neighbors=15)",
        rate=0.75,
        sampling="distinct",
        alpha_base="train",
    ),
    Declared(
        "poison is the majority of its surroundings, so that the clean rows are what looks wrong",
        dataset="mixture",
        victim="sklearn.neighbors:KNeighborsClassifier(n_neighbors=1)",
        rate=1.5,
        n_seeds=1,
        sampling="distinct",
        protocol="reserve",
    ),
    is_filter=True,
)


def check_folds(train: TrainingSet, folds: int) -> None:
    """Raise BadInput if the rows of some label cannot be divided into that many folds."""
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:
        raise BadInput(f"folds={folds!r} of confident_learning must be a whole number of at least 2, such as {FOLDS}")
    labels, sizes = np.unique(train.y, return_counts=True)
    if sizes.min() < folds:
        raise BadInput(
            f"label {labels[sizes.argmin()]} has {sizes.min()} rows, fewer than the {folds} folds of confident_learning; lower "
            "folds, or leave the label out"
        )


def out_of_fold(train: TrainingSet, fit: Fit, folds: int, seed: int) -> Array:
    """Return (n, C) probabilities from models trained without the row's fold. Folds have equal shares of each label."""
    generator, fold = np.random.default_rng(seed), np.zeros(len(train), dtype=np.int64)
    for label in np.unique(train.y):
        members = np.flatnonzero(train.y == label)
        fold[members] = generator.permutation(len(members)) % folds
    models = fit_all(fit, [train[fold != each] for each in range(folds)])
    proba = np.zeros((len(train), train.n_classes))
    x = train.x
    for each, model in enumerate(models):
        proba[fold == each] = model.predict_proba(x[fold == each])
    return proba


def label_issues(proba: Array, y: Ints, filter_by: str = FILTERS[0]) -> tuple[Bools, float]:
    """Find the labels that are probably wrong, and how near a decision is to another one.

    proba: (n, C) out-of-fold probabilities; y: (n,) labels. Of rows with equal scores, the last ones are issues. Returns (n,)
    bool, and the smallest difference of two compared numbers.
    """
    n_classes = proba.shape[1]
    sizes = np.bincount(y, minlength=n_classes)
    means = np.array([proba[y == j, j].mean() if sizes[j] else np.inf for j in range(n_classes)])
    bars = np.maximum(means, 2 * SLACK) - SLACK
    confident = proba >= bars
    counted = confident.any(axis=1)
    guess = np.where(confident.sum(axis=1) > 1, proba.argmax(axis=1), confident.argmax(axis=1))
    best = np.sort(proba, axis=1)
    gaps = [np.abs(proba - bars).min(), (best[:, -1] - best[:, -2])[confident.sum(axis=1) > 1].min(initial=np.inf)]

    lifted = proba.copy()
    lifted[np.arange(len(y)), y] += SLACK
    others = np.where(np.arange(n_classes) == y[:, None], -np.inf, proba).max(axis=1)
    gaps.append(np.abs(lifted[np.arange(len(y)), y] - others).min())

    issues = np.asarray(counted & (guess != y)) if filter_by == "confident_learning" else np.full(len(y), True)
    if filter_by == "prune_by_noise_rate":
        joint = np.zeros((n_classes, n_classes))
        np.add.at(joint, (y[counted], guess[counted]), 1)
        issues[:] = False
        for label, row in enumerate(rows_to_remove(joint, sizes)):
            members = np.flatnonzero(y == label)
            for other in np.flatnonzero(row if len(members) > 1 else 0 * row):
                score = proba[members, other] - proba[members, label]
                chosen = highest(score, members, min(int(row[other]), len(members)))
                issues[members[chosen]] = True
                if not chosen.all():
                    gaps.append(score[chosen].min() - score[~chosen].max())
    return issues & (lifted.argmax(axis=1) != y), float(min(gaps))


def rows_to_remove(joint: Array, sizes: Ints) -> Ints:
    """Return (C, C) numbers of rows of each label (rows) to remove because of each class (columns); 0 on the diagonal.

    joint: (C, C) numbers of confident examples; sizes: (C,) numbers of rows of each label, to which they are scaled.
    """
    joint = joint.copy()
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1))
    # In cleanlab's order of operations and of memory: their rounding decides which of two rests of 1/2 is rounded up.
    scaled = (np.ascontiguousarray(joint.T) / joint.sum(axis=1) * sizes).T
    whole = np.array([_rounded(row) for row in scaled / scaled.sum() * sizes.sum()])
    for label, row in enumerate(whole):
        if row[label] < 1:  # at least one row of the label remains
            row[:] = np.maximum(row - 1 / max(int(np.count_nonzero(row)) - 1, 1), 0).astype(np.int64)
        row[label] = 0
    return whole


def _rounded(row: Array) -> Ints:
    """Round to whole numbers with the same sum: as usual, and then those that moved farthest the other way."""
    whole = row.round()
    missing = int(round(row.sum()) - whole.sum())
    by_rest = np.argsort(row - whole)
    if missing > 0:
        whole[by_rest[::-1][:missing]] += 1
    elif missing < 0:
        whole[by_rest[:-missing]] -= 1
    return whole.astype(np.int64)
