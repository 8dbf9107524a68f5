"""The leaderboard: who is compared on which cells, ranks with intervals, and the columns of a row."""

import json
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from scipy import stats
from synthetic_reports import cell_of

from subpop.experiments.integrity import findings
from subpop.experiments.integrity.findings import CLEAN, UNCHECKED
from subpop.report import leaderboard as module
from subpop.report.leaderboard import Payer, Rank, integrity_of, leaderboards, level_of, mean_difference
from subpop.results.paired import BY_SEED, Difference, damages_by_seed, judge, paired_difference
from subpop.results.plugin_records import kept_reports, record_of
from subpop.types import CAN_COUNT, CellReport, CellResult, Number

BOARD = {"stem": "scoreboard", "kind": "board"}
NAMES = ("none", "trim", "mine")
HURT = np.array([[0.5, 0.5], [0.4, 0.4], [0.3, 0.3], [0.6, 0.6], [0.2, 0.2], [0.7, 0.7]])


def measured(damages, numbers=(), knowledge="", n_test=30.0, costs=None, **changes):
    """A cell with the damages (subpopulations, seeds)."""
    cell = cell_of(**changes)
    damages = np.array(damages, float)
    table = tuple(
        {"subpopulation": f"digit={i}", "n_test": n_test, "defense_cost": 0.0 if costs is None else costs[i]}
        for i in range(len(damages))
    )
    found = (Number("target_damage_mean", float(damages.mean())), *(Number(name, value) for name, value in dict(numbers).items()))
    told = {"n_subpopulations": len(damages), "seconds": 30 * dict(numbers).get("seconds_a_trial", 0.0)}
    return CellReport(cell, CellResult(cell, found, table, {BY_SEED: damages}, knowledge, **told))


def broken(status="error", **changes):
    return CellReport(cell_of(**changes), None, status=status, reason="it died")


def the_board(reports):
    (board,) = leaderboards(reports)
    return board


def entry(board, name):
    return next(each for each in (*board.controls, *board.entries) if each.defense == name)


def test_a_plug_in_as_last_measured_has_the_place_of_its_run():
    """A report of a store gave it the damage of no defense, because the record of its cell had no damages by seed."""
    none, trim, mine = (measured(HURT - less, defense=name, **BOARD) for less, name in zip((0, 0.1, 0.25), NAMES, strict=True))
    record = json.loads(json.dumps(record_of(mine, "cpu")))
    [kept] = kept_reports({"mine": record}, "cpu")
    of_run, of_store = the_board([none, trim, mine]), the_board([none, trim, kept])
    assert entry(of_run, "mine").damage.value < entry(of_run, "none").damage.value
    assert entry(of_store, "mine") == entry(of_run, "mine")


def test_a_plug_in_as_an_earlier_version_measured_it_is_on_no_board():
    none, trim, mine = (measured(HURT - less, defense=name, **BOARD) for less, name in zip((0, 0.1, 0.25), NAMES, strict=True))
    record = json.loads(json.dumps(record_of(mine, "cpu")))
    record["result"]["arrays"] = {}
    board = the_board([none, trim, *kept_reports({"mine": record}, "cpu")])
    assert [each.defense for each in board.entries] == ["trim"]


# --- the cells of a board ---------------------------------------------------------------------------------------------


def test_data_sets_have_equal_weight_whatever_their_number_of_subpopulations():
    reports = [measured(HURT, **BOARD), measured(HURT[:2], dataset="mixture", **BOARD)]
    reports += [
        measured(HURT - 0.1, defense="trim", **BOARD),
        measured(HURT[:2] - 0.3, defense="trim", dataset="mixture", **BOARD),
    ]
    board = the_board(reports)
    assert board.datasets == ("digits", "mixture")
    assert board.undefended.damage.value == pytest.approx((0.45 + 0.45) / 2)
    assert entry(board, "trim").by_dataset == {"digits": pytest.approx(0.35), "mixture": pytest.approx(0.15)}
    assert entry(board, "trim").damage.value == pytest.approx(0.25)  # a mean over subpopulations would be .3


