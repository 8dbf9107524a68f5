"""The first screen: its length, its rows and columns by hand, and the three sentences."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_reports import cell_of
from test_leaderboard import HURT, broken, measured
from test_report import tables_of

from subpop.report import RunInfo
from subpop.report.board_table import signed
from subpop.report.details import details
from subpop.report.front_page import MOST_ROWS, NO_BOARD, QUESTIONS, UNFINISHED, front_page
from subpop.report.leaderboard import Entry, Estimate, Leaderboard, Payer, context_of, leaderboards
from subpop.report.sentences import about_own, answers, best_of, in_words, points
from subpop.report.verdict import FailedTest, Standing, headline
from subpop.results.paired import BETTER, EQUIVALENT, UNDECIDED, WORSE, Difference, Judged

RUN = RunInfo(tier="embedded", command="python -m pytest benchmarks/")
SCREEN = 45
"""Lines of a screen."""
BOARD = {"stem": "scoreboard", "kind": "board"}
COSTS = {"clean_accuracy": 0.9, "fits_a_trial": 1.0, "seconds_a_trial": 2.0, "collateral_damage_max": 0.02}


def small_board():
    filtered = {**COSTS, "defended_clean_accuracy": 0.87, "fits_a_trial": 6.0, "seconds_a_trial": 9.0, "poison_recall": 0.5}
    return [
        measured(HURT, {**COSTS, "target_damage_worst_1": 0.7}, **BOARD),
        measured(HURT - 0.25, filtered, "n_poison", costs=[0.01, 0, 0.3, 0, 0, 0], defense="trim", **BOARD),
        measured(HURT, {"poison_recall": 0.12}, "the filter's counts", defense="matched_random_filter:trim", **BOARD),
        measured(HURT * 0.9, COSTS, defense="mine", **BOARD),
    ]


def test_the_leaderboard_by_hand():
    (rows,) = tables_of(front_page(small_board(), RUN))
    head = ["defense", "rank", "damage", "against none", "groups ≥ 10", "collateral", "clean lost", "who pays"]
    assert rows[0] == [*head, "recall / random", "fits", "time"]
    assert [row[0] for row in rows[1:]] == ["no defense", "no side information", "mine", "knows the poison count", "trim"]
    assert (rows[1][1], rows[1][2].partition(" ")[0], rows[1][3:]) == ("", "45.0", ["", "100", "2.0", "", "", "", "1", "1x"])
    assert set(rows[2][1:]) == set(rows[4][1:]) == {""}
    assert (rows[5][1], rows[5][2].partition(" ")[0]) == ("1", "20.0")
    assert rows[5][3:] == ["better (-25.0)", "67", "2.0", "3.0", "digit=2: 30.0", "50.0 / 12.0", "6", "4.5x"]
    assert (rows[3][1], rows[3][3]) == ("2", "better (-4.5)")


def test_the_board_of_stochastic_victims_is_a_paragraph_of_its_own():
    network = {"victim": "conv_net", **BOARD}
    second = [measured(HURT * 0.5, COSTS, **network), measured(HURT * 0.1, COSTS, defense="epic", **network)]
    second = [replace(report, result=replace(report.result, exact=False)) for report in second]
    page = front_page([*small_board(), *second], RUN)
    assert len(tables_of(page)) == 1
    (paragraph,) = [line for line in page.splitlines() if line.startswith("**And on conv_net?**")]
    assert "22 points" in paragraph
    assert "with the victim conv_net" in paragraph
    assert "epic" in paragraph
    rest = page.replace(paragraph, "")
    assert "epic" not in rest
    assert "conv_net" not in rest
    assert "with the victim logistic_regression" in rest
    (one, two) = [rows for rows in tables_of(details([*small_board(), *second], RUN)) if rows[0][:2] == ["defense", "rank"]]
    assert ["epic" in [row[0] for row in rows] for rows in (one, two)] == [False, True]
    interrupted = front_page([*small_board(), *second], replace(RUN, standing=Standing(9, 2, stopped="interrupt")))
    assert "**And on conv_net?** In 6 of 9 cells measured so far: At alpha 1" in interrupted


def test_costs_of_other_sizes_and_several_certificates():
    own = {**COSTS, "fits_a_trial": 0.0, "seconds_a_trial": 380.0}
    own |= {"certified_damage_mean:exact": 0.8, "certified_damage_mean:other": 0.9}
    page = front_page([measured(HURT, COSTS, **BOARD), measured(HURT / 2, own, defense="a", **BOARD)], RUN)
    (rows,) = tables_of(page)
    assert (rows[0][-3:], rows[3][-3:]) == (["certified", "fits", "time"], ["80.0", "own", "190x"])
    assert "trains with its own loop and takes 190 times as long as plain training." in page


def test_the_details_have_the_controls_too():
    reports = [*small_board(), measured(HURT * 0, defense="perfect_filter", **BOARD)]
    rows = tables_of(details(reports, RUN))[0]
    assert [row[0] for row in rows[1:]] == [
        "no defense",
        "no side information",
        "mine",
        "knows the poison count",
        "trim",
        "controls",
        "perfect_filter",
    ]
    assert "perfect_filter" not in front_page(reports, RUN)


def test_a_column_that_only_a_defense_off_the_first_screen_fills_is_left_out_there():
    many = [measured(HURT * (0.5 + 0.01 * i), COSTS, defense=f"d{i:02}", **BOARD) for i in range(MOST_ROWS)]
    certified = measured(HURT * 0.99, {**COSTS, "certified_damage_mean:exact": 0.8}, defense="last", **BOARD)
    reports = [measured(HURT, COSTS, **BOARD), *many, certified]
    assert "certified" not in tables_of(front_page(reports, RUN))[0][0]
    assert "certified" in tables_of(details(reports, RUN))[0][0]


def test_columns_that_no_row_fills_are_left_out():
    plain = [measured(HURT, **BOARD), measured(HURT / 2, defense="trim", **BOARD)]
    (rows,) = tables_of(front_page(plain, RUN))
    assert rows[0] == ["defense", "rank", "damage", "against none", "groups ≥ 10"]
    assert not [cell for row in rows for cell in row if cell in ("–", "-")]
    result = replace(plain[1].result, integrity="no known cheat found")
    second = [replace(report, cell=report.cell.with_(dataset="mixture")) for report in plain]
    sever = [measured(HURT, defense="sever", **BOARD), broken(defense="sever", dataset="mixture", **BOARD)]
    page = front_page([plain[0], replace(plain[1], result=result), *second, *sever], RUN)
    (rows,) = tables_of(page)
    assert rows[0][5:] == ["integrity", "cells missing"]
    assert [row[5:] for row in rows[3:]] == [["no known cheat found", ""], ["", "1"]]
    assert [row[1][:1] for row in rows[3:]] == ["1", ""]
    assert ([row[2].endswith(", none 45.0") for row in rows[1:]]) == [False, False, False, True]
    assert "cells in which a defense failed or was not measured" in page


@pytest.mark.parametrize("tiers", [["embedded"], ["embedded", "laptop"]])
def test_the_front_page_is_one_screen(tiers):
    names = ["none", *(f"defense_{i}" for i in range(40))]
    told = ["", "n_poison", "clean_holdout of 0.05", "group_labels"]
    reports = [
        measured(HURT * (1 - i / 100), COSTS, told[i % 4], defense=name, tier=tier, **BOARD)
        for tier in tiers
        for i, name in enumerate(names)
    ]
    page = front_page(reports, RUN)
    assert len(page.splitlines()) <= SCREEN + 20 * (len(tiers) - 1)
    shown = [row[0] for rows in tables_of(page) for row in rows if row[0].startswith("defense_")]
    assert len(shown) == MOST_ROWS
    assert shown.count("defense_39") == len(tiers), "the best of all is shown"
    everything = [row[0] for row in tables_of(details(reports, RUN))[0]]
    assert sum(name.startswith("defense_") for name in everything) == 40
    assert f" {40 - MOST_ROWS // len(tiers)} more defenses are in the [details](details.md)." in page


def test_the_first_lines_of_every_kind_of_session():
    board = small_board()
    for standing, line in (
        (Standing(4, 0), "**Passed.**"),
        (Standing(9, 0), "**Passed; stopped after 4 of 9 cells.**"),
        (Standing(9, 2, stopped="interrupt"), "**Interrupted: 4 of 9 cells measured.**"),
        (Standing(4, 1, (FailedTest("claim", "test_x", "no"),)), "**Failed: 1 claim.**"),
        (Standing(9), "**Unfinished: 4 of 9 cells measured.**"),
    ):
        page = front_page(board, replace(RUN, standing=standing))
        assert page.splitlines()[2].startswith(f"{line} The embedded tier ran on cpu: 4 cells measured")
        assert ("**How bad is it?**" in page) == (standing.exit_status is not None)
        begins = "In 4 of 9 cells measured so far: " if standing.planned == 9 else ""
        for question, first in zip(QUESTIONS, ("At alpha 1", "2 of 2 defenses", "trim needs"), strict=True):
            assert (f"- **{question}** {begins}{first}" in page) == (standing.exit_status is not None)
        assert (UNFINISHED in page) == (standing.exit_status is None)
        assert ("`test_x`" in page.partition("**How bad is it?**")[0]) == bool(standing.failed)


@pytest.mark.parametrize(
    ("statuses", "line"),
    [
        ("pass no_reference", "**Passed.**"),
        ("no_power", "**Passed.**"),
        (
            "no_reference not_gated",
            "**Not compared: 2 cells were measured, and there are no references for your own code and data.**",
        ),
        ("not_gated", "**Not compared: 1 cell was measured, none with a number that is compared with a reference.**"),
        ("published_only", "**Not compared: 1 cell was measured, none with a number that is compared with a reference.**"),
        ("not_compared", "**Not compared: numbers were measured and compared with no reference.**"),
    ],
)
def test_a_run_in_which_nothing_was_compared_does_not_pass(statuses, line):
    reports = [
        replace(measured(HURT, defense=name), status=status)
        for name, status in zip(("none", "trim"), statuses.split(), strict=False)
    ]
    assert headline(reports, Standing(len(reports), 0)) == line
    assert headline(reports, None) == line  # of a store


def test_without_references_and_defenses_the_terminal_shows_each_cell():
    one = measured(HURT, {"target_damage_worst_5": 0.5}, stem="feature_match")
    many = in_words([replace(one, cell=one.cell.with_(n_seeds=n)) for n in range(1, 14)])
    assert len(many) == 11
    numbers = "mean target damage 45.0 %, worst-5 target damage 50.0 %"
    assert many[0] == f"{one.cell.with_(n_seeds=1).id}: {numbers}", "other names would be alike"
    split = [replace(one, cell=one.cell.with_(split=n, n_attacked=6)) for n in (0, 1)]
    assert in_words(split)[1] == f"digits, logistic_regression, alpha 1, split 1: {numbers}", "its id has 85 letters"
    assert many[-1] == "and 3 more cells"
    assert in_words(small_board()) == [*answers(leaderboards(small_board())[0])[:2]]


def test_the_terminal_says_what_ones_own_defenses_and_attacks_do():
    *others, mine = small_board()
    mine = replace(mine, result=replace(mine.result, integrity="no known cheat found"))
    attacked = measured(HURT, {"target_damage_worst_5": 0.5}, attack="my.attack", stem="feature_match")
    said, numbers = about_own([*others, mine, attacked], {"mine"}, {"my.attack"})
    assert said.startswith("mine: better than none (damage on hurt subpopulations -4.5 points, from -6.5 to -2.5); rank 2 of 2. ")
    assert (
        "At alpha 1, on digits with the victim logistic_regression, an attacked subpopulation loses 40 points (23 to 58) of "
        "accuracy, and 45 points without a defense. It trains 1 victim per trial and takes 1 times as long as plain training. "
    ) in said
    assert said.endswith(" Integrity: no known cheat found.")
    assert numbers == "digits, logistic_regression, my.attack, alpha 1: mean target damage 45.0 %, worst-5 target damage 50.0 %"
    assert about_own([*others, mine, attacked], {"absent"}, ()) == []


def test_what_is_said_of_defenses_that_fail():
    none = [measured(HURT, dataset=name, **BOARD) for name in ("digits", "mixture")]
    bad = [broken(defense="bad", dataset=name, **BOARD) for name in ("digits", "mixture")]
    mine = [measured(HURT - 0.25, defense="mine", **BOARD), broken(defense="mine", dataset="mixture", **BOARD)]
    (only,) = about_own([*none, *bad], {"bad"}, ())
    assert only == "bad failed in both cells (digits and mixture; logistic_regression)."
    assert answers(leaderboards([*none, *bad])[0])[1:] == (
        "No defense could be measured: bad failed in both cells.", "Nothing was measured.",
    )  # fmt: skip
    page = front_page([*none, *bad], RUN)
    assert "bad failed in both cells." in page
    assert "equivalent" not in tables_of(page)[0][1]
    said, _ = about_own([*none, *mine, *bad], {"bad", "mine"}, ())
    begins = "mine: better than none (damage on hurt subpopulations -25.0 points, from -25.0 to -25.0); failed in 1 of 2 cells, "
    assert said.startswith(f"{begins}so that this is about the others and has no rank. At alpha 1, on digits with ")
    assert answers(leaderboards([*none, *mine, *bad])[0]).what_helps.startswith(
        "1 of 2 defenses is better than none (1 failed (bad)): mine (failed in 1 of 2 cells) leaves 20 points"
    )


def test_without_defenses_the_attacks_are_shown():
    page = front_page([measured(HURT, {"target_damage_worst_5": 0.5}, stem="feature_match")], RUN)
    assert NO_BOARD in page
    (rows,) = tables_of(page)
    assert rows[1][:2] == ["digits · logistic_regression · feature_match", "50.0"]


def test_the_page_links_to_the_others_and_counts_claims():
    page = front_page(small_board(), RUN)
    assert "[Details](details.md)" in page
    assert "[scoreboard](scoreboard.md)" in page
    assert "Claims" not in page
    trim = [measured(HURT, {"target_damage_worst_5": 0.5}, defense=name) for name in ("none", "trim")]
    assert "Claims of the paper, each in each set-up: 1 disagrees here" in front_page(trim, RUN)


# --- the sentences ----------------------------------------------------------------------------------------------------


def board_of(*entries, none=None, **changes):
    cell = cell_of(**changes)
    none = none or Entry("none", "nothing", Estimate(0.331, 0.284, 0.372), {}, worst=0.57, collateral=0.021)
    return Leaderboard("embedded", ("scoreboard",), (context_of(cell),), entries, (none,))


def entry(name, verdict, damage=0.2, knowledge="nothing", **columns):
    judged = Judged(verdict, Difference(-0.13, 0.02, 1e9, 9))
    return Entry(name, knowledge, Estimate(damage, damage - 0.05, damage + 0.05), {}, judged=judged, **columns)


def test_how_bad_by_hand():
    assert answers(board_of(entry("a", BETTER))).how_bad == (
        "At alpha 1 (1 poison row for each row of a subpopulation), label_flip takes 33 points (28 to 37) of accuracy from an "
        "undefended subpopulation, on digits with the victim logistic_regression, and 57 points from the worst; "
        "all other rows lose at most 2 points."
    )
    bare = Entry("none", "nothing", Estimate(0.004), {})
    assert answers(board_of(entry("a", BETTER), none=bare, rate=0.5)).how_bad == (
        "At alpha 0.5 (0.5 poison rows for each row of a subpopulation), label_flip takes 0.4 points of accuracy from an "
        "undefended subpopulation, on digits with the victim logistic_regression."
    )
    two = tuple(context_of(cell_of(victim=victim)) for victim in ("mlp", "conv_net"))
    board = replace(board_of(entry("a", BETTER)), contexts=two)
    assert "on digits with the victims conv_net and mlp, and 57 points" in answers(board).how_bad


def test_what_helps_by_hand():
    found = answers(board_of(entry("a", UNDECIDED, 0.1), entry("b", BETTER), entry("c", BETTER, 0.25), entry("d", WORSE, 0.4)))
    assert found.what_helps == (
        "2 of 4 defenses are better than none (1 undecided, 1 worse than none): b leaves 20 points (15 to 25) of the 33 points "
        "(13 points ± 4 less on hurt subpopulations); c helps too."
    )
    assert answers(board_of(entry("a", EQUIVALENT, 0.32))).what_helps == (
        "The one defense tested, a, is not better than no defense (equivalent to none within 5 points): it leaves 32 points "
        "(27 to 37) of the 33 points."
    )
    assert answers(board_of(entry("a", UNDECIDED, 0.4))).what_helps.endswith(
        "it leaves 40 points (35 to 45), more than the 33 points."
    )
    for damage, left in (
        (0.3312, "33 points (28 to 38), the same as without a defense"),
        (0.329, "32.9 points (27.9 to 37.9) of the"),
    ):
        assert f"it leaves {left}" in answers(board_of(entry("a", UNDECIDED, damage))).what_helps
    more = answers(board_of(entry("a", UNDECIDED, 0.334))).what_helps
    assert more.endswith("it leaves 33.4 points (28.4 to 38.4), more than the 33.1 points.")
    many = answers(board_of(*(entry(f"d{i}", BETTER) for i in range(8)))).what_helps
    assert many.startswith("8 of 8 defenses are better than none: d0 leaves")
    assert many.endswith("; d1, d2, d3, d4 and 3 others help too.")


def test_a_cheat_does_not_help():
    board = board_of(entry("a", BETTER, 0.0, integrity="flag in 1 of 2 cells: looks up labels"), entry("b", UNDECIDED))
    assert best_of(board).defense == "b"
    assert answers(board).what_helps.startswith(
        "None of 2 defenses is better than no defense (1 undecided, 1 caught cheating (a))"
    )


def test_what_it_costs_by_hand():
    columns = {"clean_cost": 0.029, "payer": Payer("digits", "digit=2", 0.518), "fits": 3.0, "seconds": 2.04}
    best = entry("a", BETTER, knowledge="count", **columns)
    assert answers(board_of(best)).what_it_costs == (
        "a needs the number of poison rows, gives up 3 points of clean accuracy, takes 52 points from digit=2 of digits "
        "without any attack, trains 3 victims per trial and takes 2 times as long as plain training."
    )
    other = entry("b", UNDECIDED, clean_cost=-0.001)
    assert answers(board_of(best, other)).what_it_costs.endswith(
        " All defenses: from a gain of 0.1 to a loss of 3 points of clean accuracy."
    )
    gain = replace(best, clean_cost=-0.002)
    assert ", gains 0.2 points of clean accuracy, " in answers(board_of(gain)).what_it_costs
    costly = replace(best, defense="c", clean_cost=0.01)
    assert answers(board_of(best, costly)).what_it_costs.endswith(" All defenses: 1 to 3 points of clean accuracy.")
    assert ", gives up 1 point of clean accuracy, " in answers(board_of(costly)).what_it_costs
    assert answers(board_of(entry("b", UNDECIDED))).what_it_costs == "What b costs was not measured."


def test_numbers_as_text():
    assert [points(value) for value in (0.333, 0.0096, 0.004, -0.0004, 0.0)] == [
        "33 points",
        "1 point",
        "0.4 points",
        "0 points",
        "0 points",
    ]
    assert [signed(value) for value in (-0.0112, 0.003, -0.0002, np.float64(0))] == ["-1.1", "+0.3", "0.0", "0.0"]
