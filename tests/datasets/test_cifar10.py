"""CIFAR-10: batches packed and unpacked, pickles that are no batches, and the lossy copy."""

import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_data import needs

from subpop.datasets import MissingData, cifar10, data_root, describe, fetch, load_dataset, verify
from subpop.datasets.cifar10 import BATCHES, CLASSES, FILES, load, load_jpeg, read_batch
from subpop.datasets.images import decode
from subpop.datasets.picture_files import pictures_below
from subpop.datasets.split import split
from subpop.types import BadInput

needs_jpeg = needs("cifar10_jpeg")
N = 20
"""Pictures a batch of the small set that tests write: two of each class."""


@pytest.fixture(autouse=True)
def small(request, monkeypatch):
    if "slow" not in request.keywords:  # the slow test reads the real set
        monkeypatch.setattr(cifar10, "N_BATCH", N)
        monkeypatch.setattr(cifar10, "PER_CLASS", (10, 2))


def batch(seed: int, **changes: object) -> dict[bytes, object]:
    pixels = np.random.default_rng(seed).integers(0, 256, (N, 3072), dtype=np.uint8)
    names = [f"picture_{i}.png".encode() for i in range(N)]
    content = {b"batch_label": b"a batch", b"labels": [i % 10 for i in range(N)], b"data": pixels, b"filenames": names}
    return {**content, **{key.encode(): value for key, value in changes.items()}}


def contents(protocol: int = 2) -> dict[str, bytes]:
    return {name: pickle.dumps(batch(i), protocol) for i, name in enumerate(BATCHES)}


def unpacked(root: Path, files: dict[str, bytes]) -> Path:
    folder = root / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return root


def packed(root: Path, files: dict[str, bytes]) -> Path:
    (root / "cifar10").mkdir()
    with tarfile.open(root / "cifar10" / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, content in {**files, "readme.html": b"<p>", "batches.meta": b"not read"}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return root


def python_2(content: dict[bytes, object]) -> bytes:
    """A batch as Python 2 and its numpy wrote it, which the published files are: texts are bytes without an encoding."""
    text = lambda value: b"T" + struct.pack("<I", len(value)) + value  # noqa: E731
    number = lambda value: b"J" + struct.pack("<i", value)  # noqa: E731
    items = lambda values, one: b"](" + b"".join(map(one, values)) + b"e"  # noqa: E731
    pixels = content[b"data"]
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
        b"(K\x01(" + b"".join(map(number, pixels.shape)) + b"t"
        b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNN" + number(-1) * 2 + b"K\x00tb"
        b"I00\n" + text(pixels.tobytes()) + b"tb"
    )  # fmt: skip
    labels, names = items(content[b"labels"], number), items(content[b"filenames"], text)
    parts = {b"batch_label": text(content[b"batch_label"]), b"labels": labels, b"data": array, b"filenames": names}
    return b"\x80\x02}(" + b"".join(text(key) + value for key, value in parts.items()) + b"u."


def written(how: str) -> dict[str, bytes]:
    return {name: python_2(batch(i)) for i, name in enumerate(BATCHES)} if how == "python 2" else contents(int(how))


@pytest.mark.parametrize("put", [packed, unpacked])
@pytest.mark.parametrize("how", ["python 2", "1", "2", "3", "4"])
def test_batches_are_read_in_their_order(tmp_path, put, how):
    data = load(put(tmp_path, written(how)))
    assert (data.name, data.x.shape, data.x.dtype, data.y.dtype) == ("cifar10", (6 * N, 3, 32, 32), np.uint8, np.int64)
    # A row of the file is 1,024 red values, then green, then blue; each row after row.
    rows = np.concatenate([batch(i)[b"data"] for i in range(6)])
    assert np.array_equal(data.x[:, 1, 2, 3], rows[:, 1024 + 2 * 32 + 3])
    assert np.array_equal(data.x.reshape(6 * N, -1), rows)
    assert data.y.tolist() == [i % 10 for i in range(6 * N)]
    assert data.official_test.tolist() == [False] * 5 * N + [True] * N
    assert (data.names[0], data.names[-1]) == ("data_batch_1/picture_0.png", "test_batch/picture_19.png")
    assert (data.sizes, data.n_clusters, data.n_components, data.hashes) == ((25_000, 25_000), 100, 40, None)
    assert data.words == {"y": CLASSES}
    assert data.notes == (f"{', '.join(BATCHES)} not byte for byte the published files",)