def test_a_defense_that_lacks_cells_is_described_on_its_others_and_has_no_rank():
    both = [measured(HURT * share, dataset=name, **BOARD) for name, share in (("digits", 1), ("mixture", 0.5))]
    both += [measured(HURT, dataset=name, defense="sever", **BOARD) for name in ("digits", "mixture")]
    good, failed = measured(HURT * 0.1, defense="trim", **BOARD), broken(defense="trim", dataset="mixture", **BOARD)
    for rest, n_failed in (([good], 0), ([good, failed], 1)):
        board = the_board([*both, *rest])
        row = entry(board, "trim")
        assert [each.defense for each in board.entries] == ["sever", "trim"]  # although its damage is smaller
        assert (row.rank, row.n_missing, row.n_failed, row.by_dataset) == (None, 1, n_failed, {"digits": pytest.approx(0.045)})
        assert (row.damage.value, board.undefended_damage(row)) == (pytest.approx(0.045), pytest.approx(0.45))
        assert row.judged.difference.value == pytest.approx(-0.405)  # with zeros for mixture it would be half of that
        assert (entry(board, "sever").rank.value, board.undefended_damage(entry(board, "sever"))) == (1, pytest.approx(0.3375))


def test_failures_make_no_defense_equivalent_to_none():
    """Six of seven data sets failed: as differences of 0 they would have made a change of 7 points one of 1 point."""
    sets = [f"set{i}" for i in range(7)]
    reports = [measured(HURT, dataset=name, **BOARD) for name in sets]
    reports += [measured(HURT + 0.07, defense="mine", dataset=sets[0], **BOARD)]
    reports += [broken(defense="mine", dataset=name, **BOARD) for name in sets[1:]]
    judged = entry(the_board(reports), "mine").judged
    assert (judged.verdict, judged.difference.value) == ("worse", pytest.approx(0.07))


def test_a_defense_that_failed_everywhere_has_no_row():
    both = [measured(HURT, dataset=dataset, **BOARD) for dataset in ("digits", "mixture")]
    failed = [broken(defense="bad", dataset=dataset, **BOARD) for dataset in ("digits", "mixture")]
    board = the_board([*both, *failed])
    assert (board.entries, board.failed) == ((), {"bad": 2})
    trim = [measured(HURT - 0.2, defense="trim", dataset=dataset, **BOARD) for dataset in ("digits", "mixture")]
    board = the_board([*both, *trim, *failed])
    assert ([each.defense for each in board.entries], board.failed) == (["trim"], {"bad": 2})
    assert leaderboards([*both, broken("skipped", defense="trim", **BOARD)]) == ()


def test_a_subpopulation_that_a_defense_lacks_counts_as_no_defense():
    board = the_board([measured(HURT, **BOARD), measured(HURT[:3] * 0, defense="trim", **BOARD)])
    assert entry(board, "trim").damage.value == pytest.approx(HURT[3:].sum() / 12)


def test_stochastic_victims_have_a_board_of_their_own():
    network = {"victim": "conv_net", **BOARD}

    def stochastic(report):
        return replace(report, result=replace(report.result, exact=False))

    reports = [measured(HURT, **BOARD), measured(HURT - 0.1, defense="trim", **BOARD)]
    reports += [stochastic(measured(HURT * 0.5, **network)), stochastic(measured(HURT * 0.1, defense="epic", **network))]
    linear, second = leaderboards(reports)
    assert [each.defense for each in linear.entries] == ["trim"]  # epic cannot run there and does not count as no defense
    assert [each.defense for each in second.entries] == ["epic"]
    assert (linear.title, second.title) == ("embedded tier", "embedded tier, conv_net")
    assert (linear.file_name, second.file_name) == ("leaderboard-embedded", "leaderboard-embedded-stochastic")
    assert second.undefended.damage.value == pytest.approx(0.225)
    assert the_board(reports[2:]).title == "embedded tier"  # the only board of its tier


