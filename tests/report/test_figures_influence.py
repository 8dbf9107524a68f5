"""Figures of attacked target sets: what is drawn where, on numbers made up by hand."""

import numpy as np
import pytest
from synthetic_reports import draw_all

from subpop.report.figures.influence import attacked_pictures, attacked_sets, success_against_epsilon, with_pictures
from subpop.types import CellReport, CellResult, Number
from subpop.types.grid import grid


def report(partition, epsilon, worst, mean, success=None, channels=3):
    (cell,) = grid(
        stem="table16_influence",
        kind="target_sets",
        tier="embedded",
        dataset="toy",
        victim="conv_net_last_layer",
        partition=partition,
        attack="influence",
        rate=0.0,
        epsilon=epsilon,
        n_seeds=3,
    )
    numbers = (Number("success_worst_1", worst, std=0.1), Number("success_mean", mean, std=float("nan")))
    original = np.full((channels, 4, 4), 100, np.uint8)
    attacked = original.astype(np.float32)
    attacked[:, 0, 0] += epsilon
    attacked[:, 0, 1] -= epsilon / 2
    best = worst if success is None else success
    arrays = {"original": original, "attacked": attacked, "success": np.array([best])}
    return CellReport(cell, CellResult(cell, numbers, arrays=arrays, exact=False))


REPORTS = [
    report(kind, epsilon, worst, worst / 2)
    for epsilon, two in ((0.5, (0.0, 0.0)), (2, (0.2, 0.1)), (4, (0.3, 0.6)), (8, (0.7, 0.9)), (16, (1.0, 1.0)))
    for kind, worst in zip(("random", "cluster_match"), two, strict=True)
]


def test_lines_are_the_numbers():
    figure = success_against_epsilon(REPORTS)
    axes = figure.axes
    assert figure.get_supxlabel() == "epsilon: how far a pixel may move (8-bit levels)"
    assert figure.get_supylabel() == "targets misclassified (%)"
    assert [axis.get_title(loc="left") for axis in axes] == ["worst-1", "worst-5", "mean of all sets"]
    lines = [bars.lines[0] for bars in axes[0].containers]
    assert [bars.get_label() for bars in axes[0].containers] == ["random sets", "sets from one cluster"]
    assert lines[0].get_ydata() == pytest.approx([0, 20, 30, 70, 100])
    assert lines[1].get_ydata() == pytest.approx([0, 10, 60, 90, 100])
    assert (lines[1].get_xdata() > lines[0].get_xdata()).all()  # no bar hides the other
    assert len(axes[1].containers[0].lines[0].get_ydata()) == 0  # no worst-5 was measured


def test_the_most_successful_set_of_each_epsilon_is_shown():
    shown = with_pictures(REPORTS)
    assert [r.cell.option("epsilon") for r in shown] == ["0.5", "2", "8", "16"]
    assert [r.cell.partition for r in shown] == ["cluster_match", "random", "cluster_match", "cluster_match"]
    assert with_pictures([]) == []


def test_the_difference_is_scaled_by_epsilon():
    figure = attacked_pictures(with_pictures(REPORTS))
    assert len(figure.axes) == 12
    differences = figure.axes[8:]
    for axis in differences:
        pixels = axis.images[0].get_array()
        assert pixels[0, 0].tolist() == [255] * 3
        assert pixels[0, 1].tolist() == [64] * 3
        assert pixels[1, 1].tolist() == [128] * 3
    assert figure.axes[8].get_xlabel() == "0 % of the targets fall"


def test_half_a_level_cannot_be_seen():
    shown = with_pictures([report("random", 0.4, 0.0, 0.0)])
    original, attacked, _ = (axis.images[0].get_array() for axis in attacked_pictures(shown).axes)
    assert np.array_equal(original, attacked)


def test_grey_pictures():
    figure = attacked_pictures([report("random", 2, 0.5, 0.2, channels=1)])
    assert figure.axes[0].images[0].get_array().shape == (4, 4)


def test_a_run_draws_both(tmp_path):
    pictures = draw_all(REPORTS, tmp_path)
    assert [picture.kind for picture in pictures] == ["success", "pictures"]
    assert all((tmp_path / f"{picture.name}.{kind}").is_file() for picture in pictures for kind in ("png", "svg"))
    assert "sample deviation over 3 draws" in pictures[0].caption
    assert "float" in pictures[1].caption


def test_cells_without_success_are_not_meant():
    (cell,) = grid(stem="s", tier="embedded", dataset="toy", victim="v", partition="random", rate=0.0)
    assert attacked_sets([CellReport(cell, CellResult(cell, (Number("clean_accuracy", 1.0),))), CellReport(cell, None)]) == []
