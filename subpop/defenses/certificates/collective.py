"""The collective certificate of an ensemble: how many rows of a group can m inserted training rows turn together?

Each training row reaches one member of the ensemble, so that m inserted or deleted rows change at most m members, the same ones
for all test rows of the group, and a changed member may vote for any class on each row. A row is lost if its label's class no
longer wins the vote, ties going to the smaller class. An integer program chooses the m members whose change loses most rows:

    maximise sum_i y_i,  sum_j x_j <= m,  y_i <= sum_c z_ic,  (lead_ic + 1) z_ic <= sum_j weight_ijc x_j,  all variables 0 or 1,

where z_ic says that rival c overtakes in row i, lead_ic is the lead over it, and weight_ijc is the number of votes by which the
lead shrinks if member j changes to c: 2 if it votes for the winner, 0 if it votes for c already, otherwise 1. Rows that are wrong
without any insertion count as wrong.

*Source*: Chen et al. 2022, "On Collective Robustness of Bagging Against Data Poisoning"; only its released code was read.
*Deviations*: solved by HiGHS through `scipy.optimize.milp`. The count returned is the dual bound, rounded down to a whole number,
so that it remains valid when the time limit ends the search, and never above the number of rows that are not certified one by
one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from subpop.defenses.ensembles import leads_of
from subpop.types import BadInput, Ints

TIME_LIMIT = 10.0
"""Seconds for one integer program."""
SLACK = 1e-6
"""Distance by which a dual bound may fall below the whole number that it stands for."""


@dataclass(frozen=True)
class MostWrong:
    """How many rows m insertions can make wrong at most. solved: False if the time limit left a bound only."""

    count: int
    solved: bool
    pointwise: int
    """The same bound from the radii of single rows: each row may be attacked by other insertions."""


def most_wrong(votes: Ints, y: Ints, m: int, n_classes: int, *, time_limit: float = TIME_LIMIT) -> MostWrong:
    """Bound the number of wrong rows after m training rows are inserted or deleted.

    Parameters
    ----------
    votes
        (n, k) classes that the members predict, trained on the clean data.
    y
        (n,) true classes.
    m
        Number of inserted rows.
    n_classes
        Number of classes.
    time_limit
        Seconds for the integer program.

    Returns
    -------
    MostWrong
        The largest number of rows that can be wrong at once, including those that are wrong already.

    Raises
    ------
    BadInput
        If shapes or classes do not fit together, m is negative, or the time limit is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop.defenses.certificates import most_wrong
    >>> votes = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    >>> most_wrong(votes, np.zeros(3, np.int64), m=1, n_classes=2)
    MostWrong(count=2, solved=True, pointwise=3)
    """
    votes, y = _checked(votes, y, m, n_classes, time_limit)
    winner, leads = leads_of(votes, n_classes)
    wrong = winner != y
    open_rows = np.flatnonzero(~wrong & (leads.min(axis=1) // 2 < m))
    already, pointwise = int(wrong.sum()), int(wrong.sum()) + len(open_rows)
    if not len(open_rows) or m >= votes.shape[1]:  # nothing can be lost, or all members can be changed
        return MostWrong(pointwise, True, pointwise)
    bound, solved = _largest_loss(votes[open_rows], winner[open_rows], leads[open_rows], m, time_limit)
    return MostWrong(already + min(bound, len(open_rows)), solved, pointwise)


def _largest_loss(votes: Ints, winner: Ints, leads: Ints, m: int, time_limit: float) -> tuple[int, bool]:
    """The largest number of rows that m members can lose, or an upper bound of it, and whether the program was solved."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    n, k = votes.shape
    row, rival = np.nonzero(leads <= k)  # pairs in which the rival is no impossible one: all but the winner itself
    pairs, z = np.arange(len(row)), k + n + np.arange(len(row))
    weight = 1 + (votes[row] == winner[row][:, None]).astype(np.int64) - (votes[row] == rival[:, None])
    pair, member = np.nonzero(weight)
    # Lines of the matrix: first one a pair, then one a row, then the budget.
    entries = (
        (weight[pair, member], pair, member),
        (-(leads[row, rival] + 1), pairs, z),
        (np.ones(len(row), np.int64), len(row) + row, z),
        (-np.ones(n, np.int64), len(row) + np.arange(n), k + np.arange(n)),
        (-np.ones(k, np.int64), np.full(k, len(row) + n), np.arange(k)),
    )
    values, lines, columns = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    shape = (len(row) + n + 1, k + n + len(row))
    least = np.zeros(shape[0])
    least[-1] = -m
    found = milp(
        np.repeat([0.0, -1.0, 0.0], [k, n, len(row)]),
        integrality=np.ones(shape[1]),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(coo_array((values, (lines, columns)), shape=shape).tocsr(), least, np.inf),
        options={"time_limit": time_limit, "mip_rel_gap": 0.0},
    )
    bound = found.mip_dual_bound
    if bound is None or not math.isfinite(bound):
        return n, False
    return math.floor(-bound + SLACK), found.status == 0


def _checked(votes: Ints, y: Ints, m: int, n_classes: int, time_limit: float) -> tuple[Ints, Ints]:
    votes, y = np.asarray(votes), np.asarray(y)
    if votes.ndim != 2 or y.shape != votes.shape[:1] or not votes.shape[1]:
        raise BadInput(f"votes of shape {votes.shape} do not fit labels of shape {y.shape}; give one row of votes for each label")
    for what, values in (("votes", votes), ("labels", y)):
        if values.dtype.kind not in "iu" or (values.size and not 0 <= values.min() <= values.max() < n_classes):
            raise BadInput(f"{what} must be integers from 0 to {n_classes - 1}; give classes and the number of classes")
    if m < 0:
        raise BadInput(f"m={m} insertions: give a number of at least 0")
    if not time_limit > 0:
        raise BadInput(f"time_limit={time_limit} must be above 0 seconds; use {TIME_LIMIT:g}")
    return votes.astype(np.int64), y.astype(np.int64)
