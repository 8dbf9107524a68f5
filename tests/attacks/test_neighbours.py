"""Near neighbours: an order worked by hand, the best of all flips against 1-NN, and cells that it cannot reach."""

from itertools import combinations

import numpy as np
import pytest
from counting import damage, pool_of, task_of

from subpop.attacks.neighbours import NearNeighbours, flip_neighbours
from subpop.types import BadInput, Pool

DISTINCT = NearNeighbours(sampling="distinct")


def test_rows_outside_the_group_in_the_order_of_their_distance():
    pool = pool_of([(0, 0, 1), (9, 1, 1)], [(0, 0, 2), (4, 0, 1), (1, 1, 1), (2, 0, 1), (-3, 0, 1), (-2, 0, 1)])
    poison = flip_neighbours(task_of(pool, [0], 4, settings=DISTINCT))
    assert pool.x[poison.rows].ravel().tolist() == [
        2,
        -2,
        -3,
        4,
    ]  # 1 has the other label; of 2 and -2 the earlier row comes first
    assert poison.y.tolist() == [1, 1, 1, 1]
    assert poison.n_flipped == 4
    with pytest.raises(BadInput, match="5 distinct poison rows from 4 distinct rows"):
        flip_neighbours(task_of(pool, [0], 5, settings=DISTINCT))
    assert pool.x[flip_neighbours(task_of(pool, [0], 6)).rows].ravel().tolist() == [2, -2, -3, 4, 2, -2]
    assert not len(flip_neighbours(task_of(pool, [0], 0)))


def test_the_nearest_row_of_the_group_counts():
    pool = pool_of([(0, 0, 1), (9, 1, 1)], [(0, 0, 1), (10, 0, 1), (5, 0, 1), (9, 0, 1)])
    assert pool.x[flip_neighbours(task_of(pool, [0, 10], 2, settings=DISTINCT)).rows].ravel().tolist() == [9, 5]


def test_distances_that_rounding_tells_apart_are_equal():
    """.1 + .2 and .3 are the same distance: the earlier row comes first."""
    x = np.array([0.0, 9.0, 0.0, 0.1 + 0.2, -0.3, 0.3])[:, None]
    pool = Pool(x, np.array([0, 1, 0, 0, 0, 0]), 2, 2)
    poison = flip_neighbours(task_of(pool, [0.0], 3, settings=DISTINCT, groups=np.zeros(4, np.int64)))
    assert poison.rows.tolist() == [3, 4, 5]


def test_no_two_flips_hurt_a_nearest_neighbour_more():
    """Test rows around a group that D does not hold: each takes the label of the nearest row of D or poison."""
    train, aux = [(6, 0, 1), (14, 0, 1)], [(10, 0, 3), (13, 0, 1), (7, 0, 1), (3, 0, 1), (17, 0, 1), (30, 0, 1)]
    pool, tests = pool_of(train, aux), np.arange(9, 12)

    def error(rows):
        x = np.append(pool.x[: pool.n_train], pool.x[rows])
        y = np.append(pool.y[: pool.n_train], np.ones(len(rows), np.int64))
        return np.mean([y[np.abs(x - each).argmin()] for each in tests])

    outside = pool.n_train + np.arange(3, 8)
    poison = flip_neighbours(task_of(pool, [10], 2, settings=DISTINCT))
    errors = [error(np.array(rows)) for rows in combinations(outside, 2)]
    assert error(poison.rows) == max(errors) > min(errors)


def test_cells_apart_are_out_of_reach():
    pool = pool_of([(0, 0, 3), (1, 0, 3), (2, 1, 3)], [(0, 0, 3), (1, 0, 3), (2, 1, 3)])
    poison = flip_neighbours(task_of(pool, [0], 30))
    assert damage(pool, poison, 0) == 0
    assert damage(pool, poison, 1) == 1


def test_several_classes_get_the_target_label():
    pool = Pool(np.arange(8.0)[:, None], np.array([0, 1, 2, 1, 2, 2, 2, 0]), 2, 3)
    groups = np.array([0, 0, 0, 1, 1, 1])
    members = task_of(pool, [2, 3, 4], 1, settings=DISTINCT, groups=groups, target=2)
    with pytest.raises(BadInput, match="no row of D_aux with label 1"):
        flip_neighbours(members)
    poison = flip_neighbours(task_of(pool, [2, 3, 4], 2, settings=DISTINCT, groups=groups, target=0))
    assert (poison.rows.tolist(), poison.y.tolist()) == ([5, 6], [0, 0])


def test_texts_have_no_distances():
    pool = Pool(np.arange(8)[:, None], np.zeros(8, np.int64), 4, 2)
    with pytest.raises(BadInput, match="rows are int64"):
        flip_neighbours(task_of(pool, [5], 1))
