"""Differences from no defense: the values that are drawn, at most six lines with labels of their own, and the leaderboard."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from synthetic_reports import RATES, cell_of, draw_all, report_of
from test_leaderboard import BOARD, HURT, measured

from subpop.report.board_figure import alt_of, draw_boards, lines_of
from subpop.report.figures.differences import (
    COLOURS,
    EQUIVALENT_COLOUR,
    MOST_LINES,
    Line,
    difference_against_alpha,
    leaderboard_figure,
    spread,
)
from subpop.report.figures.lines import styles_of
from subpop.report.figures.setups import by_setup
from subpop.report.leaderboard import leaderboards
from subpop.results.paired import BETTER, EQUIVALENT, UNDECIDED, WORSE, damages_by_seed, paired_difference


def board(names, rates=RATES, **changes):
    return [report_of(cell_of(rate=rate, defense=name, **changes), 10) for rate in rates for name in names]


def figure_of(reports):
    return difference_against_alpha(by_setup(reports), styles_of(report.cell.defense for report in reports))


def curves(axis):
    return [(line.get_xdata(), line.get_ydata()) for line in axis.lines if line.get_marker() not in ("None", "", None)]


def texts(axis):
    return [text.get_text() for text in axis.texts]


def test_lines_are_differences_of_headlines_where_single_damages_are_not_known():
    reports = board(["none", "trim", "perfect_filter", "random_filter"])
    (axis,) = figure_of(reports).axes
    ((x, y),) = curves(axis)
    none, trim = (
        [report.result["target_damage_worst_5"] for report in reports if report.cell.defense == name] for name in ("none", "trim")
    )
    assert y == pytest.approx(100 * (np.array(trim) - none))
    assert np.abs(np.array(x) - RATES).max() < 0.05
    assert not axis.collections
    assert texts(axis) == ["trim"], "controls have no line"
    assert [tick.get_text() for tick in axis.get_xticklabels()] == [
        f"{rate:g}\n({100 * value:.1f})" for rate, value in zip(RATES, none, strict=True)
    ]


def test_each_panel_has_the_losses_of_its_own_victim_below_its_axis():
    losses = {"logistic_regression": {0.5: 0.32, 1.0: 0.442}, "mlp": {0.5: 0.249, 1.0: 0.473}}
    reports = [
        measured(np.full((6, 2), loss * left), defense=name, victim=victim, rate=rate)
        for victim, lost in losses.items()
        for rate, loss in lost.items()
        for name, left in (("none", 1), ("trim", 0.5))
    ]
    figure = figure_of(reports)
    FigureCanvasAgg(figure).draw()
    assert [[tick.get_text() for tick in axis.get_xticklabels() if tick.get_visible()] for axis in figure.axes] == [
        ["0.5\n(32.0)", "1\n(44.2)"],
        ["0.5\n(24.9)", "1\n(47.3)"],
    ]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()


def test_bars_are_those_of_the_paired_difference():
    rng = np.random.default_rng(1)
    reports = []
    for rate in (1.0, 2.0):
        reports += [
            measured(HURT * rate / 2, rate=rate),
            measured(HURT * rate / 2 - rng.normal(0.1, 0.02, (6, 2)), defense="trim", rate=rate),
        ]
    (axis,) = figure_of(reports).axes
    frames = [damages_by_seed(report.result) for report in reports]
    expected = [paired_difference(frames[i + 1], frames[i], frames[i], exact=True) for i in (0, 2)]
    ((_, y),) = curves(axis)
    assert y == pytest.approx([100 * each.value for each in expected])
    lengths = [np.ptp(segment[:, 1]) / 2 for segment in axis.collections[0].get_segments()]
    assert lengths == pytest.approx([100 * each.half_width for each in expected])


def test_a_panel_has_six_lines_those_with_the_least_damage():
    names = [f"defense_{i}" for i in range(9)]
    shares = dict(zip(names, np.linspace(1.2, 0.1, 9), strict=True))
    reports = board(["none"]) + [
        report_of(cell_of(rate=rate, defense=name), 10, left=share, cost=0) for rate in RATES for name, share in shares.items()
    ]
    (axis,) = figure_of(reports).axes
    assert len(curves(axis)) == MOST_LINES
    assert sorted(texts(axis)) == names[3:]
    heights = sorted(text.get_position()[1] for text in axis.texts)
    low, high = axis.get_ylim()
    assert np.diff(heights).min() >= 0.07 * (high - low)


def test_labels_move_apart_and_keep_their_order_and_mean():
    assert spread([0.0, 10.0, 20.0], 5) == [0.0, 10.0, 20.0]
    assert spread([1.0, 1.0, 1.0], 2) == [-1.0, 1.0, 3.0]
    assert spread([5.0, 0.0, 5.5], 2) == pytest.approx([4.5, -0.5, 6.5])  # the highest moves up by 1.5, all of them down by .5
    assert spread([], 1) == []


def test_which_set_ups_are_drawn_as_differences(tmp_path):
    reports = [*board(["none", "trim"]), *board(["none"], victim="mlp"), *board(["none", "random_filter"], dataset="mixture")]
    pictures = draw_all(reports, tmp_path)
    assert {(p.dataset, p.kind) for p in pictures if not p.kind.startswith("collateral")} == {
        ("digits", "difference"),
        ("digits", "damage"),
        ("mixture", "damage"),
    }
    (difference,) = [p for p in pictures if p.kind == "difference"]
    assert "in 1 panels" in difference.alt
    assert "In parentheses: the worst-5 target damage in % without a defense." in difference.caption


def test_a_leaderboard_is_drawn_from_the_top_down():
    defenses = [Line("a", -0.2, 0.05, BETTER), Line("b", 0.1, 0.02, WORSE), Line("c", 0.0, None, EQUIVALENT)]
    lines = [Line("no side information"), *defenses]
    (axis,) = leaderboard_figure(lines).axes
    points = {(line.get_xdata()[0], line.get_ydata()[0]): line.get_color() for line in axis.lines if line.get_marker() == "o"}
    assert points == {(-20.0, 1): COLOURS[BETTER], (10.0, 2): COLOURS[WORSE], (0.0, 3): EQUIVALENT_COLOUR}
    assert [label.get_text() for label in axis.get_yticklabels()] == ["a", "b", "c"]
    bottom, top = axis.get_ylim()
    assert bottom > top
    assert [np.ptp(bar.get_segments()[0][:, 0]) / 2 for bar in axis.collections] == pytest.approx([5.0, 2.0])
    assert texts(axis)[0] == "no side information"


def test_the_figure_of_a_board_has_its_verdicts(tmp_path):
    reports = [measured(HURT, **BOARD), measured(HURT - 0.25, knowledge="n_poison", defense="trim", **BOARD)]
    reports.append(measured(HURT * 0.9, defense="mine", **BOARD))
    (found,) = boards = leaderboards(reports)
    lines = lines_of(found)
    assert [line.label for line in lines] == ["no side information", "mine", "knows the poison count", "trim"]
    assert (lines[3].value, lines[3].verdict) == (pytest.approx(-0.25), BETTER)
    assert lines[1].half_width == found.entries[1].judged.difference.half_width > 0
    (picture,) = draw_boards(boards, tmp_path / "figures")
    first = (tmp_path / "figures" / "leaderboard-embedded.svg").read_bytes()
    assert picture.name == "leaderboard-embedded"
    assert picture.alt == "what 2 defenses change compared with no defense, embedded tier"
    assert alt_of(*leaderboards(reports[:2])) == "what 1 defense changes compared with no defense, embedded tier"
    (tmp_path / "figures" / "leaderboard-embedded.svg").write_bytes(first + b"<!-- kept -->")
    draw_boards(boards, tmp_path / "figures")
    assert (tmp_path / "figures" / "leaderboard-embedded.svg").read_bytes().endswith(b"<!-- kept -->")


def test_the_words_for_the_verdicts_do_not_touch():
    """Beside long names the axis is narrow."""
    verdicts = [BETTER, EQUIVALENT, UNDECIDED, WORSE]
    figure = leaderboard_figure([Line(f"{i}" + 38 * "m", 0.1 * i, 0.05, verdict) for i, verdict in enumerate(verdicts)])
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_text().removeprefix("● ") in verdicts]
    ends = [(box.x0, box.x1) for box in sorted((text.get_window_extent() for text in texts), key=lambda box: box.x0)]
    assert len(ends) == 4
    assert all(left[1] + 10 < right[0] for left, right in pairwise(ends))
    assert ends[-1][1] <= figure.bbox.x1
