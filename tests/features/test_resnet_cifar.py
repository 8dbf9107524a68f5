"""ResNet-20 and ResNet-56: the architecture by hand, weights that fit and weights that do not, and a real accuracy."""

import os

import numpy as np
import pytest
import torch
from real_data import needs
from safetensors.torch import save_file
from small_networks import lively, one_thread  # noqa: F401
from torch import nn

from subpop.datasets.download import MissingData, data_root
from subpop.features.networks import IMAGENET_32, NETWORKS
from subpop.features.networks.folding import folded
from subpop.features.networks.resnet_cifar import Block, CifarResNet, resnet_cifar
from subpop.features.networks.weights import read_weights
from subpop.types import BadInput

WEIGHTS = data_root() / "weights"
needs_weights = needs("weights/resnet20_cifar10.safetensors", "cifar10_jpeg")


@pytest.fixture(scope="module")
def network() -> CifarResNet:
    return lively(resnet_cifar("resnet20_cifar10", pretrained=False))


# --- the architecture -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layers", "parameters"), [("resnet20_cifar10", 20, 269_722), ("resnet56_cifar10", 56, 853_018)])
def test_depth_and_size_are_the_papers(name, layers, parameters):
    # 16-channel stage: 3*16*9 + 2n * 16*16*9; stages of 32 and 64 likewise; two norm parameters a channel; 650 of the head.
    net = resnet_cifar(name, pretrained=False)
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in net.modules()) == layers
    assert sum(values.numel() for values in net.parameters()) == parameters
    assert not net.training


def test_a_shortcut_takes_every_second_position_and_adds_zero_channels_on_both_sides():
    block = Block(2, 4, stride=2).eval()
    nn.init.zeros_(block.conv2.weight)  # the residual branch is then zero: what is left is ReLU of the shortcut
    x = torch.arange(32.0).reshape(1, 2, 4, 4) - 8
    expected = torch.tensor([[[0, 0], [0, 0]], [[0, 0], [0, 2]], [[8, 10], [16, 18]], [[0, 0], [0, 0]]])
    assert torch.equal(block(x)[0], expected)
    same = Block(2, 2, stride=1).eval()
    nn.init.zeros_(same.conv2.weight)
    assert torch.equal(same(x), x.relu())


def test_map_features_and_logits_belong_together(network):
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        last, pooled, logits = network.forward_map(x), network.pooled(x), network(x)
        by_hand = pooled @ network.linear.weight.T + network.linear.bias
    assert (last.shape, pooled.shape, logits.shape) == ((3, 64, 8, 8), (3, 64), (3, 10))
    assert (last >= 0).all()
    torch.testing.assert_close(pooled, last.flatten(2).mean(2))
    torch.testing.assert_close(logits, by_hand)


def test_folded_norms_change_nothing(network):
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    flat = folded(network)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in flat.modules())
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
    with torch.inference_mode():
        torch.testing.assert_close(flat.pooled(x), network.pooled(x), rtol=1e-4, atol=1e-5)


def test_random_weights_come_from_their_own_seed():
    before = torch.random.get_rng_state()
    first, again, other = (resnet_cifar("resnet20_cifar10", pretrained=False, seed=s).conv1.weight for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_come_back_from_safetensors_and_from_a_checkpoint(network, tmp_path):
    state = network.state_dict()
    save_file({k: v.clone() for k, v in state.items() if "num_batches" not in k}, tmp_path / "resnet20_cifar10.safetensors")
    read = resnet_cifar("resnet20_cifar10", tmp_path).state_dict()
    assert all(torch.equal(read[key], value) for key, value in state.items())
    other = tmp_path / "published"
    other.mkdir()
    checkpoint = {"state_dict": {f"module.{key}": value for key, value in state.items()}, "best_prec1": 91.7}
    torch.save(checkpoint, other / "resnet20-12fca82f.th")
    read = resnet_cifar("resnet20_cifar10", other).state_dict()
    assert all(torch.equal(read[key], value) for key, value in state.items())


UNFIT = {
    "missing": (lambda state: state.pop("layer2.1.conv2.weight"), r"missing: layer2\.1\.conv2\.weight; use"),
    "unexpected": (lambda state: state.update(extra=torch.zeros(1)), "unexpected: extra; use"),
    "shape": (
        lambda state: state.update({"linear.weight": torch.zeros(100, 64)}),
        r"of another shape: linear\.weight \(100, 64\), expected \(10, 64\)",
    ),
    "other network": (
        lambda state: [state.pop(key) for key in list(state) if "layer3" in key],
        r"missing: layer3.* and \d+ more",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_weights_that_do_not_fit_are_refused(network, tmp_path, case):
    change, message = UNFIT[case]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    change(state)
    save_file(state, tmp_path / "resnet20_cifar10.safetensors")
    with pytest.raises(BadInput, match=message) as caught:
        resnet_cifar("resnet20_cifar10", tmp_path)
    assert str(tmp_path / "resnet20_cifar10.safetensors") in str(caught.value)


class Harmful:
    """What a pickle may do when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("harmful",)


@pytest.mark.parametrize("name", ["resnet20_cifar10.safetensors", "resnet20-12fca82f.th"])
def test_a_damaged_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"<html>moved</html>" * 10)
    with pytest.raises(BadInput, match="no weights that can be read safely"):
        resnet_cifar("resnet20_cifar10", tmp_path)


def test_no_code_in_a_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Harmful()}, tmp_path / "weights.pth")
    with pytest.raises(BadInput, match="no weights that can be read safely"):
        read_weights(tmp_path / "weights.pth")
    assert not (tmp_path / "harmful").exists()
    torch.save({"state_dict": 3}, tmp_path / "weights.pth")
    with pytest.raises(BadInput, match="not a state dict"):
        read_weights(tmp_path / "weights.pth")


def test_missing_weights_name_the_file_and_where_it_is_published(tmp_path):
    with pytest.raises(
        MissingData, match=r"resnet56_cifar10\.safetensors.*download https://\S+/resnet56-4bfd9763\.th into it"
    ) as caught:
        resnet_cifar("resnet56_cifar10", tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_unknown_names_are_refused():
    with pytest.raises(BadInput, match="'resnet32_cifar10'; known: resnet20_cifar10, resnet56_cifar10"):
        resnet_cifar("resnet32_cifar10")


# --- published weights ------------------------------------------------------------------------------------------------


def some_test_pictures(per_class: int) -> tuple[np.ndarray, np.ndarray]:
    from PIL import Image

    folders = sorted((data_root() / "cifar10_jpeg" / "test").iterdir())  # class names in alphabetical order are CIFAR-10's codes
    files = [(file, code) for code, folder in enumerate(folders) for file in sorted(folder.iterdir())[:per_class]]
    pictures = np.stack([np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1) for file, _ in files])
    return pictures, np.array([code for _, code in files])


@needs_weights
@pytest.mark.parametrize("name", ["resnet20_cifar10", "resnet56_cifar10"])
def test_published_weights_recognise_pictures(name):
    per_class = 50 if name == "resnet20_cifar10" else 15
    pictures, labels = some_test_pictures(per_class)
    network = folded(resnet_cifar(name, WEIGHTS))
    assert NETWORKS[name].transform == IMAGENET_32
    with torch.inference_mode():
        predicted = torch.cat([network(IMAGENET_32(pictures[i : i + 50])).argmax(1) for i in range(0, len(pictures), 50)])
    # The pictures are recompressed (JPEG, quality 75): 91.7 % on the originals fall to about 80 %; chance is 10 %.
    assert (predicted.numpy() == labels).mean() > 0.7
