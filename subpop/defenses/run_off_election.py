"""Run-off election: the members of DPA elect two classes by their votes, and then one of these by their scores.

In the first round every member votes for its most likely class; the two classes with most votes remain. In the second round
every member votes for the one of the two to which it gives the larger probability. Ties go to the smaller class in both rounds.
For two classes the second round repeats the first: predictions and radii are those of DPA.

The winner c can lose in two ways. Either two other classes overtake it in the first round: a changed member takes at most 2
votes from its lead over one of them and 1 from the other, so that gaps i and j need max(ceil(i / 2), ceil(j / 2), ceil((i + j)
/ 3)) members. Or a class q beats it in the second round, for which q must reach that round, before the class s that lost there,
and must win it: the larger of the two halved gaps. The radius is one less than the cheapest way.

*Source*: Rezaei, Banihashem, Chegini and Feizi 2023, "Run-Off Election: Improved Provable Defense against Data Poisoning
Attacks"; only the released code was read, which tabulates the first way by a recursion with this closed form.
*Deviations*: as in `subpop.defenses.dpa`, whose k is the default. The collective certificate is not computed: it is for one
round.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from subpop.defenses.dpa import CONFIGURATIONS, K
from subpop.defenses.ensembles import VotingModel, card_of, counts_of, partition, train_members
from subpop.types import Array, Defended, Fit, Floats, Ints, Knowledge, TrainingSet

NEVER = 1 << 30
"""Members that are needed for what cannot happen."""


def run_off_election(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, k: int = K) -> Defended:
    """Train the members of DPA and let them elect the class in two rounds; `know` and `seed` are not used.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    k
        Number of parts, and of trainings.

    Returns
    -------
    Defended
        With the certificates `insertions` and `label_flips`, which are equal, as in DPA.

    Raises
    ------
    BadInput
        As in `dpa`.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 3, n_poison=24)
    >>> defended = DEFENSES["run_off_election"](toy.train(), toy.fit, Knowledge(), seed=0, k=5)
    >>> defended.certified_radius["insertions"](toy.test_x).max()
    np.int64(2)
    """
    model = RunOffModel(train_members(partition(train, k), fit, train.n_classes), train.n_classes)
    return Defended(model, certified_radius={"insertions": model.radius, "label_flips": model.radius})


run_off_election.card = card_of("mixture_multiclass")  # type: ignore[attr-defined]
run_off_election.configurations = CONFIGURATIONS  # type: ignore[attr-defined]


class RunOffModel(VotingModel):
    """Members that elect a class in two rounds."""

    def predict_proba(self, x: Array) -> Floats:
        """(n, C) float32 the shares of the votes in the second round; 0 for classes that did not reach it."""
        duels = duels_of(self.probabilities(x))
        rows, (first, second) = np.arange(len(x)), finalists(counts_of(self.votes(x), self.n_classes))
        shares = np.zeros((len(x), self.n_classes), np.float32)
        shares[rows, first] = duels[rows, first, second] / len(self.members)
        shares[rows, second] = duels[rows, second, first] / len(self.members)
        return shares

    def radius(self, x: Array) -> Ints:
        """(n,) certified radii."""
        return radii(counts_of(self.votes(x), self.n_classes), duels_of(self.probabilities(x)))


def duels_of(proba: Array) -> Ints:
    """(n, C, C) for classes a, b: how many members, of probabilities (n, k, C), prefer a to b; ties go to the smaller class."""
    n, _, n_classes = proba.shape
    duels = np.zeros((n, n_classes, n_classes), np.int64)
    for a, b in combinations(range(n_classes), 2):
        duels[:, a, b] = (proba[:, :, a] >= proba[:, :, b]).sum(axis=1)
        duels[:, b, a] = proba.shape[1] - duels[:, a, b]
    return duels


def finalists(counts: Ints) -> tuple[Ints, Ints]:
    """(n,) and (n,) the two classes with most votes, of counts (n, C)."""
    order = np.argsort(-counts, axis=1, kind="stable")
    return order[:, 0], order[:, 1]


def radii(counts: Ints, duels: Ints) -> Ints:
    """(n,) certified radii of first-round votes (n, C) and duels (n, C, C)."""
    n, n_classes = counts.shape
    rows, later = np.arange(n), np.arange(n_classes)
    first, second = finalists(counts)
    first, second = np.minimum(first, second), np.maximum(first, second)
    wins = duels[rows, first, second] >= duels[rows, second, first]
    winner, loser = np.where(wins, first, second), np.where(wins, second, first)
    # By how many votes a class is ahead of each other one in the first round, and the winner in a duel: at least 1 if it is.
    ahead = np.maximum(counts[rows, winner][:, None] - counts + (later > winner[:, None]), 0)
    of_loser = np.maximum(counts[rows, loser][:, None] - counts + (later > loser[:, None]), 0)
    of_loser[rows, loser] = 0
    in_duel = np.maximum(duels[rows, winner] - duels[rows, :, winner] + (later > winner[:, None]), 0)
    needed = np.maximum(_half(of_loser), _half(in_duel))
    needed[rows, winner] = NEVER
    fewest = needed.min(axis=1)
    for a, b in combinations(range(n_classes), 2):
        i, j = ahead[:, a], ahead[:, b]
        overtaken = np.maximum(np.maximum(_half(i), _half(j)), -(-(i + j) // 3))
        fewest = np.where((winner == a) | (winner == b), fewest, np.minimum(fewest, overtaken))
    return np.asarray(fewest - 1, np.int64)


def _half(gaps: Ints) -> Ints:
    """How many members, each of which changes a gap by 2, close these gaps."""
    return np.asarray(-(-gaps // 2))
