"""Deep partition aggregation (DPA): one member for each part of the training set, and a vote that few rows cannot change.

The part of a row is a hash of its input alone, so that an inserted or deleted row changes one member only. A vote that leads by
L votes (ties go to the smaller class) therefore survives floor(L / 2) such changes, whatever the rows contain. In units of rows:
inserting or deleting a row changes one part, and so does flipping its label, because the label is not hashed; changing an input
counts twice, since the row may leave one part and enter another. Radii are given as `insertions` (or deletions) and as
`label_flips`, which are equal here.

The certificate assumes that a member depends on its own part only. Checked for the victims of this package: they standardise
nothing. Logistic regression starts all its solves at the optimum of D, which moves a solution by less than its `error_bound`;
scikit-learn pipelines fit their scalers inside a part. Features of a frozen network are the same for all parts.

*Source*: Levine and Feizi 2021, "Deep Partition Aggregation: Provable Defenses against General Poisoning Attacks", in the variant
that does not hash labels; only its released code was read. k * (n / k) rows are trained: one pass over the data.
*Deviations*: see `subpop.defenses.ensembles`. Parts are refused if they are too poor to train on (`check_parts`). The source uses
k from 50 to 3,000 on 39,000 to 60,000 rows, 20 to 1,200 rows a part; on the 600 rows of the digits, k=11 leaves 55 rows a part,
about as many as its k=1200 on MNIST.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from subpop.defenses.ensembles import VotingModel, card_of, leads_of, partition, train_members
from subpop.types import Array, Defended, Fit, Ints, Knowledge, TrainingSet

K = 11


def dpa(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, k: int = K) -> Defended:
    """Train a member on each of k parts of the training set and let them vote; `know` and `seed` are not used.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    k
        Number of parts, and of trainings.

    Returns
    -------
    Defended
        With the certificates `insertions` and `label_flips`, the votes of the members, and the diagnostic smallest_part, the
        number of rows of the smallest part.

    Raises
    ------
    BadInput
        If k exceeds the number of rows, or leaves more than 5 % of the parts with fewer than 30 rows or with one class.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["dpa"](toy.train(), toy.fit, Knowledge(), seed=0, k=5)
    >>> defended.certified_radius["insertions"](toy.test_x).max()
    np.int64(2)
    """
    parts = partition(train, k)
    model = VotingModel(train_members(parts, fit, train.n_classes), train.n_classes)

    def radius(x: Array) -> Ints:
        return np.asarray(leads_of(model.votes(x), model.n_classes)[1].min(axis=1) // 2)

    return Defended(
        model,
        certified_radius={"insertions": radius, "label_flips": radius},
        votes=model.votes,
        diagnostics={"smallest_part": float(min(map(len, parts)))},
    )


CONFIGURATIONS: tuple[dict[str, Any], ...] = ({}, {"k": 5}, {"k": 7}, {"k": 9}, {"k": 13}, {"k": 25}, {"k": 51}, {"k": 101})
dpa.card = card_of("mixture")  # type: ignore[attr-defined]
dpa.configurations = CONFIGURATIONS  # type: ignore[attr-defined]