def test_the_suite_scoreboard_takes_precedence():
    others = [measured(HURT), measured(HURT * 0, defense="sever")]
    board = the_board([*others, measured(HURT, **BOARD), measured(HURT / 2, defense="trim", **BOARD)])
    assert (board.stems, [each.defense for each in board.entries]) == (("scoreboard",), ["trim"])


def test_other_suites_are_compared_on_the_cells_that_most_defenses_have_in_common():
    """Three defenses on one data set, two of them on another: 3 x 1 against 2 x 2 rows."""
    names = {"digits": ("trim", "sever", "sever_as_released"), "mixture": ("trim", "sever"), "adult": ("fine_pruning",)}
    reports = [measured(HURT, dataset=dataset) for dataset in names]
    reports += [measured(HURT, dataset=dataset, defense=name) for dataset, of in names.items() for name in of]
    board = the_board(reports)
    assert (board.datasets, {each.defense for each in board.entries}) == (("digits", "mixture"), {"trim", "sever"})
    without = the_board([report for report in reports if report.cell.dataset != "mixture"])
    assert {each.defense for each in without.entries} == set(names["digits"])


@pytest.mark.parametrize(("rates", "chosen"), [((0.5, 2.0, 4.0), 0.5), ((0.5, 1.6), 1.6)])  # as far from 1; nearer by its ratio
def test_a_board_has_one_alpha_and_no_wrongly_told_defense(rates, chosen):
    reports = [measured(HURT * rate, defense=name, rate=rate) for rate in rates for name in ("none", "trim")]
    reports += [measured(HURT, rate=1.0), measured(HURT * 0, defense="sever", n_poison_told="half", rate=1.0)]
    board = the_board(reports)
    assert (board.rate, [each.defense for each in board.entries]) == (chosen, ["trim"])
    assert board.undefended.damage.value == pytest.approx(0.45 * chosen)


def test_tiers_have_boards_of_their_own():
    reports = [measured(HURT, tier=tier, defense=name, **BOARD) for tier in ("laptop", "embedded") for name in ("none", "trim")]
    assert [board.tier for board in leaderboards(reports)] == ["embedded", "laptop"]


def test_boards_are_made_once_for_all_pages_of_a_report():
    reports = [measured(HURT, **BOARD), measured(HURT / 2, defense="a", **BOARD)]
    (board,) = leaderboards(reports)
    assert leaderboards(reports[::-1])[0] is board, "the order of the reports changes nothing"
    assert leaderboards([replace(each) for each in reports])[0] is not board


@pytest.mark.parametrize(
    "reports",
    [
        [],
        [measured(HURT)],
        [measured(HURT), measured(HURT, defense="random_filter")],
        [measured(HURT, defense="trim")],
        [broken(), measured(HURT, defense="trim")],
        [measured(HURT, rate=0.0), measured(HURT, rate=0.0, defense="trim")],
    ],
    ids=["nothing", "an attack", "controls", "no control", "a control that failed", "no attack"],
)
def test_there_is_no_board_without_a_defense_and_its_control(reports):
    assert leaderboards(reports) == ()


def test_a_holdout_is_the_defense_s_own_and_no_other_set_up():
    reports = [measured(HURT, **BOARD), measured(HURT, defense="trim", **BOARD)]
    reports.append(measured(HURT * 0, defense="fine_pruning", holdout=0.05, knowledge="clean_holdout of 0.05", **BOARD))
    board = the_board(reports)
    assert len(board.contexts) == 1
    assert list(board.levels) == ["nothing", "holdout"]
    assert entry(board, "fine_pruning").damage.value == 0


def test_cells_that_are_known_by_their_aggregates_have_ranks_without_intervals():
    reports = [measured(HURT * share, defense=name, **BOARD) for name, share in (("none", 1), ("trim", 0.5), ("sever", 0.25))]
    bare = [replace(report, result=replace(report.result, table=(), arrays={})) for report in reports]
    board = the_board(bare)
    assert [(each.defense, each.rank) for each in board.entries] == [("sever", Rank(1)), ("trim", Rank(2))]
    assert entry(board, "trim").damage.value == pytest.approx(0.225)
    assert (entry(board, "trim").damage.low, entry(board, "trim").hurt_share) == (None, None)
    assert entry(board, "trim").judged.difference.reason


