"""The digits: shape, task, annotation, and the number of clusters."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from subpop.datasets import load_dataset
from subpop.datasets.digits import load, load_images
from subpop.datasets.partitions import cluster_match, feature_match
from subpop.datasets.split import split
from subpop.types import BadInput


def test_matching_needs_a_split():
    with pytest.raises(BadInput, match="splits is of type int"):
        feature_match(load(), 0)


def test_digits_are_the_published_table():
    data = load()
    assert (data.x.shape, data.x.dtype) == ((1797, 64), np.float32)
    assert (data.x.min(), data.x.max()) == (0, 1)
    assert np.bincount(data.annotations["digit"]).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.array_equal(data.y, data.annotations["digit"] % 2)
    assert data.y.dtype == np.int64
    first = np.array([[0, 0, 5, 13, 9, 1, 0, 0], [0, 0, 13, 15, 10, 15, 5, 0]]) / 16
    assert np.array_equal(data.x[0, :16], first.ravel().astype(np.float32))
    theirs = load_digits()  # the file is read without scikit-learn
    assert np.array_equal(data.x, (theirs.data / 16).astype(np.float32))
    assert np.array_equal(data.annotations["digit"], theirs.target)


def test_pictures_are_the_same_rows():
    rows, pictures = load(), load_dataset("digits_images")
    assert (pictures.name, pictures.x.shape, pictures.x.dtype) == ("digits_images", (1797, 1, 8, 8), np.uint8)
    assert np.array_equal(pictures.x.reshape(1797, 64), np.rint(rows.x * 240))
    assert pictures.x.max() == 240
    assert np.array_equal(pictures.y, rows.y)
    assert np.array_equal(pictures.annotations["digit"], rows.annotations["digit"])
    assert (pictures.sizes, pictures.n_clusters, pictures.n_components) == (rows.sizes, rows.n_clusters, None)
    assert pictures.words["y"][int(pictures.y[pictures.annotations["digit"] == 3][0])] == "odd"
    for side in ("train", "aux", "test"):
        assert np.array_equal(getattr(split(pictures, 1), side), getattr(split(rows, 1), side))
    assert np.array_equal(load_images().x, pictures.x)


def test_splits_and_subpopulations():
    data = load_dataset("digits")
    splits = split(data, 0)
    assert (len(splits.train), len(splits.aux), len(splits.test)) == (600, 600, 597)
    partition = feature_match(data, splits)
    assert partition.names == tuple(f"digit={d}" for d in range(10))
    assert partition.attacked == tuple(range(10))


def test_most_clusters_have_twenty_test_rows():
    data = load()
    for seed in range(3):
        test = cluster_match(data, split(data, seed), seed=0).test
        assert (np.bincount(test, minlength=data.n_clusters) >= 20).sum() > 0.7 * data.n_clusters
