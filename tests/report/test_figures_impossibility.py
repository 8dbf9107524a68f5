"""The figure of the impossibility suite: what is drawn is what was measured, and what has no numbers is left out."""

import numpy as np
import pytest

from subpop.report.figures.impossibility import (
    TOLD,
    UNTOLD,
    can_be_drawn,
    curves_of,
    draw_impossibility,
    row_name,
    told_labels,
    world_points,
)
from subpop.types import CellReport, CellResult, Number
from subpop.types.grid import grid

COMMON = {"stem": "impossibility", "kind": "two_worlds", "tier": "embedded", "partition": "feature_match"}


def report_of(numbers, **changes):
    cell = grid(**{**COMMON, "dataset": "mixture_cells", "victim": "cell_majority", "rate": 1.0, **changes})[0]
    return CellReport(cell, None if numbers is None else CellResult(cell, tuple(numbers)))


def curve(victim="knn_1", rates=(0.5, 1.0, 2.0)):
    def numbers(rate):
        return [Number("target_damage_mean", rate / (1 + rate), 0.01, half_width=0.02), Number("alpha_mean", rate - 0.01)]

    return [report_of(numbers(rate), victim=victim, rate=rate) for rate in rates]


def worlds(first, second, **changes):
    each = [Number("error_world_0", first, 0.01, half_width=0.03), Number("error_world_1", second, 0.02, half_width=0.04)]
    return report_of([Number("error_sum", first + second, 0.02, half_width=0.05), *each], worlds="independent", **changes)


BOARD = [
    *curve(),
    *curve("cell_majority"),
    report_of([Number("target_damage_mean", 0.0, 0.0), Number("alpha_mean", 0.97)], rows="margin_less_1"),
    worlds(0.4, 0.55),
    worlds(0.3, 0.7, defense="trim", victim="logistic_regression"),
    worlds(0.0, 0.1, defense="perfect_filter"),
    worlds(0.1, 0.9, defense="agrees_with_holdout"),
    worlds(0.0, 0.0, defense="agrees_with_holdout", told="target"),
    report_of([Number("can_run", 0.0)], worlds="independent", defense="fine_pruning"),
    report_of([Number("error_sum_min", 1.0), Number("error_sum_max", 1.0)], worlds="paired"),
    report_of(None, victim="mlp"),
]


def test_curves_are_the_undefended_damages_and_rows_at_the_margin_have_their_own_alpha():
    defended = report_of([Number("target_damage_mean", 0.9, 0.0)], defense="trim", rate=0.5)
    elsewhere = report_of([Number("target_damage_mean", 0.7, 0.0)], dataset="mixture_cells_noisy", rows="margin")
    curves = curves_of([*BOARD, defended, elsewhere])
    assert curves["knn_1"] == [(0.5, pytest.approx(1 / 3), 0.02), (1.0, 0.5, 0.02), (2.0, pytest.approx(2 / 3), 0.02)]
    assert [alpha for alpha, *_ in curves["cell_majority"]] == [0.5, 0.97, 1.0, 2.0]
    assert set(curves) == {"knn_1", "cell_majority"}


def test_points_are_cells_with_independent_draws_that_ran():
    assert [row_name(cell) for cell, _ in world_points(BOARD)].count("agrees_with_holdout, knows labels") == 1
    assert len(world_points(BOARD)) == 5
    assert {row_name(cell) for cell, _ in world_points(BOARD) if told_labels(cell)} == {
        "perfect_filter",
        "agrees_with_holdout, knows labels",
    }


def points_of(axis, colour):
    lines = [line for line in axis.lines if line.get_linestyle() == "None" and line.get_color() == colour]
    return sorted((float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines if len(line.get_xdata()) == 1)


def test_what_is_drawn_is_what_was_measured():
    figure = draw_impossibility(BOARD)
    top, left, right = figure.axes
    drawn = {line.get_label(): line for line in top.lines}
    assert top.get_xlabel() == "alpha, poison rows / clean rows of the subpopulation in D"
    assert top.get_ylabel() == "mean target damage (%)"
    assert right.get_xlabel() == "sum of the errors in both worlds"
    rise = drawn["alpha / (1 + alpha)"]
    np.testing.assert_allclose(rise.get_ydata(), 100 * rise.get_xdata() / (1 + rise.get_xdata()))
    assert any(np.allclose(line.get_ydata(), [100 / 3, 50, 200 / 3]) for line in top.lines if len(line.get_xdata()) == 3)
    assert points_of(left, UNTOLD) == [(0.1, 0.9), (0.3, 0.7), (0.4, 0.55)]
    assert points_of(left, TOLD) == [(0.0, 0.0), (0.0, 0.1)]
    names = [label.get_text() for label in right.get_yticklabels()]
    assert names == ["none", "agrees_with_holdout", "trim", "agrees_with_holdout, knows labels", "perfect_filter"]
    sums = {names[round(y)]: x for x, y in points_of(right, UNTOLD) + points_of(right, TOLD)}
    assert sums == {
        "none": pytest.approx(0.95),
        "agrees_with_holdout": 1.0,
        "trim": 1.0,
        "agrees_with_holdout, knows labels": 0.0,
        "perfect_filter": 0.1,
    }


def test_each_axis_is_of_the_world_that_its_label_names():
    axis = draw_impossibility([worlds(0.2, 0.7)]).axes[0]
    (point,) = [line for line in axis.lines if len(line.get_xdata()) == 1]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("error in world 0", "error in world 1")
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (0.2, 0.7)
    (bars,) = axis.containers
    across, up = (np.array(line.get_segments()[0]) for line in bars.lines[2])
    np.testing.assert_allclose(across, [(0.17, 0.7), (0.23, 0.7)])
    np.testing.assert_allclose(up, [(0.2, 0.66), (0.2, 0.74)])


def test_panels_without_numbers_are_left_out():
    assert len(draw_impossibility(curve()).axes) == 1
    assert len(draw_impossibility([worlds(0.5, 0.5)]).axes) == 2
    assert can_be_drawn(BOARD)
    assert not can_be_drawn([report_of(None), *curve(rates=(1.0,))])


def test_an_unknown_learner_and_defense_are_drawn_too():
    figure = draw_impossibility([*curve("forest"), worlds(0.5, 0.5, victim="forest", defense="mine.py:mine")])
    assert "mine.py:mine" in [label.get_text() for label in figure.axes[2].get_yticklabels()]


def test_texts_stay_inside_the_figure():
    figure = draw_impossibility(BOARD)
    figure.canvas.draw()
    box = figure.bbox
    for axis in figure.axes:
        tight = axis.get_tightbbox()
        assert tight.x0 >= box.x0 - 1
        assert tight.x1 <= box.x1 + 1
        assert tight.y0 >= box.y0 - 1
        assert tight.y1 <= box.y1 + 1
