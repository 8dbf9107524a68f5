"""Reports: what failed comes first, tables say what was measured, results.json keeps its schema, nothing hostile gets through."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from markdown_it import MarkdownIt
from synthetic_reports import cell_of, report_of, run_of_everything

import subpop.report
from subpop.report import RunInfo, append_summary, check_report_directory, results_json, write_report
from subpop.report.details import against_none, details
from subpop.report.figures.setups import rows_of
from subpop.report.front_page import front_page
from subpop.report.markdown import code, escape, folded, table, without_files
from subpop.report.opening import duration
from subpop.report.suite_page import subpopulation_csv, suite_page
from subpop.results.intervals import ROWS, SEEDS
from subpop.results.paired import BY_SEED
from subpop.types import VERDICTS, BadInput, CellReport, CellResult, Number, Provenance, Verdict

RUN = RunInfo(tier="embedded", command="python -m pytest benchmarks/", seconds=143.2, started=0.0)
NAN = float("nan")
COLUMNS = {
    "stem": str,
    "dataset": str,
    "victim": str,
    "partition": str,
    "attack": str,
    "rate": float,
    "defense": str,
    "setting": str,
    "subpopulation": str,
    "knowledge": str,
    "metric": str,
    "value": (float, type(None)),
    "std_error": (float, type(None)),
    "half_width": (float, type(None)),
    "varies": str,
    "n_subpopulations": int,
    "n_seeds": int,
    "published": (float, type(None)),
    "certainty": str,
    "reference": (float, type(None)),
    "atol": (float, type(None)),
    "verdict": str,
    "reason": str,
    "n_fits": int,
    "seconds": float,
    "from_store": bool,
}


def measured(damage, cost=0.0, error=0.013, collateral=0.012, recall=None, precision=None, knowledge="", stored=False, **changes):
    """A cell with the numbers of a scoreboard row."""
    cell = cell_of(**changes)
    numbers = [
        Number("target_damage_worst_5", damage, error / 2.8, half_width=error, varies=ROWS),
        Number("defense_cost_worst_5", cost),
        Number("attack_effect_worst_5", damage - cost),
        Number("collateral_damage_max", collateral),
    ]
    if recall is not None:
        numbers += [Number("poison_recall", recall), Number("poison_precision", precision)]
    result = CellResult(cell, tuple(numbers), (), {}, knowledge, n_subpopulations=7, n_fits=9, seconds=2.5, from_store=stored)
    verdicts = tuple(Verdict(number, "pass", reference=number.value, atol=0.01) for number in numbers)
    return CellReport(cell, result, verdicts)


def tiny_board():
    told = {"knowledge": "n_poison"}
    return [
        measured(0.5, defense="trim", rate=1.0, cost=0.02, recall=0.25, precision=0.5, **told),
        measured(0.9, defense="trim", rate=2.0, cost=0.02, recall=0.125, precision=0.25, **told),
        measured(0.3, defense="sever", rate=1.0, cost=0.1, recall=0.5, precision=0.75, **told),
        CellReport(cell_of(defense="sever", rate=2.0), None, status="error", reason="ran out\nof time | really"),
        measured(0.45, defense="none", rate=1.0),
        measured(0.8, defense="none", rate=2.0),
        measured(0.0, defense="perfect_filter", rate=1.0, recall=1.0, precision=1.0, knowledge="poison_mask"),
        CellReport(cell_of(defense="perfect_filter", rate=2.0), None, status="skipped", reason="no data"),
        measured(0.6, defense="trim", rate=1.0, n_poison_told="half", **told),
    ]


def without_claims(text):
    """The front page up to the claims of the paper, whose table tests/report/test_claims.py checks."""
    return text.partition("## Claims of the paper")[0]


def tables_of(text):
    """Every table of a page as rows of cell texts, read by a markdown parser."""
    tables, row = [], []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            row = []
            tables[-1].append(row)
        elif token.type == "inline" and tables and token.level >= 4:
            row.append("".join(child.content for child in token.children))
    return tables


# --- the scoreboard ---------------------------------------------------------------------------------------------------


def test_a_board_sorts_for_the_defender_and_sets_controls_apart():
    damages, others = tables_of(without_claims(details(tiny_board(), RUN)))
    assert damages == [
        ["defense", "alpha 1", "alpha 2", "knowledge", "seconds"],
        ["trim", "50.0 ± 1.3 (2.0 + 48.0)", "90.0 ± 1.3 (2.0 + 88.0)", "n_poison", "5.0"],
        ["sever", "30.0 ± 1.3 (10.0 + 20.0)", "error", "n_poison", "2.5"],
        ["controls", "", "", "", ""],
        ["none", "45.0 ± 1.3 (0.0 + 45.0)", "80.0 ± 1.3 (0.0 + 80.0)", "nothing", "5.0"],
        ["perfect_filter", "0.0 ± 1.3 (0.0 + 0.0)", "skipped", "poison_mask", "2.5"],
        ["given a wrong poison count", "", "", "", ""],
        ["trim (n_poison: half)", "60.0 ± 1.3 (0.0 + 60.0)", "–", "n_poison", "2.5"],
    ]
    assert others[1] == ["trim", "1.2; 25.0 / 50.0", "1.2; 12.5 / 25.0"]
    assert others[4] == ["none", "1.2", "1.2"]


def test_the_defender_is_sorted_by_damage_not_by_effect():
    reports = [
        measured(0.5, cost=0.5, defense="constant"),
        measured(0.2, cost=0.0, defense="good"),
        measured(0.4, defense="none"),
    ]
    (damages, _) = tables_of(without_claims(details(reports, RUN)))
    assert [row[0] for row in damages] == ["defense", "good", "constant", "controls", "none"]


def by_seed(damages, n_test=30.0, **changes):
    """A cell with the damages of each subpopulation and seed."""
    report = measured(float(np.mean(damages)), **changes)
    table = tuple({"subpopulation": f"digit={i}", "n_test": n_test} for i in range(len(damages)))
    return replace(report, result=replace(report.result, table=table, arrays={BY_SEED: np.array(damages, float)}))


def test_a_board_compares_each_defense_with_none():
    hurt = np.array([[0.5, 0.5], [0.4, 0.4], [0.3, 0.3], [0.0, 0.0]])
    at_2 = hurt * 2
    reports = [
        *(by_seed(damages, defense="none", rate=rate) for rate, damages in ((0.0, hurt * 0), (1.0, hurt), (2.0, at_2))),
        *(by_seed(damages, defense="trim", rate=rate) for rate, damages in ((0.0, hurt * 0), (1.0, hurt + 0.2), (2.0, at_2))),
        by_seed(at_2 - 0.3, defense="sever", rate=2.0),
        by_seed(hurt[:, :1], defense="perfect_filter", rate=1.0),
        by_seed(hurt, defense="retrain", rate=0.0),
        CellReport(cell_of(defense="drop_duplicates", rate=1.0), None, status="error", reason="it died"),
    ]
    (_, damages, _) = tables_of(without_claims(details(reports, RUN)))
    column = damages[0].index("against none")
    assert {row[0]: row[column] for row in damages} == {
        "defense": "against none",
        "trim": "worse (+10.0)",  # the mean over both alphas
        "sever": "better (-30.0)",  # at the only alpha that it has
        "controls": "",
        "none": "",
        "retrain": "",  # not attacked
        "perfect_filter": "undecided: 1 common seed; 2 are needed",
        "drop_duplicates": "undecided: no alpha in common",
    }
    assert "against none" not in [cell for table in tables_of(details(tiny_board(), RUN)) for cell in table[0]]
    assert "at most 5 % of tables have any wrong verdict" in details(reports, RUN)


def test_verdicts_against_none_pair_splits():
    """Three subpopulations of three splits: two degrees of freedom, the mean of the splits' differences."""
    hurt = np.full((3, 2), 0.5)
    reports = [by_seed(hurt, defense="none", split=split) for split in range(3)]
    reports += [by_seed(hurt - 0.2, defense="sever", split=split) for split in range(2)]  # the third could not be measured
    (row,) = (row for row in rows_of(reports) if row.defense == "sever")
    found = against_none(rows_of(reports))["sever"].difference
    assert (found.value, found.freedom, len(row.cells[1.0])) == (pytest.approx(-0.2), pytest.approx(1), 2)


