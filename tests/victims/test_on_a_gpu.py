"""Every network that `--device cuda` trains or asks, on the recorded meta device: what a GPU would refuse or wait for."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from meta_device import MixedDevices, recorded
from small_encoders import save_bert
from torch import nn

from subpop.experiments.target_sets.backbone import ConvBackbone
from subpop.features import representations
from subpop.features.encoders import blocks
from subpop.features.encoders.blocks import attended
from subpop.features.networks import InputTransform
from subpop.types import Pool
from subpop.victims import transformer_network
from subpop.victims.batched_jobs import Recipe
from subpop.victims.bert_fine_tuned import BertFineTuned
from subpop.victims.bert_last_layer import BertLastLayer
from subpop.victims.conv_fleet import Fleet
from subpop.victims.conv_net import ConvNet
from subpop.victims.fine_tuned import CIFAR, FACES, FineTuned
from subpop.victims.torch_model import TorchModel
from subpop.victims.torch_network import ConvClassifier, body_named, frozen
from subpop.victims.transformer_training import train

EPOCHS = 2


def pictures(n=80, side=32, channels=3):
    x = np.random.default_rng(0).integers(0, 256, (n, channels, side, side), np.uint8)
    return Pool(x, np.arange(n, dtype=np.int64) % 2, n_train=n, n_classes=2)


def texts(n=40, width=12):
    rng = np.random.default_rng(0)
    x = np.zeros((n, width), np.int64)
    for row in x:
        length = rng.integers(4, width + 1)
        row[:length] = [1, *rng.integers(3, 6, length - 2), 2]
    return Pool(x, np.arange(n, dtype=np.int64) % 2, n_train=n, n_classes=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_bert(tmp_path_factory.mktemp("bert")))


def text_options(folder):
    return {"encoder": folder, "max_length": 12, "epochs": EPOCHS, "device": "cuda"}


VICTIMS = {
    "conv_net": lambda folder: (ConvNet(epochs=EPOCHS, device="cuda"), pictures()),
    "conv_net_wide": lambda folder: (ConvNet(width=32, epochs=EPOCHS, device="cuda"), pictures(side=8, channels=1)),
    "vgg16_fine_tuned": lambda folder: (FineTuned(pretrained=False, epochs=EPOCHS, device="cuda", **FACES), pictures(66)),
    "vgg16_fine_tuned_augmented": lambda folder: (
        FineTuned(pretrained=False, epochs=EPOCHS, device="cuda", **CIFAR),
        pictures(66),
    ),
    "bert_fine_tuned": lambda folder: (BertFineTuned(**text_options(folder)), texts()),
    "bert_last_layer": lambda folder: (BertLastLayer(**text_options(folder)), texts()),
    "bert_last_layer, recomputing": lambda folder: (BertLastLayer(cached=False, **text_options(folder)), texts()),
}
"""The victims of `subpop.victims.VICTIMS` that run on the device, with small or random weights."""
UPLOADS_A_STEP = {"bert_last_layer": 2, "bert_last_layer, recomputing": 2}
"""States or tokens of each batch and their lengths; whatever else a step needs is on the device before the epoch begins."""
UPLOADS_AN_EPOCH = 2


@functools.cache
def fitted(name, folder):
    victim, pool = VICTIMS[name](folder)
    n_jobs = 2 if name.startswith("conv_net") else 1  # of which one fleet is trained
    with recorded() as record:
        models = victim.fit_many([pool.clean_job()] * n_jobs, list(range(n_jobs)))
    return record, models, pool, victim


@pytest.mark.parametrize("name", VICTIMS)
def test_training_mixes_no_devices_waits_for_nothing_and_is_not_in_float64(name, folder):
    record, _, pool, victim = fitted(name, folder)
    steps = EPOCHS * -(-len(pool) // getattr(victim, "batch_size", 32))
    assert record.steps == steps
    assert record.operations
    assert not record.waits
    assert not record.wide
    assert len(record.uploads) <= UPLOADS_A_STEP.get(name, 0) * steps + UPLOADS_AN_EPOCH * EPOCHS


@pytest.mark.parametrize("name", [name for name in VICTIMS if not name.startswith("conv_net")])
def test_layers_run_in_low_precision(name, folder):
    record = fitted(name, folder)[0]
    assert {(dtype, enabled) for _, dtype, enabled in record.autocast} == {(torch.bfloat16, True)}


@pytest.mark.parametrize("name", VICTIMS)
def test_predictions_mix_no_devices(name, folder):
    _, models, pool, _ = fitted(name, folder)
    with recorded() as record:
        chances = models[0].predict_proba(pool.x)
    assert chances.shape == (len(pool), 2)
    assert record.operations
    assert not record.wide


def toy(device):
    torch.manual_seed(0)
    network = ConvClassifier("4/2 6/2", body_named("4/2 6/2", 3, 0), nn.Linear(6, 2), 0.5, 0.01)
    return TorchModel(frozen(network), device)


def test_fine_tuning_a_pruned_network():
    pool = pictures()
    with recorded() as record:
        toy("cuda").fine_tuned(
            type("T", (), {"x": pool.x, "y": pool.y})(), epochs=EPOCHS, learning_rate=1e-3, batch_size=32, seed=0
        )
    assert record.steps == EPOCHS * 3
    assert not record.waits
    assert not record.wide


class Plain(nn.Module):
    """A network with the methods that features are read by."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 5, 3, stride=2)

    def pooled(self, x):
        return self.layer(x).mean((2, 3))


