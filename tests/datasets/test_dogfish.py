"""Dogs and fish: the folders, what is held out, repeated and broken pictures, and the draw of D."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from real_data import needs

from subpop.datasets import MissingData, data_root, load_dataset, source_of
from subpop.datasets.dogfish import ONE_DOG_PHOTOS, RECIPES, SOURCES, evenly_spaced, load
from subpop.datasets.picture_files import Picture
from subpop.datasets.split import split
from subpop.experiments.target_sets.setups import training_rows
from subpop.testing import check_dataset
from subpop.types import BadInput

needs_data = needs("tiny_dogfish", "dogs_vs_cats")


def draw(path: Path, seed: int, mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def root(tmp_path):
    """8 dogs and 6 fish to train on, 3 and 2 to test, 5 of Kaggle's dogs beside a cat."""
    for place, count, start in (("train/dog", 8, 0), ("train/fish", 6, 100), ("test/dog", 3, 200), ("test/fish", 2, 300)):
        for i in range(count):
            draw(tmp_path / "tiny_dogfish" / place / f"{i}.png", start + i)
    for i in range(5):
        draw(tmp_path / "dogs_vs_cats" / "train" / f"dog.{i}.png", 400 + i)
    draw(tmp_path / "dogs_vs_cats" / "train" / "cat.0.png", 500)
    return tmp_path


def test_rows_come_source_by_source(root):
    data = load_dataset("tiny_dogfish", root)
    assert (data.x.shape, data.x.dtype, data.n_classes) == ((24, 3, 32, 32), np.uint8, 2)
    assert data.annotations["source"].tolist() == [0] * 14 + [1] * 5 + [2] * 5
    assert data.y.tolist() == [0] * 8 + [1] * 6 + [0] * 3 + [1] * 2 + [0] * 5
    assert data.official_test.tolist() == [False] * 14 + [True] * 10
    assert data.words == {"y": ("dog", "fish"), "source": SOURCES}
    assert data.names[14] == "test/dog/0.png"
    assert not any("cat." in name for name in data.names)
    assert np.array_equal(data.x[8], np.random.default_rng(100).integers(0, 256, (32, 32, 3), dtype=np.uint8).transpose(2, 0, 1))


def test_it_keeps_the_contract_of_a_data_set(root):
    assert [each.message for each in check_dataset(lambda: load(root, "tiny_dogfish")) if not each.passed] == []
    splits = split(load(root, "tiny_dogfish"), 0)
    assert splits.test.tolist() == list(range(14, 24))


def test_grey_and_transparent_pictures_of_any_shape_become_rgb_squares(root):
    draw(root / "dogs_vs_cats" / "train" / "dog.5.png", 1, "L", (50, 40))
    draw(root / "dogs_vs_cats" / "train" / "dog.6.png", 2, "RGBA", (32, 64))
    data = load(root, "tiny_dogfish")
    assert data.x.shape == (26, 3, 32, 32)
    grey = data.x[data.names == "kaggle_dogs/train/dog.5.png"][0]
    assert (grey[0] == grey[1]).all()


def test_a_target_that_is_trained_on_or_repeated_is_left_out_and_named(root):
    kaggle = root / "dogs_vs_cats" / "train"
    Image.open(root / "tiny_dogfish" / "train" / "dog" / "3.png").save(kaggle / "dog.7.bmp")  # other bytes, equal pixels
    (kaggle / "dog.8.png").write_bytes((kaggle / "dog.0.png").read_bytes())
    data = load(root, "tiny_dogfish")
    assert (data.annotations["source"] == 2).sum() == 5
    assert "2 targets left out" in data.notes[0]
    assert "dog.7.bmp" in data.notes[0]
    assert len(set(data.hashes)) == len(data.hashes)


def test_a_broken_picture_is_refused_by_name(root):
    (root / "tiny_dogfish" / "train" / "fish" / "0.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"train/fish/0\.png"):
        load(root, "tiny_dogfish")


def test_missing_folders_are_told_with_their_layout(root, tmp_path_factory):
    with pytest.raises(MissingData, match="train/dog, train/fish, test/dog and test/fish, 900 and 300 a class"):
        load_dataset("dogfish", root)
    assert source_of("tiny_dogfish").found(root) == root / "tiny_dogfish"
    (root / "dogs_vs_cats").rename(root / "elsewhere")
    assert source_of("tiny_dogfish").found(root) is None
    with pytest.raises(MissingData, match="dogs_vs_cats"):
        load(root, "tiny_dogfish")


def test_other_counts_than_those_published_are_refused(root):
    (root / "tiny_dogfish").rename(root / "dogfish")
    with pytest.raises(BadInput, match="dogfish/train/dog contains 8 pictures; expected 900"):
        load(root, "dogfish")


@pytest.mark.parametrize("folder", ["dogs_vs_cats/train", "tiny_dogfish/test/fish"])
def test_empty_folders_are_refused(root, folder):
    for path in (root / folder).iterdir():
        path.unlink()
    with pytest.raises(BadInput, match=r"contains no dog|contains 0 pictures"):
        load(root, "tiny_dogfish")


def test_the_photos_of_one_dog_are_a_source_of_their_own(root):
    for i in range(ONE_DOG_PHOTOS):
        draw(root / "tiny_dogfish" / "koh_dog" / f"{i}.png", 600 + i)
    data = load(root, "tiny_dogfish")
    assert (data.annotations["source"] == 3).sum() == ONE_DOG_PHOTOS
    assert (data.y[data.annotations["source"] == 3] == 0).all()
    (root / "tiny_dogfish" / "koh_dog" / "0.png").unlink()
    with pytest.raises(BadInput, match="koh_dog contains 29 pictures"):
        load(root, "tiny_dogfish")


def test_pictures_are_taken_evenly():
    pictures = [Picture(str(i), bytes) for i in range(10)]
    assert [p.name for p in evenly_spaced(pictures, 4)] == ["0", "2", "5", "7"]
    assert len(evenly_spaced(pictures, 50)) == 10
    assert evenly_spaced([], 4) == []


def test_d_has_as_many_of_each_class_and_nothing_that_is_tested(root):
    folder = root / "tiny_dogfish"
    (folder / "train" / "fish" / "copy.png").write_bytes((folder / "test" / "fish" / "0.png").read_bytes())
    (folder / "train" / "fish" / "twin.png").write_bytes((folder / "train" / "fish" / "0.png").read_bytes())
    data = load(root, "tiny_dogfish")
    rows = training_rows(data, 6, seed=1)
    assert np.bincount(data.y[rows]).tolist() == [6, 6]
    assert (data.annotations["source"][rows] == 0).all()
    assert "train/fish/copy.png" not in data.names[rows]
    assert len(set(data.hashes[rows])) == 12
    assert np.array_equal(rows, np.sort(rows))
    assert np.array_equal(rows, training_rows(data, 6, seed=1))
    assert not np.array_equal(rows, training_rows(data, 6, seed=2))
    assert len(training_rows(data, 0, seed=1)) == 16
    with pytest.raises(BadInput, match="6 different pictures of class fish"):
        training_rows(data, 7, seed=1)


@needs_data
def test_the_stand_in():
    data = load_dataset("tiny_dogfish", data_root())
    assert np.bincount(data.annotations["source"]).tolist() == [3500, 350, 1001]
    assert np.bincount(data.y[~data.official_test]).tolist() == [3000, 500]
    assert np.bincount(data.y[training_rows(data, 450, 0)]).tolist() == [450, 450]
    assert RECIPES["tiny_dogfish"].size == data.x.shape[-1]