@pytest.mark.parametrize("page_of", [front_page, details])
def test_the_first_lines_say_what_ran_and_what_failed(page_of):
    bad = measured(0.45, defense="random_filter")
    moved = Verdict(Number("target_damage_worst_5", 0.45123), "fail", "too far", 0.41, 0.01)
    gone = Verdict(Number("clean_accuracy", NAN), "fail", "the run has no such number", 0.9, 0.01)
    bad = replace(bad, verdicts=(moved, gone), status="fail")
    text = page_of([*tiny_board(), bad], RUN)
    lead = text.splitlines()[2]
    assert lead == (
        "**Failed: 2 cells of 10.** The embedded tier ran on cpu: 8 cells measured in 2 min 23 s; "
        "1 failed, 1 in error, 1 skipped. Numbers: 36 pass, 2 fail."
    )
    failed = text.partition("## What failed")[2].partition("##")[0]
    assert "random_filter`\n  - **target_damage_worst_5**: run 45.12 %, reference 41.00 %, tolerance 1.00 %\n" in failed
    assert "**clean_accuracy**: run –, reference 90.00 %, tolerance 1.00 % (the run has no such number)" in failed
    assert "sever`: **error**: ran out of time \\| really" in failed
    after = {front_page: "[index.html]", details: "## Defenses"}[page_of]
    assert text.index("## What failed") < text.index("## What was skipped") < text.index(after)
    assert "- 1 cell of defenses\\_trim\\_sever" not in text
    assert "- 1 cell of defenses_trim_sever: no data" in text
    assert "`python -m pytest benchmarks/`" in details([*tiny_board(), bad], RUN).partition("## What failed")[0]