# --- ranks and intervals ----------------------------------------------------------------------------------------------


def test_equal_defenses_share_a_rank_and_clear_ones_have_narrow_intervals():
    left = {"none": 1.0, "a": 0.1, "b": 0.5, "c": 0.5}
    board = the_board([measured(HURT * share, defense=name, **BOARD) for name, share in left.items()])
    assert {each.defense: each.rank for each in board.entries} == {"a": Rank(1, 1, 1), "b": Rank(2, 2, 3), "c": Rank(2, 2, 3)}
    assert board.undefended.rank is None


def test_defenses_that_win_on_other_subpopulations_cannot_be_ranked():
    one, other = HURT.copy(), HURT.copy()
    one[::2] -= 0.15
    other[1::2] -= 0.14
    reports = [measured(HURT, **BOARD), measured(one, defense="a", **BOARD), measured(other, defense="b", **BOARD)]
    assert [each.rank for each in the_board(reports).entries] == [Rank(1, 1, 2), Rank(2, 1, 2)]


def test_an_interval_is_that_of_the_mean_over_subpopulations():
    rng = np.random.default_rng(3)
    damages = rng.uniform(0.1, 0.9, (40, 1))
    board = the_board([measured(damages, **BOARD), measured(damages, defense="trim", **BOARD)])
    error = damages.std(ddof=1) / np.sqrt(40)
    expected = stats.t.ppf(0.975, 39) * error
    found = board.undefended.damage
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.05)


def test_a_subpopulation_is_drawn_with_its_rows_of_all_splits():
    """Equal damages in ten splits say no more about the subpopulations than one split does."""
    damages = np.random.default_rng(4).uniform(0.1, 0.9, (20, 1))
    widths = []
    for n_splits in (1, 10):
        splits = [{"split": split} for split in range(n_splits)]
        reports = [measured(damages, defense=name, **split, **BOARD) for split in splits for name in ("none", "trim")]
        found = the_board(reports).undefended.damage
        widths.append(found.high - found.low)
    assert widths[1] == pytest.approx(widths[0], rel=0.05)


def test_splits_that_differ_widen_the_interval():
    damages = np.full((20, 1), 0.5)
    reports = [
        measured(damages + 0.1 * split, defense=name, split=split, **BOARD) for split in (0, 1) for name in ("none", "trim")
    ]
    found = the_board(reports).undefended.damage
    assert found.high - found.low == pytest.approx(0.1 * stats.t.ppf(0.975, 19) / NormalDist().inv_cdf(0.975), rel=1e-6)


def test_few_subpopulations_have_no_interval():
    board = the_board([measured(HURT[:4], **BOARD), measured(HURT[:4] / 2, defense="trim", **BOARD)])
    assert (board.entries[0].rank, board.entries[0].damage.low) == (Rank(1), None)


def test_small_subpopulations_do_not_count():
    reports = [measured(HURT, costs=[0.5, 0.1, 0, 0, 0, 0], defense=name, **BOARD) for name in ("none", "trim")]
    rows = [({**report.result.table[0], "n_test": 19.0}, *report.result.table[1:]) for report in reports]
    small = [replace(each, result=replace(each.result, table=table)) for each, table in zip(reports, rows, strict=True)]
    board = the_board(small)
    assert board.undefended.damage.value == pytest.approx(HURT[1:].mean())
    assert entry(board, "trim").payer == Payer("digits", "digit=1", 0.1)


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_the_verdicts_are_those_of_the_paired_comparison():
    rng = np.random.default_rng(5)
    better = HURT - 0.2 + rng.normal(0, 0.01, HURT.shape)
    reports = [measured(HURT, **BOARD), measured(better, defense="trim", **BOARD), measured(HURT, defense="sever", **BOARD)]
    board = the_board(reports)
    none, trim, sever = (damages_by_seed(report.result) for report in reports)
    expected = judge(
        {"trim": paired_difference(trim, none, none, exact=True), "sever": paired_difference(sever, none, none, exact=True)}
    )
    for name in ("trim", "sever"):
        assert entry(board, name).judged.verdict == expected[name].verdict
        assert entry(board, name).judged.difference.value == pytest.approx(expected[name].difference.value)
        assert entry(board, name).judged.difference.std_error == pytest.approx(expected[name].difference.std_error)


