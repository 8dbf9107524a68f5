"""ImageNet bodies against torchvision's own forward, the inputs that they are fed, and weights that cannot be had."""

import math
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_networks import lively, one_thread  # noqa: F401
from torch import nn

from subpop._torchvision import import_torchvision
from subpop.datasets.download import MissingData
from subpop.features.networks import CENTRED, IMAGENET, NETWORKS, SIGNED, UNIT, InputTransform, load_network
from subpop.features.networks.folding import folded
from subpop.features.networks.imagenet import imagenet_body
from subpop.features.networks.weights import WEIGHTS, initialise, weights_fingerprint, weights_path
from subpop.types import BadInput

OPTIONS = {"vgg16": {}, "resnet50": {}, "inception_v3": {"aux_logits": True, "init_weights": False}}
SIDES = {"vgg16": 64, "resnet50": 64, "inception_v3": 75}


def torchvisions(name: str) -> nn.Module:
    """torchvision's whole network with random weights; VGG-16's head of 0.5 GB stays without memory."""
    with torch.device("meta"):
        whole = getattr(import_torchvision().models, name)(weights=None, **OPTIONS[name])
    whole = whole.features if name == "vgg16" else whole
    whole.to_empty(device="cpu")
    initialise(whole, seed=3)
    return lively(whole).eval()


@pytest.fixture(scope="module", params=list(OPTIONS))
def pair(request, tmp_path_factory):
    """(name, torchvision's network, our body, read from a file with torchvision's names)."""
    whole, root = torchvisions(request.param), tmp_path_factory.mktemp("weights")
    prefix = "features." if request.param == "vgg16" else ""
    state = {prefix + key: value for key, value in whole.state_dict().items()}
    if request.param == "resnet50":  # one network by torchvision's own file name, as its download leaves it
        torch.save(state, root / WEIGHTS["resnet50"].published)
    else:
        save_file(state, root / f"{request.param}.safetensors")
    body = load_network(request.param, root)
    for file in root.iterdir():
        file.unlink()
    return request.param, whole, body


def pictures(name: str) -> torch.Tensor:
    side = SIDES[name]
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(4))


def torchvisions_pooled(name: str, whole: nn.Module, x: torch.Tensor) -> torch.Tensor:
    if name == "vgg16":
        return whole(x).mean((2, 3))
    head, whole.fc = whole.fc, nn.Identity()
    try:
        return whole(x)
    finally:
        whole.fc = head


# --- the networks -----------------------------------------------------------------------------------------------------


def test_features_are_torchvisions(pair):
    name, whole, body = pair
    x = pictures(name)
    with torch.inference_mode():
        expected, last, pooled = torchvisions_pooled(name, whole, x), body(x), body.pooled(x)
    assert pooled.shape == (2, NETWORKS[name].n_features)
    assert last.shape[:2] == pooled.shape
    assert pooled.std() > 0
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(last.mean((2, 3)), pooled)


def test_channels_are_those_of_the_last_convolution(pair):
    name, whole, body = pair
    x = pictures(name)
    with torch.inference_mode():
        channels = body.channels(x)
        assert (channels >= 0).all()
        torch.testing.assert_close(body.finish(channels), body(x))
        if name != "vgg16":
            return
        # torchvision's layers 0..30: 28 is the third convolution of block 5, 29 its ReLU, 30 the pool.
        torch.testing.assert_close(channels, whole[:30](x))
        assert channels.shape == (2, 512, 4, 4)
        masked = channels.clone()
        masked[:, 7] = 0
        difference = (body.finish(masked) - body(x)).abs().sum((0, 2, 3))
    assert difference[7] > 0
    assert difference.sum() == difference[7]


def test_folded_bodies_compute_the_same(pair):
    name, _, body = pair
    x = pictures(name)
    flat = folded(body)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in flat.modules())
    with torch.inference_mode():
        expected = body.pooled(x)
        assert (flat.pooled(x) - expected).abs().max() < 1e-4 * expected.abs().max()


def test_all_layers_can_be_trained(pair):
    name, _, body = pair
    if name != "vgg16":
        return
    body.pooled(pictures(name)[:1, :, :32, :32]).sum().backward()
    assert all(values.grad is not None and values.grad.abs().sum() > 0 for values in body.parameters())
    body.zero_grad()


def test_random_bodies_come_from_their_own_seed():
    before = torch.random.get_rng_state()
    first, again, other = (next(imagenet_body("vgg16", pretrained=False, seed=s).parameters()) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())
    assert first.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.1)


def test_unknown_names_are_refused():
    with pytest.raises(BadInput, match="'vgg19'; known: vgg16, resnet50, inception_v3"):
        imagenet_body("vgg19")
    with pytest.raises(BadInput, match="unknown network 'vgg19'; known: vgg16"):
        load_network("vgg19")


