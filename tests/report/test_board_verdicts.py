"""How often verdicts of a leaderboard are wrong: simulated boards of two data sets, with damages averaged over two splits."""

import numpy as np
import pytest

from subpop.report.leaderboard import mean_difference
from subpop.results.paired import BETTER, EQUIVALENT, WORSE, difference_of, judge

N_GROUPS, N_SPLITS, N_SEEDS, N_DEFENSES = 6, 2, 5, 30


def simulate(n_runs, *, change=0.0, own=0.05, interaction=0.05, noise=0.05, shared=0.0):
    """Verdicts on 30 defenses over two data sets, (n_runs, 30).

    A defense changes the damage of a subpopulation by `change`, by a deviation `own` that it has in both splits, and by one of
    each split. In each split all subpopulations also share a deviation, which belongs to what the verdict is about: the mean over
    splits of these deviations is taken off, so that the mean difference on these splits is `change`.
    """
    rng, verdicts = np.random.default_rng(3), []

    def drawn(mean):
        """(6, 5) damages of groups and seeds, averaged over the splits of `mean`, (2, 6, 1)."""
        return (mean + rng.normal(0, noise, (N_SPLITS, N_GROUPS, N_SEEDS))).mean(axis=0)

    def difference(none, mean):
        together = rng.normal(0, shared, (N_SPLITS, 1, 1))
        moved = change + rng.normal(0, own, (1, N_GROUPS, 1)) + rng.normal(0, interaction, (N_SPLITS, N_GROUPS, 1))
        ours = drawn(mean + moved + together - together.mean())
        return difference_of(ours - none, none, np.zeros(N_GROUPS, int), np.arange(N_GROUPS), exact=True)

    for _ in range(n_runs):
        sets = [rng.uniform(0.1, 0.7, (N_SPLITS, N_GROUPS, 1)) for _ in range(2)]
        plain = [drawn(mean) for mean in sets]
        found = {str(i): mean_difference(list(map(difference, plain, sets))) for i in range(N_DEFENSES)}
        verdicts.append([each.verdict for each in judge(found).values()])
    return np.array(verdicts)


@pytest.mark.parametrize("shared", [0.0, 0.1])
def test_at_most_one_board_in_twenty_has_a_defense_that_is_wrongly_better_or_worse(shared):
    verdicts = simulate(1500, shared=shared)
    assert np.isin(verdicts, [BETTER, WORSE]).any(axis=1).mean() <= 0.05


def test_at_most_one_board_in_twenty_calls_defenses_equivalent_that_differ_by_the_margin():
    assert (simulate(1000, change=0.05, own=0, interaction=0.03) == EQUIVALENT).any(axis=1).mean() <= 0.05


def test_a_board_finds_defenses_that_take_away_most_of_the_damage():
    assert (simulate(100, change=-0.2) == BETTER).mean() > 0.9