def test_a_baseline_s_row_of_a_metric_that_is_gone_is_shown_and_fails_its_cell():
    gone = Verdict(Number("no_such_metric", NAN), "fail", "the run has no such number", 0.5, 0.01)
    only = Verdict(Number("another_one", NAN), "published_only", "", None, None, published=0.25)
    report = measured(0.25)
    report = replace(report, verdicts=(*report.verdicts, gone, only), status="fail")
    for page in (suite_page("defenses_trim_sever", [report], RUN), details([report], RUN), front_page([report], RUN)):
        assert "no\\_such\\_metric" in page or "no_such_metric" in page


@pytest.mark.parametrize("defense", ["none", "trim"])
def test_set_ups_that_measure_no_damage_are_not_on_the_scoreboard(defense):
    cell = cell_of(defense=defense, kind="two_worlds", worlds="independent")
    worlds = CellReport(cell, CellResult(cell, (Number("error_sum", 1.0),)), status="pass")
    assert "worlds" not in details([*tiny_board(), worlds], RUN)
    assert "worlds" in details([*tiny_board(), replace(worlds, result=None, status="error", reason="it died")], RUN)


def test_a_reason_of_many_cells_is_listed_once():
    reports = [CellReport(cell_of(rate=rate), None, status="error", reason="no such column") for rate in range(1, 13)]
    names = [f"`{report.cell.id}`" for report in reports]

    def listed(reports):
        return details(reports, RUN).partition("## What failed")[2].partition("##")[0].strip().splitlines()

    alike = [replace(report, reason=f"trial {i} (digit={i}, seed 0): bad: no") for i, report in enumerate(reports[:2])]
    assert listed(alike[:1]) == [f"- {names[0]}: **error**: trial 0 (digit=0, seed 0): bad: no"]
    assert listed(alike) == ["- 2 cells: **error**: bad: no", *(f"  - {name}" for name in names[:2])]
    assert listed(reports[:1]) == [f"- {names[0]}: **error**: no such column"]
    assert listed(reports[:3]) == ["- 3 cells: **error**: no such column", *(f"  - {name}" for name in names[:3])]
    assert listed(reports)[1:] == [*(f"  - {name}" for name in names[:10]), "  - and 2 cells more: see `verdict` in results.json"]


@pytest.mark.parametrize("page_of", [front_page, details])
def test_a_passing_and_an_empty_run(page_of):
    assert page_of([measured(0.1)], RUN).splitlines()[2].startswith("**Passed.**")
    skipped = CellReport(cell_of(), None, status="skipped", reason="fetch it")
    assert "**Nothing was measured**" in page_of([skipped], RUN)
    assert "**Nothing was measured**" in page_of([], RUN)


def test_a_number_without_reference_is_named_where_it_makes_a_cell_fail():
    report = measured(0.1)
    verdicts = (*report.verdicts[:-1], Verdict(report.result.numbers[-1], "no_reference", "new"))
    text = details([replace(report, verdicts=verdicts, status="fail")], RUN)
    assert "`: no reference for 1 of its numbers (collateral_damage_max); `--rebaseline` records it" in text
    assert "What failed" not in details([replace(report, verdicts=verdicts, status="no_reference")], RUN)