def test_weights_of_another_network_are_refused(tmp_path):
    save_file({"features.0.weight": torch.zeros(64, 3, 5, 5), "stray": torch.zeros(1)}, tmp_path / "vgg16.safetensors")
    with pytest.raises(BadInput) as caught:
        imagenet_body("vgg16", tmp_path)
    message = str(caught.value)
    assert "do not fit vgg16" in message
    assert "missing: features.0.bias" in message
    assert "unexpected: stray" in message
    assert "features.0.weight (64, 3, 5, 5), expected (64, 3, 3, 3)" in message


# --- inputs -----------------------------------------------------------------------------------------------------------


ENDS = {
    "unit": (UNIT, (0, 0, 0), (1, 1, 1)),
    "centred": (CENTRED, (-0.5, -0.5, -0.5), (0.5, 0.5, 0.5)),
    "signed": (InputTransform(SIGNED.mean, SIGNED.deviation), (-1, -1, -1), (1, 1, 1)),
    "imagenet": (
        IMAGENET,
        (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225),
        (0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225),
    ),
}


@pytest.mark.parametrize(("transform", "black", "white"), ENDS.values(), ids=ENDS)
def test_black_and_white_become(transform, black, white):
    pixels = np.zeros((2, 3, 4, 5), np.uint8)
    pixels[1] = 255
    pixels.setflags(write=False)
    x = transform(pixels)
    assert (x.shape, x.dtype) == ((2, 3, 4, 5), torch.float32)
    for row, expected in zip(x, (black, white), strict=True):
        torch.testing.assert_close(row[:, 0, 0], torch.tensor(expected, dtype=torch.float32))
        assert torch.equal(row, row[:, :1, :1].expand_as(row))


@pytest.mark.parametrize("size", [20, 75])
def test_resizing_agrees_with_pillow(size):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 41, 33), dtype=np.uint8)
    ours = InputTransform(size=size)(pixels)[0] * 255
    theirs = Image.fromarray(pixels[0].transpose(1, 2, 0)).resize((size, size), Image.Resampling.BILINEAR)
    # Pillow rounds to whole levels after each of the two directions.
    assert np.abs(ours.permute(1, 2, 0).numpy() - np.asarray(theirs, float)).max() <= 1.01


def test_inputs_may_be_tensors_with_gradients():
    x = torch.full((1, 3, 6, 6), 100.0, requires_grad=True)
    InputTransform(SIGNED.mean, SIGNED.deviation, size=3)(x).sum().backward()
    assert x.grad.sum().item() == pytest.approx(27 * 2 / 255, rel=1e-5)  # each of 27 values is 2/255 a level


# --- where weights come from ------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """torch's download folder, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_without_a_network_the_message_says_how_to_get_the_file(tmp_path, hub, monkeypatch):
    def offline(*args: object, **options: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    expected = (
        r"vgg16\.safetensors nor vgg16-397923af\.pth .* download https://\S+/vgg16-397923af\.pth into it .*no route to host"
    )
    for root in (tmp_path / "weights", None):
        with pytest.raises(MissingData, match=expected) as caught:
            imagenet_body("vgg16", root)
        assert caught.value.__suppress_context__
        assert root is None or str(root) in str(caught.value)


@pytest.mark.parametrize("given", [True, False])
def test_a_download_is_checked_and_kept(tmp_path, hub, monkeypatch, given):
    calls = []

    def download(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        calls.append((url, hash_prefix))
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    root = tmp_path / "weights" if given else None
    first, again = weights_path("inception_v3", root), weights_path("inception_v3", root)
    assert first == again == (root or hub) / "inception_v3_google-0cc3c7bd.pth"
    assert calls == [("https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth", "0cc3c7bd")]


def test_files_at_hand_come_before_a_download(tmp_path, hub):
    hub.mkdir(parents=True)
    downloaded, own = hub / "resnet50-0676ba61.pth", tmp_path / "resnet50.safetensors"
    downloaded.write_bytes(b"a")
    assert weights_path("resnet50", tmp_path) == downloaded
    own.write_bytes(b"b")
    assert weights_path("resnet50", tmp_path) == own
    with pytest.raises(BadInput, match="no weights are known for 'alexnet'; known: vgg16"):
        weights_path("alexnet")


def test_published_names_are_torchvisions():
    models = import_torchvision().models
    ours = {name: file.url for name, file in WEIGHTS.items() if file.download}
    enums = {"vgg16": models.VGG16_Weights, "resnet50": models.ResNet50_Weights, "inception_v3": models.Inception_V3_Weights}
    assert ours == {name: enum.IMAGENET1K_V1.url for name, enum in enums.items()}


def test_a_fingerprint_follows_the_bytes(tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    first.write_bytes(b"one")
    second.write_bytes(b"one")
    assert weights_fingerprint(first) == weights_fingerprint(second)
    before = weights_fingerprint(first)
    first.write_bytes(b"other")
    assert weights_fingerprint(first) != before
