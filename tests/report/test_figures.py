"""Figures: what is drawn is what was measured, files are whole, equal reports give equal bytes."""

import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.contour import QuadContourSet
from PIL import Image
from synthetic_reports import DEFENSES, RATES, cell_of, draw_all, figure2_reports, report_of

from subpop.report.figures import file_name
from subpop.report.figures.lines import damage_against_alpha, styles_of
from subpop.report.figures.scatters import draw_panels, panel_order, panel_title, removed_text, target_against_collateral
from subpop.report.figures.setups import by_setup, percent, quantity, rows_of, summarize
from subpop.runtime.workers import worker_processes
from subpop.types import CellResult, Number


def board(defenses=DEFENSES, rates=RATES, n=10, **changes):
    return [report_of(cell_of(rate=rate, defense=name, **changes), n) for rate in rates for name in defenses]


def with_numbers(report, *numbers):
    return replace(report, result=replace(report.result, numbers=numbers))


def damage_figure(reports):
    return damage_against_alpha(by_setup(reports), styles_of(report.cell.defense for report in reports))


def curves(axis):
    """Marked lines of an axis: (x, y) of each."""
    return [(line.get_xdata(), line.get_ydata()) for line in axis.lines if line.get_marker() not in ("None", "", None)]


# --- files ------------------------------------------------------------------------------------------------------------


def test_all_figures_of_a_run_are_whole_files(tmp_path):
    pictures = draw_all([*board(["none", "trim"]), *board(["none"], dataset="mixture"), *figure2_reports()], tmp_path)
    assert len({picture.name for picture in pictures}) == len(pictures)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{p.name}.{end}" for p in pictures for end in ("png", "svg"))
    assert {p.kind.partition("-")[0] for p in pictures} == {"damage", "difference", "collateral", "panels"}
    for picture in pictures:
        with Image.open(tmp_path / f"{picture.name}.png") as image:
            image.load()
            assert image.width >= 900
            assert len(np.unique(np.asarray(image.convert("L")))) > 20, "the figure is blank"
        root = ElementTree.parse(tmp_path / f"{picture.name}.svg").getroot()
        assert root.tag.endswith("svg")
        assert picture.alt
        assert picture.caption


def test_processes_draw_the_same_bytes(tmp_path, monkeypatch):
    reports = [*board(["none", "trim"], rates=(0.5, 1.0)), *figure2_reports()]
    begun = []
    monkeypatch.setattr("subpop.report.figures.worker_processes", lambda n: begun.append(n) or worker_processes(n))
    monkeypatch.setattr("subpop.report.figures.n_cores", lambda: 2)
    here = draw_all(reports, tmp_path / "here")
    assert begun == []
    monkeypatch.setattr("subpop.report.figures.FIGURES_THAT_PAY", 1)
    assert draw_all(reports, tmp_path / "there") == here
    assert begun == [2]
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name


def test_equal_reports_give_equal_bytes(tmp_path):
    reports = [*board(["none", "trim"], rates=(0.5, 1.0)), *figure2_reports()]
    for folder, order in (("one", reports), ("two", reports[::-1])):
        (tmp_path / folder).mkdir()
        draw_all(order, tmp_path / folder)
    first = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert len(first) == 6
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}