def test_checksums_of_all_batches_are_known():
    assert list(BATCHES) == [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    assert all(len(md5) == 32 for md5 in (*BATCHES.values(), FILES[0].md5))
    assert FILES[0].n_bytes == 170_498_071


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def opcodes(*lines: bytes) -> bytes:
    """A pickle by hand: a global, called with a text."""
    return b"\n".join(lines)


ATTACKS = {
    "mkdir": (pickle.dumps(Malicious()), "posix.mkdir"),
    "in a batch": (pickle.dumps(batch(0, filenames=Malicious()), 2), "posix.mkdir"),
    "builtin eval": (opcodes(b"cbuiltins", b"eval", b"(S'1+1'", b"tR."), "builtins.eval"),
    "python 2 eval": (opcodes(b"c__builtin__", b"eval", b"(S'1+1'", b"tR."), r"(builtins|__builtin__)\.eval"),
    "numpy loader": (opcodes(b"cnumpy", b"load", b"(S'x.npy'", b"tR."), "numpy.load"),
    "nested attribute": (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", r"numpy\.ndarray\.__init__"),
    "codec": (opcodes(b"c_codecs", b"encode", b"(S'x'", b"S'zlib_codec'", b"tR."), "_codecs.encode to b?'zlib_codec'"),
    "object by id": (opcodes(b"Pevil", b"."), "persistent"),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("put", [packed, unpacked])
def test_a_pickle_that_asks_for_anything_else_is_refused_by_name(tmp_path, monkeypatch, attack, put):
    monkeypatch.chdir(tmp_path)
    content, asked = ATTACKS[attack]
    with pytest.raises(BadInput, match=rf"data_batch_3: the pickle asks for {asked}"):
        load(put(tmp_path, {**contents(), "data_batch_3": content}))
    assert not (tmp_path / "owned").exists()


DAMAGE = {
    "empty": b"",
    "text": b"<html>moved</html>",
    "half": pickle.dumps(batch(0), 2)[:30_000],
    "start": pickle.dumps(batch(0), 2)[:40],
    "end": pickle.dumps(batch(0), 2)[:-1],
    "too large": opcodes(b"cnumpy", b"ndarray", b"((I1000000000000", b"I1000", b"ttR."),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_batch_is_refused(tmp_path, kind):
    with pytest.raises(BadInput, match="test_batch is not a complete pickle"):
        load(unpacked(tmp_path, {**contents(), "test_batch": DAMAGE[kind]}))


@pytest.mark.parametrize(
    "changes",
    [
        {"data": np.zeros((N, 3071), np.uint8)},
        {"data": np.zeros((N - 1, 3072), np.uint8)},
        {"data": np.zeros((N, 3072), np.float32)},
        {"data": [[0] * 3072] * N},
        {"labels": [0] * (N - 1)},
        {"labels": [10] * N},
        {"labels": [-1] * N},
        {"labels": ["0"] * N},
        {"labels": None},
        {"filenames": [b"a"]},
    ],
)
def test_what_is_no_batch_is_refused(changes):
    with pytest.raises(BadInput, match="b is not a batch of 20 pictures"):
        read_batch(pickle.dumps(batch(0, **changes), 2), "b")


def test_a_list_is_no_batch():
    with pytest.raises(BadInput, match="is not a batch"):
        read_batch(pickle.dumps([1, 2], 2), "b")


def test_another_number_of_pictures_a_class_is_refused(tmp_path):
    files = {**contents(), "data_batch_2": pickle.dumps(batch(0, labels=[0] * N), 2)}
    with pytest.raises(BadInput, match=r"\[28, 8, 8, .* training pictures a class, expected 10"):
        load(unpacked(tmp_path, files))


def test_an_archive_without_a_batch_or_cut_short_is_refused(tmp_path):
    files = contents()
    del files["data_batch_4"]
    with pytest.raises(BadInput, match=r"lacks data_batch_4; move it away and run: subpop data fetch cifar10"):
        load(packed(tmp_path, files))
    archive = tmp_path / "cifar10" / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:50_000])
    with pytest.raises(BadInput, match="cut short"):
        load(tmp_path)


def test_an_archive_with_two_folders_of_batches_is_refused(tmp_path):
    packed(tmp_path, contents() | {f"copy/{name}": content for name, content in contents().items()})
    with pytest.raises(BadInput, match="contains 12 batches under 6 names; keep one folder of batches"):
        load(tmp_path)


def test_missing_files_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBPOP_DATA", str(tmp_path))
    with pytest.raises(MissingData, match=r"neither cifar-10-python.tar.gz nor .* found in .*: subpop data fetch cifar10$"):
        load_dataset("cifar10")
    with pytest.raises(MissingData, match=r"manual download: .*train/CLASS"):
        load_dataset("cifar10_jpeg", tmp_path)
    with pytest.raises(MissingData, match="no public address"):
        fetch("cifar10_jpeg", tmp_path)
    assert [state.state for state in verify("cifar10_jpeg", tmp_path)] == ["missing"]


def test_an_unpacked_copy_is_ready_and_not_fetched_again(tmp_path):
    records = {record.name: record for record in describe(tmp_path)}
    assert not records["cifar10"].ready
    assert records["cifar10"].megabytes == 170.5
    unpacked(tmp_path, contents())
    assert {record.name: record for record in describe(tmp_path)}["cifar10"].ready
    (state,) = fetch("cifar10", tmp_path)
    assert (state.state, state.path) == ("ok", tmp_path / "cifar10" / "cifar-10-batches-py")
    assert "no published checksum" in str(state)
    (tmp_path / "cifar10" / "cifar-10-python.tar.gz").write_bytes(b"half")
    assert [state.state for state in verify("cifar10", tmp_path)] == ["different"]


# --- the lossy copy ---------------------------------------------------------------------------------------------------


def jpegs(root: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    for half, count in (("train", 10), ("test", 2)):
        for code, name in enumerate(classes):
            folder = root / "cifar10_jpeg" / half / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (20 * code, 10 * i, 0)).save(folder / f"{i}.jpg", quality=75)
    return root


def test_the_lossy_copy_says_what_it_is(tmp_path):
    data = load_jpeg(jpegs(tmp_path))
    assert data.x.shape == (120, 3, 32, 32)
    assert np.bincount(data.y[data.official_test]).tolist() == [2] * 10
    assert [CLASSES[code] for code in data.y] == [name.split("/")[1] for name in data.names]
    assert (data.words, data.sizes, data.n_components) == ({"y": CLASSES}, (25_000, 25_000), 40)
    assert data.notes == ("CIFAR-10 (JPEG q75), not the original pixels: accuracies do not compare with published ones",)
    (state,) = fetch("cifar10_jpeg", tmp_path)
    assert state.state == "ok"


def test_other_classes_are_refused(tmp_path):
    with pytest.raises(BadInput, match="expected train/ and test/ of airplane"):
        load_jpeg(jpegs(tmp_path, (*CLASSES[:9], "zebra")))


def test_a_copy_that_lacks_pictures_is_refused(tmp_path):
    (jpegs(tmp_path) / "cifar10_jpeg" / "train" / "frog" / "3.jpg").unlink()
    with pytest.raises(BadInput, match=r"10, 9, 10, 10, 10\] training pictures a class, expected 10"):
        load_jpeg(tmp_path)


@needs_jpeg
def test_no_content_of_the_lossy_copy_stands_twice():
    import hashlib

    pictures = pictures_below(data_root() / "cifar10_jpeg")[::50]
    assert len(pictures) == 1200
    assert len({hashlib.md5(picture.read()).digest() for picture in pictures}) == 1200
    assert (decode(pictures, 32, "CIFAR-10 (JPEG q75)").original_sizes == 32).all()


@needs_jpeg
@pytest.mark.slow
def test_the_lossy_copy_has_the_official_counts():
    data = load_dataset("cifar10_jpeg")
    assert data.x.shape == (60_000, 3, 32, 32)
    assert len({row.tobytes() for row in data.x}) == 60_000  # so that the originals differ as well
    splits = split(data, 0)
    assert [len(rows) for rows in (splits.train, splits.aux, splits.test)] == [25_000, 25_000, 10_000]
    assert data.official_test[splits.test].all()
