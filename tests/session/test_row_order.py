"""Networks that add the rows of each batch in another order: the same batches, and other bits."""

from types import SimpleNamespace

import numpy as np
import pytest

from subpop.datasets import DATASETS
from subpop.session import row_order
from subpop.types import FleetJob, Pool
from subpop.victims import batch_order, make_victim, transformer_batches
from subpop.victims.batched_jobs import Batches


class Reversing:
    """A pytest configuration with `--reverse-rows-in`."""

    def __init__(self, size):
        self.size, self.option = size, SimpleNamespace()

    def getoption(self, name):
        return {"--reverse-rows-in": self.size}[name]


@pytest.fixture(params=[2, 4, 8])
def another_order(request, monkeypatch):
    """A function that makes victims add in another order for the rest of the test."""
    for module, name in ((batch_order, "BatchOrder"), (transformer_batches, "length_batches")):
        monkeypatch.setattr(module, name, getattr(module, name))  # is restored afterwards
    return lambda: row_order.pytest_configure(Reversing(request.param))


def test_rows_are_reversed_by_hand():
    assert row_order.reversed_in(np.arange(10), 4).tolist() == [3, 2, 1, 0, 7, 6, 5, 4, 9, 8]
    assert row_order.reversed_in(np.arange(6).reshape(2, 3), 2).tolist() == [[1, 0, 2], [4, 3, 5]]


def test_every_batch_has_the_same_rows_in_another_order(another_order):
    keys = np.arange(525)
    before = {size: Batches.of(keys, keys, keys % 2, 3, 2, size) for size in (32, 200)}
    another_order()
    for size, own in before.items():
        other = Batches.of(keys, keys, keys % 2, 3, 2, size)
        assert (np.sort(other.rows, axis=1) == np.sort(own.rows, axis=1)).all()
        assert ((other.rows != own.rows).sum(axis=1) > 10).all()
        assert other.labels.tolist() == (other.rows % 2).tolist()


def test_batches_of_texts_have_the_same_rows_in_another_order(another_order):
    def batches():
        lengths = np.arange(61) % 40
        return [batch for epoch in transformer_batches.epoch_batches(np.arange(61), lengths, 0, 2, 8) for batch in epoch]

    before = batches()
    another_order()
    assert [sorted(batch) for batch in batches()] == [sorted(batch) for batch in before]
    assert sum(list(one) != list(other) for one, other in zip(batches(), before, strict=True)) >= 14


@pytest.mark.parametrize(("victim", "dataset"), [("mlp", "digits"), ("conv_net", "digits_images")])
def test_a_network_is_the_same_up_to_rounding(another_order, victim, dataset):
    data = DATASETS[dataset].load(None)
    job = FleetJob(Pool(data.x[:200], data.y[:200], n_train=100, n_classes=2), np.arange(100), data.y[:100])

    def predicted():
        (model,) = make_victim(victim).fit_many([job], [0])
        return model.predict_proba(data.x[100:200])

    before = predicted()
    another_order()
    after = predicted()
    assert not np.array_equal(after, before)
    np.testing.assert_allclose(after, before, atol=1e-3)