def test_few_splits_are_averaged_before_a_verdict_and_five_vary():
    """Two splits have one degree of freedom, with which nothing can be decided; five subpopulations more have four."""
    rng = np.random.default_rng(6)
    for n_splits, freedom in ((2, 5), (5, 4)):
        splits = [HURT - rng.normal(0.2, 0.01, HURT.shape) for _ in range(n_splits)]
        reports = [measured(HURT, split=i, **BOARD) for i in range(n_splits)]
        reports += [measured(damages, defense="trim", split=i, **BOARD) for i, damages in enumerate(splits)]
        judged = entry(the_board(reports), "trim").judged
        assert judged.verdict == "better"
        assert judged.difference.value == pytest.approx(np.mean(splits) - HURT.mean())
        assert judged.difference.freedom == pytest.approx(freedom)


def test_differences_of_data_sets_are_averaged_by_hand():
    found = mean_difference([Difference(-0.4, 0.03, 4, 5), Difference(-0.2, 0.04, 9, 10), Difference(reason="none is hurt")])
    assert (found.value, found.n_groups, found.reason) == (pytest.approx(-0.3), 15, "")
    assert found.std_error == pytest.approx(0.025)
    assert found.freedom == pytest.approx(0.0025**2 / (0.0009**2 / 4 + 0.0016**2 / 9))
    assert mean_difference([Difference(reason="none is hurt")]).reason == "none is hurt"


# --- columns ----------------------------------------------------------------------------------------------------------


def test_the_columns_of_a_row_by_hand():
    numbers = {"clean_accuracy": 0.9, "fits_a_trial": 1.0, "seconds_a_trial": 2.0, "collateral_damage_max": 0.02}
    filtered = {**numbers, "defended_clean_accuracy": 0.87, "fits_a_trial": 6.0, "seconds_a_trial": 9.0, "poison_recall": 0.5}
    worst = {"target_damage_worst_1": 0.6, "removed_share": 0.1, "certified_damage_mean:exact": 0.8}
    costs = [0.01, 0.0, 0.3, 0.0, 0.0, 0.0]
    reports = [
        measured(HURT, numbers, **BOARD),
        measured(HURT - 0.25, {**filtered, **worst}, f"n_poison, {CAN_COUNT}", costs=costs, defense="trim", **BOARD),
        measured(HURT, {"poison_recall": 0.12}, "the filter's counts", defense="matched_random_filter:trim", **BOARD),
    ]
    board = the_board(reports)
    row = entry(board, "trim")
    assert (row.recall, row.matched_recall, row.removed_share) == (0.5, 0.12, 0.1)
    assert (row.fits, row.seconds) == (6.0, 4.5)
    assert row.clean_cost == pytest.approx(0.03)
    assert row.payer == Payer("digits", "digit=2", 0.3)
    assert row.hurt_share == pytest.approx(4 / 6)  # .25, .15, .05, .35, -.05, .45
    assert (row.worst, row.collateral, row.certified) == (0.6, 0.02, {"exact": 0.8})
    assert (row.knowledge, board.undefended.knowledge) == ("count", "nothing")
    assert entry(board, "none").payer is None
    assert [each.defense for each in board.controls] == ["none"]


def test_times_are_compared_where_undefended_cells_take_a_minute():
    """In cells of milliseconds the same function took 0.14 to 11 times as long as plain training."""
    for seconds, ratio in ((2.0, 4.5), (1.9, None), (0.002, None)):
        reports = [measured(HURT, {"seconds_a_trial": seconds}, **BOARD)]
        reports.append(measured(HURT, {"seconds_a_trial": 4.5 * seconds, "fits_a_trial": 2.0}, defense="trim", **BOARD))
        row = entry(the_board(reports), "trim")
        assert (row.seconds, row.fits) == (ratio, 2.0)


