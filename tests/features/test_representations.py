"""Frozen features: what they are, when they are computed again, and a cache that survives kills, damage and company."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from real_data import UTKFACE_FEATURES, needs
from safetensors.torch import save_file
from small_networks import lively, one_thread  # noqa: F401

import subpop.features.networks
from subpop.datasets.download import MissingData, data_root
from subpop.features.networks import IMAGENET_32, NETWORKS, UNIT, InputTransform
from subpop.features.networks.frozen import REPRESENTATIONS, is_frozen
from subpop.features.networks.resnet_cifar import resnet_cifar
from subpop.features.representations import frozen_features
from subpop.runtime.feature_cache import cached
from subpop.types import BadInput, Dataset, Floats

NAME = "resnet20_cifar10"


def pictures(n: int = 7, side: int = 32, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, 3, side, side), dtype=np.uint8)
    x.setflags(write=False)  # as the pool of a run is
    return Dataset("noise", x, np.zeros(n, np.int64), 2, names=np.array([f"{i}.jpg" for i in range(n)]))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A data root with random weights of ResNet-20."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "weights").mkdir()
    save_file(lively(resnet_cifar(NAME, pretrained=False)).state_dict(), folder / "weights" / f"{NAME}.safetensors")
    return folder


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """Names of the networks that were loaded, one for each time that features were computed."""
    names, load = [], subpop.features.networks.load_network

    def counted(name: str, weights_root: Path | None = None):
        names.append(name)
        return load(name, weights_root)

    monkeypatch.setattr(subpop.features.networks, "load_network", counted)
    return names


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npy"))


# --- what they are ----------------------------------------------------------------------------------------------------


def test_features_are_the_networks_pooled_map(root):
    data = pictures()
    found = frozen_features(NAME, data, data_root=root)
    with torch.inference_mode():
        expected = resnet_cifar(NAME, root / "weights").pooled(IMAGENET_32(data.x)).numpy()
    assert (found.shape, found.dtype) == ((7, 64), np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not found.flags.writeable


def test_features_do_not_depend_on_the_batch_size(root):
    data = pictures(n=11)
    one, four, all_rows = (frozen_features(NAME, data, data_root=root, batch_size=rows) for rows in (1, 4, 11))
    np.testing.assert_allclose(one, all_rows, atol=1e-5)
    np.testing.assert_allclose(four, all_rows, atol=1e-5)
    assert np.array_equal(four, frozen_features(NAME, data, data_root=root, batch_size=4))


def test_pictures_of_another_size_are_resized(root):
    data = pictures(n=2, side=32)
    doubled = replace(data, x=data.x.repeat(2, axis=2).repeat(2, axis=3))
    found = frozen_features(NAME, doubled, data_root=root)
    with torch.inference_mode():
        expected = resnet_cifar(NAME, root / "weights").pooled(InputTransform(*_imagenet(), size=32)(doubled.x)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    own = frozen_features(NAME, doubled, data_root=root, transform=InputTransform(*_imagenet()))
    assert np.abs(own - found).max() > 1e-3  # at 64x64 the network sees something else


def _imagenet() -> tuple[tuple[float, ...], tuple[float, ...]]:
    return IMAGENET_32.mean, IMAGENET_32.deviation


def test_rows_done_are_reported(root, reported):
    frozen_features(NAME, pictures(), data_root=root, batch_size=3)
    assert reported == [(3, 7), (6, 7), (7, 7)]


def test_every_network_is_a_representation():
    assert set(NETWORKS) < set(REPRESENTATIONS)
    assert {name: each.n_features for name, each in REPRESENTATIONS.items()} == {
        "vgg16": 512,
        "resnet50": 2048,
        "inception_v3": 2048,
        "resnet20_cifar10": 64,
        "resnet56_cifar10": 64,
        "utkface_mobilenet_v1": 1024,
    }


def test_last_layer_victims_name_their_representation():
    assert is_frozen("resnet56_cifar10_last_layer") == "resnet56_cifar10"
    assert is_frozen("utkface_mobilenet_v1_last_layer") == "utkface_mobilenet_v1"
    assert [is_frozen(name) for name in ("resnet56_cifar10", "bert_last_layer", "last_layer", "_last_layer", "mlp")] == [None] * 5


REFUSED = {
    "name": ("resnet18", {}, "unknown representation 'resnet18'; known: vgg16, "),
    "float pixels": (NAME, {"x": np.zeros((2, 3, 32, 32), np.float32)}, "needs pictures.* noise has float32 rows"),
    "channels last": (NAME, {"x": np.zeros((2, 32, 32, 3), np.uint8)}, r"noise has uint8 rows of shape \(2, 32, 32, 3\)"),
    "table": (NAME, {"x": np.zeros((2, 57), np.uint8)}, r"of shape \(2, 57\)"),
    "no rows": (NAME, {"x": np.zeros((0, 3, 32, 32), np.uint8)}, r"of shape \(0, 3, 32, 32\)"),
    "too small": ("vgg16", {"x": np.zeros((2, 3, 16, 20), np.uint8)}, "32 pixels a side, not 16; give a transform with size=32"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_data_that_does_not_fit_is_refused(root, case):
    name, change, message = REFUSED[case]
    with pytest.raises(BadInput, match=message):
        frozen_features(name, replace(pictures(2), **change), data_root=root)


def test_missing_weights_name_their_file(tmp_path):
    with pytest.raises(MissingData, match=rf"neither resnet56_cifar10\.safetensors nor .* is in {tmp_path}/weights"):
        frozen_features("resnet56_cifar10", pictures(), data_root=tmp_path)


def test_weights_that_give_no_numbers_are_refused(tmp_path):
    network = resnet_cifar(NAME, pretrained=False)
    network.conv1.weight.data[0] = torch.nan
    save_file(network.state_dict(), tmp_path / f"{NAME}.safetensors")
    with pytest.raises(BadInput, match="NaN or infinite features for 7 rows, first 0"):
        frozen_features(NAME, pictures(), weights_root=tmp_path, cache=tmp_path / "cache")
    assert not files(tmp_path / "cache")


# --- when they are computed -------------------------------------------------------------------------------------------


def test_a_second_run_does_not_compute(root, tmp_path, loads):
    first = frozen_features(NAME, pictures(), data_root=root, cache=tmp_path)
    again = frozen_features(NAME, replace(pictures(), name="renamed"), data_root=root, cache=tmp_path)
    assert loads == [NAME]
    for features in (first, again):
        assert isinstance(features, np.memmap)
        assert not features.flags.writeable
    assert np.array_equal(first, again)
    assert np.array_equal(first, frozen_features(NAME, pictures(), data_root=root))
    assert len(files(tmp_path)) == 1


def test_whatever_features_depend_on_has_a_file_of_its_own(root, tmp_path, loads, monkeypatch):
    data = pictures()
    changed = data.x.copy()
    changed[3, 1, 5, 5] ^= 1
    weights = tmp_path / "weights"
    weights.mkdir()
    save_file(resnet_cifar(NAME, pretrained=False, seed=1).state_dict(), weights / f"{NAME}.safetensors")
    cache = tmp_path / "cache"
    frozen_features(NAME, data, data_root=root, cache=cache)
    frozen_features(NAME, replace(data, x=changed), data_root=root, cache=cache)
    frozen_features(NAME, replace(data, x=data.x[::-1]), data_root=root, cache=cache)
    frozen_features(NAME, data, data_root=root, weights_root=weights, cache=cache)
    frozen_features(NAME, data, data_root=root, transform=UNIT, cache=cache)
    monkeypatch.setattr("subpop.features.representations.versions", lambda: {"torch": "0.0"})
    frozen_features(NAME, data, data_root=root, cache=cache)
    assert len(files(cache)) == len(loads) == 6


# --- the cache --------------------------------------------------------------------------------------------------------


def three_rows() -> Floats:
    return np.arange(6, dtype=np.float32).reshape(3, 2)


def never() -> Floats:
    raise AssertionError("computed although it is cached")


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "header only": lambda content: content[:40],
    "without its checksum": lambda content: content[:-20],
    "one bit of a feature": lambda content: content[:130] + bytes([content[130] ^ 1]) + content[131:],
    "zeros": lambda content: bytes(len(content)),
    "longer": lambda content: content + b"\0",
    "another format": lambda content: b"PK\x03\x04" + content,
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_file_is_computed_again(tmp_path, case):
    cached(tmp_path, "key", (3, 2), three_rows)
    path = tmp_path / "key.npy"
    path.write_bytes(DAMAGES[case](path.read_bytes()))
    with pytest.warns(UserWarning, match=r"key\.npy are damaged \(.*computed again"):
        found = cached(tmp_path, "key", (3, 2), three_rows)
    assert np.array_equal(found, three_rows())
    assert np.array_equal(cached(tmp_path, "key", (3, 2), never), three_rows())


def test_a_file_of_another_shape_or_with_a_pickle_is_not_used(tmp_path):
    cached(tmp_path, "key", (3, 2), three_rows)
    with pytest.warns(UserWarning, match="not what was written"):
        cached(tmp_path, "key", (2, 3), lambda: three_rows().reshape(2, 3))
    np.save(tmp_path / "key.npy", np.array([[{}, 1]], dtype=object), allow_pickle=True)
    with pytest.warns(UserWarning, match="damaged"):
        assert np.array_equal(cached(tmp_path, "key", (3, 2), three_rows), three_rows())


def test_the_file_is_plain_npy(tmp_path):
    cached(tmp_path, "key", (3, 2), three_rows)
    assert np.array_equal(np.load(tmp_path / "key.npy"), three_rows())


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path, "key", (3, 2), three_rows)
    assert [path.name for path in tmp_path.iterdir()] == ["key.lock"]


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from subpop.runtime.feature_cache import cached
def half(file, features, **options):
    file.write(features.tobytes()[:10]); file.flush(); os.kill(os.getpid(), signal.SIGKILL)
np.save = half
cached(Path(sys.argv[1]), "key", (3, 2), lambda: np.arange(6, dtype=np.float32).reshape(3, 2))
"""


