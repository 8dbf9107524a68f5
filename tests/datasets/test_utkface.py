"""UTKFace: names to labels, folders and archives, what the notes say, and the published counts."""

import io
import os
import tarfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_data import UTKFACE_FEATURES, needs

from subpop.datasets import MissingData, data_root, describe, fetch, load_dataset, utkface, verify
from subpop.datasets.partitions import feature_match
from subpop.datasets.picture_files import pictures_below
from subpop.datasets.split import split
from subpop.datasets.utkface import CONTENT, GROUP_SIZES, load, load_mobilenet
from subpop.types import BadInput, Dataset

DATA = Path(os.environ.get("SUBPOP_DATA") or "no data")
needs_pictures = needs("utkface")
needs_features = needs(UTKFACE_FEATURES)


def face(seed: int, size: int = 20) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (size, size), (seed, 255 - seed, 100)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


NAMES = (
    "15_0_0_20170112213500903.jpg.chip.jpg",
    "14_0_0_20170112213500904.jpg.chip.jpg",
    "29_1_1_20170112213500905.jpg.chip.jpg",
    "30_0_2_20170112213500906.jpg.chip.jpg",
    "45_1_3_20170112213500907.jpg.chip.jpg",
    "59_0_4_20170112213500908.jpg",
    "60_1_0_20170112213500909.jpg.chip.jpg",
    "116_0_0_20170112213500910.jpg.chip.jpg",
    "61_1_20170109142408075.jpg.chip.jpg",
    "24_0_1_20170116220224657 .jpg.chip.jpg",
    "55_0_0_20170116232725357jpg.chip.jpg",
    "40_2_0_20170112213500911.jpg.chip.jpg",
)
FACES = {name: face(10 * i) for i, name in enumerate(NAMES)}
KEPT = sorted(name for name in NAMES if name[:5] not in ("14_0_", "61_1_", "40_2_"))


def folder(root: Path, inside: str = "UTKFace") -> Path:
    place = root / "utkface" / inside
    place.mkdir(parents=True)
    for name, content in FACES.items():
        (place / name).write_bytes(content)
    return root


