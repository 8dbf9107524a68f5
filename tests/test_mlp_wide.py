"""The wide network for GPUs, run on the CPU: it must follow the kernel, task by task."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from subpop.types import BadInput, Pool
from subpop.victims import mlp_kernel, mlp_narrow, mlp_recipe, mlp_wide
from subpop.victims.batch_order import BatchOrder
from subpop.victims.mlp import MLP
from subpop.victims.mlp_recipe import Task, Trained

pytestmark = pytest.mark.usefixtures("one_thread")


def digits(n_classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    x, digit = load_digits(return_X_y=True)
    return x.astype(np.float32), (digit % 2 if n_classes == 2 else digit).astype(np.int32)


def task(y: np.ndarray, count: int, seed: int = 0, hidden: int = 10) -> Task:
    rows, outputs = np.arange(count), 1 if y.max() == 1 else int(y.max()) + 1
    return Task(rows, y[:count], BatchOrder(seed, rows), mlp_recipe.initial(seed, 64, hidden, outputs))


def distance(a: Trained, b: Trained) -> float:
    return max(float(np.abs(p - q).max()) for p, q in zip(a.parameters, b.parameters, strict=True))


@pytest.mark.parametrize(("n_classes", "hidden"), [(2, 10), (10, 17)])
def test_every_network_follows_the_kernel(n_classes: int, hidden: int) -> None:
    x, y = digits(n_classes)
    tasks = [task(y, count, seed, hidden) for seed, count in enumerate((1, 150, 200, 401, 650))]
    wide, narrow = mlp_wide.train(x, tasks, 11, "cpu"), mlp_narrow.train(x, tasks, 11)
    for ours, kernel in zip(wide, narrow, strict=True):
        assert distance(ours, kernel) < 1e-5
        assert ours.n_epochs == kernel.n_epochs
        assert ours.final_loss == pytest.approx(kernel.final_loss, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_stopping_rule_is_the_kernels(seed: int) -> None:
    x, y = digits()
    fleet = mlp_wide.Fleet(torch.tensor(x), [task(y, 5)] * 40)
    rng = np.random.default_rng(seed)
    losses = np.cumprod(1 - 5e-5 * rng.exponential(size=(60, 40)) * (rng.random((60, 40)) < 0.3), axis=0)
    progress = [np.array([0, 0, np.inf, np.inf, 0]) for _ in range(40)]
    over = np.zeros(40, bool)
    for epoch in losses:
        fleet.note_epoch(torch.tensor(epoch)[:, None])
        over |= [mlp_kernel.note_epoch(loss, mine) for loss, mine in zip(epoch, progress, strict=True)]
        assert (~fleet.running.flatten()).tolist() == over.tolist()
    assert over.sum() > 0
    assert len(set(fleet.epochs.flatten().tolist())) > 3


def test_networks_that_stop_keep_their_weights_and_leave_the_others_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits()
    monkeypatch.setattr(mlp_recipe, "TOLERANCE", 0.01)
    tasks = [task(y, count, seed) for seed, count in enumerate((300, 40, 300, 5, 60, 250))]
    sizes, step = [], mlp_wide.Fleet.train_block

    def watched(fleet: mlp_wide.Fleet, orders: list[np.ndarray]) -> None:
        sizes.append(len(fleet.members))
        step(fleet, orders)

    monkeypatch.setattr(mlp_wide.Fleet, "train_block", watched)
    together = mlp_wide.train(x, tasks, 200, "cpu")
    assert sizes[0] == 6
    assert 0 < sizes[-1] <= 3
    alone = [mlp_wide.train(x, [each], 200, "cpu")[0] for each in tasks]
    assert [trained.n_epochs for trained in together] == [trained.n_epochs for trained in alone]
    assert len({trained.n_epochs for trained in alone}) > 3
    assert max(distance(a, b) for a, b in zip(together, alone, strict=True)) < 1e-4


def test_a_fleet_larger_than_the_budget_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = digits()
    tasks = [task(y, 100, seed) for seed in range(5)]
    whole = mlp_wide.train(x, tasks, 3, "cpu")
    monkeypatch.setattr(mlp_wide, "_BUDGET", 2 * mlp_wide._bytes(tasks[0]))
    cut = mlp_wide.train(x, tasks, 3, "cpu")
    assert max(distance(a, b) for a, b in zip(whole, cut, strict=True)) < 1e-5


def test_the_victim_can_be_imported_without_torch_and_numba() -> None:
    code = "import sys, subpop.victims.mlp; print(sorted({'torch', 'numba'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_missing_gpu_is_named() -> None:
    x, y = digits()
    with pytest.raises(BadInput, match="torch sees no GPU"):
        MLP(device="cuda:0").fit_many([Pool(x, y.astype(np.int64), 900, 2).clean_job()], [0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_follows_the_kernel() -> None:
    x, y = digits()
    pool = Pool(x, y.astype(np.int64), 900, 2)
    gpu, cpu = (MLP(max_epochs=5, device=device).fit_many([pool.clean_job()] * 3, [0, 1, 2]) for device in ("cuda", "cpu"))
    for ours, kernel in zip(gpu, cpu, strict=True):
        np.testing.assert_allclose(ours.predict_proba(x), kernel.predict_proba(x), atol=1e-4)