def test_splits_are_averaged_and_their_spread_shown():
    reports = [measured(value, defense="trim", split=i) for i, value in enumerate((0.4, 0.5, 0.6))]
    text = details([*reports, *(measured(0.4, split=i) for i in range(3))], RUN)
    assert tables_of(text)[0][1][1] == "50.0, sd 10.0 (0.0 + 50.0)"
    assert "mean over 3 splits, sd: sample deviation of a split" in text
    broken = [*reports[:2], CellReport(reports[2].cell, None, status="error", reason="died")]
    assert tables_of(details(broken, RUN))[0][1][1] == "45.0, sd 7.1 (0.0 + 45.0) [2 of 3 splits]"


def test_attacks_without_defense_share_a_table():
    shared = {"stem": "feature_match", "partition": "feature_match"}
    reports = [
        measured(0.3, rate=0.5, **shared),
        measured(0.6, rate=2.0, **shared),
        measured(0.05, rate=0.0, defense="retrain", **shared),
    ]
    text = details([*reports, measured(0.2, rate=2.0, victim="mlp", **shared)], RUN)
    assert "## Defenses" not in text
    assert tables_of(without_claims(text)) == [
        [
            ["set-up", "alpha 0", "alpha 0.5", "alpha 2", "noise floor", "collateral"],
            ["digits · logistic_regression · feature_match", "–", "30.0 ± 1.3", "60.0 ± 1.3", "5.0 ± 1.3", "1.2"],
            ["digits · mlp · feature_match", "–", "–", "20.0 ± 1.3", "–", "1.2"],
        ]
    ]


def test_speed_suites_have_a_table_of_ratios():
    cell = cell_of(stem="speed_fleet", kind="speed", against="one at a time")
    ratio = Number("speed_ratio", 6.25)
    report = CellReport(cell, CellResult(cell, (ratio, Number("fleet_seconds", 0.5))), (Verdict(ratio, "pass", reference=4.0),))
    assert tables_of(details([report], RUN)) == [
        [
            ["comparison", "speed-up", "reference", "verdict"],
            ["logistic_regression, none: against=one at a time", "6.2", "4", "pass"],
        ]
    ]
    (numbers,) = tables_of(suite_page("speed_fleet", [report], RUN))
    assert [row[2] for row in numbers] == ["metric", "speed_ratio", "fleet_seconds"]


def test_numbers_that_are_missing_or_not_finite_read_as_a_dash():
    bare = measured(0.1, defense="trim")
    holes = (Number("target_damage_worst_5", NAN), Number("collateral_damage_max", float("inf")))
    reports = [replace(bare, result=replace(bare.result, numbers=holes)), measured(0.2, error=NAN)]
    text = details(reports, RUN)
    rows = tables_of(text)[0]
    assert rows[1][1] == "–"
    assert rows[3][1] == "20.0 (0.0 + 20.0)"
    assert "nan" not in text.lower()
    assert "-0.0" not in details([measured(-0.00001, defense="trim"), measured(0.2)], RUN)


def test_stored_seconds_are_marked():
    reports = [measured(0.1, defense="trim", stored=True), measured(0.2)]
    rows = tables_of(details(reports, RUN))[0]
    assert [rows[1][-1], rows[3][-1]] == ["2.5 stored", "2.5"]


# --- the page of a suite ----------------------------------------------------------------------------------------------


def test_a_suite_page_shows_published_ours_reference_and_verdict():
    report = report_of(cell_of(defense="trim"), 3)
    published = Verdict(
        Number("clean_accuracy", 0.904, 0.001, half_width=0.002, varies=SEEDS), "published_only", "", 0.9, 0.02, 0.839, "probable"
    )
    report = replace(report, verdicts=(published, *report.verdicts[1:]))
    page = suite_page("defenses_trim_sever", [report], replace(RUN, suites={"defenses_trim_sever": "What this suite is."}))
    assert page.startswith("# defenses_trim_sever\n\nWhat this suite is.\n\n**Passed.**")
    numbers = tables_of(page)[0]
    assert numbers[0] == ["defense", "alpha", "metric", "published", "ours", "reference", "tolerance", "verdict"]
    assert numbers[1] == ["trim", "1", "clean_accuracy", "83.9 % (probable)", "90.4 ± 0.2 %", "90.0 %", "2.0 %", "published_only"]
    assert "Two rows are twins." in page
    assert page.count("<details>") == page.count("</details>") == 2


