"""A user's own folder of pictures: classes, halves, sizes, names, and folders that are not right."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_data import needs

from subpop.datasets import MissingData, data_root, load_dataset
from subpop.datasets.image_folder import load
from subpop.datasets.split import split
from subpop.testing import check_dataset
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
    assert (data.official_test, data.notes) == (None, ("2 classes: cat (6 pictures), dog (6 pictures)",))


def test_the_size_is_64_unless_named(tmp_path):
    plain(tmp_path)
    data = load_dataset("image_folder:pets", tmp_path)
    assert data.x.shape == (12, 3, 64, 64)
    assert data.notes[1:] == ("12 of 12 pictures were resized to 64x64",)
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


def parts(root: Path, *names: str) -> Path:
    """`pets/NAME/cat/0.png`, ...: three pictures of cats and of dogs in each part."""
    for start, part in enumerate(names):
        for code, name in enumerate(("cat", "dog")):
            for i in range(3):
                draw(root / "pets" / part / name / f"{i}.png", 100 * start + 10 * code + i)
    return root


@pytest.mark.parametrize(
    ("names", "held_out"),
    [
        (("train", "val"), "val"),
        (("Train", "Test"), "Test"),
        (("TRAINING", "testing"), "testing"),
        (("train", "valid"), "valid"),
        (("dev", "train"), "dev"),
        (("train", "validation", "test"), "test"),
    ],
)
def test_parts_of_a_split_are_no_classes(tmp_path, names, held_out):
    data = load("pets@8", parts(tmp_path, *names))
    assert data.words == {"y": ("cat", "dog")}
    assert data.official_test.tolist() == [name.startswith(f"{held_out}/") for name in data.names.tolist()]
    assert np.bincount(data.y).tolist() == [6, 6]
    unused = [note for note in data.notes if "ignored" in note]
    told = ["6 pictures of validation are ignored: test is used for testing and train for training"]
    assert unused == (told if len(names) == 3 else [])


@pytest.mark.parametrize(
    "names",
    [("train", "test", "extra"), ("val", "test"), ("train", "Train"), ("train",), ("test", "testing", "train"), ("val", "cats")],
)
def test_folders_that_are_neither_classes_nor_one_split_are_refused(tmp_path, names):
    with pytest.raises(BadInput, match=rf"pets contains {', '.join(sorted(names))}, which are neither classes nor one split"):
        load("pets@8", parts(tmp_path, *names))


def test_parts_without_class_folders_are_refused(tmp_path):
    for name in ("train", "val"):
        draw(tmp_path / "pets" / name / "0.png", 1)
    with pytest.raises(BadInput, match="2 pictures are in no class folder"):
        load("pets@8", tmp_path)


def test_what_systems_put_there_is_skipped_and_what_is_no_picture_counted(tmp_path):
    plain(tmp_path)
    pets = tmp_path / "pets"
    for name in ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "cat/@eaDir", "dog/.thumbnails", "cat/thumbs"):
        draw(pets / name / "cat" / "0.png", 5)
    for name in ("cat/Thumbs.db", "dog/notes.txt", "dog/b.TXT", "readme", "cat/.DS_Store", "cat/film.mp4"):
        (pets / name).write_bytes(b"no picture")
    draw(pets / "cat" / "6.jfif.png", 6)
    (pets / "cat" / "6.jfif.png").rename(pets / "cat" / "6.jfif")
    data = load("pets@8", tmp_path)
    assert data.words == {"y": ("cat", "dog")}
    assert data.notes == (
        "2 classes: cat (7 pictures), dog (6 pictures)",
        "5 files left aside, which are not known as pictures: 1 without a suffix, 1 .db, 1 .mp4, 2 .txt",
        "6 system folders skipped: $RECYCLE.BIN, @eaDir, __MACOSX, cat/@eaDir, cat/thumbs and 1 more",
    )


def test_links_add_no_picture_twice(tmp_path):
    """16 pictures stay 16, however links lead around."""
    plain(tmp_path, 8)
    pets = tmp_path / "pets"
    (pets / "cat" / "up").symlink_to("..")
    (pets / "cat" / "far up").symlink_to("../../..")
    (pets / "cat" / "itself").symlink_to(".")
    (pets / "a cat").symlink_to("cat")
    (pets / "dog" / "a.png").symlink_to("0.png")
    (pets / "dog" / "nowhere.png").symlink_to("gone.png")
    (pets / "dog" / "circle").symlink_to("circle")
    data = load("pets@8", tmp_path)
    assert (len(data.x), data.words["y"]) == (16, ("cat", "dog"))
    assert data.notes[1].startswith("7 links not followed")


def test_links_to_pictures_elsewhere_are_followed(tmp_path):
    plain(tmp_path, 2)
    for i in range(3):
        draw(tmp_path / "elsewhere" / "more" / f"{i}.png", i)
    draw(tmp_path / "one.png", 9)
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "pets").symlink_to(tmp_path / "pets")
    (tmp_path / "pets" / "bird").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "pets" / "cat" / "2.png").symlink_to(tmp_path / "one.png")
    (tmp_path / "a link").symlink_to(tmp_path / "pets")
    for name in ("pets", "a link"):
        data = load(f"{name}@8", tmp_path)
        assert data.words["y"] == ("bird", "cat", "dog")
        assert [name for name in data.names.tolist() if name.startswith("bird")] == [f"bird/more/{i}.png" for i in range(3)]
        assert np.bincount(data.y).tolist() == [3, 3, 2]


def test_pipes_and_sockets_are_never_opened(tmp_path, monkeypatch):
    plain(tmp_path)
    os.mkfifo(tmp_path / "pets" / "cat" / "pipe.png")
    (tmp_path / "pets" / "dog" / "link.png").symlink_to("../cat/pipe.png")
    with socket.socket(socket.AF_UNIX) as own:
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        own.bind("pets/dog/socket.png")
        data = load("pets@8", tmp_path)
    assert len(data.x) == 12
    assert data.notes[1:] == ("3 pipes, sockets or devices left aside: cat/pipe.png, dog/link.png, dog/socket.png",)


def test_it_keeps_the_contract(tmp_path):
    plain(tmp_path, 30)
    assert [each.message for each in check_dataset(lambda: load("pets@8", tmp_path)) if not each.passed] == []


def test_an_unreadable_picture_is_named_in_the_notes(tmp_path):
    plain(tmp_path, 60)
    (tmp_path / "pets" / "dog" / "7.png").write_bytes(b"no picture")
    data = load("pets@8", tmp_path)
    assert (len(data.x), data.notes[1:]) == (119, ("1 of 120 left out, unreadable: dog/7.png (not a picture)",))
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
    "loose picture": (loose_picture, r"1 pictures are in no class folder: loose\.png"),
    "one class": (one_class, r"contains 1 class folders \(cat\)"),
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
    with pytest.raises(BadInput, match="pets/test contains no readable picture"):
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
    assert data.notes == ("2 classes: dog (3300 pictures), fish (550 pictures)",)
