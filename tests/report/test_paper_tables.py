"""Tables laid out as the paper prints them."""

from subpop.report.claims_table import claim_lines
from subpop.report.figures.holdouts import accuracy_against_holdout, holdout_groups
from subpop.report.tables.certified import Certified
from subpop.report.tables.fine_pruning import FinePruning
from subpop.report.tables.optimised import Optimised
from subpop.report.tables.poisoning import Poisoning
from subpop.results.intervals import SUBPOPULATIONS
from subpop.types import Cell, CellReport, CellResult, Number, Verdict


def report(cell, numbers, published=()):
    verdicts = [Verdict(n, "pass", published=dict(published).get(n.metric)) for n in numbers]
    return CellReport(cell, CellResult(cell, tuple(numbers)), tuple(verdicts))


CELL = Cell.of("table13_certified_by_defended", "paper", "utkface", "vgg16_last_layer", "cluster_match", "label_flip", 0.5)


def test_before_and_after_stand_in_one_row():
    worst = "target_damage_worst_1_all"
    reports = [
        report(CELL, [Number(worst, -0.071)], [(worst, -0.07)]),
        report(CELL.with_(defense="label_flip_smoothing"), [Number(worst, 0.34)]),
        report(CELL.with_(rate=2.0), [Number(worst, 0.2)]),
    ]
    title, text = Certified().tables(reports)
    assert "utkface · vgg16\\_last\\_layer" in title or "utkface · vgg16_last_layer" in title
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert rows[0][:3] == ["alpha", "worst-1 before", "worst-1 after"]
    assert rows[2][:3] == ["0.5", "-7.1 [-7.0]", "34.0"]
    assert rows[3][:3] == ["2", "20.0", "–"]
    assert Poisoning().tables(reports) == []


def stages(holdout):
    cell = CELL.with_(stem="table12_fine_pruning", defense="fine_pruning", holdout=holdout)
    names = ("attacked_target_accuracy", "pruned_target_accuracy", "finetuned_target_accuracy")
    numbers = [Number(name, value, subpopulation="A", std=0.1) for name, value in zip(names, (0.757, 0.508, 0.6), strict=True)]
    return report(cell, [*numbers, Number("attacked_target_accuracy", 0.9)], [("pruned_target_accuracy", 0.5)])


def test_numbers_of_subpopulations_and_not_their_means():
    _, text = FinePruning().tables([stages("0.05"), stages("0.01")])
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert [line[1] for line in lines] == ["0.01", "0.05"]
    assert "75.7" in lines[0]
    assert "50.8 [50.0]" in lines[0]
    assert "90.0" not in text


def test_the_figure_has_a_panel_a_subpopulation():
    groups = holdout_groups([stages("0.2"), stages("0.01")])
    assert list(groups) == [("vgg16_last_layer", "fine_pruning")]
    assert [r.cell.option("holdout") for r in groups["vgg16_last_layer", "fine_pruning"]] == ["0.01", "0.2"]
    figure = accuracy_against_holdout(groups["vgg16_last_layer", "fine_pruning"])
    (axis,) = figure.axes
    after_pruning = [bars.lines[0].get_xydata().tolist() for bars in axis.containers]
    assert [[0.01, 50.8], [0.2, 50.8]] in after_pruning
    assert figure.get_supxlabel() == "clean holdout (% of the test rows)"
    assert figure.get_supylabel() == "accuracy (%)"
    assert holdout_groups([stages("0.2")]) == {}


def moved(rate, gain, error, **setting):
    cell = Cell.of("optimised_poison", "laptop", "adult", "logistic_regression", "feature_match", "influence", rate).with_(
        **setting
    )
    return CellReport(cell, CellResult(cell, (gain_of(gain, error),)))


def gain_of(value, half_width):
    return Number("gain_over_label_flip", value, 0.5, half_width=half_width, varies=SUBPOPULATIONS)


def test_the_gain_is_printed_in_percent_in_the_table_and_under_it():
    """Under "in %" stood 0.054, and 5.4 % on the next line."""
    cell = moved(0.5, 0.054, 0.011).cell
    gain = gain_of(0.054, 0.011)
    _, table, interval, told, claim = Optimised().tables([report(cell, [gain], [(gain.metric, 0.1)])])
    assert interval.startswith("±: half the width of a 95 % interval of mean target damage less that of label flipping")
    assert told.startswith("Claims of the paper")
    assert table.splitlines()[-1].split("|")[-2].strip() == "5.4 ± 1.1 [10.0]"
    assert "5.4 % (4.3 % to 6.5 %)" in claim


def test_optimised_poison_is_judged_by_its_mean_over_alphas():
    """The interval of the mean is not narrower than those of its alphas: the subpopulations are the same."""
    told = claim_lines([moved(0.5, 0.05, 0.01), moved(1, 0.03, 0.01), moved(2, -0.05, 0.02, epsilon=16)])[1]
    assert told.splitlines()[1:] == [
        "  - as by default, mean over alpha: **agrees here**, 4.0 % (3.0 % to 5.0 %)",
        "  - epsilon=16, mean over alpha: **disagrees here**, -5.0 % (-7.0 % to -3.0 %)",
    ]
    assert "**undecided**" in claim_lines([moved(1, -0.01, 0.02)])[1]
    assert claim_lines([]) == []


def test_a_gain_from_three_seeds_is_undecided():
    assert "**undecided**, 4.0 % (noise: " in claim_lines([moved(1, 0.04, None, n_seeds=3)])[1]
