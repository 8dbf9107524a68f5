"""Finite aggregation: DPA in which every row reaches d members, so that a changed member is outvoted more often.

A hash of its input puts each row into one of k * d cells. Cell h is given to the d members (h + s) mod k * d, for d fixed
shifts s; each of the k * d members trains on the d cells that it is given, n / k rows. One inserted or deleted row, or flipped
label, changes the d members of one cell, and the lead of the winner over a rival shrinks by at most the sum of their
contributions. The radius is the number of cells, those with the largest sums first, that can be taken while the lead remains.

*Source*: Wang, Levine and Feizi 2022, "Improved Certified Defenses against Data Poisoning with (Deterministic) Finite
Aggregation"; only the released code was read. It trains d times as many members as DPA: d passes over the data.
*Deviations*: as in `subpop.defenses.dpa`, whose k is the default; d=2, the smallest, where the source uses 3 to 16 at k=50. The
collective certificate is not computed, because a row reaches more than one member.
"""

from __future__ import annotations

import numpy as np

from subpop.defenses.dpa import K
from subpop.defenses.ensembles import VotingModel, card_of, check_parts, leads_of, parts_of, train_members
from subpop.types import Array, BadInput, Defended, Fit, Ints, Knowledge, TrainingSet

D = 2
SHIFTS = 0
"""Seed of the shifts, which are the same for every training set."""


def finite_aggregation(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, k: int = K, d: int = D) -> Defended:
    """Train k * d members, each on d of k * d cells of the training set, and let them vote; `know` and `seed` are not used.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    k
        Members train on a k-th of the rows.
    d
        Number of members that a row reaches; with d=1 it is DPA.

    Returns
    -------
    Defended
        With the certificates `insertions` and `label_flips`.

    Raises
    ------
    BadInput
        If d is below 1, k * d exceeds the number of rows, or more than 5 % of the members would have fewer than 30 rows or one
        class.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["finite_aggregation"](toy.train(), toy.fit, Knowledge(), seed=0, k=5)
    >>> len(defended.model.members)
    10
    """
    if isinstance(d, bool) or not isinstance(d, int | np.integer) or d < 1:
        raise BadInput(f"d={d!r} must be a whole number of at least 1: the number of members that a row reaches")
    cell, shifts = parts_of(train, k * d), shifts_of(k, d)
    parts = [train[np.isin(cell, (member - shifts) % (k * d))] for member in range(k * d)]
    check_parts(parts, len(train))
    model = VotingModel(train_members(parts, fit, train.n_classes), train.n_classes)

    def radius(x: Array) -> Ints:
        return radii(model.votes(x), shifts, model.n_classes)

    return Defended(model, certified_radius={"insertions": radius, "label_flips": radius})


finite_aggregation.card = card_of("mixture")  # type: ignore[attr-defined]
finite_aggregation.configurations = (  # type: ignore[attr-defined]
    {},
    {"k": 5},
    {"k": 7},
    {"k": 9},
    {"k": 5, "d": 4},
    {"d": 4},
    {"k": 25},
    {"k": 51},
)


def shifts_of(k: int, d: int) -> Ints:
    """(d,) different shifts from 0 to k * d - 1: cell h reaches the members (h + shift) mod k * d."""
    return np.random.default_rng(SHIFTS).choice(k * d, d, replace=False).astype(np.int64)


def radii(votes: Ints, shifts: Ints, n_classes: int) -> Ints:
    """(n,) certified radii of votes (n, k * d)."""
    winner, leads = leads_of(votes, n_classes)
    found = np.full(len(votes), votes.shape[1], np.int64)
    for rival in range(n_classes):
        others = winner != rival
        weight = 1 + (votes == winner[:, None]).astype(np.int64) - (votes == rival)
        taken = np.cumsum(np.sort(of_cells(weight, shifts), axis=1)[:, ::-1], axis=1)
        allowed = (taken <= leads[:, [rival]]).sum(axis=1)
        found[others] = np.minimum(found, allowed)[others]
    return found


def of_cells(weight: Ints, shifts: Ints) -> Ints:
    """(n, k * d) for each cell, the sum of the weights (n, k * d) of the members that it reaches."""
    return np.asarray(sum(np.roll(weight, -shift, axis=1) for shift in shifts.tolist()))