def test_only_what_changed_is_drawn_again(tmp_path):
    reports = board(["none", "trim"], n=3, rates=(1.0,))
    (picture,) = draw_all(reports, tmp_path)
    svg, png = tmp_path / f"{picture.name}.svg", tmp_path / f"{picture.name}.png"
    whole = svg.read_bytes()
    svg.write_bytes(whole + b"<!-- kept -->")
    draw_all(reports, tmp_path)
    assert svg.read_bytes().endswith(b"<!-- kept -->")
    png.unlink()
    draw_all(reports, tmp_path)
    assert png.exists()
    assert svg.read_bytes() == whole
    hurt = tuple({**row, "target_damage": row["target_damage"] / 2} for row in reports[0].result.table)
    draw_all([replace(reports[0], result=replace(reports[0].result, table=hurt)), *reports[1:]], tmp_path)
    assert svg.read_bytes() != whole


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    before = dict(mpl.rcParams)
    draw_all(board(["none"], n=2, rates=(1.0,)), tmp_path)
    assert dict(mpl.rcParams) == before
    code = "import subpop.report.figures, sys; sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_to_draw_draws_nothing(tmp_path):
    skipped = replace(report_of(cell_of()), result=None, status="skipped")
    speed = report_of(cell_of(stem="speed_fleet"))
    speed = replace(speed, result=CellResult(speed.cell, (Number("speed_ratio", 12.0),)))
    assert draw_all([], tmp_path) == []
    assert draw_all([skipped, speed], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("error")
def test_hostile_names_stay_text_and_inside_the_folder(tmp_path):
    names = ["none", "_private", "$x^{$", "a|b", "line\nbreak", "x" * 200]
    reports = board(names, n=3, dataset="../../my data$")
    rows = tuple({**row, "subpopulation": "$\\frac{"} for row in reports[0].result.table)
    reports[0] = replace(reports[0], result=replace(reports[0].result, table=rows))
    pictures = draw_all(reports, tmp_path / ".")
    assert len(pictures) == 2
    assert len(list(tmp_path.iterdir())) == 4


def test_file_names_differ_where_names_do():
    assert file_name("feature_match-digits.2") == "feature_match-digits.2"
    assert file_name("a/b") != file_name("a:b") != file_name("a-b")
    assert file_name("..") not in ("..", ".", "")


# --- damage against alpha ---------------------------------------------------------------------------------------------


def test_lines_hold_the_measured_points_and_no_others():
    reports = board(["none", "trim"])
    figure = damage_figure(reports)
    (axis,) = figure.axes
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("poisoning rate alpha", "worst-5 target damage (%)")
    drawn = {tuple(y): x for x, y in curves(axis)}
    for name in ("none", "trim"):
        values = tuple(100 * report.result["target_damage_worst_5"] for report in reports if report.cell.defense == name)
        assert np.abs(np.array(drawn[values]) - RATES).max() < 0.05
    assert len(drawn) == 2


def test_alpha_zero_is_drawn_only_where_measured():
    with_zero = board(["none"], rates=(0.0, *RATES))
    (axis,) = damage_figure(with_zero).axes
    ((x, y),) = curves(axis)
    assert len(x) == 4
    assert y[0] == 0


def test_bars_are_intervals_or_the_deviation_over_splits():
    single = board(["none"])
    (axis,) = damage_figure(single).axes
    (bars,) = axis.collections
    lengths = [np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()]
    assert lengths == pytest.approx([100 * 0.03 / np.sqrt(5)] * 3)
    split = [report for seed in (0, 1, 2) for report in board(["none"], split=seed)]
    (axis,) = damage_figure(split).axes
    values = np.array([report.result["target_damage_worst_5"] for report in split]).reshape(3, 3)
    ((_, y),) = curves(axis)
    assert y == pytest.approx(100 * values.mean(0))
    lengths = [np.ptp(segment[:, 1]) / 2 for segment in axis.collections[0].get_segments()]
    assert lengths == pytest.approx(100 * values.std(0, ddof=1))


def test_one_seed_has_no_bars_and_missing_numbers_no_points():
    reports = board(["none", "trim"])
    bare = [with_numbers(r, Number("target_damage_worst_5", r.result["target_damage_worst_5"])) for r in reports]
    (axis,) = damage_figure(bare).axes
    assert not axis.collections
    holed = [with_numbers(bare[0], Number("target_damage_worst_5", float("nan"))), *bare[1:]]
    (axis,) = damage_figure(holed).axes
    assert sorted(len(x) for x, _ in curves(axis)) == [2, 3]


def test_variants_are_not_drawn_and_the_noise_floor_is_level():
    reports = board(["none", "retrain"], rates=(0.0, *RATES)) + board(["trim"], n_poison_told="half")
    (axis,) = damage_figure(reports).axes
    assert len(curves(axis)) == 1
    level = [line for line in axis.lines if len(set(line.get_ydata())) == 1 and line.get_ydata()[0] != 0]
    assert len(level) == 1


def test_a_dozen_defenses_look_different():
    names = [f"defense_{i}" for i in range(18)]
    styles = styles_of(names)
    assert len({(s["color"], s["marker"], str(s["linestyle"])) for s in (styles[name] for name in names)}) == 18
    matched = styles_of(["trim", "matched_random_filter:trim"])
    assert matched["trim"]["color"] == matched["matched_random_filter:trim"]["color"]


def test_the_legend_reads_from_the_top_line_down():
    (legend,) = damage_figure(board(["none", "trim", "sever", "perfect_filter"])).legends
    assert [text.get_text() for text in legend.get_texts()] == ["trim", "none", "sever", "perfect_filter"]


def test_one_panel_for_each_setup_titled_by_what_differs():
    reports = board(["none"], sampling="distinct") + board(["none"], sampling="with_replacement", victim="mlp")
    titles = [axis.get_title("left") for axis in damage_figure(reports).axes]
    assert titles == [
        "logistic_regression · feature_match\nsampling=distinct",
        "mlp · feature_match\nsampling=with_replacement",
    ]


# --- target against collateral damage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 60])
def test_circles_are_subpopulations_with_area_by_size(n):
    report = report_of(cell_of(rate=2.0), n)
    figure = target_against_collateral([("none", [report])])
    (axis,) = figure.axes
    (circles,) = axis.collections
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("collateral damage (%)", "target damage (%)")
    table = report.result.table
    expected = [(100 * row["collateral_damage"], 100 * row["target_damage"]) for row in table]
    assert np.asarray(circles.get_offsets()) == pytest.approx(np.array(expected))
    sizes = np.array([row["n_train"] for row in table])
    areas = circles.get_sizes()
    above = areas > areas.min()
    assert areas[above] / areas.max() == pytest.approx(sizes[above] / sizes.max())


def test_the_worst_are_named_once_each():
    reports = [report_of(cell_of(rate=rate), 10) for rate in RATES]
    (axis,) = target_against_collateral([("none", reports)]).axes
    worst = sorted(reports[-1].result.table, key=lambda row: -row["target_damage"])[:3]
    assert {text.get_text() for text in axis.texts} == {row["subpopulation"] for row in worst}


def test_rows_without_a_damage_are_left_out():
    report = report_of(cell_of(), 3)
    table = ({**report.result.table[0], "target_damage": float("nan")}, {"subpopulation": "empty"}, report.result.table[2])
    (axis,) = target_against_collateral([("none", [replace(report, result=replace(report.result, table=table))])]).axes
    assert len(axis.collections[0].get_offsets()) == 1


def test_boards_get_a_panel_a_defense_without_controls(tmp_path):
    pictures = draw_all(board(["none", "trim", "random_filter", "matched_random_filter:trim"], rates=(1.0,)), tmp_path)
    assert [picture.kind for picture in pictures] == ["collateral-1"]


# --- the panels of Figure 2 -------------------------------------------------------------------------------------------


def test_panels_stand_in_the_order_of_the_story():
    reports = [*figure2_reports()[::-1], *board(["none"], rates=(2.0,))]
    titles = [panel_title(report).partition("\n")[0] for report in panel_order(reports)]
    assert titles == ["unpoisoned", "poisoned", "poisoned + TRIM", "poisoned + SEVER"]
    figure = draw_panels(panel_order(reports))
    assert len(figure.axes) == 4
    assert all("target damage" in axis.get_title() for axis in figure.axes)


def test_removed_rows_are_counted_by_what_they_were():
    poison = np.array([1, 1, 1, 0, 0, 0, 0], bool)
    target = np.array([1, 1, 1, 1, 1, 0, 0], bool)
    gone = np.array([1, 0, 0, 1, 1, 0, 1], bool)
    assert removed_text(gone, poison, target).splitlines() == [
        "removed:",
        "1 of 3 poison rows",
        "2 of 2 clean target rows",
        "1 of 2 other rows",
    ]


@pytest.mark.parametrize("proba", [np.zeros((9, 9)), np.ones((9, 9)), np.tile(np.repeat([0.0, 1.0], 5), (10, 1))])
def test_regions_are_shaded_by_what_is_predicted(proba):
    report = figure2_reports()[1]
    arrays = {**report.result.arrays, "panel_proba": proba}
    (axis,) = draw_panels([replace(report, result=replace(report.result, arrays=arrays))]).axes
    one_class = proba.min() == proba.max()
    assert mpl.colors.to_hex(axis.get_facecolor()) == {0.0: "#dbe9f4", 1.0: "#fdf0d5"}.get(
        proba.max() if one_class else None, "#ffffff"
    )
    filled = [drawn for drawn in axis.collections if isinstance(drawn, QuadContourSet) and drawn.filled]
    assert len(filled) == (not one_class)
    for regions in filled:  # class 0 on the left, class 1 on the right
        assert [mpl.colors.to_hex(colour) for colour in regions.get_facecolor()] == ["#dbe9f4", "#fdf0d5"]
        first, second = (path.get_extents() for path in regions.get_paths())
        assert first.x0 < second.x0


def test_panels_need_two_dimensions():
    report = figure2_reports()[0]
    flat = {**report.result.arrays, "panel_x": np.zeros((500, 3))}
    assert panel_order([replace(report, result=replace(report.result, arrays=flat))]) == []


# --- set-ups ----------------------------------------------------------------------------------------------------------


def test_rows_are_sorted_for_the_defender_and_incomplete_ones_come_last():
    reports = [*board(["none", "trim", "sever"]), report_of(cell_of(rate=0.5, defense="half_done"), 10, 0.0, 0.0)]
    assert [row.name for row in rows_of(reports)] == ["sever", "none", "trim", "half_done"]


def test_summaries_average_over_splits():
    reports = [
        with_numbers(report_of(cell_of(split=i)), Number("m", v, 0.2, half_width=0.5)) for i, v in enumerate((0.1, 0.2, 0.6))
    ]
    assert summarize(reports, "m") == pytest.approx((0.3, 0.264575, 3), abs=1e-6)
    assert summarize(reports[:1], "m") == (0.1, 0.5, 1)
    assert summarize(reports, "other") is None


def test_numbers_as_text():
    assert percent(-0.0001) == "0.0"
    assert percent(float("nan")) == percent(None) == "–"
    assert percent(np.float32(0.25)) == "25.0"
    assert quantity("target_damage_worst_5", 0.4512, 2) == "45.12 %"
    assert quantity("n_flipped", 1234.0) == "1234"
    assert quantity("speed_ratio", 4.5678) == "4.568"