def test_the_aggregates_are_columns_in_one_order():
    titles = ["worst-1", "worst-5", "worst-10", "worst-5, all", "worst-5, lower estimate", "mean"]
    titles += ["collateral, max", "clean accuracy"]
    table = tables_of(suite_page("s", [report_of(cell_of(defense="trim"), 12)], RUN))[1]
    assert table[0] == ["defense", "alpha", *titles]
    assert table[1][-1] == "90.4 ± 0.2"
    assert "aggregates in %" in suite_page("s", [report_of(cell_of(defense="trim"), 12)], RUN)
    few = tables_of(suite_page("s", [report_of(cell_of(defense="trim"), 3)], RUN))[1]
    assert few[0] == ["defense", "alpha", "worst-1", "mean", "collateral, max", "clean accuracy"]


def test_a_fraction_has_a_percent_sign_where_it_failed():
    failed = Verdict(Number("effective_rate", 0.5), "fail", "too far", 0.25, 0.01)
    report = report_of(cell_of(defense="trim"), 3)
    text = details([replace(report, verdicts=(failed,), status="fail")], RUN)
    assert "**effective_rate**: run 50.00 %, reference 25.00 %, tolerance 1.00 %" in text


def test_only_numbers_that_lack_a_reference_are_named_as_such():
    report = report_of(cell_of(defense="trim"), 3)
    lacking = Verdict(Number("poison_recall", 0.5), "no_reference", "has no reference")
    not_gated = Verdict(Number("poison_precision", 0.5), "no_reference")
    text = details([replace(report, verdicts=(lacking, not_gated), status="fail")], RUN)
    assert "no reference for 1 of its numbers (poison_recall)" in text


def test_subpopulations_are_shown_worst_first_with_all_columns_or_side_by_side():
    reports = [report_of(cell_of(defense=name), 12) for name in ("none", "trim")]
    alone = tables_of(suite_page("s", reports[:1], RUN))[-1]
    damages = [float(row[alone[0].index("target damage")].split(" ")[0]) for row in alone[1:]]
    assert damages == sorted(damages, reverse=True)
    assert len(alone) == 13
    together = tables_of(suite_page("s", reports, RUN))[-1]
    assert together[0] == ["subpopulation", "in D_test", "poison", "target clean accuracy", "none", "trim"]
    assert [row[0] for row in together] == [row[0] for row in alone]


def test_the_table_of_subpopulations_is_complete_as_csv():
    reports = [report_of(cell_of(defense=name), 3) for name in ("none", "trim")]
    holed = ({**reports[0].result.table[0], "target_damage": NAN}, *reports[0].result.table[1:])
    reports[0] = replace(reports[0], result=replace(reports[0].result, table=holed))
    rows = list(csv.DictReader(subpopulation_csv(reports).splitlines()))
    assert len(rows) == 6
    assert rows[0]["target_damage"] == ""
    assert rows[0]["poison_recall"] == ""
    assert float(rows[3]["poison_recall"]) == 0.18
    assert (rows[3]["defense"], rows[3]["rate"]) == ("trim", "1.0")


# --- results.json -----------------------------------------------------------------------------------------------------


