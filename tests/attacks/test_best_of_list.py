"""Best of list: the choice is the worse attack, on rows that are neither trained on nor poison."""

from dataclasses import replace

import numpy as np
import pytest
from rehearsing import keep_all, line, task_on, training

from subpop.attacks.best_of_list import BestOfList, Harm, World, best_of, choose_worst
from subpop.attacks.label_flip import flip_labels
from subpop.attacks.proportional import sample_in_proportion
from subpop.types import BadInput

POOL = line(20, 40)
DISTINCT = BestOfList(sampling="distinct")


def same(poison, other):
    return set(poison.rows.tolist()) == set(other.rows.tolist())


def fixed_attacks(seed):
    task = task_on(POOL, 20, None, seed=seed)
    return flip_labels(task), sample_in_proportion(task)


@pytest.mark.parametrize("worse", [0, 1])
def test_the_attack_that_does_more_harm_is_chosen(worse):
    """A defense that fails for the poison of one attack only, of which the other rows know nothing."""
    fixed = fixed_attacks(3)

    def train(surrogate, selection, poisons, asked, seed):
        hurt = [same(poison, fixed[worse]) for poison in poisons]
        return [(np.full(len(asked), each), np.full(len(asked), 0.5)) for each in hurt]

    found = choose_worst(task_on(POOL, 20, train, settings=DISTINCT, seed=3))
    assert same(found, fixed[worse])
    assert not same(*fixed)
    assert found.n_fits == 2


def test_errors_count_before_leads_and_equal_harm_goes_to_label_flipping():
    wrong = np.array([[True, False, False], [False, False, False], [False, False, False]])
    lead = np.array([[0.01, -0.9, -0.9], [-0.01, -0.01, -0.01], [-0.01, -0.01, -0.0100001]])
    harm = Harm(wrong, lead).on(np.array([True, True, True]))
    assert harm[0] > harm[1] == harm[2]

    def train(surrogate, selection, poisons, asked, seed):
        return [(np.zeros(len(asked), bool), np.full(len(asked), 0.5 + i * 1e-9)) for i in reversed(range(len(poisons)))]

    found = choose_worst(task_on(POOL, 20, train, settings=DISTINCT, seed=3))
    assert np.array_equal(found.rows, fixed_attacks(3)[0].rows)


def test_the_halves_are_disjoint_and_hold_equally_many_rows_of_each_subpopulation_and_class():
    world = World.of(task_on(POOL, 20, None, settings=DISTINCT))
    first, second = world.halves
    aux = np.arange(POOL.n_train, len(POOL))
    assert np.array_equal(np.sort(np.concatenate(world.halves)), aux)
    for label in (0, 1):
        assert (POOL.y[first] == label).sum() == (POOL.y[second] == label).sum() == 20
    other = World.of(task_on(POOL, 20, None, settings=DISTINCT, seed=1))
    assert not np.array_equal(first, other.halves[0])


def test_no_row_of_d_is_seen_and_no_scored_row_is_trained_on(monkeypatch):
    calls, scored = [], []
    on = Harm.on
    monkeypatch.setattr(Harm, "on", lambda self, rows: scored.append(rows) or on(self, rows))
    world = World.of(task_on(POOL, 20, training(POOL, keep_all, calls), settings=DISTINCT))
    best_of(world)
    ((surrogate, selection, poisons, asked),), (rows,) = calls, scored
    assert min(map(np.min, (surrogate, selection, asked, *(poison.rows for poison in poisons)))) >= POOL.n_train
    assert not np.intersect1d(surrogate, selection).size
    assert np.isin(asked, selection).all()
    measured = world.members[rows]
    assert measured.size
    assert np.isin(measured, asked).all()
    assert not any(np.isin(measured, poison.rows).any() for poison in poisons)


def test_it_needs_the_defense_distinct_rows_and_rows_to_measure_on():
    train = training(POOL, keep_all)
    with pytest.raises(BadInput, match="give draw_poison a Rehearsal"):
        choose_worst(replace(task_on(POOL, 20, train, settings=DISTINCT), optimiser=None))
    with pytest.raises(BadInput, match="not sampling=with_replacement; use distinct"):
        choose_worst(task_on(POOL, 20, train, settings=BestOfList()))
    with pytest.raises(BadInput, match="leaves none of the 40 rows"):
        choose_worst(task_on(POOL, 40, train, settings=DISTINCT))
    assert not len(choose_worst(task_on(POOL, 0, train, settings=DISTINCT)))
