"""Tuned settings on a leaderboard: a number beside the default's, on which no rank, verdict or interval depends."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_leaderboard import BOARD, HURT, entry, measured, the_board

from subpop.report.board_table import board_table
from subpop.report.details import against_none
from subpop.report.figures.differences import compared_rows
from subpop.report.figures.setups import NO_VALUE, rows_of
from subpop.report.leaderboard import leaderboards
from subpop.report.opening import RunInfo
from subpop.report.page_tables import _against_none, tables_of
from subpop.report.published import publish, read_board
from subpop.results.paired import EQUIVALENT, UNDECIDED, WORSE, Difference, Judged

TUNED = {"dpa": "dpa(k=5)", "jtt": "jtt(weight=4)"}
N_SPLITS, N_SEEDS = 2, 2


@pytest.fixture(autouse=True)
def tuned_settings(monkeypatch):
    monkeypatch.setattr("subpop.defenses.tuned.tuned", lambda: TUNED)


def cells(damages, defense, **changes):
    """The cells of a defense over the splits. damages: (n_splits, n_subpopulations, n_seeds)."""
    return [measured(of, defense=defense, split=str(split), **{**BOARD, **changes}) for split, of in enumerate(damages)]


def a_board(draw, n_groups=6):
    """Random damages of no defense, two defenses and a control, with ties."""
    return {
        name: draw.integers(0, 10, (N_SPLITS, n_groups, N_SEEDS)) / 10
        for name in ("none", "dpa(k=7)", "jtt", "trim", "perfect_filter")
    }


# --- ranks and verdicts are those of the board without them -----------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from([{"victim": "conv_net"}, {}]))
def test_a_board_with_tuned_cells_is_the_board_without_them(seed, failed, changes):
    draw = np.random.default_rng(seed)
    reports = [report for name, own in a_board(draw).items() for report in cells(own, name, **changes)]
    if draw.random() < 0.5:
        reports = [replace(each, result=replace(each.result, exact=False)) for each in reports]
    tuned = [report for name in TUNED.values() for report in cells(draw.random((N_SPLITS, 6, N_SEEDS)).round(3), name, **changes)]
    tuned[0] = replace(tuned[0], result=replace(tuned[0].result, exact=False))
    if failed:
        tuned[1] = replace(tuned[1], result=None, status="error", reason="it died")
    mixed = [
        each
        for _, each in sorted(zip(draw.random(len(reports) + len(tuned)), [*reports, *tuned], strict=True), key=lambda e: e[0])
    ]
    without, board = the_board(reports), the_board(mixed)
    bare = [replace(each, tuned=None, tuned_as="") for each in (*board.entries, *board.controls)]
    assert bare == [*without.entries, *without.controls]
    assert {each.defense: each.tuned_as for each in board.entries} == {"dpa(k=7)": "dpa(k=5)", "jtt": "jtt(weight=4)", "trim": ""}
    assert board.contexts == without.contexts


def test_the_number_is_the_mean_damage_with_its_interval():
    none, default = np.stack([HURT, HURT]), np.stack([HURT / 2, HURT / 2])
    tuned = np.stack([HURT / 4, HURT / 4])
    board = the_board([*cells(none, "none"), *cells(default, "dpa(k=7)"), *cells(tuned, "dpa(k=5)")])
    row = entry(board, "dpa(k=7)")
    assert (row.damage.value, row.tuned.value) == (pytest.approx(0.225), pytest.approx(0.1125))
    assert (row.tuned.low, row.tuned.high) == (pytest.approx(row.damage.low / 2), pytest.approx(row.damage.high / 2))
    assert row.tuned.low < row.tuned.value < row.tuned.high


def test_both_intervals_of_a_row_contain_the_same_kinds_of_variation():
    """Another defense of the board is stochastic, so that seeds are drawn for all of its rows."""
    draw = np.random.default_rng(2)
    damages = a_board(draw)
    reports = [report for name, own in damages.items() for report in cells(own, name)]
    reports = [replace(r, result=replace(r.result, exact=r.cell.defense != "trim")) for r in reports]
    row = entry(the_board([*reports, *cells(damages["dpa(k=7)"], "dpa(k=5)")]), "dpa(k=7)")
    assert row.tuned == row.damage


def test_a_tuned_cell_that_is_missing_counts_as_no_defense():
    both = [*cells(np.stack([HURT, HURT]), "none"), *cells(np.stack([HURT, HURT]), "dpa(k=7)")]
    board = the_board([*both, *cells(np.stack([HURT * 0]), "dpa(k=5)")])
    assert entry(board, "dpa(k=7)").tuned.value == pytest.approx(HURT.mean() / 2)


def test_tuned_settings_never_stand_in_for_a_default_that_was_not_measured():
    plain, tuned = cells(np.stack([HURT, HURT]), "none"), cells(np.stack([HURT * 0, HURT * 0]), "dpa(k=5)")
    assert leaderboards([*plain, *tuned]) == ()
    board = the_board([*plain, *cells(np.stack([HURT, HURT]), "trim"), *tuned])
    assert [each.defense for each in board.entries] == ["trim"]


def test_in_other_suites_the_same_settings_are_a_defense_of_their_own():
    reports = [measured(HURT), measured(HURT / 2, defense="dpa(k=7)"), measured(HURT / 4, defense="dpa(k=5)")]
    assert [each.defense for each in the_board(reports).entries] == ["dpa(k=5)", "dpa(k=7)"]
    assert set(against_none(rows_of(reports))) == {"dpa(k=5)", "dpa(k=7)"}


def test_the_correction_of_the_tables_below_does_not_count_tuned_settings():
    draw = np.random.default_rng(1)
    reports = [report for name, own in a_board(draw, 12).items() for report in cells(own, name)]
    with_tuned = [*reports, *cells(draw.random((N_SPLITS, 12, N_SEEDS)), "dpa(k=5)")]
    assert against_none(rows_of(with_tuned)) == against_none(rows_of(reports))
    assert {row.name: row.kind for row in rows_of(with_tuned)}["dpa(k=5)"] == "tuned"
    assert [row.name for row in compared_rows(with_tuned)] == [row.name for row in compared_rows(reports)]


# --- pages ------------------------------------------------------------------------------------------------------------


def shown():
    """A board of which one defense has tuned settings."""
    damages = {"none": HURT, "dpa(k=7)": HURT / 2, "dpa(k=5)": HURT / 4, "trim": HURT}
    return [report for name, own in damages.items() for report in cells(np.stack([own, own]), name)]


def row_of(text, name):
    (line,) = [each for each in text.splitlines() if name in each]
    return line


def test_the_front_page_has_the_damage_and_the_details_have_the_settings():
    board = the_board(shown())
    front, details = board_table(board, most=12)[0], board_table(board)[0]
    assert "tuned" in front
    assert "11.2" in row_of(front, "dpa(k=7)")
    assert "k=5" not in front
    assert "11.2 (k=5)" in row_of(details, "dpa(k=7)")
    assert "k=5" not in row_of(details, "trim")


def test_a_board_without_tuned_settings_has_no_such_column():
    board = the_board([report for report in shown() if report.cell.defense != "dpa(k=5)"])
    assert "tuned" not in "".join(board_table(board))


def test_the_page_has_the_interval_and_the_settings():
    tables, _ = tables_of(shown(), RunInfo(tier="embedded", command="pytest"))
    board, everything = ({row[0].text: dict(zip(table.columns, row, strict=True)) for row in table.rows} for table in tables)
    found = entry(the_board(shown()), "dpa(k=7)").tuned
    assert board["dpa(k=7)"]["tuned, in %"].text == f"11.2 ({100 * found.low:.1f} to {100 * found.high:.1f}): k=5"
    assert board["dpa(k=7)"]["tuned, in %"].order == pytest.approx(0.1125)
    assert "dpa(k=5)" not in board
    assert everything["dpa(k=5)"]["role"].text == "tuned"
    assert everything["dpa(k=5)"]["against none"].text == NO_VALUE
    assert everything["dpa(k=7)"]["against none"].text != NO_VALUE


def test_a_published_board_keeps_the_estimate_and_the_settings(tmp_path):
    board = the_board(shown())
    (path,) = publish([board], tmp_path)
    row = entry(read_board(path), "dpa(k=7)")
    assert row.tuned_as == "dpa(k=5)"
    assert row.tuned.value == pytest.approx(0.1125, abs=1e-4)
    assert row.tuned.low is not None
    assert entry(read_board(path), "trim").tuned is None


@pytest.mark.parametrize(
    ("verdict", "value", "said"),
    [
        (EQUIVALENT, 0.0012, "equivalent within 5 points (+0.1)"),
        (WORSE, 0.2, "worse (+20.0)"),
        (UNDECIDED, -0.0002, "undecided (0.0)"),
    ],
)
def test_the_page_states_a_verdict_in_the_unit_of_its_difference(verdict, value, said):
    assert _against_none(Judged(verdict, Difference(value, 0.02, 1e9, 9))).text == said
