"""A run beside the released trials: what is drawn and tabled is what was measured, and only where it can be compared."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from synthetic_reports import cell_of, draw_all, report_of

from subpop.report import RunInfo
from subpop.report.figures.released import (
    WIDEST,
    beside_released,
    comparable,
    looks_of,
    released_sample,
    samples_of,
    side_by_side,
)
from subpop.report.released import beside_released_trials, p_value
from subpop.report.suite_page import suite_page
from subpop.results.released import trials_of, two_samples
from subpop.types import CellReport

RATES = (0.5, 1.0, 2.0)


def run(damages, rate=2.0, victim="text_linear", dataset="imdb_minilm", n_test=40, **changes):
    """A cell with these target damages; cluster i has 100 + i rows in D and a collateral damage of i / 1000."""
    own = {"stem": "imdb_cluster_match", "kind": "imdb", "partition": "cluster_match", **changes}
    cell = cell_of(dataset=dataset, victim=victim, rate=rate, **own)
    report = report_of(cell, len(damages))
    table = tuple(
        {
            **row,
            "subpopulation": f"cluster={i}",
            "target_damage": damage,
            "collateral_damage": i / 1000,
            "n_train": 100.0 + i,
            "n_test": float(n_test),
        }
        for i, (row, damage) in enumerate(zip(report.result.table, damages, strict=True))
    )
    return replace(report, result=replace(report.result, table=table))


def spread(n, height=0.3):
    return list(np.linspace(-0.02, height, n).round(3))


def points(axis, marker):
    """(x, y) of the marks of one kind."""
    (line,) = [line for line in axis.lines if line.get_marker() == marker]
    return line.get_xdata(), line.get_ydata()


# --- what is compared -------------------------------------------------------------------------------------------------


def test_undefended_cells_on_imdb_at_a_released_alpha_are_compared():
    fair = run([0.1])
    others = [
        run([0.1], rate=0.0),
        run([0.1], rate=4.0),
        run([0.1], dataset="reviews"),
        run([0.1], defense="trim"),
        run([0.1], n_test=19),  # nothing left to rank
        CellReport(cell_of(stem="imdb_cluster_match", kind="imdb", dataset="imdb"), None, status="skipped"),
    ]
    assert comparable([*others, fair]) == [fair]
    assert beside_released_trials(others) == []


def test_small_clusters_are_not_ranked_and_their_collateral_damage_counts():
    report = run([0.1, 0.2, 0.9])
    table = (*report.result.table[:2], {**report.result.table[2], "n_test": 19.0})
    (ours, *_) = samples_of([replace(report, result=replace(report.result, table=table))])[2.0]
    assert ours.damages.tolist() == [0.1, 0.2]
    assert (ours.summed_up.worst_1, ours.summed_up.collateral_max) == (0.2, 0.002)


def test_released_samples_stand_after_ours_and_hold_every_trial():
    reports = [run([0.1], victim=v, dataset="imdb") for v in ("bert_fine_tuned", "bert_last_layer", "another")]
    samples = samples_of([*reports, run([0.1], rate=0.5)])
    assert list(samples) == [0.5, 2.0]
    labels = [sample.label for sample in samples[2.0]]
    assert labels == ["bert_last_layer", "bert_fine_tuned", "another", "released LL", "released FT"]
    for sample, model in zip(samples[0.5][-2:], ("LL", "FT"), strict=True):
        assert sample.damages.tolist() == [trial.target_damage for trial in trials_of(model, 0.5)]
        assert sample.summed_up == released_sample(model, 0.5).summed_up
        assert not sample.ours


def test_labels_tell_settings_and_splits_apart_and_only_those():
    reports = [run([0.1], max_length=64), run([0.1], max_length=128), run([0.1], dataset="imdb", encoder="x")]
    assert [s.label for s in samples_of(reports)[2.0] if s.ours and s.dataset == "imdb"] == ["text_linear"]
    labels = {s.label for s in samples_of(reports)[2.0] if s.ours and s.dataset == "imdb_minilm"}
    assert labels == {"text_linear, max_length=64", "text_linear, max_length=128"}
    splits = [run([0.1], split=0), run([0.1], split=1)]
    assert [s.label for s in samples_of(splits)[2.0] if s.ours] == ["text_linear, split 0", "text_linear, split 1"]


def test_what_trains_alike_has_one_colour_and_no_two_labels_look_the_same():
    reports = [run([0.1], victim=v, dataset="imdb") for v in ("bert_fine_tuned", "bert_last_layer", "another")]
    reports += [run([0.1], victim="bert_last_layer", dataset="imdb", max_length=length) for length in (64, 128)]
    looks = looks_of(samples_of(reports)[2.0])
    assert looks["bert_fine_tuned"]["color"] == looks["released FT"]["color"]
    assert looks["released LL"]["marker"] == "s"
    assert {looks[name]["markerfacecolor"] for name in ("released LL", "released FT")} == {"white"}
    told = {tuple(sorted((k, str(v)) for k, v in look.items())) for look in looks.values()}
    assert len(told) == len(looks) == 7


# --- the figure -------------------------------------------------------------------------------------------------------


def test_every_trial_is_a_point_at_its_damage_and_size():
    damages = spread(100)
    figure = beside_released([run(damages, rate=rate) for rate in RATES])
    axes = figure.axes
    assert figure.get_supylabel() == "target damage (%)"
    assert [axis.get_xlabel() for axis in axes[3:]] == ["rows of the cluster in D"] * 3
    assert [axis.get_title(loc="left") for axis in axes] == ["alpha 0.5", "alpha 1", "alpha 2", "", "", ""]
    for column, alpha in enumerate(RATES):
        strips, sizes = axes[column], axes[column + 3]
        for marker, heights, rows in [
            ("s", [t.target_damage for t in trials_of("LL", alpha)], [t.n_train for t in trials_of("LL", alpha)]),
            ("^", [t.target_damage for t in trials_of("FT", alpha)], [t.n_train for t in trials_of("FT", alpha)]),
        ]:
            assert points(strips, marker)[1] == pytest.approx(100 * np.array(heights))
            assert points(sizes, marker)[1] == pytest.approx(100 * np.array(heights))
            assert points(sizes, marker)[0] == pytest.approx(rows)
        assert points(strips, "o")[1] == pytest.approx(100 * np.array(damages))
        assert [label.get_text() for label in strips.get_xticklabels()] == ["n = 100", "n = 30", "n = 30"]


def test_quartiles_and_median_stand_beside_each_strip():
    figure = beside_released([run([0.0, 0.1, 0.2, 0.3, 0.4])])
    strips = figure.axes[0]
    bars = [bar.get_segments()[0] for bar in strips.collections if isinstance(bar, LineCollection)]
    medians = [line.get_ydata()[0] for line in strips.lines if line.get_marker() == "_"]
    assert bars[0][:, 1] == pytest.approx([10, 30])
    assert len(bars) == len(medians) == 3
    assert medians[0] == pytest.approx(20)
    assert medians[1:] == pytest.approx([100 * released_sample(model, 2.0).summed_up.median for model in ("LL", "FT")])
    few = beside_released([run([0.0, 0.1, 0.2])]).axes[0]
    assert len([bar for bar in few.collections if isinstance(bar, LineCollection)]) == 2  # three points have no quartiles


def test_the_worst_clusters_are_ringed_and_named():
    figure = beside_released([run([0.1, 0.7, 0.2])])
    sizes = figure.axes[1]
    rings = {(line.get_xdata()[0], round(line.get_ydata()[0], 4)) for line in sizes.lines if line.get_markersize() == 8}
    worst = {
        trial.model: trial for model in ("LL", "FT") for trial in [max(trials_of(model, 2.0), key=lambda t: t.target_damage)]
    }
    assert rings == {(101, 70.0), *((trial.n_train, round(100 * trial.target_damage, 4)) for trial in worst.values())}
    names = [text.get_text() for text in sizes.texts]
    assert names == ["cluster=1", f"FT {worst['FT'].cluster}", f"LL {worst['LL'].cluster}"]


def test_names_do_not_lie_on_each_other():
    alike = [run([0.1301, 0.0], victim=v, dataset="imdb") for v in ("bert_last_layer", "bert_fine_tuned", "another")]
    heights = sorted(text.get_position()[1] for text in beside_released(alike).axes[1].texts)
    assert len(heights) == 5
    assert min(np.diff(heights)) > 0.06


def test_limits_hold_all_points_whatever_they_are():
    for damages in ([0.0], [-1.0, 1.0], [0.0] * 200):
        for axis in beside_released([run(damages)]).axes:
            low, high = axis.get_ylim()
            assert low < 100 * min(damages)
            assert high > 100 * max(damages)


def test_points_of_one_height_stand_side_by_side():
    assert side_by_side(np.array([5.0]), 1.0).tolist() == [0]
    shifts = side_by_side(np.array([0.1, 0.2, 0.3, 7.0]), 1.0)
    assert shifts == pytest.approx([0, 0.1, -0.1, 0])
    crowd = side_by_side(np.zeros(100), 1.0)
    assert len(set(crowd)) == 100
    assert abs(crowd).max() <= WIDEST + 1e-9
    assert abs(crowd.mean()) < 0.01


def test_the_figure_is_drawn_for_imdb_alone_and_is_the_same_each_time(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    pictures = draw_all([run(spread(12)), run(spread(12), dataset="reviews")], tmp_path / "one")
    (name,) = [picture.name for picture in pictures if picture.kind == "released"]
    assert name == "imdb_cluster_match-embedded-imdb_minilm-released"
    draw_all([run(spread(12))], tmp_path / "two")
    for end in ("png", "svg"):
        assert (tmp_path / "one" / f"{name}.{end}").read_bytes() == (tmp_path / "two" / f"{name}.{end}").read_bytes()


# --- the tables -------------------------------------------------------------------------------------------------------


def rows(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()][2:]


def test_tables_hold_ours_and_the_released_numbers():
    damages = spread(12)
    heading, words, summed_up, _, tested = beside_released_trials([run(damages)])
    assert heading == "## Comparison with the released trials"
    assert "Encoders, clusters and victims differ" in words
    assert "for information" in words
    ours, last, tuned = rows(summed_up)
    assert ours[:4] == ["imdb_minilm, text_linear", "2", "12", "106"]
    largest = sorted(damages, reverse=True)
    assert ours[4:8] == [f"{100 * np.mean(values):.1f}" for values in (largest[:1], largest[:5], largest[:10], damages)]
    assert ours[9:] == ["8.3", "1.1", "0.6"]  # one of 12 lost nothing
    assert last == ["released LL", "2", "30", "131", "13.0", "6.1", "3.6", "0.4", "-0.4", "70.0", "0.2", "-0.4"]
    assert tuned == ["released FT", "2", "30", "129", "50.6", "30.3", "20.6", "8.4", "4.1", "10.0", "1.0", "0.2"]
    found = two_samples(damages, [trial.target_damage for trial in trials_of("FT", 2.0)])
    told = f"{100 * found.difference:.1f}"
    numbers = [f"{found.ks_p:.2g}", f"{found.mann_whitney_p:.2g}", told]
    assert rows(tested)[1] == ["imdb_minilm, text_linear", "released FT", "2", *numbers]


def test_each_cell_is_compared_with_both_released_models():
    reports = [run(spread(12), rate=rate, victim=v) for rate in RATES for v in ("bert_last_layer", "bert_fine_tuned")]
    reports.append(run(spread(3), dataset="imdb_small", victim="minilm_last_layer"))
    _, _, summed_up, _, tested = beside_released_trials(reports)
    assert len(rows(summed_up)) == 3 * 4 + 1
    assert len(rows(tested)) == 7 * 2
    (small,) = [row for row in rows(summed_up) if row[0].startswith("imdb_small")]
    assert small[5:7] == ["–", "–"]
    assert [row[-1].count("to") for row in rows(tested) if row[0].startswith("imdb_small")] == [0, 0]  # too few to resample


def test_p_values_as_text():
    assert [p_value(p) for p in (1.0, 0.0432, 0.00010001, 9e-5, 0.0, float("nan"))] == [
        "1",
        "0.043",
        "0.0001",
        "&lt; 0.0001",
        "&lt; 0.0001",
        "–",
    ]


def test_hostile_names_end_no_cell():
    _, _, summed_up, _, _ = beside_released_trials([run([0.1], dataset="imdb|x", victim="a|*b*")])
    assert "imdb\\|x, a\\|\\*b\\*" in summed_up


def test_the_page_of_the_suite_has_them_and_other_pages_do_not():
    information = RunInfo(tier="laptop", command="pytest")
    page = suite_page("imdb_cluster_match", [run(spread(12))], information)
    assert "## Comparison with the released trials" in page
    assert "released" not in suite_page("cluster_match", [run(spread(12), stem="cluster_match", kind="poisoning")], information)
