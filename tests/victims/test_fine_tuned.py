"""Networks trained on: the training loop against a plain one, its augmentation by loops, and VGG-16's size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from subpop.testing import check_victim
from subpop.types import BadInput, FleetJob, Pool, TrainingSet
from subpop.victims import torch_training
from subpop.victims.batch_order import BatchOrder
from subpop.victims.batched_jobs import Recipe
from subpop.victims.fine_tuned import CIFAR, FACES, FineTuned
from subpop.victims.torch_model import TorchModel
from subpop.victims.torch_network import body_named
from subpop.victims.torch_training import _gathered, _Moves

TINY = "4/2 6 M"


pytestmark = pytest.mark.usefixtures("one_thread")


def stripes(n_train: int = 60, total: int = 100, side: int = 8) -> Pool:
    """Is the picture bright on its upper or its lower half? Mirroring left and right does not change that."""
    rng = np.random.default_rng(0)
    y = np.arange(total) % 2
    x = rng.integers(0, 150, (total, 3, side, side))
    x[y == 0, :, : side // 2] += 100
    x[y == 1, :, side // 2 :] += 100
    return Pool(x.astype(np.uint8), y, n_train, 2)


def victim(**options: object) -> FineTuned:
    return FineTuned(TINY, pretrained=False, **{"epochs": 2, **options})  # type: ignore[arg-type]


def fit(job: FleetJob, seed: int = 0, **options: object) -> TorchModel:
    model = victim(**options).fit_many([job], [seed])[0]
    assert isinstance(model, TorchModel)
    return model


def same(a: TorchModel, b: TorchModel) -> bool:
    ours, theirs = a.state(), b.state()
    return all(np.array_equal(value, theirs[name]) for name, value in ours.items())


# --- training ---------------------------------------------------------------------------------------------------------


def test_same_jobs_and_seeds_give_the_same_bits_however_many_threads() -> None:
    pool, found = stripes(100, 120, 32), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        own = FineTuned("16/2 32 M", pretrained=False, epochs=2).fit_many([pool.clean_job()], [0])[0]
        assert torch.get_num_threads() == threads
        assert isinstance(own, TorchModel)
        found.append(own.fine_tuned(TrainingSet.of(pool.x, pool.y), epochs=1, learning_rate=1e-3, batch_size=32, seed=1))
    assert same(*found)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_training_follows_a_plain_loop(offset: float) -> None:
    pool = stripes()
    ours = fit(pool.clean_job(), 4, offset=offset, batch_size=25, learning_rate=1e-3)
    theirs = victim(offset=offset).untrained(3, 2, 4)
    optimizer = torch.optim.Adam(theirs.parameters(), 1e-3, eps=1e-7)
    for order in BatchOrder(4, np.arange(60)).epochs(0, 2):
        for batch in torch.from_numpy(order.astype(np.int64)).split(25):
            x = theirs.body.channels(torch.tensor(pool.x)[batch] / 255 - offset)  # type: ignore[operator]
            logits = theirs.head(functional.max_pool2d(x, 2).mean((2, 3)))
            loss = functional.cross_entropy(logits, torch.tensor(pool.y)[batch]) + 0.01 * theirs.head.weight.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state()[f"network.{name}"], value.numpy(), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("kind", [FACES, CIFAR])
def test_it_learns_what_can_be_learnt(kind: dict[str, object]) -> None:
    pool = stripes(80, 160)
    shuffled = FleetJob(pool, np.arange(80), np.random.default_rng(0).permutation(pool.y[:80]))
    models = victim(epochs=25, learning_rate=1e-2, **kind).fit_many([pool.clean_job(), shuffled], [0, 0])
    found = [float((model.predict_proba(pool.x[80:]).argmax(1) == pool.y[80:]).mean()) for model in models]
    assert found[0] > 0.9
    assert found[1] < 0.8


def test_it_keeps_the_contract_of_victims() -> None:
    results = check_victim(victim(epochs=10, learning_rate=1e-2), stripes(220, 240))
    assert {result.name: result.message for result in results if result.status != "ok"} == {}


def test_seeds_rows_and_weights() -> None:
    pool, options = stripes(), {"augment": True, "learning_rate": 1e-3}
    rows, y = np.r_[:60, 70, 100, 101], np.r_[pool.y[:60], 1, 0, 0]
    job = FleetJob(pool, rows, y, extra_x=255 - pool.x[:2])
    shuffle = np.random.default_rng(0).permutation(len(rows))
    once = fit(job, **options)
    assert same(once, fit(FleetJob(pool, rows[shuffle], y[shuffle], extra_x=255 - pool.x[:2]), **options))
    weighted = FleetJob(pool, np.r_[rows, 80], np.r_[y, 0], np.r_[np.ones(len(rows)), 0], extra_x=255 - pool.x[:2])
    assert same(once, fit(weighted, **options))
    assert not same(once, fit(job, 1, **options))
    assert not same(once, fit(FleetJob(pool, rows, y, extra_x=pool.x[:2]), **options))
    other = FleetJob(pool, np.r_[rows, 102], np.r_[y, 1], extra_x=pool.x[3:6])
    assert same(once, victim(**options).fit_many([other, job], [5, 0])[1])  # type: ignore[arg-type]
    plain = fit(job, learning_rate=1e-3)
    assert not same(once, plain)


def test_pretrained_bodies_are_read_once_and_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []

    def body(name: str, weights_root: object) -> torch.nn.Module:
        read.append((name, weights_root))
        return body_named(TINY, 3, seed=9)

    monkeypatch.setattr("subpop.features.networks.imagenet.imagenet_body", body)
    monkeypatch.setattr("subpop.victims.fine_tuned.NETWORKS", {})
    tuned, pool = FineTuned("vgg16", epochs=1), stripes()
    models = tuned.fit_many([pool.clean_job()] * 2, [0, 1])
    assert read == [("vgg16", None)]
    kept, before = tuned._body, body_named(TINY, 3, 9)
    assert kept is not None
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), before.parameters(), strict=True))
    first = next(iter(kept.parameters())).detach().numpy()
    moved = [np.abs(model.state()["network.body.layers.0.weight"] - first).max() for model in models]  # type: ignore[attr-defined]
    assert min(moved) > 0
    assert max(moved) < 4e-4  # at most the learning rate in each of the first steps
    heads = [tuned.untrained(3, 2, seed).head for seed in (0, 0, 1)]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    assert heads[0].weight.abs().max() <= np.sqrt(6 / 8)
    assert not heads[0].bias.any()


# --- augmentation -----------------------------------------------------------------------------------------------------


def test_moved_pictures_are_what_loops_give() -> None:
    x = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 6), dtype=np.uint8)
    rows, moves = np.array([2, 0, 2, 1]), np.array([[0, 2, -1, 0], [0, -3, 1, 2], [0, 0, 1, 1]])
    found = _gathered(torch.from_numpy(x), torch.from_numpy(rows), torch.from_numpy(moves)).numpy()
    for b, (row, (down, right, mirrored)) in enumerate(zip(rows, moves.T, strict=True)):
        for i in range(4):
            for j in range(6):
                column = 5 - j if mirrored else j
                here = x[row, :, min(max(i - down, 0), 3), min(max(column - right, 0), 5)]
                assert (found[b, :, i, j] == here).all()
    assert torch.equal(_gathered(torch.from_numpy(x), torch.from_numpy(rows), None), torch.from_numpy(x[rows]))


def test_moves_are_uniform_and_a_rows_own() -> None:
    recipe, keys = Recipe(1, 1.0, 1, shift=0.125, flip=True), np.repeat(np.arange(2000), 2)
    moves = _Moves(recipe, 3, keys, (32, 16)).epoch(0, np.arange(4000), "cpu")
    assert moves is not None
    for axis, reach in ((0, 4), (1, 2)):
        values, counts = np.unique(moves[axis].numpy(), return_counts=True)
        assert values.tolist() == list(range(-reach, reach + 1))
        assert np.abs(counts / 4000 - 1 / (2 * reach + 1)).max() < 0.03
    assert 0.45 < float((moves[2] > 0).float().mean()) < 0.55
    assert torch.equal(moves[:, ::2], moves[:, 1::2])  # copies of a row move alike
    more = _Moves(recipe, 3, np.r_[keys, 5000], (32, 16)).epoch(0, np.arange(4001), "cpu")
    assert torch.equal(more[:, :4000], moves)  # type: ignore[index]
    for seed, epoch in ((4, 0), (3, 1)):
        other = _Moves(recipe, seed, keys, (32, 16)).epoch(epoch, np.arange(4000), "cpu")
        assert not torch.equal(other, moves)  # type: ignore[arg-type]
    assert _Moves(Recipe(1, 1.0, 1), 3, keys, (32, 16)).epoch(0, np.arange(4000), "cpu") is None


def test_only_used_pictures_travel_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = torch_training._gathered

    def watched(pictures: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pictures))
        return plain(pictures, *rest)

    monkeypatch.setattr(torch_training, "_gathered", watched)
    fit(FleetJob(stripes(), np.array([1, 1, 5, 99]), np.array([0, 1, 0, 1])), epochs=1)
    assert sizes == [3]


# --- VGG-16, and bad input --------------------------------------------------------------------------------------------


def test_vgg16_itself_trains() -> None:
    rng = np.random.default_rng(0)
    pool = Pool(rng.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8), np.array([0, 1, 9, 0, 1, 9]), 6, 10)
    model = FineTuned(pretrained=False, epochs=1, **CIFAR).fit_many([pool.clean_job()], [0])[0]
    assert isinstance(model, TorchModel)
    assert model.channel_activations(pool.x).shape == (6, 512)
    proba = model.predict_proba(pool.x)
    assert proba.shape == (6, 10)
    np.testing.assert_allclose(proba.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(TorchModel.from_state(model.state()).predict_proba(pool.x), proba)


def test_bad_input_is_refused() -> None:
    small, grey = stripes(side=16), Pool(np.zeros((4, 1, 32, 32), np.uint8), np.array([0, 1, 0, 1]), 4, 2)
    for pool in (small, grey):
        with pytest.raises(BadInput, match="3 channels and sides of at least 32"):
            FineTuned(pretrained=False).fit_many([pool.clean_job()], [0])
    with pytest.raises(BadInput, match="tpu"):
        FineTuned(device="tpu")
    with pytest.raises(BadInput, match="cannot train"):
        fit(stripes().clean_job(), batch_size=0)
    job = stripes().clean_job()
    with pytest.raises(BadInput, match="no weights other than 0 and 1"):
        fit(FleetJob(job.pool, job.rows, job.y, np.full(60, 2.0)))
    floats = Pool(job.pool.x.astype(np.float32), job.pool.y, 60, 2)
    with pytest.raises(BadInput, match="uint8 pictures"):
        fit(floats.clean_job())
    assert FineTuned().fit_many([], []) == []
