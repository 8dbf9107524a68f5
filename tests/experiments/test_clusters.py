"""What clusters look like, by hand on a small table of pictures and on digits."""

import numpy as np
import pytest

from subpop.experiments.clusters import PICTURES, SHOWN, describe_clusters
from subpop.experiments.experiment import Experiment
from subpop.report.figures.pictures import draw_clusters, make_up, mosaic
from subpop.runtime.no_store import NoStore
from subpop.types import BadInput, CellReport
from subpop.types.grid import grid

FIGURE = {
    "stem": "figure3_clusters",
    "tier": "embedded",
    "dataset": "digits_images",
    "victim": "none",
    "partition": "cluster_match",
    "rate": 0.0,
}


@pytest.fixture(scope="module")
def experiment():
    return Experiment.on(NoStore())


@pytest.fixture(scope="module")
def result(experiment):
    return describe_clusters(grid(**FIGURE)[0], experiment.context)


def test_numbers_agree_with_counting(experiment, result):
    stage = experiment.context.stage(grid(**FIGURE)[0])
    digit = stage.dataset.annotations["digit"][stage.data.splits.aux]
    members = [digit[stage.partition.aux == g] for g in stage.partition.attacked]
    most = [np.bincount(own, minlength=10).max() for own in members]
    assert result["purity_share_digit"] == pytest.approx(sum(most) / sum(map(len, members)))
    together = np.bincount(np.concatenate(members), minlength=10)
    assert result["most_common_share_digit"] == pytest.approx(together.max() / together.sum())


def test_pictures_are_members_nearest_to_their_mean(experiment, result):
    """The inputs are clustered as they are, so that the mean of a cluster's pixels is its centroid."""
    stage = experiment.context.stage(grid(**FIGURE)[0])
    pixels = stage.dataset.x[stage.data.splits.aux].reshape(len(stage.data.splits.aux), -1).astype(float)
    assert len(result.table) == SHOWN
    for row in result.table:
        group = stage.partition.names.index(row["subpopulation"])
        own = pixels[stage.partition.aux == group]
        apart = ((own - own.mean(0)) ** 2).sum(1)
        shown = result.arrays[f"pictures:{row['subpopulation']}"].reshape(PICTURES, -1).astype(float)
        assert np.allclose(np.sort(((shown - own.mean(0)) ** 2).sum(1)), np.sort(apart)[:PICTURES])
        digits = stage.dataset.annotations["digit"][stage.data.splits.aux[stage.partition.aux == group]]
        assert row["digit_share"] == pytest.approx(np.mean(digits == int(row["digit"])))


def test_it_needs_pictures(experiment):
    with pytest.raises(BadInput, match="needs pictures"):
        describe_clusters(grid(**{**FIGURE, "dataset": "digits"})[0], experiment.context)


def test_the_sheet_of_a_panel():
    images = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((7, 3, 4, 5), np.uint8)
    sheet = mosaic(images)
    assert sheet.shape == (4 + 2 + 4, 6 * 5 + 5 * 2, 3)
    assert (sheet[0, :5] == 0).all()
    assert (sheet[0, 5:7] == 255).all()
    assert (sheet[6:, :5] == 6).all()
    assert (sheet[6:, 7:] == 255).all()
    assert mosaic(images[:1, :1]).shape == (4, 6 * 5 + 5 * 2)


def test_a_figure_can_be_drawn(result):
    assert make_up(result.table[0])[0].startswith("digit: ")
    figure = draw_clusters(CellReport(result.cell, result))
    assert len(figure.axes) == SHOWN