def test_a_damage_counts_splits_and_a_difference_subpopulations():
    """Three subpopulations, the first in both splits: 4 rows, but 3 differences."""
    reports = []
    for name, first, others in (("none", 0.5, 0.4), ("trim", 0.1, 0.3)):
        reports.append(measured([[first] * 2, [others] * 2, [others] * 2], defense=name, split="0", **BOARD))
        reports.append(measured([[first] * 2], defense=name, split="1", **BOARD))
    board = the_board(reports)
    assert board.undefended.damage.value - entry(board, "trim").damage.value == pytest.approx((2 * 0.4 + 2 * 0.1) / 4)
    assert entry(board, "trim").judged.difference.value == pytest.approx(-(0.4 + 2 * 0.1) / 3)


def test_recall_and_its_control_are_of_the_same_cells():
    sets = ("digits", "mixture")
    reports = [measured(HURT, dataset=dataset, **BOARD) for dataset in sets]
    reports += [
        measured(HURT, {"poison_recall": r}, defense="trim", dataset=d, **BOARD) for d, r in zip(sets, (0.5, 0.1), strict=True)
    ]
    reports.append(measured(HURT, {"poison_recall": 0.2}, defense="matched_random_filter:trim", **BOARD))
    row = entry(the_board(reports), "trim")
    assert (row.recall, row.matched_recall) == (0.5, 0.2)


def test_controls_come_with_no_defense_first():
    left = {"none": 1.0, "trim": 0.9, "perfect_filter": 0.0, "random_filter": 0.95}
    board = the_board([measured(HURT * share, defense=name, **BOARD) for name, share in left.items()])
    assert [each.defense for each in board.controls] == ["none", "perfect_filter", "random_filter"]
    assert all(each.is_control and each.rank is None for each in board.controls)


def test_a_plug_in_s_integrity_and_own_learners_are_named():
    report = measured(HURT, defense="mine", **BOARD)
    flagged = replace(report, result=replace(report.result, integrity="flag: looks up labels", n_own_learner=3))
    row = entry(the_board([measured(HURT, **BOARD), flagged]), "mine")
    assert (row.integrity, row.own_learner) == ("flag in 1 of 1 cells: looks up labels", True)


@pytest.mark.parametrize(
    ("probes", "said"),
    [
        ([(CLEAN, "")] * 4, "4 of 4 cells probed: no known cheat found"),
        ([(CLEAN, "replay: passed"), *[(UNCHECKED, f"replay: not run ({findings.NO_TIME})")] * 3],
         "1 of 4 cells probed: no known cheat found; the time for probes was used up"),
        ([(CLEAN, f"replay: passed; membership: not run ({findings.NO_TIME})")],
         "no known cheat found; the time for probes was used up"),
        ([(UNCHECKED, f"replay: not run ({findings.NO_TIME})")], "unchecked; the time for probes was used up"),
        ([(UNCHECKED, "")] * 4, "unchecked"),
        ([(findings.DECLARED, f"replay: not run ({findings.NO_TIME})")] * 2,
         "nondeterministic (declared); the time for probes was used up"),
        ([("flag: looks up labels", ""), (UNCHECKED, "")], "flag in 1 of 2 cells: looks up labels"),
        ([("", "")] * 2, ""),
    ],
)  # fmt: skip
def test_what_probes_found_says_in_how_many_cells(probes, said):
    none = measured(HURT, **BOARD).result
    assert integrity_of([replace(none, integrity=column, probes=details) for column, details in probes]) == said


@pytest.mark.parametrize(
    ("knowledge", "level"),
    [
        ("", "nothing"),
        (CAN_COUNT, "nothing"),
        ("n_poison", "count"),
        (f"n_poison x 2, {CAN_COUNT}", "count"),
        ("clean_holdout of 0.05 of the test rows, n_poison", "holdout"),
        ("groups, n_poison", "group labels"),
        ("poison_mask", "the poison"),
    ],
)
def test_levels_of_knowledge(knowledge, level):
    assert level_of(knowledge) == level
    assert level in module.LEVELS
