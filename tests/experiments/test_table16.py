"""Table 16: the printed table and its claim by hand, and cells that agree with their set-ups."""

import runpy
from pathlib import Path

import pytest
from table16_cells import cell_of

from subpop.report.claims_table import claim_lines
from subpop.report.tables.target_sets import TargetSets
from subpop.report.tables.transfer import Transfer
from subpop.results.intervals import CLUSTERS
from subpop.types import CellReport, CellResult, Number, Verdict

ROOT = Path(__file__).parents[2]


def report(partition, numbers, published=(), epsilon="0.5"):
    cell = cell_of(partition, epsilon)
    numbers = tuple(Number(name, value, half_width=width, varies=CLUSTERS) for name, value, width in numbers)
    verdicts = tuple(Verdict(n, "pass", published=dict(published).get(n.metric)) for n in numbers)
    return CellReport(cell, CellResult(cell, numbers), verdicts)


CLUSTER = report(
    "cluster_match",
    [
        ("success_worst_1", 1.0, None),
        ("success_worst_5", 0.55, 0.03),
        ("iterations_successful", 251.0, 12.5),
        ("success_mean_difference", 0.2, 0.1),
        ("success_mean_difference_low", 0.15, None),
        ("success_mean_difference_high", 0.25, None),
        ("success_worst_5_difference", 0.1, None),
        ("iterations_successful_difference", -40.0, 60.0),
    ],
    [("success_worst_1", 1.0), ("success_worst_5", 0.6), ("iterations_successful", 250.0)],
)
RANDOM = report("random", [("success_worst_1", 0.9, None)], [("success_worst_1", 1.0)])


def rows_of(text):
    return [[each.strip() for each in line.split("|")[1:-1]] for line in text.splitlines()]


def test_the_table_as_printed():
    title, text, intervals, told, claims = TargetSets().tables([CLUSTER, RANDOM])
    assert "in %" in title
    rows = rows_of(text)
    assert rows[0][:5] == ["epsilon (levels)", "selection", "worst-1", "worst-5", "iterations"]
    assert [cell.replace("\\", "") for cell in rows[2][:5]] == [
        "0.5", "cluster_match", "100.0 [100.0]", "55.0 ± 3.0 [60.0]", "251 ± 12.5 [250]",
    ]  # fmt: skip
    assert rows[3][1:4] == ["random", "90.0 [100.0]", "–"]
    assert intervals.startswith("±: half the width of a 95 % interval of worst-5 success")
    assert "with one value for each cluster" in intervals
    assert told.startswith("Claims of the paper")
    assert "cluster less random: **agrees here**, 20.0 % (10.0 % to 30.0 %)" in claims
    assert "cluster less random: **undecided**, 10.0 % (noise unknown" in claims
    assert "cluster less random: **undecided**, -40 (-100 to 20)" in claims


def test_fewer_iterations_are_what_is_claimed():
    faster, slower = (report("cluster_match", [("iterations_successful_difference", value, 10.0)]) for value in (-40.0, 40.0))
    assert "**agrees here**, -40 (-50 to -30)" in claim_lines([faster])[1]
    assert "**disagrees here**, 40 (30 to 50)" in claim_lines([slower])[1]


def test_other_tables_have_no_claim_and_print_as_before():
    assert claim_lines([RANDOM]) == []
    other = CLUSTER.cell.with_(stem="table15_transfer", clusters_on="x")
    numbers = (Number("target_damage_worst_1_all", 0.5, half_width=0.1, varies=CLUSTERS),)
    blocks = Transfer().tables([CellReport(other, CellResult(other, numbers), (Verdict(numbers[0], "pass"),))])
    assert len(blocks) == 2
    assert "in %" in blocks[0]
    assert "50.0 |" in blocks[1]
    assert "±" not in blocks[1]


def test_epsilons_are_ordered_by_value():
    reports = [report("random", [("success_worst_1", 0.5, None)], epsilon=epsilon) for epsilon in ("16", "2", "0.5")]
    assert [row[0] for row in rows_of(TargetSets().tables(reports)[1])[2:]] == ["0.5", "2", "16"]


def test_cells_and_set_ups_agree():
    from subpop.experiments.target_sets.setups import LAST_LAYER, SETUPS, WAY

    cells = runpy.run_path(str(ROOT / "benchmarks" / "test_table16_influence.py"))["CELLS"]
    for cell in cells:
        setup = SETUPS[cell.dataset]
        assert float(cell.option("epsilon")) in setup.epsilons
        assert cell.victim == setup.network + LAST_LAYER
        schedule = setup.schedule(float(cell.option("epsilon")))
        assert schedule.step * schedule.iterations == pytest.approx(WAY * schedule.box)
    paper = SETUPS["dogfish"].schedule(0.5)
    assert (paper.box, paper.step, paper.iterations) == (0.5, 0.005, 2000)
    laptop = SETUPS["tiny_dogfish"].schedule(4.0)
    assert (laptop.box, laptop.step, laptop.iterations) == (4.0, 0.8, 100)
    assert {(c.dataset, c.option("epsilon")) for c in cells if c.partition == "random"} == {
        (name, f"{epsilon:g}") for name, setup in SETUPS.items() for epsilon in setup.epsilons
    }
