"""What the votes of an ensemble on clean data certify about the attacks of a cell: how many rows of each subpopulation they can
turn together.

The base is the defense on clean data, and every poison row counts as an insertion, whether its label is flipped or not. After an
attack of m rows, whichever rows and labels they have, at most so many rows of the subpopulation are wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from subpop.attacks.drawing import n_poison
from subpop.datasets.stage import Stage
from subpop.runtime.memo import Memo
from subpop.types import Cell, Ints, Trial, TrialResult

CURVE = (1, 2, 5, 10, 20, 50, 100)
"""Further numbers of insertions, up to half the members; more than that can turn any row."""


@dataclass(frozen=True, eq=False)
class Problem:
    """One subpopulation and seed. votes: (n, k) of its test rows; y: (n,); insertions: those of the attack, then of the curve."""

    votes: Ints
    y: Ints
    insertions: tuple[int, ...]


def most_wrong_rows(stage: Stage, cell: Cell, results: Sequence[TrialResult], memo: Memo) -> Ints | None:
    """The certificates of a cell, from the store if they were computed before: (S, n_seeds, points, 4) int64.

    The columns of each number of insertions: this number, rows that can be wrong at once, rows that can be wrong one by one, and
    1 if the integer program was solved. None if the trials have no votes.
    """
    from subpop.runtime.fingerprint import data_hash

    by_trial = {result.trial: result.arrays["votes"] for result in results if "votes" in result.arrays}
    if not by_trial:
        return None
    asked = [[_problem(stage, cell, by_trial, name, seed) for seed in range(cell.n_seeds)] for name in stage.attacked]
    known = [[(data_hash(own.votes, own.y), own.insertions) for own in each] for each in asked]
    key = memo.key([__name__], problems=known, n_classes=stage.dataset.n_classes)
    n_classes = stage.dataset.n_classes
    found, _ = memo.arrays(key, lambda: {"most_wrong": np.array([[_solved(own, n_classes) for own in each] for each in asked])})
    return np.asarray(found["most_wrong"], np.int64)


def _problem(stage: Stage, cell: Cell, by_trial: dict[Trial, Ints], name: str, seed: int) -> Problem:
    own, shared = Trial(name, seed, attacked=False), Trial("", seed, attacked=False)
    votes, members = by_trial[own if own in by_trial else shared], stage.test_members(name)
    curve = [m for m in CURVE if m <= votes.shape[1] // 2]
    return Problem(votes[members], stage.data.test_y[members], (n_poison(stage, cell, name), *curve))


def _solved(problem: Problem, n_classes: int) -> list[list[int]]:
    from subpop.defenses.certificates.collective import most_wrong

    bounds = [most_wrong(problem.votes, problem.y, m, n_classes) for m in problem.insertions]
    return [[m, own.count, own.pointwise, own.solved] for m, own in zip(problem.insertions, bounds, strict=True)]
