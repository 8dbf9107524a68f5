import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subpop.victims.batch_order import BatchOrder

MASK = (1 << 64) - 1
WEYL = 0x9E3779B97F4A7C15


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def key(seed: int, row: int, copy: int, epoch: int) -> int:
    start = int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0])
    identity = mix((mix((start + row) & MASK) + copy * WEYL) & MASK)
    return mix((identity + (epoch + 1) * WEYL) & MASK) >> 40


def test_the_order_sorts_by_the_key_of_each_row() -> None:
    rows = np.array([0, 1, 2, 2, 2, 7, 7, 900])
    copies = [0, 0, 0, 1, 2, 0, 1, 0]
    orders = BatchOrder(5, rows).epochs(3, 4)
    for epoch, order in zip(range(3, 7), orders, strict=True):
        keys = [key(5, int(row), copy, epoch) for row, copy in zip(rows, copies, strict=True)]
        assert order.tolist() == sorted(range(len(rows)), key=keys.__getitem__)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 60), min_size=1, max_size=80), gone=st.sets(st.integers(0, 60)), seed=st.integers(0, 1 << 70))
def test_rows_that_leave_move_no_other_row(rows: list[int], gone: set[int], seed: int) -> None:
    before, after = np.sort(rows), np.sort([row for row in rows if row not in gone])
    orders = BatchOrder(seed, before).epochs(0, 3)
    assert (np.sort(orders, axis=1) == np.arange(len(rows))).all()
    visited = [[row for row in before[order] if row not in gone] for order in orders]
    assert visited == [after[order].tolist() for order in BatchOrder(seed, after).epochs(0, 3)]


def test_a_further_copy_leaves_the_earlier_ones_where_they_were() -> None:
    twice = BatchOrder(0, np.array([0, 1, 2, 2, 3])).epochs(0, 50)
    thrice = BatchOrder(0, np.array([0, 1, 2, 2, 2, 3])).epochs(0, 50)
    without = [[position - (position > 4) for position in order if position != 4] for order in thrice]
    assert twice.tolist() == without


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    rows = np.arange(1000)
    orders = np.concatenate([BatchOrder(seed, rows).epochs(0, 3) for seed in range(3)])
    assert len(np.unique(orders, axis=0)) == 9
    assert np.array_equal(BatchOrder(1, rows).epochs(2, 1), orders[[5]])


def test_every_place_is_as_likely_for_every_row() -> None:
    n, epochs = 8, 20_000
    orders = BatchOrder(0, np.arange(n)).epochs(0, epochs)
    counts = np.array([np.bincount(places, minlength=n) for places in orders.T])
    deviation = np.sqrt(epochs * (1 / n) * (1 - 1 / n))
    assert np.abs(counts - epochs / n).max() < 4.5 * deviation
    follows = (orders[:, :-1] == 0) & (orders[:, 1:] == 1)
    assert follows.sum() / epochs == pytest.approx(1 / n, abs=4.5 * np.sqrt(1 / n / epochs))
