"""Train on a random part of the rows: what the small training sets of an ensemble's members do by themselves.

*Source*: none; reviewers ask for it beside partition-based ensembles, whose members train on n / k rows (k = 50 and more in the
sources; 25 here, as for the ensembles of the embedded tier).
*Deviations*: none. It is a control and has no card: a random part has the same share of poison as the whole, so that no success
is declared.
"""

from __future__ import annotations

import numpy as np

from subpop.defenses.filters import filtered
from subpop.types import BadInput, Defended, Fit, Knowledge, TrainingSet, content_order

PARTS = 25


def random_subsample(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, parts: int = PARTS) -> Defended:
    """Train the victim on n / parts rows, drawn at random; on one row if there are fewer rows than parts.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    parts
        The number of parts of which one is used, a whole number of at least 1.

    Returns
    -------
    Defended
        The model and the rows that it was trained on.

    Raises
    ------
    BadInput
        If `parts` is not a whole number of at least 1.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> int(DEFENSES["random_subsample"](toy.train(), toy.fit, Knowledge(), seed=0, parts=4).keep.sum())
    66
    """
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 1:
        raise BadInput(f"parts={parts!r} of random_subsample must be a whole number of at least 1, such as {PARTS}")
    order = content_order(train.x, train.y)
    keep = np.zeros(len(train), dtype=np.bool_)
    keep[order[np.random.default_rng(seed).permutation(len(train))[: max(1, len(train) // parts)]]] = True
    return filtered(train, fit, keep)


random_subsample.ranks_rows = False  # type: ignore[attr-defined]
random_subsample.configurations = (  # type: ignore[attr-defined]
    {},
    *({"parts": parts} for parts in (2, 3, 5, 10, 15, 50, 100)),
)
