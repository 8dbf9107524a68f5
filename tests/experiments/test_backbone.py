"""Frozen networks as functions of pixels: features and gradients against torch in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from frozen_toys import loss_of
from real_data import needs

from subpop.experiments.target_sets.ascent import Schedule, attack, first_order_effects
from subpop.experiments.target_sets.backbone import ConvBackbone, NetworkBackbone, TorchBackbone
from subpop.features.networks import InputTransform
from subpop.types import BadInput
from subpop.victims.top_layers.top_layer import TopLayer
from subpop.victims.torch_model import TorchModel
from subpop.victims.torch_network import ConvClassifier, body_named, frozen

pytestmark = pytest.mark.usefixtures("one_thread")


def conv_model(seed: int = 0) -> TorchModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = torch.nn.Linear(6, 2)
    keep = np.array([True, True, True, False, True, True])
    return TorchModel(frozen(ConvClassifier("5/2 6/2", body_named("5/2 6/2", 1, seed), head, 0.5, 0.01, keep)))


def by_autograd(network: Callable[[torch.Tensor], torch.Tensor], pictures: np.ndarray, cotangents: np.ndarray):
    """Features and gradients in float64."""
    pixels = torch.from_numpy(pictures.astype(np.float64)).requires_grad_()
    features = network(pixels).flatten(1)
    (gradient,) = torch.autograd.grad(features, pixels, torch.from_numpy(cotangents))
    return features.detach().numpy(), gradient.numpy()


def agree(backbone: TorchBackbone, network, pictures: np.ndarray) -> None:
    found, pullback = backbone.features_and_pullback(pictures)
    assert (found.dtype, found.ndim) == (np.float64, 2)
    cotangents = np.random.default_rng(0).normal(size=found.shape)
    features, gradient = by_autograd(network, pictures, cotangents)
    np.testing.assert_allclose(found * backbone.scale, features, atol=2e-5 * np.abs(features).max())
    for _ in range(2):  # a pullback may be called again
        own = pullback(cotangents)
        assert (own.dtype, own.shape) == (np.float32, pictures.shape)
        np.testing.assert_allclose(own * backbone.scale, gradient, atol=2e-4 * np.abs(gradient).max())
    np.testing.assert_allclose(backbone.features(pictures), found, atol=1e-5 * np.abs(found).max())


@pytest.mark.parametrize("pooled", [False, True])
def test_a_conv_backbone(pooled):
    model, pictures = conv_model(), np.random.default_rng(0).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
    module = model.module.double()

    def network(x):
        maps = module.body.finish(module.maps(x) * module.keep[:, None, None])
        return maps.mean((2, 3)) if pooled else maps

    backbone = ConvBackbone(model, pooled=pooled)
    agree(backbone, network, pictures.astype(np.float32) + 0.25)
    if pooled:
        np.testing.assert_allclose(backbone.features(pictures), model.features(pictures), atol=1e-6)
    scaled = backbone.scaled_on(pictures)
    assert scaled.features(pictures).std() == pytest.approx(1, rel=1e-6)
    assert backbone.scale == 1
    agree(scaled, network, pictures)


@pytest.mark.parametrize("pooled", [False, True])
def test_a_network_backbone(tmp_path, pooled):
    from safetensors.torch import save_file

    from subpop.features.networks.resnet_cifar import resnet_cifar

    network = resnet_cifar("resnet20_cifar10", pretrained=False, seed=1)
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
    save_file(network.state_dict(), tmp_path / "resnet20_cifar10.safetensors")
    transform = InputTransform((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    backbone = NetworkBackbone("resnet20_cifar10", tmp_path, pooled=pooled, transform=transform)
    network = network.double()

    def plain(x):
        mean, deviation = (torch.tensor(v, dtype=x.dtype).view(1, 3, 1, 1) for v in (transform.mean, transform.deviation))
        x = (x / 255 - mean) / deviation
        return network.pooled(x) if pooled else network.forward_map(x)

    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    agree(backbone, plain, pictures.astype(np.float32) + 0.3)
    resized = NetworkBackbone("resnet20_cifar10", tmp_path, pooled=True, transform=InputTransform(size=8))
    found, pullback = resized.features_and_pullback(np.zeros((2, 3, 20, 12), np.uint8))
    assert pullback(found).shape == (2, 3, 20, 12)


def test_a_network_is_attacked():
    rng = np.random.default_rng(0)
    pictures, y = rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8), np.arange(40) % 2
    backbone = ConvBackbone(conv_model()).scaled_on(pictures)
    top = TopLayer.fit(backbone.features(pictures), y)
    pool = backbone.features(rng.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8))
    targets = pool[top.right(pool, 0)][:6]
    images = first_order_effects(backbone, top, pictures, [targets], 0).argmax(1)
    (outcome,) = attack(backbone, top, pictures, [targets], 0, images=images, schedules=[Schedule(16.0, 3.2, 10)])
    assert outcome.target_loss[-1] > outcome.target_loss[0]
    rows = top.features.copy()
    rows[images[0]] = backbone.features(outcome.picture[None])[0]
    assert outcome.target_loss[-1] == pytest.approx(loss_of(TopLayer.fit(rows, y).w, targets), rel=1e-4)


class Detached(ConvBackbone):
    def last_map(self, pixels):
        return super().last_map(pixels).detach()


def test_a_backbone_refuses():
    model = conv_model()
    with pytest.raises(BadInput, match="no gradient"):
        Detached(model).features_and_pullback(np.zeros((1, 1, 8, 8), np.uint8))
    for scale in (0.0, -1.0, np.nan):
        with pytest.raises(BadInput, match="scale"):
            ConvBackbone(model, scale=scale)
    for pictures in (np.zeros((1, 8, 8), np.uint8), np.zeros((0, 1, 8, 8), np.uint8), np.zeros((1, 1, 8, 8), np.int64)):
        with pytest.raises(BadInput, match="pictures"):
            ConvBackbone(model).features(pictures)
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="no GPU"):
            ConvBackbone(model, device="cuda")


@needs("weights")
def test_published_weights():
    from subpop.datasets.download import data_root
    from subpop.features.networks import load_network
    from subpop.features.networks.resnet_cifar import N_FEATURES

    weights, pictures = data_root() / "weights", np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    backbone = NetworkBackbone("resnet56_cifar10", weights, pooled=True)
    network = load_network("resnet56_cifar10", weights).double()
    with torch.no_grad():
        expected = network.pooled(backbone.transform(pictures).double()).numpy()
    np.testing.assert_allclose(backbone.features(pictures), expected, atol=1e-4)
    assert backbone.features(pictures).shape == (3, N_FEATURES)
    assert NetworkBackbone("resnet56_cifar10", weights).features(pictures).shape == (3, 4096)
