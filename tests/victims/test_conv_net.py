"""The fleet of small convolutional networks against torch's own layers, and the properties that fleets must have."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from subpop.testing import check_victim
from subpop.types import BadInput, FleetJob, Pool, StoredModel
from subpop.victims import conv_net
from subpop.victims.batch_order import BatchOrder
from subpop.victims.batched_jobs import Batches
from subpop.victims.conv_fleet import AdamStep, Layer, Shape, Task, train
from subpop.victims.conv_net import ConvNet, initial, network_state
from subpop.victims.torch_model import TorchModel
from subpop.victims.torch_network import of_state

pytestmark = pytest.mark.usefixtures("one_thread")


def digits_pool(n_train: int = 600, total: int = 1797, n_classes: int = 2) -> Pool:
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))[:total]
    x = (digits.images[order, None] * 15).astype(np.uint8)
    return Pool(x, digits.target[order].astype(np.int64) % n_classes, n_train, n_classes)


def noise_pool(n: int, shape: tuple[int, int, int], n_classes: int) -> Pool:
    rng = np.random.default_rng(1)
    return Pool(rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.integers(0, n_classes, n), n, n_classes)


def fit(job: FleetJob, seed: int = 0, **options: int) -> TorchModel:
    model = ConvNet(**{"width": 4, "epochs": 2, **options}).fit_many([job], [seed])[0]
    assert isinstance(model, TorchModel)
    return model


def weights(model: object) -> np.ndarray:
    assert isinstance(model, StoredModel)
    return np.concatenate([value.ravel() for name, value in model.state().items() if name.startswith("network.")])


def accuracy(model: TorchModel, pool: Pool, rows: slice) -> float:
    return float((model.predict_proba(pool.x[rows]).argmax(1) == pool.y[rows]).mean())


# --- the same training as torch's layers and optimiser ----------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (9, 11), (16, 10)])
def test_a_layer_is_a_convolution_with_its_gradient(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, 5, generator=generator)
    kernel, bias = torch.randn(2, 45, 4, generator=generator), torch.randn(2, 4, generator=generator)
    layer = Layer(kernel, bias, 3, *size)
    layer.inside.copy_(x)
    layer.forward()
    output = layer.output.view(*layer.grid, 4)
    slope = torch.randn(output.shape, generator=generator)
    layer.slope.copy_(slope.flatten(1, 3))
    own = torch.empty_like(kernel), torch.empty_like(bias)
    layer.own_gradient(*own)
    back = layer.input_gradient()
    for i in range(2):
        inputs = x[i].permute(0, 3, 1, 2).clone().requires_grad_()
        filters = kernel[i].view(3, 3, 5, 4).permute(3, 2, 0, 1).clone().requires_grad_()
        theirs = functional.conv2d(inputs, filters, bias[i], stride=2, padding=1)
        theirs.backward(slope[i].permute(0, 3, 1, 2))
        assert inputs.grad is not None
        assert filters.grad is not None
        torch.testing.assert_close(output[i].permute(0, 3, 1, 2), theirs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(back[i].permute(0, 3, 1, 2), inputs.grad, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(own[0][i].view(3, 3, 5, 4).permute(3, 2, 0, 1), filters.grad, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(own[1][i], slope[i].sum((0, 1, 2)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("n", "shape", "n_classes"), [(75, (1, 8, 8), 2), (40, (3, 17, 23), 3)])
def test_training_follows_torch_step_by_step(n: int, shape: tuple[int, int, int], n_classes: int) -> None:
    pool, epochs = noise_pool(n, shape, n_classes), 3
    ours = fit(pool.clean_job(), 5, epochs=epochs)
    kind = ConvNet(width=4)._shape(pool.clean_job())
    theirs = of_state(network_state(initial(5, kind), kind)).requires_grad_(True)
    optimizer = torch.optim.Adam(theirs.parameters(), 3e-3, eps=1e-7)
    for order in BatchOrder(5, np.arange(n)).epochs(0, epochs):
        for batch in torch.from_numpy(order).split(32):
            logits = theirs(torch.tensor(pool.x)[batch])
            loss = functional.cross_entropy(logits, torch.tensor(pool.y)[batch]) + 0.01 * theirs.head.weight.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state()[f"network.{name}"], value.numpy(), atol=2e-4, err_msg=name)


def test_initial_weights_are_he_uniform_and_the_seeds_alone() -> None:
    shape = Shape((8, 8, 1), (16, 64), 2)
    first = initial(3, shape)
    assert len(first) == shape.size == 9 * 16 + 16 + 144 * 64 + 64 + 64 * 2 + 2
    assert np.array_equal(first, initial(3, shape))
    assert not np.array_equal(first, initial(4, shape))
    second = first[160 : 160 + 144 * 64]
    assert np.abs(second).max() <= np.sqrt(6 / 144)
    assert second.std() == pytest.approx(np.sqrt(2 / 144), rel=0.05)
    assert (first[144:160] == 0).all()


# --- what it learns ---------------------------------------------------------------------------------------------------


def test_low_precision_learns_as_well() -> None:
    pool = digits_pool(300)
    victim, job = ConvNet(), pool.clean_job()
    shape = victim._shape(job)
    task = Task(Batches.of(job.rows, job.rows, job.y, 0, 12, 32), initial(0, shape))
    x = torch.from_numpy(pool.x.transpose(0, 2, 3, 1).copy())
    exact, low = (train(x, [task], shape, AdamStep(3e-3, 0.01, low))[0] for low in (False, True))
    found = [accuracy(TorchModel(of_state(network_state(own, shape))), pool, slice(300, None)) for own in (exact, low)]
    assert not np.array_equal(exact, low)
    assert min(found) > 0.85
    assert abs(found[0] - found[1]) < 0.04


def test_digits_are_learnt_and_random_labels_are_not() -> None:
    pool, rows = digits_pool(), slice(1200, None)
    random = FleetJob(pool, np.arange(600), np.random.default_rng(0).integers(0, 2, 600))
    models = ConvNet().fit_many([pool.clean_job(), pool.clean_job(), random], [0, 1, 2])
    assert all(isinstance(model, TorchModel) for model in models)
    found = [accuracy(model, pool, rows) for model in models]  # type: ignore[arg-type]
    assert min(found[:2]) > 0.91  # logistic regression: .90
    assert found[2] < 0.65


@pytest.mark.parametrize("count", [1, 31, 32, 33])
def test_few_rows_and_a_single_class_can_be_learnt(count: int) -> None:
    pool = digits_pool(100, 200, 10)
    model = fit(FleetJob(pool, np.arange(count), np.full(count, 7)), epochs=100)
    proba = model.predict_proba(pool.x[:count])
    assert proba.shape == (count, 10)
    assert (proba[:, 7] > 0.5).all()


def test_it_keeps_the_contract_of_victims() -> None:
    results = check_victim(ConvNet(), digits_pool(220, 300))
    assert {result.name: result.message for result in results if result.status != "ok"} == {}


# --- fleets -----------------------------------------------------------------------------------------------------------


def jobs_of_many_sizes(pool: Pool) -> list[FleetJob]:
    n, y = pool.n_train, pool.y
    drawn = np.random.default_rng(0).integers(n, len(pool), 40)
    poisoned = FleetJob(pool, np.r_[:n, drawn], np.r_[y[:n], 1 - y[drawn]])
    outside = FleetJob(pool, np.r_[:n, len(pool)], np.r_[y[:n], 0], extra_x=255 - pool.x[:1])
    return [FleetJob(pool, np.arange(10), y[:10]), poisoned, pool.clean_job(), outside, FleetJob(pool, np.arange(64), y[:64])]


def test_a_fleet_gives_each_victim_what_it_gets_alone() -> None:
    jobs, seeds = jobs_of_many_sizes(digits_pool(150, 300)), [0, 1, 1, 2, 3]
    together = ConvNet(4, 2).fit_many(jobs, seeds)
    for model, job, seed in zip(together, jobs, seeds, strict=True):
        np.testing.assert_allclose(weights(model), weights(fit(job, seed)), atol=1e-5)


def test_same_jobs_and_seeds_give_the_same_bits_however_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, seeds = jobs_of_many_sizes(digits_pool(150, 300)), [0, 1, 1, 2, 3]
    monkeypatch.setitem(conv_net.BUDGETS, "cpu", 1)  # a chunk a victim
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append([weights(model) for model in ConvNet(4, 2).fit_many(jobs, seeds)])
        assert torch.get_num_threads() == threads
    assert all(np.array_equal(a, b) for a, b in zip(*found, strict=True))


def test_chunks_are_cut_in_order_by_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    victim, job = ConvNet(), digits_pool().clean_job()
    shape = victim._shape(job)
    monkeypatch.setitem(conv_net.BUDGETS, "cpu", 3 * shape.bytes(32))
    assert list(victim._chunks([job] * 7, shape)) == [slice(0, 3), slice(3, 6), slice(6, 7)]


def test_neither_the_order_of_rows_nor_rows_of_weight_0_matter() -> None:
    pool = digits_pool(100, 200)
    rows, y = np.r_[:100, 150, 150, 180], np.r_[pool.y[:100], 0, 1, 1]
    shuffle = np.random.default_rng(0).permutation(len(rows))
    plain = weights(fit(FleetJob(pool, rows, y)))
    assert np.array_equal(weights(fit(FleetJob(pool, rows[shuffle], y[shuffle]))), plain)
    weighted = FleetJob(pool, np.r_[rows, 190], np.r_[y, 0], np.r_[np.ones(len(rows)), 0])
    assert np.array_equal(weights(fit(weighted)), plain)
    assert not np.array_equal(weights(fit(FleetJob(pool, rows, y), seed=1)), plain)


def test_rows_outside_the_pool_train_like_rows_of_a_larger_one() -> None:
    pool = digits_pool(100, 200)
    small = Pool(pool.x[:120].copy(), pool.y[:120].copy(), 100, 2)
    rows, y = np.r_[:100, 110, 125, 120], np.r_[pool.y[:100], 0, 1, 1]
    outside = FleetJob(small, rows, y, extra_x=pool.x[120:130])
    other = FleetJob(small, rows, y, extra_x=255 - pool.x[120:130])
    found = ConvNet(4, 2).fit_many([other, outside], [0, 0])
    np.testing.assert_allclose(weights(found[1]), weights(fit(FleetJob(pool, rows, y))), atol=1e-5)
    assert np.abs(weights(found[0]) - weights(found[1])).max() > 1e-4


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "widths"), [((1, 8, 8), 2), ((3, 15, 40), 2), ((3, 16, 16), 3), ((3, 32, 32), 4), ((1, 64, 64), 4)]
)
def test_depth_follows_the_shorter_side(shape: tuple[int, int, int], widths: int) -> None:
    kind = ConvNet()._shape(noise_pool(2, shape, 2).clean_job())
    assert kind.widths == (16, 32, 64, 64)[:widths]
    assert min(kind.maps()[-1][:2]) >= 2


def test_bad_input_is_refused() -> None:
    pool = digits_pool(20, 40)
    job = pool.clean_job()
    floats = Pool(pool.x.astype(np.float32), pool.y, 20, 2).clean_job()
    cases = [
        (floats, "takes uint8 pictures"),
        (Pool(pool.x.reshape(40, 64), pool.y, 20, 2).clean_job(), "takes uint8 pictures"),
        (Pool(pool.x[:, :, :7].copy(), pool.y, 20, 2).clean_job(), "too small"),
        (FleetJob(pool, job.rows, job.y, np.full(20, 0.5)), "no weights other than 0 and 1"),
        (FleetJob(pool, np.r_[job.rows, 40], np.r_[job.y, 0], extra_x=np.zeros((1, 1, 9, 9), np.uint8)), "one size"),
        (FleetJob(pool, job.rows[:0], job.y[:0]), "0 rows"),
    ]
    for bad, words in cases:
        with pytest.raises(BadInput, match=words):
            fit(bad)
    for jobs, seeds, words in (([job], [0, 1], "2 seeds"), ([job, floats], [0, 0], "one pool"), ([job], [-1], "negative")):
        with pytest.raises(BadInput, match=words):
            ConvNet().fit_many(jobs, seeds)
    for options in ({"width": 0}, {"epochs": 0}, {"device": "tpu"}):
        with pytest.raises(BadInput, match=next(iter(options))):
            ConvNet(**options)  # type: ignore[arg-type]
    assert ConvNet().fit_many([], []) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(BadInput, match="torch sees no GPU"):
        ConvNet(device="cuda").fit_many([digits_pool().clean_job()], [0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_learns_as_well() -> None:
    pool, rows = digits_pool(), slice(1200, None)
    models = ConvNet(device="cuda").fit_many([pool.clean_job()] * 3, [0, 1, 2])
    again = ConvNet(device="cuda").fit_many([pool.clean_job()] * 3, [0, 1, 2])
    assert min(accuracy(model, pool, rows) for model in models) > 0.91  # type: ignore[arg-type]
    assert all(np.array_equal(weights(a), weights(b)) for a, b in zip(models, again, strict=True))


def test_the_victims_can_be_imported_without_torch_and_numba() -> None:
    modules = ", ".join(f"subpop.victims.{name}" for name in ("conv_net", "fine_tuned", "last_layer_adam", "torch_model"))
    code = f"import sys, {modules}; print(sorted({{'torch', 'numba'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
