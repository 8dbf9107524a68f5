"""What the registry says of each metric, and that every metric of the project is in it."""

import ast
import csv
import doctest
from pathlib import Path

import pytest

from subpop.experiments.experiment import Experiment
from subpop.report.figures.setups import in_percent, metric_words, percent_or_plain, quantity
from subpop.results import metric_registry
from subpop.results.metric_registry import METRICS, columns, find_metric, metric_of, subpopulation_columns
from subpop.runtime.store import Store
from subpop.session.run import Run
from subpop.types import BadInput, Cell, CellResult, Number
from subpop.types.metric import Better, Metric, Tolerance, Unit

ROOT = Path(__file__).parents[2]
BASELINES = sorted((ROOT / "baselines").glob("*.csv"))


def metrics_in(path: Path, column: str = "metric") -> set[str]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["metric"] for row in csv.DictReader(file) if row[column]}


@pytest.mark.parametrize("path", BASELINES, ids=lambda path: path.stem)
def test_every_metric_of_the_baselines_is_registered_and_compared(path):
    assert metrics_in(path)
    assert all(map(metric_of, metrics_in(path)))
    assert not {name for name in metrics_in(path, "value") if not metric_of(name).is_recorded}


def numbers_by_name() -> set[str]:
    """The names that stand as they are in a call of Number in the package."""
    names = set()
    for path in (ROOT / "subpop").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Number" and node.args:
                names |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
    return names - {""}


def test_every_number_that_the_package_makes_is_registered():
    names = numbers_by_name()
    assert {"effective_rate", "gain_over_label_flip", "speed_ratio", "can_run"} <= names
    assert not {name for name in names if find_metric(name) is None}


def test_names_are_registered_once():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for name in set().union(*map(metrics_in, BASELINES)):
        families = [m.name for m in METRICS if "{" in m.name and metric_registry._pattern(m.name).fullmatch(name)]
        assert name in names or len(families) == 1, (name, families)


def test_a_member_of_a_family_has_its_own_name_title_and_parts():
    metric = metric_of("target_damage_worst_10")
    assert (metric.name, metric.family, metric.k) == ("target_damage_worst_10", "target_damage_worst_10", 10)
    assert (metric.title, metric.column) == ("worst-10 target damage", "worst-10")
    assert metric.parts == ("defense_cost_worst_10", "attack_effect_worst_10")
    assert metric_of("purity_share_race").values == {"annotation": "race"}
    assert metric_of("certified_damage_worst_5:kl_q0.1").values == {"k": "5", "certificate": ":kl_q0.1"}
    assert metric_of("certified_accuracy_mean").title == "mean certified accuracy"
    assert (metric_of("clean_accuracy").k, metric_of("clean_accuracy").family) == (0, "clean_accuracy")
    assert metric_words("target_damage_worst_5") == "Worst-5 target damage"
    assert metric_words("target_damage_mean") == "Mean target damage"


@pytest.mark.parametrize("name", ["of a plug-in\nwith {braces}", "{0}", "{stage.__class__}"])
def test_defenses_may_name_stages_as_they_like(name):
    metric = metric_of(f"{name}_target_accuracy")
    assert (metric.values["stage"], metric.unit) == (name, Unit.FRACTION)
    assert name in metric.title


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("clean_acuracy", "clean_accuracy"), ("effective_rates", "effective_rate"), ("n_flips", "n_flipped")],
)
def test_an_unknown_metric_is_refused_with_the_nearest_name(name, nearest):
    with pytest.raises(
        BadInput, match=f"'{name}' is not registered; did you mean '{nearest}'.*subpop/results/metric_registry.py"
    ):
        metric_of(name)


def test_a_measured_metric_that_is_not_registered_is_an_error_of_its_cell(tmp_path, monkeypatch):
    cell = Cell.of("mine", "embedded", "digits", "logistic_regression", "feature_match", "label_flip", 1.0)
    made = CellResult(cell, (Number("clean_accuracy", 0.9), Number("brand_new", 0.5)))
    with Store(tmp_path / "store.sqlite") as store:
        experiment = Experiment.on(store)
        monkeypatch.setattr(experiment, "run", lambda _: made)
        report = Run(experiment, store, tmp_path).measure(cell)
    assert (report.status, report.result) == ("error", None)
    assert "'brand_new' is not registered" in report.reason
    assert "subpop/results/metric_registry.py" in report.reason


