"""Adaptive: compared with all choices of rows, with its own start, and against defenses that have a hole."""

from itertools import combinations

import numpy as np
import pytest
from rehearsing import Votes, keep_all, line, task_on, training

from subpop.attacks import adaptive
from subpop.attacks.adaptive import MECHANISMS, Adaptive, balanced_parts, candidate, climb, low_loss, search_poison, tight_ball
from subpop.attacks.best_of_list import Harm, World, best_of, choose_worst
from subpop.attacks.label_flip import flip_labels
from subpop.defenses import DEFENSES

POOL = line(20, 40)
DISTINCT = Adaptive(sampling="distinct")


def damage(pool, poison, defense):
    """Share of the subpopulation, along its whole line, that the defended victim on D and poison gets wrong."""
    x = np.concatenate([pool.x[: pool.n_train], pool.x[poison.rows]])
    y = np.concatenate([pool.y[: pool.n_train], poison.y])
    keep = defense(x, y)
    test = np.column_stack([np.linspace(0, 10, 101), np.zeros(101)])
    return (Votes(x[keep], y[keep]).predict_proba(test).argmax(axis=1) == 1).mean()


# --- the search -------------------------------------------------------------------------------------------------------


def test_it_is_never_better_than_all_choices_and_mostly_as_good():
    """Four of 16 rows, 200 models: on the rows on which the search compares, against every choice that it may make."""
    found_best = 0
    for seed in range(20):
        pool = line(8, 16, seed)
        world = World.of(task_on(pool, 4, training(pool, keep_all), settings=DISTINCT, seed=seed))
        opening = best_of(world)
        scored = world.selection(0) & ~opening.mask
        climbed = climb(world, 0, opening.mask, opening.harm, 200)
        every = []
        for rows in combinations(np.flatnonzero(~scored), 4):
            every.append(np.zeros(16, bool))
            every[-1][list(rows)] = True
        ours, best, start = (world.harm(masks, 0).on(scored).max() for masks in ([climbed], every, [opening.mask]))
        assert start <= ours <= best
        assert climbed.sum() == 4
        assert not (climbed & scored).any()
        found_best += ours == best
    assert found_best >= 16


@pytest.mark.parametrize("defense", ["none", "trim", "knn_filter", "dpa(k=2)"])
@pytest.mark.parametrize("seed", range(4))
def test_it_never_does_less_harm_than_best_of_list_where_the_attacker_measures(defense, seed):
    parts = np.arange(40) % 2 if defense.startswith("dpa") else None
    options = {"seed": seed, "defense": defense, "parts": parts}
    ours = search_poison(task_on(POOL, 12, training(POOL, keep_all), settings=DISTINCT, **options))
    listed = choose_worst(task_on(POOL, 12, training(POOL, keep_all), settings=DISTINCT, **options))
    world = World.of(task_on(POOL, 12, training(POOL, keep_all), settings=DISTINCT, **options))
    opening = best_of(world)
    masks = [np.isin(world.members, poison.rows) for poison in (ours, listed)]
    scored = world.selection(0) & ~masks[0] & ~masks[1]
    searched, chosen = world.harm(masks, 0).on(scored)
    assert np.array_equal(masks[1], opening.mask)
    assert searched > chosen
    assert len(ours) == ours.n_flipped == len(np.unique(ours.rows)) == 12


def test_it_counts_its_models_and_compares_on_rows_that_are_never_poison(monkeypatch):
    calls, last = [], []
    on = Harm.on

    def noted(self, rows):
        if len(self.wrong) == len(calls[-1][2]):
            last.append((calls[-1], rows))
        return on(self, rows)

    monkeypatch.setattr(Harm, "on", noted)
    task = task_on(POOL, 12, training(POOL, keep_all, calls), settings=Adaptive(sampling="distinct", n_fits=90))
    found = search_poison(task)
    assert found.n_fits == 90 == sum(len(poisons) for _, _, poisons, _ in calls)
    members = np.unique(task.members)
    assert len(last) > 5
    for (surrogate, selection, poisons, _), rows in last:
        assert not np.isin(members[rows], surrogate).any()
        assert np.isin(members[rows], selection).all()
        assert not any(np.isin(members[rows], poison.rows).any() for poison in poisons)
    firsts = {tuple(surrogate) for surrogate, *_ in calls}
    assert len(firsts) == 2  # the halves change roles, so that every row can become poison


def test_what_the_second_search_spoils_is_not_kept(monkeypatch):
    """The second search returns rows that do no harm at all: the first one's result is taken."""
    results = []
    climbed = adaptive.climb

    def spoiled(world, turn, mask, harm, n_fits):
        found = climbed(world, turn, mask, harm, n_fits)
        if turn:
            found = np.zeros_like(mask)
            found[np.argsort(world.task.pool.x[world.members][:, 0])[: mask.sum()]] = True  # one end of the line
        results.append(found)
        return found

    monkeypatch.setattr(adaptive, "climb", spoiled)
    task = task_on(POOL, 4, training(POOL, keep_all), settings=DISTINCT)
    found = search_poison(task)
    assert set(found.rows.tolist()) == set(np.unique(task.members)[results[0]].tolist())


def test_the_same_seed_gives_the_same_poison():
    def rows(seed):
        return search_poison(task_on(POOL, 12, training(POOL, keep_all), settings=DISTINCT, seed=seed)).rows.tolist()

    assert rows(1) == rows(1) != rows(2)


