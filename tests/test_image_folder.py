"""A user's own folder of pictures: classes, halves, sizes, names, and folders that are not right."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_data import needs

from subpop.contracts.datasets import DATASET_CHECKS
from subpop.datasets import MissingData, data_root, load_dataset
from subpop.datasets.image_folder import load
from subpop.split import split
from subpop.types import BadInput

needs_data = needs("tiny_dogfish")


def draw(path: Path, seed: int, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)


def plain(root: Path, n: int = 6) -> Path:
    """`pets/cat/0.png`, ...: pictures of seed 0.. for cats, 100.. for dogs."""
    for start, name in ((0, "cat"), (100, "dog")):
        for i in range(n):
            draw(root / "pets" / name / f"{i}.png", start + i)
    return root


def halved(root: Path, n: int = 6) -> Path:
    for start, half in ((0, "train"), (50, "test")):
        for code, name in enumerate(("cat", "dog")):
            for i in range(n):
                draw(root / "pets" / half / name / f"{i}.png", 100 * code + start + i)
    return root


def test_classes_are_folders_and_rows_are_in_the_order_of_names(tmp_path):
    data = load("pets@8", plain(tmp_path))
    assert (data.name, data.x.shape, data.x.dtype) == ("image_folder:pets@8", (12, 3, 8, 8), np.uint8)
    assert data.y.tolist() == [0] * 6 + [1] * 6
    assert (data.n_classes, data.words, data.annotations) == (2, {"y": ("cat", "dog")}, {})
    assert data.names.tolist() == [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(6)]
    first = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(data.x[0], first.transpose(2, 0, 1))
    assert (data.official_test, data.notes) == (None, ())


def test_the_size_is_64_unless_named(tmp_path):
    plain(tmp_path)
    data = load_dataset("image_folder:pets", tmp_path)
    assert data.x.shape == (12, 3, 64, 64)
    assert data.notes == ("12 of 12 pictures were resized to 64x64",)
    with pytest.raises(BadInput, match="size 0"):
        load_dataset("image_folder:pets@0", tmp_path)


def test_train_and_test_folders_hold_out_the_test_rows(tmp_path):
    data = load("pets@8", halved(tmp_path))
    assert data.names[0] == "test/cat/0.png"
    assert data.official_test.tolist() == [name.startswith("test/") for name in data.names]
    assert np.bincount(data.y).tolist() == [12, 12]
    splits = split(data, 0)
    assert np.array_equal(splits.test, np.flatnonzero(data.official_test))
    assert len(splits.train) == len(splits.aux) == 6


def test_a_tested_picture_is_not_trained_on(tmp_path):
    halved(tmp_path)
    copied = tmp_path / "pets" / "train" / "cat" / "copy.png"
    copied.write_bytes((tmp_path / "pets" / "test" / "dog" / "0.png").read_bytes())
    data = load("pets@8", tmp_path)
    splits = split(data, 0)
    row = data.names.tolist().index("train/cat/copy.png")
    assert data.hashes[row] == data.hashes[data.names.tolist().index("test/dog/0.png")]
    assert row not in {*splits.train, *splits.aux}
    assert len(splits.train) + len(splits.aux) == 12


def test_folders_below_a_class_belong_to_it(tmp_path):
    plain(tmp_path)
    draw(tmp_path / "pets" / "cat" / "more" / "a.png", 7)
    draw(tmp_path / "pets" / "cat" / ".thumbnails" / "a.png", 8)
    data = load("pets@8", tmp_path)
    assert np.bincount(data.y).tolist() == [7, 6]
    assert "cat/more/a.png" in data.names


def test_two_classes_named_train_and_other_are_classes(tmp_path):
    for name in ("plane", "train"):
        for i in range(3):
            draw(tmp_path / "vehicles" / name / f"{i}.png", i)
    data = load("vehicles@8", tmp_path)
    assert (data.words["y"], data.official_test) == (("plane", "train"), None)


def test_it_keeps_the_contract(tmp_path):
    plain(tmp_path, 30)
    for _, check in DATASET_CHECKS:
        check(lambda: load("pets@8", tmp_path))


def test_an_unreadable_picture_is_named_in_the_notes(tmp_path):
    plain(tmp_path, 60)
    (tmp_path / "pets" / "dog" / "7.png").write_bytes(b"no picture")
    data = load("pets@8", tmp_path)
    assert (len(data.x), data.notes) == (119, ("1 of 120 left out, unreadable: dog/7.png (not a picture)",))
    assert np.bincount(data.y).tolist() == [60, 59]
    assert "dog/7.png" not in data.names


def empty_class(root: Path) -> None:
    (root / "pets" / "bird").mkdir()


def loose_picture(root: Path) -> None:
    draw(root / "pets" / "loose.png", 3)


def one_class(root: Path) -> None:
    (root / "pets" / "dog").rename(root / "dogs elsewhere")


def unreadable(root: Path) -> None:
    (root / "pets" / "dog" / "0.png").write_bytes(b"")


WRONG = {
    "empty class": (empty_class, "no readable pictures of class bird"),
    "loose picture": (loose_picture, r"1 pictures lie in no class folder: loose\.png"),
    "one class": (one_class, r"holds 1 class folders \(cat\)"),
    "unreadable": (unreadable, r"1 of 12 pictures will not decode, more than 1%: dog/0\.png"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_folder_that_does_not_fit_is_refused(tmp_path, case):
    change, message = WRONG[case]
    change(plain(tmp_path))
    with pytest.raises(BadInput, match=message):
        load("pets@8", tmp_path)


def test_halves_must_have_the_same_classes(tmp_path):
    halved(tmp_path)
    draw(tmp_path / "pets" / "test" / "bird" / "0.png", 9)
    with pytest.raises(BadInput, match=r"pets/test has classes that .*train lacks: bird"):
        load("pets@8", tmp_path)


def test_halves_must_both_hold_pictures(tmp_path):
    halved(tmp_path)
    for name in ("cat", "dog"):
        for path in (tmp_path / "pets" / "test" / name).iterdir():
            path.unlink()
    with pytest.raises(BadInput, match="pets/test holds no readable picture"):
        load("pets@8", tmp_path)


def test_a_class_that_is_tested_but_not_trained_on_is_refused(tmp_path):
    halved(tmp_path)
    for path in (tmp_path / "pets" / "train" / "dog").iterdir():
        path.unlink()
    with pytest.raises(BadInput, match=r"train: no readable pictures of class dog"):
        load("pets@8", tmp_path)


def test_paths_are_looked_for_below_the_root_then_here(tmp_path, monkeypatch):
    monkeypatch.chdir(plain(tmp_path))
    assert len(load_dataset("image_folder:pets@8", tmp_path / "root").x) == 12
    assert len(load_dataset(f"image_folder:{tmp_path}/pets@8").x) == 12
    with pytest.raises(MissingData, match=r"image_folder:birds: .*not found"):
        load_dataset("image_folder:birds@8", tmp_path / "root")
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="is a file"):
        load_dataset("image_folder:file")


@needs_data
def test_a_folder_of_dogs_and_fish():
    data = load("tiny_dogfish", data_root())
    assert data.words["y"] == ("dog", "fish")
    assert np.bincount(data.y[~data.official_test]).tolist() == [3000, 500]
    assert np.bincount(data.y[data.official_test]).tolist() == [300, 50]
    assert data.x.shape == (3850, 3, 64, 64)
    assert data.notes == ()