def test_a_metric_without_a_gate_changes_no_tolerance_of_others(tmp_path, monkeypatch):
    """Tolerances of noisy numbers depend on how many of them a run has."""
    cell = Cell.of("mine", "embedded", "digits", "mlp", "feature_match", "label_flip", 1.0)
    others = tuple(Number(f"brand_new_{i}", 0.5, std=0.1) for i in range(9))
    monkeypatch.setattr(metric_registry, "METRICS", (*METRICS, Metric("brand_new_{k}", Unit.FRACTION, "new")))
    find_metric.cache_clear()
    written = []
    for folder, numbers in (("without", ()), ("with", others)):
        made = CellResult(cell, (Number("clean_accuracy", 0.9, std=0.1), *numbers), exact=False)
        with Store(tmp_path / f"{folder}.sqlite") as store:
            experiment = Experiment.on(store)
            monkeypatch.setattr(experiment, "run", lambda _, made=made: made)
            run = Run(experiment, store, tmp_path / folder)
            run.measure(cell)
            [path] = run.rebaseline("machine", "commit")
            written.append(path.read_text())
    find_metric.cache_clear()
    assert written[0] == written[1]
    assert written[0].count("\n") == 2


@pytest.mark.parametrize("name", ["", "xyzzy", "target_damage_worst_", "target_damage_worst_five", "error_world_2"])
def test_what_only_looks_like_a_metric_is_unknown(name):
    assert find_metric(name) is None
    with pytest.raises(BadInput, match=r"needs a line in METRICS in subpop/results/metric_registry\.py"):
        metric_of(name)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("fleet_seconds", Tolerance.TIMED),
        ("one_at_a_time_seconds_a_victim", Tolerance.TIMED),
        ("kkt_residual_max", Tolerance.UPPER_BOUND),
        ("one_at_a_time_kkt_residual_max", Tolerance.UPPER_BOUND),
        ("speed_ratio", Tolerance.LOWER_BOUND),
        ("target_damage_worst_5", Tolerance.WORST_ROW),
        ("target_damage_worst_5_all", Tolerance.WORST_ROW_OF_ALL),
        ("target_damage_worst_5_selection_free", Tolerance.WORST_ROW),
        ("clean_accuracy", Tolerance.ABSOLUTE),
    ],
)
def test_how_a_metric_is_compared(name, rule):
    assert metric_of(name).tolerance is rule


def test_only_a_worst_k_is_ranked():
    """A rule that divides by k needs a k in the name."""
    ranked = (Tolerance.WORST_ROW, Tolerance.WORST_ROW_OF_ALL)
    assert not [metric.name for metric in METRICS if metric.tolerance in ranked and "{k}" not in metric.name and not metric.k]


def test_fractions_are_printed_in_percent_and_other_numbers_as_they_are():
    fractions = (
        "gain_over_label_flip",
        "effective_rate",
        "tied",
        "success_worst_1_difference_low",
        "finetuned_target_accuracy_sd",
    )
    assert {quantity(name, 0.054) for name in fractions} == {"5.4 %"}
    assert {percent_or_plain(name, 0.054) for name in fractions} == {"5.4"}
    others = (
        "kkt_residual_max",
        "n_left_out",
        "error_sum",
        "error_world_0",
        "alpha_mean",
        "iterations_successful",
        "speed_ratio",
    )
    assert {quantity(name, 0.054) for name in others} == {"0.054"}
    assert quantity("gain_over_label_flip", None) == quantity("speed_ratio", float("nan")) == "–"


def test_a_heading_says_percent_of_fractions_alone():
    assert in_percent(["success_mean", "gain_over_label_flip"]) == "in %"
    assert in_percent(["success_mean", "iterations_successful"]) == "fractions in %"


def test_columns_stand_in_the_order_of_the_registry():
    names = ["target_damage_mean", "target_damage_worst_10", "target_damage_worst_5_all", "target_damage_worst_1", "n_flipped"]
    names += ["target_damage_worst_1_all", "removed_share", "clean_accuracy", "target_damage_worst_5", "clean_accuracy"]
    titles = ["worst-1", "worst-5", "worst-10", "worst-5, all", "mean", "clean accuracy", "removed"]
    assert [metric.column for metric in columns(names)] == titles
    row = {"subpopulation": "a", "attack_effect": 0.1, "target_damage": 0.3, "n_poison": 4.0, "effective_rate": 0.5}
    assert [metric.name for metric in subpopulation_columns(row)] == ["n_poison", "target_damage", "attack_effect"]


def test_directions_are_those_of_the_victim():
    assert metric_of("target_damage_worst_5").better is metric_of("success_mean").better is Better.LOWER
    assert metric_of("clean_accuracy").better is metric_of("iterations_successful").better is Better.HIGHER
    losses = ("target_damage", "collateral_damage", "certified_damage", "defense_cost", "attack_effect")
    assert {metric.better for metric in METRICS if metric.name.startswith(losses)} == {Better.LOWER}
    assert {metric.better for metric in METRICS if metric.name.endswith("_accuracy")} == {Better.HIGHER}


def test_the_examples_run():
    found = doctest.testmod(metric_registry)
    assert found.attempted > 0
    assert found.failed == 0
