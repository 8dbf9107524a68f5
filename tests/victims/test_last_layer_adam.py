"""Heads trained by Adam: in step with a plain loop in torch, towards the exact solution, and alike in any fleet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from subpop.testing import check_victim
from subpop.types import BadInput, FleetJob, Pool, TrainingSet
from subpop.victims import last_layer_adam
from subpop.victims.batch_order import BatchOrder
from subpop.victims.head_training import starts, train_head
from subpop.victims.last_layer import LastLayer, LastLayerModel
from subpop.victims.last_layer_adam import LastLayerAsReleased
from subpop.victims.linear_model import LinearModel


def make_pool(n: int = 150, total: int = 220, d: int = 5, n_classes: int = 2) -> Pool:
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, total)
    x = rng.normal(size=(total, d)) + 0.8 * np.eye(max(d, n_classes))[y][:, :d]
    return Pool(x.astype(np.float32), y, n, n_classes)


def coef(job: FleetJob, seed: int = 0, **options: float) -> np.ndarray:
    model = LastLayerAsReleased(**options).fit_many([job], [seed])[0]  # type: ignore[arg-type]
    assert isinstance(model, LinearModel)
    return model.coef


# --- the same training as torch's, and the optimum --------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_training_follows_torch_step_by_step(n_classes: int) -> None:
    pool = make_pool(n_classes=n_classes)
    ours = coef(pool.clean_job(), 7, epochs=3, learning_rate=1e-2)
    start = starts([7], 6, n_classes)[0]
    kernel, bias = torch.tensor(start[:, :-1], requires_grad=True), torch.tensor(start[:, -1], requires_grad=True)
    optimizer = torch.optim.Adam([kernel, bias], 1e-2, eps=1e-7)
    for order in BatchOrder(7, np.arange(150)).epochs(0, 3):
        for batch in torch.from_numpy(order.astype(np.int64)).split(32):
            logits = functional.linear(torch.tensor(pool.x)[batch], kernel, bias)
            loss = functional.cross_entropy(logits, torch.tensor(pool.y)[batch]) + 0.01 * kernel.square().sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    theirs = torch.column_stack([kernel, bias]).T.detach().numpy()
    theirs = theirs[:, 1:] - theirs[:, :1] if n_classes == 2 else theirs
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_many_small_steps_lead_to_the_exact_optimum(n_classes: int) -> None:
    pool = make_pool(n_classes=n_classes)
    exact = LastLayer().fit_many([pool.clean_job()], [0])[0]
    distances = []
    for epochs, rate in ((12, 1e-3), (300, 1e-2), (3000, 3e-3)):
        model = LastLayerAsReleased(epochs, rate, batch_size=150).fit_many([pool.clean_job()], [0])[0]
        distances.append(float(np.abs(model.predict_proba(pool.x) - exact.predict_proba(pool.x)).max()))
    assert distances[0] > 0.05  # the released recipe stops short
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 2e-4


# --- fleets -----------------------------------------------------------------------------------------------------------


def jobs_of_many_sizes(pool: Pool) -> list[FleetJob]:
    n, y = pool.n_train, pool.y
    poisoned = FleetJob(pool, np.r_[:n, n : n + 40], np.r_[y[:n], 1 - y[n : n + 40]])
    outside = FleetJob(pool, np.r_[:n, len(pool)], np.r_[y[:n], 0], extra_x=-pool.x[:1])
    return [FleetJob(pool, np.arange(10), y[:10]), poisoned, pool.clean_job(), outside, FleetJob(pool, np.arange(64), y[:64])]


def test_a_fleet_gives_each_victim_what_it_gets_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs, seeds = jobs_of_many_sizes(make_pool()), [0, 1, 1, 2, 3]
    together = LastLayerAsReleased().fit_many(jobs, seeds)
    monkeypatch.setattr(last_layer_adam, "_BUDGET", 1)
    apart = LastLayerAsReleased().fit_many(jobs, seeds)
    for model, own, job, seed in zip(together, apart, jobs, seeds, strict=True):
        assert isinstance(model, LastLayerModel)
        np.testing.assert_allclose(model.coef, own.coef, atol=1e-5)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(own.coef, coef(job, seed))  # type: ignore[attr-defined]


def test_neither_the_order_of_rows_nor_rows_of_weight_0_matter() -> None:
    pool = make_pool()
    rows, y = np.r_[:150, 200, 200, 210], np.r_[pool.y[:150], 0, 1, 1]
    shuffle = np.random.default_rng(0).permutation(len(rows))
    plain = coef(FleetJob(pool, rows, y))
    assert np.array_equal(coef(FleetJob(pool, rows[shuffle], y[shuffle])), plain)
    assert np.array_equal(coef(FleetJob(pool, np.r_[rows, 215], np.r_[y, 0], np.r_[np.ones(len(rows)), 0])), plain)
    assert not np.array_equal(coef(FleetJob(pool, rows, y), 1), plain)


def test_it_keeps_the_contract_of_victims() -> None:
    results = check_victim(LastLayerAsReleased(learning_rate=1e-2))
    assert {result.name: result.message for result in results if result.status != "ok"} == {}


def test_a_single_class_can_be_learnt() -> None:
    pool = make_pool(n_classes=3)
    model = LastLayerAsReleased(200, 1e-2).fit_many([FleetJob(pool, np.arange(3), np.full(3, 2))], [0])[0]
    proba = model.predict_proba(pool.x[:3])
    assert proba.shape == (3, 3)
    assert (proba[:, 2] > 0.9).all()


def test_kernels_start_glorot_uniform_with_intercepts_0() -> None:
    heads = starts([0, 1, 0], 513, 2)
    assert np.array_equal(heads[0], heads[2])
    assert not np.array_equal(heads[0], heads[1])
    bound = np.sqrt(6 / 514)
    assert np.abs(heads).max() <= bound
    assert heads[0, :, :-1].std() == pytest.approx(bound / np.sqrt(3), rel=0.05)
    assert (heads[:, :, -1] == 0).all()


# --- training a head on -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_optimum_stays_where_it_is_and_other_labels_move_it(n_classes: int) -> None:
    pool = make_pool(n_classes=n_classes)
    exact = LastLayer().fit_many([pool.clean_job()], [0])[0]
    assert isinstance(exact, LastLayerModel)
    train = TrainingSet.of(pool.x[:150], pool.y[:150])
    options = {"epochs": 20, "learning_rate": 1e-4, "batch_size": 150, "seed": 0}
    start = exact.coef.copy()
    stayed = train_head(exact, train, **options)  # type: ignore[arg-type]
    moved = train_head(exact, train.relabel((train.y + 1) % n_classes), **options)  # type: ignore[arg-type]
    assert stayed.shape == exact.coef.shape
    assert np.abs(moved - start).max() > 4 * np.abs(stayed - start).max()
    assert np.array_equal(exact.coef, start)


def test_masked_channels_take_no_part_in_training_on() -> None:
    pool = make_pool()
    exact = LastLayer().fit_many([pool.clean_job()], [0])[0]
    assert isinstance(exact, LastLayerModel)
    pruned = exact.pruned(np.array([1, 0, 1, 1, 1], bool))
    other = pool.x[:60].copy()
    other[:, 1] = 100
    options = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 32, "seed": 0}
    found = [train_head(pruned, TrainingSet.of(x, pool.y[:60]), **options) for x in (pool.x[:60], other)]  # type: ignore[arg-type]
    assert np.array_equal(*found)
    tuned = pruned.fine_tuned(TrainingSet.of(other, pool.y[:60]), **options)  # type: ignore[arg-type]
    assert np.array_equal(tuned.coef, found[0])
    assert (tuned.channel_activations(other)[:, 1] == 0).all()


# --- bad input --------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    pool = make_pool()
    job, broken = pool.clean_job(), pool.x.copy()
    broken[3, 2] = np.nan
    for bad, words in (
        (Pool(broken, pool.y, 150, 2).clean_job(), "NaN or infinite"),
        (FleetJob(pool, job.rows, job.y, np.full(150, 0.5)), "no weights other than 0 and 1"),
        (FleetJob(pool, job.rows, job.y + 1), "labels 1..2"),
    ):
        with pytest.raises(BadInput, match=words):
            coef(bad)
    for options in ({"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}):
        with pytest.raises(BadInput, match=r"cannot train|must be at least 1"):
            LastLayerAsReleased(**options)  # type: ignore[arg-type]
    model = LastLayerModel(np.zeros((6, 1)))
    for y in (np.array([0, 2]), np.array([], np.int64)):
        with pytest.raises(BadInput, match="all of the model's classes"):
            train_head(model, TrainingSet.of(pool.x[: len(y)], y), epochs=1, learning_rate=1e-3, batch_size=2, seed=0)
    assert LastLayerAsReleased().fit_many([], []) == []
