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