def test_without_rows_to_exchange_or_poison_it_returns_what_it_has():
    world = World.of(task_on(POOL, 20, training(POOL, keep_all), settings=DISTINCT))
    all_movable = world.selection(1)  # no other row may become poison
    assert np.array_equal(climb(world, 0, all_movable, world.harm([all_movable], 0), 40), all_movable)
    assert not len(search_poison(task_on(POOL, 0, training(POOL, keep_all), settings=DISTINCT)))


def test_where_no_row_is_left_to_compare_the_first_result_is_taken_and_the_budget_is_spent(monkeypatch):
    """The second search makes poison of every row on which the first one measured."""
    results, climbed = [], adaptive.climb

    def greedy(world, turn, mask, harm, n_fits):
        results.append(climbed(world, turn, mask, harm, n_fits) if not turn else world.selection(0))
        return results[-1]

    monkeypatch.setattr(adaptive, "climb", greedy)
    task = task_on(POOL, 4, training(POOL, keep_all), settings=Adaptive(sampling="distinct", n_fits=40))
    found = search_poison(task)
    assert set(found.rows.tolist()) == set(np.unique(task.members)[results[0]].tolist())
    assert found.n_fits == 20 + 2  # the second search was replaced: its start and its end are trained


@pytest.mark.parametrize("number", range(10))
def test_a_candidate_exchanges_as_many_rows_as_its_number_says(number):
    world = World.of(task_on(POOL, 12, None, settings=DISTINCT))
    mask, movable = np.arange(40) < 12, np.arange(40) < 30
    moved = candidate(world, mask, movable, lambda generator: np.arange(40.0), number)
    assert moved.sum() == 12
    assert not (moved & ~movable).any()
    assert 1 <= (moved & ~mask).sum() <= 12
    if number % 4 != 2:
        assert (moved & ~mask).sum() == {0: 12, 1: 6, 2: 3}[number // 4]


# --- mechanisms -------------------------------------------------------------------------------------------------------


def test_each_mechanism_is_for_registered_defenses():
    assert set(MECHANISMS) <= set(DEFENSES)
    for name in ("trim", "sever", "randeigen", "holdout_influence"):
        assert MECHANISMS[name] is low_loss
    for name in ("knn_filter", "knn_relabel", "deep_knn"):
        assert MECHANISMS[name] is tight_ball
    assert MECHANISMS["dpa"] is MECHANISMS["finite_aggregation"] is balanced_parts


def test_low_loss_prefers_what_the_attackers_model_believes():
    world = World.of(task_on(POOL, 12, None, settings=DISTINCT))
    world.task.model.predict_proba = lambda x: np.column_stack([1 - x[:, 0] / 10, x[:, 0] / 10])
    order = np.argsort(low_loss(world)(np.random.default_rng(0)))
    assert np.array_equal(order, np.argsort(-POOL.x[world.members][:, 0]))


def test_a_tight_ball_is_around_a_row():
    world = World.of(task_on(POOL, 12, None, settings=DISTINCT))
    place = POOL.x[world.members][:, 0]
    nearest = np.argsort(tight_ball(world)(np.random.default_rng(0)))[:12]
    assert np.ptp(np.sort(place[nearest])) < 6 < np.ptp(place)


def test_parts_are_balanced():
    parts = np.repeat(np.arange(5), 8)
    world = World.of(task_on(POOL, 12, None, settings=DISTINCT, defense="dpa(k=5)", parts=parts))
    keys, seen = balanced_parts(world), set()
    for seed in range(40):
        counts = np.bincount(parts[np.argsort(keys(np.random.default_rng(seed)), kind="stable")[:12]], minlength=5)
        reached = counts[counts > 0]
        assert np.ptp(reached) <= 1
        seen.add(len(reached))
    assert seen == {3, 4, 5}  # from a bare majority to all


# --- defenses with a hole ---------------------------------------------------------------------------------------------


def suspicious(x, y):
    """Rows with label 1 on the line of label 0."""
    return (y == 1) & (x[:, 1] < 20)


def spares_a_tight_ball(x, y):
    """Removes all poison, unless it is all within a short stretch."""
    found = suspicious(x, y)
    return ~found if found.any() and np.ptp(x[found, 0]) > 5 else np.ones(len(y), bool)


def drops_high_losses(x, y):
    """Removes rows that are far to the left, where the victim would be surest."""
    return ~(suspicious(x, y) & (x[:, 0] < 5))


@pytest.mark.parametrize(
    ("hole", "defense", "count", "at_most"), [(spares_a_tight_ball, "knn_filter", 12, 0.0), (drops_high_losses, "trim", 14, 0.2)]
)
def test_a_hole_is_found_by_the_search_and_not_by_label_flipping(hole, defense, count, at_most):
    flips, ours = [], []
    for seed in range(6):
        task, own = (task_on(POOL, count, training(POOL, hole), settings=DISTINCT, seed=seed, defense=defense) for _ in range(2))
        flips.append(damage(POOL, flip_labels(task), hole))
        ours.append(damage(POOL, search_poison(own), hole))
    assert max(flips) <= at_most
    assert all(after > before + 0.05 for before, after in zip(flips, ours, strict=True))
