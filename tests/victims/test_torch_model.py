"""The model of convolutional victims: every number by hand or by another way, and nothing that changes it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from subpop.types import BadInput, Model, StoredModel, TrainingSet
from subpop.victims.torch_model import TorchModel
from subpop.victims.torch_network import ConvClassifier, PlainBody, body_named, frozen

CHANNELS = 6


def make_model(words: str = "4/2 6 M", channels: int = 3, n_classes: int = 2, seed: int = 0, penalty: float = 0.01) -> TorchModel:
    body = body_named(words, channels, seed)
    head = nn.Linear(CHANNELS, n_classes)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(np.random.default_rng(seed).normal(size=(n_classes, CHANNELS))))
        head.bias.copy_(torch.linspace(-0.2, 0.2, n_classes))
    return TorchModel(frozen(ConvClassifier(words, body, head, 0.5, penalty)))


def pictures(n: int = 7, channels: int = 3, side: int = 8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, channels, side, side), dtype=np.uint8)


def bits(model: TorchModel) -> list[bytes]:
    return [np.asarray(value).tobytes() for value in model.state().values()]


def convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """By the definition, loop by loop: 3x3 within a margin of zeros, then ReLU."""
    n, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    rows, columns = range(0, height, stride), range(0, width, stride)
    out = np.zeros((n, len(weight), len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = padded[:, :, row : row + 3, column : column + 3]
            out[:, :, i, j] = np.einsum("nchw,kchw->nk", window, weight) + bias
    return np.maximum(out, 0)


def maps_by_hand(model: TorchModel, x: np.ndarray) -> np.ndarray:
    state = model.state()
    inputs = x / 255 - 0.5
    for layer, stride in ((0, 2), (2, 1)):
        names = [f"network.body.layers.{layer}.{part}" for part in ("weight", "bias")]
        inputs = convolution(inputs, *(state[name].astype(np.float64) for name in names), stride)
    return inputs


# --- predictions ------------------------------------------------------------------------------------------------------


def test_every_output_is_what_loops_give() -> None:
    model, x = make_model(), pictures()
    maps = maps_by_hand(model, x)
    assert (maps == 0).any()
    np.testing.assert_allclose(model.channel_activations(x), maps.mean((2, 3)), atol=1e-5)
    np.testing.assert_allclose(model.channel_zeros(x), (maps == 0).mean((2, 3)), atol=1e-6)
    features = maps.reshape(len(x), CHANNELS, 2, 2, 2, 2).max((3, 5)).mean((2, 3))  # 2x2 maxima of a 4x4 map
    np.testing.assert_allclose(model.features(x), features, atol=1e-5)
    state = model.state()
    scores = np.exp(features @ state["network.head.weight"].T + state["network.head.bias"])
    np.testing.assert_allclose(model.predict_proba(x), scores / scores.sum(1, keepdims=True), atol=1e-5)
    for found in (model.predict_proba(x), model.features(x), model.channel_activations(x), model.channel_zeros(x)):
        assert found.dtype == np.float32


def test_rows_in_many_batches_are_rows_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = make_model(), pictures(11)
    whole = model.predict_proba(x)
    monkeypatch.setattr("subpop.victims.torch_model._ROWS", 4)
    np.testing.assert_allclose(model.predict_proba(x), whole, atol=1e-6)
    assert model.predict_proba(x[:0]).shape == (0, 2)
    assert model.channel_zeros(x[:0]).shape == (0, CHANNELS)


def test_features_are_kept_for_arrays_that_nobody_can_write_to() -> None:
    model, x = make_model(), pictures()
    calls: list[int] = []
    plain = model._batches
    model._batches = lambda *given: calls.append(1) or plain(*given)  # type: ignore[method-assign,func-returns-value]
    first = model.predict_proba(x)
    x[0] = 255 - x[0]
    assert np.abs(model.predict_proba(x)[0] - first[0]).max() > 1e-4
    assert len(calls) == 2
    view = x[:]
    view.setflags(write=False)  # x can still be written to
    model.features(view)
    model.features(view)
    assert len(calls) == 4
    x.setflags(write=False)
    again = [model.features(x), model.features(x), model.pruned(np.ones(CHANNELS, bool)).features(x)]
    assert len(calls) == 5
    assert all(np.array_equal(each, again[0]) for each in again)
    assert not np.array_equal(model.features(pictures(7)[::-1].copy()), again[0])


# --- pruning ----------------------------------------------------------------------------------------------------------


def test_a_masked_channel_is_a_filter_of_zeros() -> None:
    model, x = make_model(), pictures()
    model.features(x)
    keep = np.array([1, 0, 1, 1, 0, 1], bool)
    state = model.state()
    for part in ("weight", "bias"):
        state[f"network.body.layers.2.{part}"][~keep] = 0
    deleted, masked = TorchModel.from_state(state), model.pruned(keep)
    np.testing.assert_allclose(masked.predict_proba(x), deleted.predict_proba(x), atol=1e-6)
    np.testing.assert_allclose(masked.channel_activations(x), deleted.channel_activations(x), atol=1e-6)
    np.testing.assert_allclose(masked.channel_zeros(x), deleted.channel_zeros(x), atol=1e-6)
    np.testing.assert_allclose(masked.features(x), deleted.features(x), atol=1e-6)
    logits = masked.module(torch.tensor(x)).softmax(1).detach().numpy()
    np.testing.assert_allclose(logits, masked.predict_proba(x), atol=1e-6)
    assert (masked.channel_zeros(x)[:, ~keep] == 1).all()
    assert np.abs(masked.predict_proba(x) - model.predict_proba(x)).max() > 1e-3


def test_masks_add_up_and_leave_the_model_alone() -> None:
    model, x = make_model(), pictures()
    before = bits(model)
    first, second = np.array([0, 1, 1, 1, 1, 1], bool), np.array([1, 1, 0, 1, 1, 1], bool)
    both = model.pruned(first).pruned(second)
    assert np.array_equal(both.predict_proba(x), model.pruned(first & second).predict_proba(x))
    none = model.pruned(np.zeros(CHANNELS, bool))
    assert np.ptp(none.predict_proba(x), axis=0).max() == 0
    assert bits(model) == before
    for keep in (np.ones(CHANNELS), np.ones(CHANNELS - 1, bool)):
        with pytest.raises(BadInput, match="a bool for each of 6 channels"):
            model.pruned(keep)


# --- training on ------------------------------------------------------------------------------------------------------


def bright_or_dark(n: int = 40) -> TrainingSet:
    y = np.arange(n) % 2
    x = np.random.default_rng(2).integers(0, 128, (n, 3, 8, 8), dtype=np.uint8) + (128 * y[:, None, None, None]).astype(np.uint8)
    return TrainingSet.of(x, y)


def test_fine_tuning_learns_on_a_copy_and_masked_channels_stay_masked() -> None:
    start, train = make_model(), bright_or_dark()
    keep = np.array([1, 1, 0, 1, 1, 1], bool)
    pruned = start.pruned(keep)
    before = bits(pruned), bits(start)
    tuned = pruned.fine_tuned(train, epochs=40, learning_rate=5e-3, batch_size=16, seed=0)
    assert (bits(pruned), bits(start)) == before
    assert (tuned.predict_proba(train.x).argmax(1) == train.y).mean() > 0.9
    assert (tuned.channel_activations(train.x)[:, 2] == 0).all()
    old, new = pruned.state(), tuned.state()
    assert np.array_equal(new["network.body.layers.2.weight"][2], old["network.body.layers.2.weight"][2])  # it gets no gradient
    for name in ("body.layers.0.weight", "body.layers.2.weight", "head.weight"):
        assert not np.array_equal(old[f"network.{name}"], new[f"network.{name}"])


def test_fine_tuning_is_its_seeds_alone() -> None:
    model, train = make_model(), bright_or_dark()
    found = [bits(model.fine_tuned(train, epochs=1, learning_rate=1e-3, batch_size=16, seed=seed)) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert bits(model.fine_tuned(train, epochs=0, learning_rate=1e-3, batch_size=16, seed=0)) == bits(model)


def test_one_step_of_fine_tuning_is_adams() -> None:
    """In its first step Adam moves every weight with a gradient by the learning rate, whatever its size."""
    model, train = make_model(penalty=0.0), bright_or_dark(8)
    tuned = model.fine_tuned(train, epochs=1, learning_rate=1e-3, batch_size=8, seed=0)
    network = model.module.requires_grad_(True)
    nn.functional.cross_entropy(network(torch.tensor(train.x)), torch.tensor(train.y)).backward()  # type: ignore[no-untyped-call]
    gradient = network.head.weight.grad.numpy()  # type: ignore[union-attr,operator]
    moved = tuned.state()["network.head.weight"] - model.state()["network.head.weight"]
    large = np.abs(gradient) > 1e-4
    assert large.any()
    np.testing.assert_allclose(moved[large], -1e-3 * np.sign(gradient[large]), rtol=0.01)


def test_bad_rows_cannot_be_trained_on() -> None:
    model, train = make_model(), bright_or_dark(4)
    options = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 2, "seed": 0}
    for bad in (train[np.zeros(4, bool)], train.relabel(np.array([0, 1, 2, 0]))):
        with pytest.raises(BadInput, match="all of the model's classes"):
            model.fine_tuned(bad, **options)  # type: ignore[arg-type]
    for name, value in (("learning_rate", 0.0), ("batch_size", 0), ("epochs", -1)):
        with pytest.raises(BadInput, match="cannot train"):
            model.fine_tuned(train, **{**options, name: value})  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="diverged"):
        model.fine_tuned(train, **{**options, "learning_rate": 1e38, "epochs": 5})  # type: ignore[arg-type]


# --- storage, and the module ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "channels", "n_classes"), [("4/2 6 M", 3, 2), ("M 5 6/2", 1, 10)])
def test_a_model_survives_storage_bit_for_bit(words: str, channels: int, n_classes: int) -> None:
    model = make_model(words, channels, n_classes).pruned(np.array([1, 1, 0, 1, 1, 1], bool))
    x = pictures(5, channels)
    assert isinstance(model, Model)
    assert isinstance(model, StoredModel)
    for again in (TorchModel.from_state(model.state()), pickle.loads(pickle.dumps(model))):
        assert bits(again) == bits(model)
        assert np.array_equal(again.predict_proba(x), model.predict_proba(x))
    assert all(value.dtype.kind in "fU" for value in model.state().values())


def test_what_is_handed_out_does_not_lead_back() -> None:
    model, x = make_model(), pictures()
    before = model.predict_proba(x)
    with torch.no_grad():
        for value in model.module.parameters():
            value.zero_()
    for value in model.state().values():
        if value.dtype.kind == "f":
            value[...] = 0
    model.features(x)[...] = 0
    x.setflags(write=False)
    model.features(x)[...] = 0
    assert np.array_equal(model.predict_proba(x), before)


def test_the_module_has_gradients_with_respect_to_pixels() -> None:
    model, x = make_model(), pictures(2)
    pixels = torch.tensor(x, dtype=torch.float32, requires_grad=True)
    model.module(pixels)[:, 1].sum().backward()
    assert pixels.grad is not None
    step = np.zeros(x.shape, np.float32)
    step[0, 1, 3, 3] = 2.0
    with torch.no_grad():
        higher, lower = (model.module(torch.tensor(x + sign * step))[0, 1].item() for sign in (1, -1))
    assert float(pixels.grad[0, 1, 3, 3]) == pytest.approx((higher - lower) / 4, rel=0.05, abs=1e-5)


def test_pictures_of_another_kind_are_refused() -> None:
    model = make_model()
    for x, words in ((pictures().astype(float), "uint8 pictures"), (pictures()[0], "uint8"), (pictures(2, 1), "1 channels")):
        with pytest.raises(BadInput, match=words):
            model.predict_proba(x)


def test_bodies_by_name() -> None:
    body = body_named("M 4/2 6 M M", 3, seed=1)
    assert isinstance(body, PlainBody)
    assert body.channels(torch.zeros(1, 3, 16, 16)).shape == (1, 6, 4, 4)
    assert body.finish(body.channels(torch.zeros(1, 3, 16, 16))).shape == (1, 6, 1, 1)
    same, other = body_named("M 4/2 6 M M", 3, seed=1), body_named("M 4/2 6 M M", 3, seed=2)
    weight = next(iter(body.parameters()))
    assert torch.equal(weight, next(iter(same.parameters())))
    assert not torch.equal(weight, next(iter(other.parameters())))
    for name in ("M M", "4/", "", "nothing"):
        with pytest.raises(BadInput, match="unknown ImageNet network"):
            body_named(name, 3)