def test_features_of_a_frozen_network(monkeypatch):
    name = "resnet50"
    monkeypatch.setattr("subpop.features.networks.load_network", lambda name, root: Plain())
    monkeypatch.setattr("subpop.features.networks.folding.folded", lambda network: network)
    monkeypatch.setitem(representations.NETWORKS, name, type("N", (), {"n_features": 5, "transform": None})())
    with recorded() as record:
        found = representations._run(name, None, pictures().x, InputTransform(), "cuda", 32, lambda done, total: None)
    assert found.shape == (80, 5)
    assert record.operations["conv2d"] == 3
    assert not record.wide


def test_gradients_in_the_pixels_of_a_frozen_network():
    with recorded() as record:
        backbone = ConvBackbone(toy("cpu"), device="cuda")
        features, pullback = backbone.features_and_pullback(pictures().x)
        gradient = pullback(np.ones(features.shape, np.float32))
    assert gradient.shape == (80, 3, 32, 32)
    assert record.operations["convolution_backward"]
    assert not record.wide


# --- the check finds what it is for -----------------------------------------------------------------------------------


def recorded_steps(step):
    """Three steps of Adam on the device with something wrong in each."""
    with recorded() as record:
        weights = torch.zeros(4, requires_grad=True, device="cuda")
        optimizer = torch.optim.Adam([weights], fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            step(weights).backward()
            optimizer.step()
    return record


WRONG = {
    "the loss is read in each step": (lambda w: w.sum() * (1 if w.sum().item() else 2), "waits"),
    "a branch on a value": (lambda w: w.sum() if w.sum() > 0 else -w.sum(), "waits"),
    "weights copied to the host": (lambda w: w.sum() + w.detach().cpu().numpy().sum(), "waits"),
    "weights copied into a buffer of the host": (lambda w: (torch.zeros(4).copy_(w.detach()), w.sum())[1], "waits"),
    "float64": (lambda w: w.double().sum(), "wide"),
    "float64 from numpy": (lambda w: (w * torch.from_numpy(np.ones(4)).to("cuda")).sum(), "wide"),
    "a copy in each step": (lambda w: (w * torch.ones(4).to("cuda")).sum(), "uploads"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name):
    step, finding = WRONG[name]
    record = recorded_steps(step)
    assert record.steps == 3
    assert getattr(record, finding)
    clean = recorded_steps(lambda w: w.square().sum())
    assert not clean.waits
    assert not clean.wide
    assert not clean.uploads


def test_a_table_left_on_the_host_is_refused():
    with pytest.raises(MixedDevices, match=r"mul: meta \(4,\), cpu \(4,\)"):
        recorded_steps(lambda w: (w * torch.ones(4)).sum())


def test_a_shape_that_depends_on_values_is_refused():
    with pytest.raises(AssertionError, match="index on the device"):
        recorded_steps(lambda w: w[w > 0].sum())


def test_a_fleet_that_reads_its_loss_is_found(monkeypatch, folder):
    """A wrong version of the convolutional fleet."""
    adam = Fleet._adam

    def reading(self):
        adam(self)
        self.read = float(self.weights.sum())

    monkeypatch.setattr(Fleet, "_adam", reading)
    assert fitted.__wrapped__("conv_net", folder)[0].waits


def test_a_victim_whose_labels_stay_on_the_host_is_found():
    """A wrong version of the training of texts."""
    network = nn.Linear(3, 2)

    def inputs(batch, on_device):
        return (torch.zeros(len(batch), 3),)

    about = {"lengths": np.full(8, 3), "y": np.zeros(8, np.int64), "keys": np.arange(8), "recipe": Recipe(2, 1e-3, 4), "seed": 0}
    with pytest.raises(MixedDevices), recorded():
        train(network, list(network.parameters()), inputs, **about, device="cuda")


def test_asking_a_gpu_whether_there_is_padding_is_found(monkeypatch, folder):
    """The version that this check found: two answers from the device in every step."""

    def asking(lengths, width):
        return None if int(lengths.min()) == width else attended(lengths, width)

    for module in (blocks, transformer_network):
        monkeypatch.setattr(module, "attended", asking)
    assert fitted.__wrapped__("bert_fine_tuned", folder)[0].waits


def test_the_mask_is_left_out_on_the_cpu_only():
    full = torch.full((3,), 5)
    assert attended(full, 5) is None
    with recorded():
        assert attended(full.to("cuda"), 5).shape == (3, 1, 1, 5)
