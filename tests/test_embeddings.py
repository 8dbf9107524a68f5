"""A user's own rows: keys, annotations, renumbering, paths, and files that are not right."""

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subpop.contracts.datasets import DATASET_CHECKS
from subpop.datasets import MissingData, fetch, load_dataset, source_of, verify
from subpop.datasets.embeddings import class_codes, load, n_clusters, n_components
from subpop.partitions import cluster_match, feature_match
from subpop.split import split
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
    for _, check in DATASET_CHECKS:
        check(lambda: load("mine.npz", tmp_path))


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


def test_texts_and_fractions_are_no_annotations_and_the_notes_say_so(tmp_path):
    data = load("mine.npz", saved(tmp_path, weight=np.ones(N), place=np.array(["a"] * N)))
    assert set(data.annotations) == {"groups"}
    assert data.notes == ("weight, place not used: only arrays of whole numbers are annotations",)


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
        ({"x": np.array([["a"] * 3] * N)}, "must hold numbers"),
        ({"y": np.zeros(N - 1, dtype=int)}, r"y has shape \(299,\); 300 rows"),
        ({"y": np.zeros((N, 1), dtype=int)}, r"y has shape \(300, 1\)"),
        ({"y": np.zeros(N)}, "y is float64; give whole numbers"),
        ({"y": np.full(N, 4)}, "all labels are 4"),
        ({"groups": np.arange(N + 1)}, r"groups has shape \(301,\); 300 rows of x"),
        ({"groups": np.int64(3)}, r"groups has shape \(\)"),
        ({"hashes": np.arange(3)}, r"hashes has shape \(3,\)"),
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
    with pytest.raises(BadInput, match="cut short"):
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
