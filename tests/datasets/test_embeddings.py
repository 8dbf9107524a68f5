"""A user's own rows: keys, annotations, renumbering, paths, and files that are not right."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subpop.datasets import MissingData, array_files, fetch, load_dataset, source_of, verify
from subpop.datasets.embeddings import class_codes, load, n_clusters, n_components
from subpop.datasets.partitions import cluster_match, feature_match
from subpop.datasets.split import split
from subpop.testing import check_dataset
from subpop.types import BadInput

N = 300


def arrays(**changes: object) -> dict[str, object]:
    rng = np.random.default_rng(0)
    kept = {"x": rng.normal(size=(N, 50)), "y": rng.integers(0, 2, N), "groups": np.arange(N) % 5}
    return {key: value for key, value in {**kept, **changes}.items() if value is not None}


def saved(folder: Path, **changes: object) -> Path:
    np.savez(folder / "mine.npz", **arrays(**changes))
    return folder


def test_rows_labels_and_annotations_come_back(tmp_path):
    given = arrays(x=np.random.default_rng(1).normal(size=(N, 50)).astype(np.float16), flag=np.arange(N) % 2 == 0)
    data = load("mine.npz", saved(tmp_path, **given))
    assert (data.name, data.x.dtype, data.y.dtype, data.n_classes) == ("embeddings:mine.npz", np.float32, np.int64, 2)
    assert np.array_equal(data.x, given["x"].astype(np.float32))
    assert np.array_equal(data.y, given["y"])
    assert {name: values.dtype for name, values in data.annotations.items()} == {"groups": np.int64, "flag": np.int64}
    assert np.array_equal(data.annotations["flag"], given["flag"])
    assert (data.notes, data.hashes, data.names, data.official_test) == ((), None, None, None)
    assert data.words == {"y": ("0", "1")}


def test_it_splits_and_partitions(tmp_path):
    data = load_dataset("embeddings:mine.npz", saved(tmp_path))
    splits = split(data, 0)
    assert (len(splits.train), len(splits.aux), len(splits.test)) == (100, 100, 100)
    assert feature_match(data, splits).names == tuple(f"groups={i}" for i in range(5))
    assert (data.n_clusters, data.n_components) == (3, 40)
    assert len(cluster_match(data, splits).names) == 3


def test_it_keeps_the_contract(tmp_path):
    saved(tmp_path, hashes=np.arange(N) // 2, names=np.array([f"r{i}" for i in range(N)]), official_test=np.arange(N) >= 200)
    assert [each.message for each in check_dataset(lambda: load("mine.npz", tmp_path)) if not each.passed] == []


def test_hashes_names_and_held_out_rows_are_used(tmp_path):
    hashes, test = np.array([f"{i // 2:032x}" for i in range(N)]), np.arange(N) >= 200
    data = load("mine.npz", saved(tmp_path, hashes=hashes, names=np.array([f"r{i}" for i in range(N)]), official_test=test))
    assert np.array_equal(data.hashes, hashes)
    assert np.array_equal(data.official_test, test)
    assert data.names[7] == "r7"
    assert set(data.annotations) == {"groups"}
    splits = split(data, 0)
    assert np.array_equal(splits.test, np.flatnonzero(test))
    assert not set(hashes[splits.train]) & set(hashes[splits.aux])


def test_texts_are_numbered_annotations(tmp_path):
    place, coat = np.array(["Rom", "Oslo", "", "Zürich"])[np.arange(N) % 4], np.array(["weiß".encode(), b"red"])[np.arange(N) % 2]
    data = load("mine.npz", saved(tmp_path, place=place, coat=coat))
    assert [data.words["place"][code] for code in data.annotations["place"]] == place.tolist()
    assert [data.words["coat"][code].encode() for code in data.annotations["coat"]] == coat.tolist()
    assert data.annotations["place"].dtype == np.int64
    assert data.words["place"] == ("", "Oslo", "Rom", "Zürich")
    assert set(data.notes) == {"place is numbered: 0 , 1 Oslo, 2 Rom, 3 Zürich", "coat is numbered: 0 red, 1 weiß"}
    assert "groups=0,place=0,coat=1" in feature_match(data, split(data, 0)).names
    many = load("mine.npz", saved(tmp_path, id=np.array([f"{i:03d}" for i in range(N)])))
    assert many.notes == (f"id is numbered: {', '.join(f'{i} {i:03d}' for i in range(10))}, ...",)


def test_fractions_are_annotations_by_value_or_quartile(tmp_path):
    share, score = (np.arange(N) % 3).astype(np.float32) / 10, np.random.default_rng(0).permutation(N) / 100
    data = load("mine.npz", saved(tmp_path, share=share, score=score, constant=np.ones(N), tied=np.maximum(score, 2.0)))
    assert data.words["share"] == ("0.0", "0.1", "0.2")
    np.testing.assert_array_equal(data.annotations["share"], np.arange(N) % 3)
    assert data.words["score"] == ("below 0.74", "0.74 to 1.49", "1.49 to 2.24", "2.24 and above")
    for code, (low, high) in enumerate(((0, 0.74), (0.74, 1.49), (1.49, 2.24), (2.24, 3))):
        np.testing.assert_array_equal(data.annotations["score"] == code, (score >= low) & (score < high))
    assert data.words["constant"] == ("1.0",)
    assert data.words["tied"] == ("2.0 to 2.24", "2.24 and above")
    assert "score is cut at its quartiles: 0 below 0.74, 1 0.74 to 1.49, 2 1.49 to 2.24, 3 2.24 and above" in data.notes
    assert len(data.notes) == 4


def test_large_whole_numbers_are_not_wrapped(tmp_path):
    values = np.array([0, 2**63, 2**64 - 1], np.uint64)[np.arange(N) % 3]
    data = load("mine.npz", saved(tmp_path, id=values))
    assert [int(data.words["id"][code]) for code in data.annotations["id"]] == values.tolist()


def test_names_may_be_bytes(tmp_path):
    names = np.array([f"bär {i}".encode() for i in range(N)])
    assert load("mine.npz", saved(tmp_path, names=names)).names[7] == "bär 7"
    with pytest.raises(BadInput, match="names contains bytes that are not UTF-8"):
        load("mine.npz", saved(tmp_path, names=np.array([b"b\xe4r"] * N)))


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def zipped(path: Path, *members: tuple[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, content in members:
            file.writestr(name, content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["x.npy", "x"])
def test_an_array_given_twice_is_refused(tmp_path, second):
    given = arrays()
    zipped(tmp_path / "mine.npz", *((f"{key}.npy", npy(value)) for key, value in given.items()), (second, npy(given["x"][::-1])))
    with pytest.raises(BadInput, match="contains x twice"):
        load("mine.npz", tmp_path)


def test_sizes_are_bounded_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "LARGEST_SUM", 150_000)
    saved(tmp_path)
    load("mine.npz", tmp_path)
    monkeypatch.setattr(array_files, "_read", lambda *_: pytest.fail("read"))
    np.savez_compressed(tmp_path / "mine.npz", **arrays(a=np.zeros((N, 20)), b=np.zeros((N, 20))))
    assert (tmp_path / "mine.npz").stat().st_size < 150_000
    with pytest.raises(BadInput, match=r"contains \d+ bytes of arrays, more than the 150000 allowed"):
        load("mine.npz", tmp_path)


@pytest.mark.parametrize("shape", [(10**12, 4), (300, 5), (-300, -4), (299, 4), (10**23,)])
def test_a_header_that_asks_for_more_than_there_is_takes_no_memory(tmp_path, monkeypatch, shape):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f8", "fortran_order": False, "shape": shape})
    zipped(tmp_path / "mine.npz", ("x.npy", stream.getvalue() + bytes(8 * 1200)), ("y.npy", npy(arrays()["y"])))
    monkeypatch.setattr(array_files, "_read", lambda *_: pytest.fail("read"))
    with pytest.raises(BadInput, match="x has a header for"):
        load("mine.npz", tmp_path)


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "mine.npz")
    with pytest.raises(BadInput, match="not a regular file"):
        load("mine.npz", tmp_path)


@given(labels=st.lists(st.sampled_from([-7, -1, 0, 3, 1000]), min_size=2).filter(lambda labels: len(set(labels)) > 1))
@settings(max_examples=50, deadline=None)
def test_classes_are_renumbered_in_order(labels):
    codes, words, notes = class_codes(Path("f"), np.array(labels))
    assert [int(words[code]) for code in codes] == labels
    assert sorted(set(codes.tolist())) == list(range(len(words)))
    assert list(words) == [str(value) for value in sorted(set(labels))]
    assert bool(notes) == (sorted(set(labels)) != list(range(len(set(labels)))))


def test_boolean_labels_are_two_classes(tmp_path):
    data = load("mine.npz", saved(tmp_path, y=np.arange(N) % 2 == 1))
    assert (data.y.dtype, data.n_classes, data.words["y"]) == (np.int64, 2, ("False", "True"))


def test_sizes_of_clusters_come_from_the_number_of_rows():
    assert [n_clusters(n) for n in (2, 179, 270, 1797, 9000, 60_000)] == [2, 2, 3, 19, 100, 100]
    assert [n_components(n, d) for n, d in ((300, 50), (300, 41), (300, 40), (122, 50), (123, 50))] == [40, 40, None, None, 40]


def bad_x(value: float) -> np.ndarray:
    x = np.zeros((N, 4))
    x[[17, 20], 2] = value
    return x


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": bad_x(np.nan)}, "2 of 300 rows .*NaN.* row 17"),
        ({"x": bad_x(-np.inf)}, "row 17"),
        ({"x": bad_x(1e39)}, "too large values for float32, the first is row 17"),
        ({"x": np.zeros(N)}, r"x is float64 of shape \(300,\)"),
        ({"x": np.zeros((N, 0))}, "at least 1"),
        ({"x": np.array([["a"] * 3] * N)}, "must be an array of numbers"),
        ({"y": np.zeros(N - 1, dtype=int)}, r"y has shape \(299,\); 300 rows"),
        ({"y": np.zeros((N, 1), dtype=int)}, r"y has shape \(300, 1\)"),
        ({"y": np.zeros(N)}, "y is float64; give whole numbers"),
        ({"y": np.full(N, 4)}, "all labels are 4"),
        ({"groups": np.arange(N + 1)}, r"groups has shape \(301,\); 300 rows of x"),
        ({"groups": np.int64(3)}, r"groups has shape \(\)"),
        ({"hashes": np.arange(3)}, r"hashes has shape \(3,\)"),
        ({"when": np.full(N, "2026-01-01", "datetime64[D]")}, r"when is datetime64\[D\]; annotations are whole numbers"),
        ({"groups": np.full(N, 1j)}, "groups is complex128; annotations"),
        ({"score": np.where(np.arange(N) == 9, np.nan, 1.5)}, "score is nan in row 9; give that row a value"),
        ({"names": np.array(["a"])}, r"names has shape \(1,\)"),
        ({"official_test": np.zeros(N, dtype=int)}, "official_test is int64; it must be boolean"),
        ({"y": None}, "has keys x, groups and lacks y"),
        ({"x": None, "y": None}, "lacks x, y"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message) as caught:
        load("mine.npz", saved(tmp_path, **changes))
    assert str(tmp_path / "mine.npz") in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.2, 0.7, 0.999])
def test_a_file_cut_short_is_refused(tmp_path, share):
    path = saved(tmp_path) / "mine.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadInput, match="truncated"):
        load("mine.npz", tmp_path)


def test_a_flipped_byte_is_refused(tmp_path):
    path = saved(tmp_path) / "mine.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(BadInput, match="CRC"):
        load("mine.npz", tmp_path)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_pickles_are_never_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "mine.npz", **arrays(groups=np.array([Malicious()] * N, dtype=object)))
    with pytest.raises(BadInput, match="pickle"):
        load("mine.npz", tmp_path)
    (tmp_path / "mine.npz").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(BadInput, match="pickle"):
        load("mine.npz", tmp_path)
    assert not (tmp_path / "owned").exists()


def test_a_plain_array_and_a_folder_are_refused(tmp_path):
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    (tmp_path / "mine.npz").write_bytes(stream.getvalue())
    with pytest.raises(BadInput, match="another kind of file"):
        load("mine.npz", tmp_path)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(BadInput, match="another kind of file"):
        load("folder.npz", tmp_path)


def test_paths_are_looked_for_below_the_root_then_here(tmp_path, monkeypatch):
    root, here = tmp_path / "root", tmp_path / "here"
    for folder, flag in ((root, 0), (here, 1)):
        (folder / "sub").mkdir(parents=True)
        np.savez(folder / "sub" / "mine.npz", **arrays(groups=np.full(N, flag)))
    monkeypatch.chdir(here)
    flag = lambda name, root: int(load_dataset(name, root).annotations["groups"][0])  # noqa: E731
    assert flag("embeddings:sub/mine.npz", root) == 0
    assert flag(f"embeddings:{here}/sub/mine.npz", root) == 1
    assert flag("embeddings:sub/mine.npz", tmp_path / "other") == 1
    monkeypatch.setenv("SUBPOP_DATA", str(root))
    assert flag("embeddings:sub/mine.npz", None) == 0
    with pytest.raises(MissingData, match=r"embeddings:no\.npz: .*/root/no\.npz and .*/here/no\.npz not found"):
        load_dataset("embeddings:no.npz", root)


def test_a_users_own_data_needs_no_fetching():
    assert fetch("embeddings:mine.npz") == verify("embeddings:mine.npz") == []
    assert source_of("embeddings:mine.npz").licence == "your own"
    for name in ("embeddings:", "embeddings", "tables:mine.npz"):
        with pytest.raises(BadInput, match=r"unknown data set .*embeddings:PATH"):
            source_of(name)
