"""Training sets as rows of the pool."""

from itertools import permutations

import numpy as np
import pytest

from subpop.types import BadInput, FleetJob, Pool, TrainingSet


def test_a_training_set_of_new_inputs_refuses_negative_labels_and_iteration():
    x = np.zeros((2, 1), np.float32)
    with pytest.raises(BadInput, match="class numbers from 0 on, and -1 is among them"):
        TrainingSet.of(x, np.array([-1, 1]))
    with pytest.raises(BadInput, match=r"zip\(train\.x, train\.y\)"):
        list(TrainingSet.of(x, np.array([0, 1])))


def test_a_canonical_job_is_the_same_for_every_shuffle():
    pool = Pool(np.arange(4, dtype=np.float32)[:, None], np.array([0, 1, 0, 1]), n_train=2, n_classes=2)
    samples = [(0, 0, 0.5), (2, 0, 1.0), (2, 1, 2.0), (3, 0, 3.0)]  # row, label, weight; row 2 with both labels
    for shuffled in permutations(samples):
        rows, y, weights = (np.array(column) for column in zip(*shuffled, strict=True))
        job = FleetJob(pool, rows, y, weights).canonical()
        assert job.weights is not None
        assert list(zip(job.rows.tolist(), job.y.tolist(), job.weights.tolist(), strict=True)) == samples


@pytest.mark.parametrize("spread", [1, 1000])
def test_canonical_rows_are_sorted_whether_they_are_counted_or_not(spread):
    pool = Pool(np.zeros((20 * spread, 1), np.float32), np.zeros(20 * spread, np.int64), n_train=2, n_classes=3)
    generator = np.random.default_rng(0)
    rows, y = spread * generator.integers(0, 20, 50), generator.integers(0, 3, 50)
    for many in (0, 1, 50):
        job = FleetJob(pool, rows[:many], y[:many]).canonical()
        assert list(zip(job.rows.tolist(), job.y.tolist(), strict=True)) == sorted(
            zip(rows[:many].tolist(), y[:many].tolist(), strict=True)
        )


def test_rows_of_a_numbered_set_are_found_as_those_of_any_other():
    """Ids 0, 1, 2, ... are their own positions; sets that only begin and end like that are not numbered."""
    x, y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 1, 0])
    numbered = TrainingSet.of(x, y)
    assert numbered[[4, 0, 4]].x[:, 0].tolist() == [8, 0, 8]
    swapped = numbered[[0, 2, 1, 3, 4, 5]]
    assert swapped[[1, 2]].y.tolist() == [1, 0]
    assert swapped[[2, 5]].x[:, 0].tolist() == [4, 10]
    for wrong in (6, -1):
        with pytest.raises(BadInput, match=f"id {wrong} is not in this training set"):
            numbered[[0, wrong]]
    with pytest.raises(BadInput, match="id 1 is not in"):
        numbered[[0, 2]][[0, 1]]