def test_results_keep_their_schema():
    results = json.loads(results_json(run_of_everything(), RUN), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert results["schema"] == 1
    assert {"tier", "device", "versions", "cells"} <= set(results)
    assert results["versions"] == {}
    for row in results["cells"]:
        assert set(COLUMNS) <= set(row)
        for name, kind in COLUMNS.items():
            assert isinstance(row[name], kind), (name, row[name])
        assert row["verdict"] in VERDICTS
    assert {row["verdict"] for row in results["cells"]} == {"pass", "fail", "error", "skipped"}


def test_a_row_of_the_results_by_hand():
    """Every column from its own source: with equal references and published numbers a mix-up would go unseen."""
    cell = cell_of(dataset="adult", victim="mlp", rate=0.5, defense="trim", split=1)
    number = Number("target_damage_worst_5", 0.25, 0.03, "digit=3", std=0.07, half_width=0.083, varies=ROWS)
    made_of = Provenance("rows", "seeds", "shuffle", "version")
    verdict = Verdict(number, "fail", "too far", reference=0.31, atol=0.02, published=0.44, certainty="not comparable")
    result = CellResult(
        cell, (number,), knowledge="n_poison", n_subpopulations=7, n_fits=12, seconds=3.5, from_store=True, integrity="unchecked"
    )
    (row,) = json.loads(results_json([CellReport(cell, result, (verdict,), "fail", made_of=made_of)], RUN))["cells"]
    assert row == {
        "stem": "defenses_trim_sever",
        "tier": "embedded",
        "dataset": "adult",
        "victim": "mlp",
        "partition": "feature_match",
        "attack": "label_flip",
        "rate": 0.5,
        "defense": "trim",
        "setting": "split=1",
        "subpopulation": "digit=3",
        "knowledge": "n_poison",
        "integrity": "unchecked",
        "undecided": None,
        "metric": "target_damage_worst_5",
        "value": 0.25,
        "std_error": 0.03,
        "std": 0.07,
        "half_width": 0.083,
        "varies": "rows",
        "by_seed": [],
        "one_row": 0.0,
        "n_subpopulations": 7,
        "n_seeds": cell.n_seeds,
        "published": 0.44,
        "certainty": "not comparable",
        "reference": 0.31,
        "atol": 0.02,
        "verdict": "fail",
        "reason": "too far",
        "n_fits": 12,
        "seconds": 3.5,
        "from_store": True,
        "data": "rows",
        "draws": "seeds",
        "secret": "shuffle",
        "code": "version",
    }


def test_results_hold_every_number_once_and_null_for_what_is_not_finite():
    report = measured(0.25, rate=2.0, split=1)
    numbers = (*report.result.numbers, Number("kkt_residual_max", NAN), Number("n_flipped", 3.0, float("inf")))
    gone = Verdict(Number("poison_recall", NAN), "fail", "missing", 0.5, 0.01)
    report = replace(report, result=replace(report.result, numbers=numbers), verdicts=(*report.verdicts, gone), status="fail")
    rows = {row["metric"]: row for row in json.loads(results_json([report], RUN))["cells"]}
    assert len(rows) == 7
    assert rows["target_damage_worst_5"] | {"value": 0.25, "setting": "split=1", "rate": 2.0} == rows["target_damage_worst_5"]
    assert (rows["kkt_residual_max"]["value"], rows["kkt_residual_max"]["verdict"]) == (None, "no_reference")
    assert (rows["n_flipped"]["value"], rows["n_flipped"]["std_error"]) == (3.0, None)
    assert (rows["poison_recall"]["value"], rows["poison_recall"]["verdict"]) == (None, "fail")


def test_cells_without_numbers_keep_their_reason():
    (row,) = json.loads(results_json([CellReport(cell_of(), None, status="error", reason="it died")], RUN))["cells"]
    assert (row["metric"], row["value"], row["verdict"], row["reason"]) == ("", None, "error", "it died")


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_report_is_written_whole_and_the_same_twice(tmp_path):
    reports = [*tiny_board(), report_of(cell_of(stem="feature_match", defense="none"), 3)]
    for folder, order in (("one", reports), ("two", reports[::-1])):
        write_report(order, tmp_path / "runs" / folder, RUN)
    one, two = (
        {p.relative_to(d): p.read_bytes() for p in d.rglob("*") if p.is_file()} for d in sorted((tmp_path / "runs").iterdir())
    )
    assert one == two
    assert {str(path) for path in one} >= {
        "README.md",
        "details.md",
        "results.json",
        "feature_match.md",
        "feature_match.csv",
        "defenses_trim_sever.md",
    }
    for page in (path for path in one if path.suffix == ".md"):
        for token in MarkdownIt("commonmark").parse(one[page].decode()):
            for child in token.children or ():
                target = child.attrs.get("src") or child.attrs.get("href")
                assert target is None or Path(target) in one, f"{page} links to {target}"


def test_a_file_in_the_way_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "report"):
        with pytest.raises(BadInput, match=r"file is a file.*--report-dir"):
            check_report_directory(path)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "figures").write_text("mine")
    with pytest.raises(BadInput, match="figures is a file"):
        write_report([], tmp_path / "report", RUN)
    assert (tmp_path / "file").read_text() == "mine"
    check_report_directory(tmp_path / "new" / "report")
    assert not (tmp_path / "new").exists(), "folders are made when there is something to write"
    write_report([], tmp_path / "new" / "report", RUN)
    assert not (tmp_path / "new" / "report" / "figures").exists()