def test_a_killed_write_leaves_no_file_that_is_read(tmp_path, recwarn):
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False).returncode == -signal.SIGKILL
    assert {path.suffix for path in tmp_path.iterdir()} == {".tmp", ".lock"}
    assert np.array_equal(cached(tmp_path, "key", (3, 2), three_rows), three_rows())
    assert not recwarn.list


COMPANY = """
import sys, time
from pathlib import Path
import numpy as np
from subpop.runtime.feature_cache import cached
folder = Path(sys.argv[1])
def compute():
    with open(folder / "log", "a") as file: file.write("computed\\n")
    time.sleep(.3)
    return np.arange(6, dtype=np.float32).reshape(3, 2)
assert cached(folder, "key", (3, 2), compute).sum() == 15
"""


def test_two_processes_compute_once(tmp_path):
    both = [subprocess.Popen([sys.executable, "-c", COMPANY, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert (tmp_path / "log").read_text() == "computed\n"


# --- published features -----------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path) -> Path:
    """A data root whose file holds row i filled with i, for 4.jpg, 3.jpg, ..., 0.jpg."""
    (tmp_path / "embeddings").mkdir()
    x = np.repeat(np.arange(5, dtype=np.float16)[:, None], 1024, axis=1)
    names = np.array([f"{4 - i}.jpg" for i in range(5)])
    np.savez(tmp_path / "embeddings" / "utkface_mobilenet_v1.npz", x=x, name=names)
    return tmp_path


def test_published_features_are_matched_by_file_name(published, tmp_path):
    data = replace(pictures(3), names=np.array(["2.jpg", "0.jpg", "4.jpg"]))
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        found = frozen_features("utkface_mobilenet_v1", data, data_root=published, cache=cache)
        assert (found.shape, found.dtype) == ((3, 1024), np.float32)
        assert found[:, 0].tolist() == found[:, -1].tolist() == [2, 4, 0]
    other = replace(data, names=data.names[::-1])
    assert frozen_features("utkface_mobilenet_v1", other, data_root=published, cache=tmp_path / "cache")[:, 0].tolist() == [
        0,
        4,
        2,
    ]


def test_a_row_without_published_features_is_refused(published):
    with pytest.raises(BadInput, match=r"lacks features of 2 of 7 rows, first '5\.jpg'"):
        frozen_features("utkface_mobilenet_v1", pictures(7), data_root=published)
    with pytest.raises(BadInput, match="noise has none"):
        frozen_features("utkface_mobilenet_v1", replace(pictures(7), names=None), data_root=published)


def test_a_foreign_file_of_features_is_refused(published):
    path = published / "embeddings" / "utkface_mobilenet_v1.npz"
    whole = path.read_bytes()
    np.savez(path, x=np.zeros((2, 1024)), name=np.array(["0.jpg", "0.jpg"]))
    with pytest.raises(BadInput, match="1 different names"):
        frozen_features("utkface_mobilenet_v1", pictures(1), data_root=published)
    np.savez(path, x=np.zeros((2, 512)), name=np.array(["0.jpg", "1.jpg"]))
    with pytest.raises(BadInput, match=r"\(2, 512\) features"):
        frozen_features("utkface_mobilenet_v1", pictures(1), data_root=published)
    for content in (whole[:100], b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="not a file of features with keys x and name"):
            frozen_features("utkface_mobilenet_v1", pictures(1), data_root=published)
    path.unlink()
    with pytest.raises(MissingData, match=r"embeddings/utkface_mobilenet_v1\.npz not found"):
        frozen_features("utkface_mobilenet_v1", pictures(1), data_root=published)


@needs(UTKFACE_FEATURES)
def test_published_faces_are_found():
    with np.load(data_root() / "embeddings" / "utkface_mobilenet_v1.npz", allow_pickle=False) as file:
        x, names = file["x"], file["name"]
    rows = np.random.default_rng(0).permutation(len(names))[:500]
    data = Dataset("faces", np.zeros((500, 3, 2, 2), np.uint8), np.zeros(500, np.int64), 2, names=names[rows])
    assert np.array_equal(frozen_features("utkface_mobilenet_v1", data), x[rows].astype(np.float32))