def tarred(root: Path, name: str = "UTKFace.tar.gz") -> Path:
    (root / "utkface").mkdir(exist_ok=True)
    with tarfile.open(root / "utkface" / name, "w:gz") as archive:
        for each, content in {**FACES, "._" + NAMES[0]: b"finder"}.items():
            member = tarfile.TarInfo(f"UTKFace/{each}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return root


def zipped(root: Path) -> Path:
    (root / "utkface").mkdir()
    with zipfile.ZipFile(root / "utkface" / "crop_part1.zip", "w") as archive:
        for name, content in FACES.items():
            archive.writestr(f"crop_part1/{name}", content)
    return root


PLACES = {
    "folder": folder,
    "no subfolder": lambda root: folder(root, ""),
    "nested": lambda root: folder(root, "a/b"),
    "tar": tarred,
    "zip": zipped,
}


@pytest.mark.parametrize("place", PLACES)
def test_names_are_labels_wherever_the_pictures_lie(tmp_path, place):
    data = load(PLACES[place](tmp_path), size=20)
    assert data.names.tolist() == KEPT
    expected = {name: tuple(map(int, name.split("_")[:3])) for name in KEPT}
    assert data.y.tolist() == [expected[name][1] for name in KEPT]
    assert data.annotations["race"].tolist() == [expected[name][2] for name in KEPT]
    ages = [expected[name][0] for name in KEPT]
    assert ages == [116, 15, 24, 29, 30, 45, 55, 59, 60]
    assert data.annotations["age_bucket"].tolist() == [3, 0, 0, 0, 1, 2, 2, 2, 3]
    assert data.x.shape == (9, 3, 20, 20)
    assert abs(int(data.x[1, 0, 5, 5]) - 0) <= 3  # the first face of NAMES is (0, 255, 100)
    assert abs(int(data.x[0, 0, 5, 5]) - 70) <= 3
    assert list(tmp_path.rglob("*.jpg")) == [] or "tar" not in place


def test_what_every_variant_shares(tmp_path):
    folder(tmp_path)
    sizes = {}
    for name in ("utkface", "utkface_64", "utkface_32"):
        data = load_dataset(name, tmp_path)
        sizes[name] = data.x.shape[1:]
        assert (data.name, data.sizes, data.n_clusters, data.n_components) == ("utkface", (7000, 7000), 100, 40)
        assert data.words["y"] == ("male", "female")
        assert [len(data.words[key]) for key in ("race", "age_bucket")] == [5, 4]
        assert {values.dtype for values in data.annotations.values()} == {np.dtype(np.int64)}
    assert sizes == {"utkface": (3, 100, 100), "utkface_64": (3, 64, 64), "utkface_32": (3, 32, 32)}


def test_the_notes_name_what_is_odd_about_this_copy(tmp_path):
    notes = "\n".join(load(folder(tmp_path), size=20).notes)
    assert "2 left out, whose names are not [age]_[gender]_[race]_[date].jpg: 40_2_0_20170112213500911" in notes
    assert "61_1_20170109142408075.jpg.chip.jpg" in notes
    assert "2 read in spite of malformed names: 24_0_1_20170116220224657 .jpg.chip.jpg, 55_0_0" in notes
    assert "not the official pixels: they are 20x20, the official ones 200x200" in notes
    assert "9 pictures instead of 20054" in notes
    assert "White 15-29 1 instead of 2539" in notes


def test_the_official_pictures_are_known_by_content(tmp_path, monkeypatch):
    data = load(folder(tmp_path), size=20)
    monkeypatch.setattr(utkface, "CONTENT", utkface._content(data.hashes[::-1]))
    assert "the official pictures" in load(tmp_path, size=20).notes
    (tmp_path / "utkface" / "UTKFace" / NAMES[0]).write_bytes(face(3))
    assert "the official pictures" not in load(tmp_path, size=20).notes


def test_pictures_of_the_official_size_with_other_content_are_another_set(tmp_path):
    place = folder(tmp_path) / "utkface" / "UTKFace"
    for i, name in enumerate(NAMES):
        (place / name).write_bytes(face(i, 200))
    assert "not the official pixels, but another set" in load(tmp_path, size=20).notes


def test_the_folder_with_the_most_pictures_is_used(tmp_path):
    folder(tmp_path)
    (tmp_path / "utkface" / "crop_part1").mkdir()
    (tmp_path / "utkface" / "crop_part1" / NAMES[0]).write_bytes(FACES[NAMES[0]])
    data = load(tmp_path, size=20)
    assert data.names.tolist() == KEPT
    assert data.notes[0] == "1 pictures outside the folder 'UTKFace' are not used"


def test_the_official_archive_is_preferred_and_others_must_be_alone(tmp_path):
    tarred(tmp_path)
    tarred(tmp_path, "crop_part1.tar.gz")
    assert len(load(tmp_path, size=20).x) == 9
    (tmp_path / "utkface" / "UTKFace.tar.gz").rename(tmp_path / "utkface" / "faces.tar.gz")
    with pytest.raises(BadInput, match=r"several archives: crop_part1\.tar\.gz, faces\.tar\.gz; keep UTKFace\.tar\.gz only"):
        load(tmp_path)


def test_an_archive_cut_short_is_refused(tmp_path):
    archive = tarred(tmp_path) / "utkface" / "UTKFace.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(BadInput, match=r"UTKFace\.tar\.gz cannot be read to its end.*cut short"):
        load(tmp_path)


def test_foreign_pictures_are_refused(tmp_path):
    (tmp_path / "utkface").mkdir()
    (tmp_path / "utkface" / "holiday.jpg").write_bytes(face(1))
    with pytest.raises(BadInput, match="1 pictures, none named"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["utkface", "utkface_64", "utkface_32", "utkface_mobilenet"])
def test_missing_data_tells_how_to_get_it_by_hand(tmp_path, name):
    place = tmp_path / ("embeddings" if name == "utkface_mobilenet" else "utkface")
    told = "put utkface_mobilenet_v1.npz" if name == "utkface_mobilenet" else r"UTKFace\.tar\.gz.*https://susanqq"
    for ask in (load_dataset, fetch):
        with pytest.raises(MissingData, match=f"{told}.*into {place}$"):
            ask(name, tmp_path)
    assert [(state.state, state.path) for state in verify(name, tmp_path)] == [("missing", place)]
    record = {record.name: record for record in describe(tmp_path)}[name]
    assert (record.ready, record.needs_files, record.folder) == (False, False, str(place))
    assert record.command.startswith(f"subpop data fetch {name}")


@pytest.mark.parametrize("place", PLACES)
def test_data_that_is_there_is_ready(tmp_path, place):
    PLACES[place](tmp_path)
    assert {record.name: record for record in describe(tmp_path)}["utkface_32"].ready
    (state,) = fetch("utkface_32", tmp_path)
    assert (state.state, state.path) == ("ok", tmp_path / "utkface")


def test_an_empty_folder_is_not_ready(tmp_path):
    (tmp_path / "utkface" / "UTKFace").mkdir(parents=True)
    assert not {record.name: record for record in describe(tmp_path)}["utkface"].ready
    with pytest.raises(MissingData):
        load(tmp_path)


# --- features ---------------------------------------------------------------------------------------------------------


def features(**changes: object) -> dict[str, np.ndarray]:
    kept = {
        "x": np.arange(12, dtype=np.float16).reshape(4, 3),
        "y": np.array([0, 1, 1, 0]),
        "age": np.array([15, 30, 59, 60], np.int16),
        "race": np.array([0, 4, 1, 2], np.int16),
        "md5": np.array(["a", "b", "b", "c"]),
        "name": np.array([f"{i}.jpg" for i in range(4)]),
    }
    return {key: np.asarray(value) for key, value in {**kept, **changes}.items() if value is not None}


def saved(root: Path, **changes: object) -> Path:
    (root / "embeddings").mkdir(exist_ok=True)
    np.savez(root / "embeddings" / "utkface_mobilenet_v1.npz", **features(**changes))
    return root


def test_features_carry_the_same_task(tmp_path):
    data = load_mobilenet(saved(tmp_path))
    assert (data.name, data.x.dtype, data.x.shape) == ("utkface", np.float32, (4, 3))
    assert data.y.tolist() == [0, 1, 1, 0]
    assert {name: values.tolist() for name, values in data.annotations.items()} == {
        "race": [0, 4, 1, 2],
        "age_bucket": [0, 1, 2, 3],
    }
    assert data.hashes.tolist() == ["a", "b", "b", "c"]
    assert data.names.tolist() == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert (data.sizes, data.n_clusters, data.n_components) == ((7000, 7000), 100, 40)
    assert "another choice of pictures" in data.notes[0]
    assert fetch("utkface_mobilenet", tmp_path)[0].state == "ok"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"race": None}, "lacks the key race"),
        ({"md5": None}, "lacks the key md5"),
        ({"y": [0, 1, 2, 0]}, r"y is int64 of shape \(4,\); 4 whole numbers in 0\.\.1"),
        ({"race": [0, 5, 1, 2]}, "race is"),
        ({"age": [20, 30, 40]}, r"age is int64 of shape \(3,\)"),
        ({"age": [14, 30, 59, 60]}, "of age 15 or more"),
        ({"name": ["a"]}, "as many md5s and names"),
        ({"x": np.full((4, 3), np.nan)}, "row 0"),
    ],
)
def test_features_that_do_not_fit_are_refused(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        load_mobilenet(saved(tmp_path, **changes))


# --- the published set ------------------------------------------------------------------------------------------------


@cache
def published() -> Dataset:
    return load_mobilenet()


def check_published(data: Dataset) -> None:
    assert len(data.x) == sum(GROUP_SIZES) == 20_054
    groups = 4 * data.annotations["race"] + data.annotations["age_bucket"]
    assert tuple(np.bincount(groups).tolist()) == GROUP_SIZES
    assert not any("instead of" in note for note in data.notes)
    assert len(np.unique(data.hashes)) == 20_054 - 350
    assert data.names.tolist() == sorted(data.names.tolist())


@needs_features
def test_groups_of_the_features_are_the_published_ones():
    data = published()
    check_published(data)
    assert data.x.shape == (20_054, 1024)
    assert utkface._content(data.hashes) == CONTENT
    assert "the official pictures" in data.notes[0]


@needs_features
def test_the_split_keeps_equal_content_on_one_side():
    data = published()
    splits = split(data, 0)
    sides = [set(data.hashes[rows].tolist()) for rows in (splits.train, splits.aux, splits.test)]
    assert len(set.union(*sides)) == sum(map(len, sides)) == 20_054 - 350
    assert [len(rows) for rows in (splits.train, splits.aux, splits.test)] == [7000, 7000, 6054]
    assert len(feature_match(data, splits).attacked) == 20


@needs_features
def test_as_released_overlaps():
    data = published()
    splits = split(data, 0, "as_released")
    assert [len(rows) for rows in (splits.train, splits.aux, splits.test)] == [7000, 7000, 6054]
    assert np.isin(splits.test, splits.train).mean() == pytest.approx(0.295, abs=0.01)


@needs_pictures
@needs_features
def test_names_of_the_pictures_are_those_of_the_features():
    names = {picture.file_name for picture in pictures_below(data_root() / "utkface")}
    assert len(names) == 23_708
    readable = [name for name in names if utkface._READABLE.match(name)]
    assert len(readable) == 23_705
    assert sorted(name for name in readable if int(name.split("_")[0]) >= 15) == published().names.tolist()


@needs_pictures
@needs_features
@pytest.mark.slow
def test_the_pictures_are_the_published_ones_row_by_row():
    data = load_dataset("utkface_32")
    check_published(data)
    features = published()
    assert np.array_equal(data.names, features.names)
    assert np.array_equal(data.y, features.y)
    assert all(np.array_equal(data.annotations[name], features.annotations[name]) for name in ("race", "age_bucket"))
    pair = lambda hashes: np.unique(hashes, return_inverse=True)[1]  # noqa: E731
    groups = {tuple(each) for each in np.column_stack([pair(data.hashes), pair(features.hashes)]).tolist()}
    assert len(groups) == len(np.unique(data.hashes))  # the same pictures repeat each other in both
    left_out = next(note for note in data.notes if "left out" in note)
    assert left_out.startswith("3 left out")
    assert next(note for note in data.notes if "malformed" in note).startswith("2 read")