def test_a_readme_of_another_project_is_not_overwritten(tmp_path):
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(BadInput, match=r"README\.md is not a report of this program.*--report-dir"):
        write_report([], tmp_path, RUN)
    assert (tmp_path / "README.md").read_text() == "# My project\n"


def test_the_job_summary_gets_text_without_figures(tmp_path, monkeypatch):
    monkeypatch.delenv(subpop.report.SUMMARY_VARIABLE, raising=False)
    append_summary("lost")
    target = tmp_path / "summary.md"
    target.write_text("before\n")
    monkeypatch.setenv(subpop.report.SUMMARY_VARIABLE, str(target))
    figure = "[![alt \\[x\\]](figures/a.png)](figures/a.svg)\n\nA caption. Made by `x`.\n\n"
    append_summary(f"# Title\n\nSee [page](page.md) and [web](https://example.org/a).\n\n{figure}## After\n")
    assert target.read_text() == "before\n# Title\n\nSee page and [web](https://example.org/a).\n\n## After\n\n"
    monkeypatch.setenv(subpop.report.SUMMARY_VARIABLE, str(tmp_path))
    with pytest.raises(BadInput, match="GITHUB_STEP_SUMMARY"):
        append_summary("x")


def test_a_summary_that_is_too_long_is_cut_at_a_line():
    text = without_files("word é\n" * 200_000)
    assert len(text.encode()) < 1_048_576
    assert text.endswith("too long for a job summary.\n")
    assert "word é\n\nCut here" in text


# --- markdown ---------------------------------------------------------------------------------------------------------


HOSTILE = [
    "a|b",
    "<img src=x onerror=y>",
    "*bold* _it_ __init__",
    "[x](y)",
    "`code|`",
    "back\\|slash\\",
    "two\nlines",
    "$x$ ~~z~~",
    "&lt;",
]


PAGES = {"README.md", "details.md", "index.html", "results.json", "s.csv", "s.md", "defenses_trim_sever.md"}


def with_means(reports):
    """The cells with the number that ranks defenses."""
    mean = Number("target_damage_mean", 0.5)
    return [replace(each, result=replace(each.result, numbers=(*each.result.numbers, mean))) for each in reports]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text_in_tables_and_titles(name):
    reports = [measured(0.2, defense=name, dataset=name), measured(0.3, dataset=name)]
    row = {"subpopulation": name, "target_damage": 0.5, "n_test": 3.0}
    reports[0] = replace(
        reports[0], result=replace(reports[0].result, table=(row, {**row, "subpopulation": "other"}), notes=(name,))
    )
    for page in (details(reports, RUN), front_page(with_means(reports), RUN), suite_page("s", reports, RUN)):
        shown = " ".join(name.split())
        for rows in tables_of(page):
            assert len({len(row) for row in rows}) == 1
        assert any(row[0] == shown for rows in tables_of(page) for row in rows)
        tokens = MarkdownIt("commonmark").enable("table").parse(page)
        inside = [child for token in tokens for child in token.children or ()]
        assert not {"html_inline", "image"} & {child.type for child in inside}
        assert {child.attrs["href"] for child in inside if child.type == "link_open"} <= PAGES
        assert all("<img" not in token.content for token in tokens if token.type == "html_block")


def test_markdown_helpers():
    assert escape("logistic_regression") == "logistic_regression"
    assert code("a`b") == "``a`b``"
    assert code("`") == "`` ` ``"
    assert code("") == ""
    assert folded("a<b", "text").startswith("<details><summary>a&lt;b</summary>\n\n")
    assert tables_of(table(["a", "b"], [["1", escape("x|y")]])) == [[["a", "b"], ["1", "x|y"]]]
    assert (duration(4.21), duration(59.99), duration(143.2), duration(11_100)) == ("4.2 s", "60.0 s", "2 min 23 s", "3 h 5 min")


def test_without_references_a_suite_page_has_no_empty_columns():
    one = measured(0.45)
    verdicts = tuple(Verdict(verdict.number, "no_reference") for verdict in one.verdicts)
    bare = replace(one, verdicts=verdicts, status="no_reference")
    for report, columns in ((one, ["reference", "tolerance"]), (bare, [])):
        page = suite_page("s", [report], RUN).partition("## Numbers and references")[2]
        assert tables_of(page)[0][0] == ["defense", "alpha", "metric", "ours", *columns, "verdict"]
