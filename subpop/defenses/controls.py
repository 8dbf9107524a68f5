"""Controls to compare every defense with: no defense, upper and lower bounds for filters, and trivial filters.

*Source*: none; each answers one question about a defense's score. `none`: what does the attack do? `perfect_filter`: what
remains if exactly the poison is removed? `random_filter` and `matched_random_filter`: does a filter do more than removing as many
rows at random, in all or of each label? `drop_duplicates`: does the way in which poison was drawn reveal it?
*Deviations*: `drop_duplicates` removes every copy of a duplicated row, not all but one, because poison drawn with replacement
contains duplicates. With distinct poison and no duplicates in the data it removes nothing; natural duplicates are removed
too. None of them ranks rows by scores (`ranks_rows`), so that rounding cannot change what they remove.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from subpop.defenses.filters import filtered, told_poison
from subpop.types import Array, BadInput, Defended, Defense, Fit, Ints, Knowledge, TrainingSet
from subpop.types.card import Card, Declared


def none(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """No defense: train the victim on all rows.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        The undefended model.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["none"](toy.train(), toy.fit, Knowledge(), seed=0)
    >>> defended.keep is None
    True
    """
    return Defended(fit(train))


none.ranks_rows = False  # type: ignore[attr-defined]


def perfect_filter(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove exactly the poison, which is known to it: an upper bound for filters.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        The model and the rows that it was trained on.

    Raises
    ------
    BadInput
        If `know.poison_mask` is missing or has the wrong shape.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["perfect_filter"](toy.train(), toy.fit, Knowledge(poison_mask=toy.poison), seed=0)
    >>> int((~defended.keep).sum())
    24
    """
    mask = know.poison_mask
    if mask is None or mask.shape != (len(train),) or mask.dtype != np.bool_:
        raise BadInput(f"perfect_filter needs poison_mask, ({len(train)},) bool; grant it in the cell's knowledge")
    return filtered(train, fit, ~mask)


perfect_filter.needs = {"poison_mask"}  # type: ignore[attr-defined]
perfect_filter.ranks_rows = False  # type: ignore[attr-defined]


def random_filter(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove n_poison rows at random: a lower bound for filters that know n_poison.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        The model and the rows that it was trained on.

    Raises
    ------
    BadInput
        If `know.n_poison` is missing, or not below the number of training rows.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["random_filter"](toy.train(), toy.fit, Knowledge(n_poison=24), seed=0)
    >>> int((~defended.keep).sum())
    24
    """
    n_drop = told_poison(know, train, "random_filter")
    keep = np.ones(len(train), dtype=np.bool_)
    keep[np.random.default_rng(seed).permutation(len(train))[:n_drop]] = False
    return filtered(train, fit, keep)


random_filter.needs = {"n_poison"}  # type: ignore[attr-defined]
random_filter.ranks_rows = False  # type: ignore[attr-defined]


def drop_duplicates(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove every row that occurs more than once with the same input and label.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        The model and the rows that it was trained on.

    Raises
    ------
    BadInput
        If no row is left.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> import numpy as np
    >>> toy = gaussian(240, 2)
    >>> toy = toy.reordered(np.arange(241) % 240)
    >>> defended = DEFENSES["drop_duplicates"](toy.train(), toy.fit, Knowledge(), seed=0)
    >>> int((~defended.keep).sum())
    2
    """
    return filtered(train, fit, twin_counts(train.x, train.y) == 1)


drop_duplicates.ranks_rows = False  # type: ignore[attr-defined]
drop_duplicates.card = Card(  # type: ignore[attr-defined]
    succeeds=Declared(
        "nearly every poison row is drawn more than once",
        dataset="mixture",
        victim="logistic_regression",
        rate=4.0,
        sampling="with_replacement",
    ),
    fails=Declared(
        "poison rows are distinct, so that there are no copies",
        dataset="mixture",
        victim="logistic_regression",
        rate=1.0,
        sampling="distinct",
        protocol="reserve",
    ),
    is_filter=True,
)


def matched_random_filter(removed: Mapping[int, int]) -> Defense:
    """Make a defense that removes as many random rows of each label as another filter removed in the same trial.

    Parameters
    ----------
    removed
        Number of rows to remove by label.

    Returns
    -------
    Defense
        Its seed selects the rows.

    Raises
    ------
    BadInput
        When the defense runs, if there are fewer rows with a label than it should remove.

    Examples
    --------
    >>> from subpop import Knowledge
    >>> from subpop.testing import gaussian
    >>> from subpop.defenses import matched_random_filter
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = matched_random_filter({0: 3, 1: 21})(toy.train(), toy.fit, Knowledge(), seed=0)
    >>> int((~defended.keep).sum())
    24
    """

    def matched(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
        generator = np.random.default_rng(seed)
        keep = np.ones(len(train), dtype=np.bool_)
        for label, count in sorted(removed.items()):
            members = np.flatnonzero(train.y == label)
            if not 0 <= count <= len(members):
                raise BadInput(f"cannot remove {count} rows with label {label}: the training set has {len(members)}")
            keep[generator.permutation(members)[:count]] = False
        return filtered(train, fit, keep)

    return matched


def twin_counts(x: Array, y: Ints) -> Ints:
    """Return (n,) counts of the rows, including the row itself, with the same input and label; 0.0 equals -0.0."""
    flat = np.ascontiguousarray(x.reshape(len(x), -1))
    if flat.dtype.kind == "f":
        flat = flat + flat.dtype.type(0)  # turns -0.0 into 0.0, whose bytes differ
    labels = np.ascontiguousarray(y).view(np.uint8).reshape(len(x), -1)
    content = np.ascontiguousarray(np.hstack([flat.view(np.uint8).reshape(len(x), -1), labels]))
    _, group, counts = np.unique(content.view(f"V{content.shape[1]}").ravel(), return_inverse=True, return_counts=True)
    return counts[group].astype(np.int64)
