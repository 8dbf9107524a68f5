"""The life of a stored number: recorded, held to its tolerance, moved, lost, recorded again."""

from __future__ import annotations

import csv
import doctest
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subpop.results import metric_registry
from subpop.results.metric_registry import find_metric, gated
from subpop.results.references import COLUMNS, References, cell_key, cell_status, compare, noisy_atol, one_row, rebaseline
from subpop.types import BadInput, Cell, CellResult, Number, Verdict
from subpop.types.metric import Metric, Tolerance, Unit

CELL = Cell.of(
    "stem", "embedded", "digits", "logistic_regression", "feature_match", "label_flip", 0.5, "none", encoder="x,y", split=1
)
OTHER = CELL.with_(rate=2)
BASELINES = Path(__file__).parents[2] / "baselines"
SIZES = [{"subpopulation": "3", "n_test": 25.0}, {"subpopulation": "7", "n_test": 40.0}, {"subpopulation": "9", "n_test": 8.0}]


def result(cell: Cell = CELL, exact: bool = True, **values: float) -> CellResult:
    """A cell's result with these aggregate values; a stochastic one's numbers have a deviation of .01."""
    values = values or {"target_damage_worst_5": 0.45, "clean_accuracy": 0.9, "n_flipped": 120.0}
    numbers = tuple(Number(name, value, std=None if exact else 0.01) for name, value in values.items())
    return CellResult(cell, numbers, tuple(SIZES), exact=exact)


def moved(of: CellResult, metric: str, by: float) -> CellResult:
    return replace(of, numbers=tuple(replace(n, value=n.value + by) if n.metric == metric else n for n in of.numbers))


def without(of: CellResult, metric: str) -> CellResult:
    return replace(of, numbers=tuple(n for n in of.numbers if n.metric != metric))


def verdicts_of(of: CellResult, path: Path) -> dict[str, Verdict]:
    return {verdict.number.metric: verdict for verdict in compare(of, References.load(path))}


def status(of: CellResult, path: Path) -> str:
    return cell_status(compare(of, References.load(path)))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Iterable[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def row(metric: str = "target_damage_worst_5", cell: Cell = CELL, **columns: object) -> dict[str, object]:
    names = ("tier", "dataset", "victim", "partition", "attack", "defense")
    named = {name: getattr(cell, name) for name in names}
    return {**named, "rate": f"{cell.rate:g}", "setting": cell.setting_text, "metric": metric, **columns}


def register(monkeypatch: pytest.MonkeyPatch, *metrics: Metric) -> None:
    """Add lines to the registry, as if they stood in METRICS."""
    monkeypatch.setattr(metric_registry, "METRICS", (*metric_registry.METRICS, *metrics))
    find_metric.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def placeholders() -> Iterator[None]:
    """Metrics `a`, `b`, `k`, `m`, `m0`, `m1`, ... for tests in which the name does not matter."""
    with pytest.MonkeyPatch.context() as patch:
        register(patch, *(gated(name, Unit.NUMBER, f"placeholder {name}") for name in ("a", "b", "k", "m", "m{k}")))
        yield
    find_metric.cache_clear()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "baselines" / "stem.csv"


@pytest.fixture
def recorded(path: Path) -> Path:
    rebaseline(path, [result(), result(OTHER)], hardware="machine", commit="abc")
    return path


# --- the life of a number ---------------------------------------------------------------------------------------------


def test_the_first_run_fails_and_says_how_to_record(path: Path) -> None:
    verdicts = compare(result(), References.load(path))
    assert {v.verdict for v in verdicts} == {"no_reference"}
    assert cell_status(verdicts) == "fail"
    for part in ("target_damage_worst_5", "0.45", "no reference", str(path), "--rebaseline"):
        assert part in verdicts[0].reason


@pytest.mark.parametrize(("own", "atol"), [(None, 0.01), (0.002, 0.01), (0.05, 0.05), (0.3, 0.1)])
def test_a_number_that_knows_its_error_is_held_to_it_as_far_as_that_has_power(path: Path, own: float | None, atol: float) -> None:
    of = replace(result(), numbers=(Number("error_sum", 0.9, 0.05, tolerance=own), Number("clean_accuracy", 0.9)))
    rebaseline(path, [of])
    assert {found["metric"]: float(found["atol"]) for found in read(path)} == {"error_sum": atol, "clean_accuracy": 0.01}
    assert status(moved(of, "error_sum", 0.9 * atol), path) == "pass"
    assert status(moved(of, "error_sum", 1.1 * atol), path) == "fail"


def test_the_second_run_passes(recorded: Path) -> None:
    for of in (result(), result(OTHER)):
        assert {v.verdict for v in compare(of, References.load(recorded))} == {"pass"}
        assert status(of, recorded) == "pass"
    assert [r["hardware"] + r["commit"] for r in read(recorded)] == ["machineabc"] * 6


@pytest.mark.parametrize("metric", ["target_damage_worst_5", "clean_accuracy", "n_flipped"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_reference_moved_by_twice_its_tolerance_fails_its_cell_alone(recorded: Path, metric: str, sign: int) -> None:
    rows = read(recorded)
    for r in rows:
        if r["metric"] == metric and r["rate"] == "0.5":
            r["value"] = repr(float(r["value"]) + sign * 2 * float(r["atol"]))
    write(recorded, rows)
    assert status(result(), recorded) == "fail"
    assert status(result(OTHER), recorded) == "pass"
    verdicts = verdicts_of(result(), recorded)
    assert [name for name, v in verdicts.items() if v.verdict == "fail"] == [metric]


def test_a_reference_of_an_exact_cell_moved_by_a_tenth_fails_and_the_message_tells_all(recorded: Path) -> None:
    write(recorded, [{**r, "value": "0.55"} if r["value"] == "0.45" and r["rate"] == "0.5" else r for r in read(recorded)])
    failed = verdicts_of(result(), recorded)["target_damage_worst_5"]
    expected = "target_damage_worst_5: run 0.45, reference 0.55, tolerance 0.01, gap -0.1; if the change is intended"
    assert failed.reason.startswith(expected)
    assert (failed.verdict, failed.reference, failed.atol) == ("fail", 0.55, 0.01)
    assert status(result(OTHER), recorded) == "pass"


def test_a_value_on_the_tolerance_passes_and_beyond_it_fails(recorded: Path) -> None:
    # 0.45 + 0.01 - 0.45 is 0.010000000000000009
    assert status(moved(result(), "target_damage_worst_5", 0.01), recorded) == "pass"
    assert status(moved(result(), "target_damage_worst_5", 0.0101), recorded) == "fail"
    assert status(moved(result(), "target_damage_worst_5", -0.0101), recorded) == "fail"


def test_a_lost_number_fails(recorded: Path) -> None:
    verdicts = verdicts_of(without(result(), "clean_accuracy"), recorded)
    assert verdicts["clean_accuracy"].verdict == "fail"
    assert "clean_accuracy: run nan, reference 0.9, tolerance 0.01" in verdicts["clean_accuracy"].reason
    assert "has no such metric" in verdicts["clean_accuracy"].reason
    assert status(without(result(), "clean_accuracy"), recorded) == "fail"


def test_a_number_without_a_reference_fails_unless_it_is_a_plugins(recorded: Path) -> None:
    more = replace(result(), numbers=(*result().numbers, Number("poison_recall", 0.5)))
    assert verdicts_of(more, recorded)["poison_recall"].verdict == "no_reference"
    assert status(more, recorded) == "fail"
    plugin = compare(more.__class__(CELL.with_(defense="mine"), more.numbers), References.load(recorded), plugin=True)
    shown = {"clean_accuracy", "n_flipped"}  # no defense changes these
    assert {v.number.metric for v in plugin if v.verdict == "not_gated"} == shown
    assert {v.verdict for v in plugin if v.number.metric not in shown} == {"no_reference"}
    assert cell_status(plugin) == "no_reference"


def test_other_numbers_of_seeds_fail_even_at_the_same_value(recorded: Path) -> None:
    few = result(CELL.with_(n_seeds=3))
    assert {v.verdict for v in compare(few, References.load(recorded))} == {"fail"}
    assert "the run has 3 seeds, its reference 5" in compare(few, References.load(recorded))[0].reason


def test_a_number_of_one_subpopulation_is_not_the_aggregate(path: Path) -> None:
    both = replace(
        result(), numbers=(Number("pruned_target_accuracy", 0.2), Number("pruned_target_accuracy", 0.6, subpopulation="7"))
    )
    rebaseline(path, [both])
    assert status(both, path) == "pass"
    swapped = replace(
        both, numbers=(Number("pruned_target_accuracy", 0.6), Number("pruned_target_accuracy", 0.2, subpopulation="7"))
    )
    assert [v.verdict for v in compare(swapped, References.load(path))] == ["fail", "fail"]
    assert "pruned_target_accuracy of 7: run 0.2" in compare(swapped, References.load(path))[1].reason


def test_a_cell_with_the_same_number_twice_is_refused(path: Path) -> None:
    twice = replace(result(), numbers=(Number("a", 1.0), Number("a", 1.0)))
    with pytest.raises(BadInput, match="2 numbers of 1 names"):
        compare(twice, References.load(path))
    with pytest.raises(BadInput, match="record each cell once"):
        rebaseline(path, [result(), result()])


# --- metrics that are not gated yet -----------------------------------------------------------------------------------


NEW = Metric("brand_new", Unit.FRACTION, "a metric that was added today")


@pytest.fixture
def new_metric(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    register(monkeypatch, NEW)
    yield
    find_metric.cache_clear()


def with_new(of: CellResult, value: float = 0.3) -> CellResult:
    return replace(of, numbers=(*of.numbers, Number("brand_new", value, std=0.02)))


def every_cell(stem: str) -> list[CellResult]:
    """Each cell of a baselines file with exactly its references as numbers."""
    found = []
    for key, rows in References.load(BASELINES / f"{stem}.csv").rows.items():
        settings = dict(part.partition("=")[::2] for part in key[7].split(";") if part)
        n_seeds = max(int(r["n_seeds"] or 1) for r in rows.values())
        cell = Cell.of(stem, *key[:5], float(key[5]), key[6], n_seeds=n_seeds, **settings)
        numbers = [Number(name, float(r["value"]), subpopulation=s) for (s, name), r in rows.items() if r["value"]]
        found.append(CellResult(cell, tuple(numbers)))
    return found


@pytest.mark.parametrize("stem", ["feature_match", "defenses_trim_sever", "table12_fine_pruning"])
def test_one_more_metric_turns_no_cell_red_until_it_is_gated(
    new_metric: None, monkeypatch: pytest.MonkeyPatch, stem: str
) -> None:
    references, cells = References.load(BASELINES / f"{stem}.csv"), every_cell(stem)
    before = [cell_status(compare(of, references)) for of in cells]
    assert "pass" in before
    assert "fail" not in before
    assert [cell_status(compare(with_new(of), references)) for of in cells] == before
    monkeypatch.setattr(metric_registry, "METRICS", metric_registry.METRICS[:-1])
    register(monkeypatch, replace(NEW, gated=True))
    assert {cell_status(compare(with_new(of), references)) for of in cells} == {"fail"}


def test_a_metric_that_is_not_gated_is_shown_and_not_recorded(recorded: Path, new_metric: None) -> None:
    shown = verdicts_of(with_new(result()), recorded)["brand_new"]
    assert (shown.verdict, shown.reason, shown.reference, shown.atol) == ("not_gated", "", None, None)
    before = recorded.read_bytes()
    rebaseline(recorded, [with_new(result()), with_new(result(OTHER))], hardware="machine", commit="abc")
    assert recorded.read_bytes() == before
    alone = replace(result(), numbers=(Number("brand_new", 0.3),))
    assert cell_status(compare(alone, References(recorded, {}))) == "not_gated"


def test_numbers_that_no_defense_changes_are_gated_in_the_undefended_cell_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    cells = [
        Cell.of("mine", "embedded", "digits", "logistic_regression", "feature_match", rate=1.0, defense=d)
        for d in ("none", "trim")
    ]
    numbers = (Number("n_flipped", 7.0), Number("target_damage_mean", 0.3))
    rebaseline(path, [CellResult(cell, numbers, exact=True) for cell in cells])
    assert [(r["defense"], r["metric"]) for r in read(path)] == [
        ("none", "n_flipped"),
        ("none", "target_damage_mean"),
        ("trim", "target_damage_mean"),
    ]
    wrong = tuple(replace(number, value=number.value + 1) for number in numbers)
    found = [verdicts_of(CellResult(cell, wrong, exact=True), path) for cell in cells]
    assert [each["n_flipped"].verdict for each in found] == ["fail", "not_gated"]
    assert [each["target_damage_mean"].verdict for each in found] == ["fail", "fail"]


def test_a_reference_of_a_metric_that_is_not_gated_decides_nothing(recorded: Path, new_metric: None) -> None:
    columns = {"value": "0.9", "n_seeds": 5, "atol": "0.01", "published": "0.8", "certainty": "certain; same set-up"}
    write(recorded, [*read(recorded), row("brand_new", **columns)])
    for of in (with_new(result()), result()):
        shown = verdicts_of(of, recorded)["brand_new"]
        assert (shown.verdict, shown.published, shown.reference) == ("published_only", 0.8, None)
        assert status(of, recorded) == "pass"
    rebaseline(recorded, [with_new(result()), result(OTHER)])
    (left,) = [r for r in read(recorded) if r["metric"] == "brand_new"]
    assert (left["published"], left["value"], left["atol"]) == ("0.8", "", "")


def test_a_metric_that_is_not_registered_is_refused(path: Path) -> None:
    unknown = result(clean_acuracy=0.9)
    for use in (lambda: compare(unknown, References(path, {})), lambda: rebaseline(path, [unknown])):
        with pytest.raises(BadInput, match=r"did you mean 'clean_accuracy'.*subpop/results/metric_registry\.py"):
            use()


def test_a_row_of_a_metric_that_is_gone_from_the_registry_still_fails(recorded: Path) -> None:
    write(recorded, [*read(recorded), row("given_up", value="1", n_seeds=5, atol="0.01")])
    assert verdicts_of(result(), recorded)["given_up"].verdict == "fail"


# --- what is compared how ---------------------------------------------------------------------------------------------


def test_a_number_that_differs_in_its_last_digits_is_not_rewritten(recorded: Path) -> None:
    before = recorded.read_bytes()
    nearly = [moved(moved(each, "clean_accuracy", 2e-16), "n_flipped", 2e-14) for each in (result(), result(OTHER))]
    assert nearly[0].numbers != result().numbers
    rebaseline(recorded, nearly, hardware="another", commit="def")
    assert recorded.read_bytes() == before
    rebaseline(recorded, [moved(result(), "clean_accuracy", 1e-9), result(OTHER)], hardware="another", commit="def")
    assert recorded.read_bytes() != before


def test_times_are_neither_compared_nor_recorded(path: Path) -> None:
    timed = result(fleet_seconds=1.0, one_at_a_time_seconds_a_row=30.0, clean_accuracy=0.9)
    rebaseline(path, [timed])
    assert [r["metric"] for r in read(path)] == ["clean_accuracy"]
    assert status(moved(moved(timed, "fleet_seconds", 50), "one_at_a_time_seconds_a_row", 50), path) == "pass"
    assert status(without(timed, "fleet_seconds"), path) == "pass"


def test_a_speed_ratio_fails_only_downwards_and_keeps_its_bound(path: Path) -> None:
    speed = result(speed_ratio=5.0)
    rebaseline(path, [speed])
    assert read(path) == []
    assert status(speed, path) == "fail"
    assert "add its bound" in compare(speed, References.load(path))[0].reason
    write(path, [row("speed_ratio", value="4")])
    for ratio, expected in ((5.0, "pass"), (400.0, "pass"), (4.0, "pass"), (3.99, "fail"), (math.nan, "fail")):
        assert status(result(speed_ratio=ratio), path) == expected
    before = path.read_bytes()
    rebaseline(path, [result(speed_ratio=3.0)], hardware="machine")
    assert path.read_bytes() == before


def test_a_residual_is_held_below_its_tolerance(path: Path) -> None:
    solved = result(kkt_residual_max=1e-9)
    rebaseline(path, [solved])
    for value, expected in ((0.0, "pass"), (9e-7, "pass"), (1.1e-6, "fail"), (math.nan, "fail")):
        assert status(result(kkt_residual_max=value), path) == expected
    write(path, [{**r, "atol": "1e-8"} for r in read(path)])
    rebaseline(path, [result(kkt_residual_max=2e-9)])
    assert [(r["value"], r["atol"]) for r in read(path)] == [("2e-09", "1e-8")]
    assert status(result(kkt_residual_max=2e-8), path) == "fail"


def test_counts_have_a_relative_tolerance(path: Path) -> None:
    rebaseline(path, [result(n_flipped=1200.0, holdout_rows=0.0)])
    assert {r["metric"]: r["atol"] for r in read(path)} == {"n_flipped": "12", "holdout_rows": "0.01"}
    for n_flipped, holdout_rows, expected in ((1211.0, 0.0, "pass"), (1213.0, 0.0, "fail"), (1200.0, 1.0, "fail")):
        assert status(result(n_flipped=n_flipped, holdout_rows=holdout_rows), path) == expected


@pytest.mark.parametrize(
    ("reference", "run", "expected"),
    [("nan", math.nan, "pass"), ("nan", 0.5, "fail"), ("0.5", math.nan, "fail"), ("inf", math.inf, "pass"), ("inf", 1.0, "fail")],
)
def test_unknown_is_near_nothing_but_unknown(path: Path, reference: str, run: float, expected: str) -> None:
    path.parent.mkdir()
    write(path, [row("m", value=reference, n_seeds=5, atol="0.01")])
    assert status(result(m=run), path) == expected


@pytest.mark.parametrize(
    ("certainty", "run", "expected"),
    [
        ("certain", 0.9, "published_only"),
        ("certain; same set-up", 0.505, "published_only"),
        ("certain; same set-up", 0.52, "fail"),
    ],
)
def test_what_is_published_is_shown_and_gates_only_where_its_certainty_says_so(
    path: Path, certainty: str, run: float, expected: str
) -> None:
    path.parent.mkdir()
    write(path, [row("m", published="0.50", certainty=certainty, atol="0.01")])
    (verdict,) = compare(result(m=run), References.load(path))
    assert (verdict.verdict, verdict.published, verdict.certainty) == (expected, 0.5, certainty)
    write(path, [row("m", published="0.50", certainty=certainty, atol="0.01", value=run, n_seeds=5)])
    assert status(result(m=run), path) == {"published_only": "pass", "fail": "fail"}[expected]


def test_a_published_number_that_the_run_does_not_measure_is_shown_and_does_not_fail(path: Path) -> None:
    path.parent.mkdir()
    write(path, [row("m", published="0.5", certainty="certain"), row("k", value="1", n_seeds=5, atol="0.01")])
    found = verdicts_of(result(k=1.0), path)
    assert {name: v.verdict for name, v in found.items()} == {"k": "pass", "m": "published_only"}
    assert math.isnan(found["m"].number.value)


def test_the_status_says_whether_anything_failed_or_could_pass() -> None:
    def of(*kinds: str) -> str:
        return cell_status([Verdict(Number("m", 0.0), kind, "why") for kind in kinds])

    assert of("pass", "pass") == "pass"
    assert of("pass", "published_only") == "pass"
    assert of("published_only", "no_power", "pass") == "pass"
    assert of("published_only", "no_power") == "no_power"
    assert of("no_power", "fail", "pass") == "fail"
    assert of("pass", "no_reference") == "fail"
    not_expected = Verdict(Number("m", 0.0), "no_reference")
    assert cell_status([Verdict(Number("m", 0.0), "pass"), not_expected]) == "pass"
    assert cell_status([not_expected]) == "no_reference"
    assert of("error", "fail") == "error"
    assert of() == "error"


# --- tolerances, by hand ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "subpopulation", "expected"),
    [
        ("target_damage_worst_1", "", 1 / 25),  # the smallest with at least 20 test rows
        ("target_damage_worst_5", "", 1 / 125),
        ("target_damage_worst_1_all", "", 1 / 8),
        ("defense_cost_worst_10", "", 1 / 250),
        ("collateral_damage_max", "", 0),
        ("clean_accuracy", "", 0),
        ("target_damage", "7", 1 / 40),
        ("target_damage", "unknown", 0),
    ],
)
def test_one_flipped_row(metric: str, subpopulation: str, expected: float) -> None:
    assert one_row(result(), Number(metric, 0.5, subpopulation=subpopulation)) == pytest.approx(expected)
    assert one_row(replace(result(), table=()), Number(metric, 0.5, subpopulation=subpopulation)) == 0


def test_an_exact_number_is_held_to_a_hundredth_or_one_row(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Metric("worst_{k}_of_all", Unit.FRACTION, "", tolerance=Tolerance.WORST_ROW_OF_ALL, gated=True))
    values = {"target_damage_worst_1": 0.6, "target_damage_worst_5": 0.4, "worst_1_of_all": 0.7, "clean_accuracy": 0.9}
    rebaseline(path, [result(**values)])
    expected = {
        "target_damage_worst_1": 0.04,
        "target_damage_worst_5": 0.01,
        "worst_1_of_all": 0.125,
        "clean_accuracy": 0.01,
    }
    assert {r["metric"]: float(r["atol"]) for r in read(path)} == pytest.approx(expected)
    assert {r["std"] for r in read(path)} == {""}
    # One row of eight is more than a tenth: shown, and never a pass; a larger gap still fails.
    assert verdicts_of(result(**values), path)["worst_1_of_all"].verdict == "no_power"
    assert verdicts_of(result(**{**values, "worst_1_of_all": 0.5}), path)["worst_1_of_all"].verdict == "fail"


def test_a_noisy_tolerance_by_hand() -> None:
    # Quantiles from a printed table: t(.975, 4) = 2.776, t(.995, 8) = 3.355, t(.975, 1) = 12.706; normal(.8) = 0.842.
    error = 0.02 * math.sqrt(1 / 5 + 1 / 5)
    assert noisy_atol([(0.02, 4)], 5, 1) == pytest.approx((2.776 * error, (2.776 + 0.842) * error), rel=2e-4)
    assert noisy_atol([(0.02, 4), (0.04, 4)], 5, 5)[0] == pytest.approx(3.355 * math.sqrt(0.001) * math.sqrt(0.4), rel=2e-4)
    # Weighted by degrees of freedom: (2 * .03^2 + 6 * .01^2) / 8 = .0003.
    assert noisy_atol([(0.03, 2), (0.01, 6)], 4, 5)[0] == pytest.approx(3.355 * math.sqrt(0.0003) * math.sqrt(0.5), rel=2e-4)
    assert noisy_atol([(0.1, 1)], 2, 1)[0] == pytest.approx(12.706 * 0.1, rel=2e-4)
    assert noisy_atol([], 5, 1) == noisy_atol([(math.nan, 0)], 1, 1) == (math.inf, math.inf)
    assert noisy_atol([(0.02, 4), (math.nan, 4)], 5, 1) == noisy_atol([(0.02, 4)], 5, 1)


def stochastic(cell: Cell, **deviations: float) -> CellResult:
    return CellResult(cell, tuple(Number(name, 0.5, std=std) for name, std in deviations.items()), exact=False)


def test_deviations_are_pooled_within_metric_victim_tier_and_kind(path: Path) -> None:
    aggregate, single = Number("a", 0.5, std=0.02), Number("a", 0.5, std=0.2, subpopulation="3")
    first = CellResult(CELL, (aggregate, single), exact=False)
    results = [
        first,
        stochastic(OTHER, a=0.04),
        stochastic(CELL.with_(victim="mlp"), a=0.3),
        stochastic(CELL.with_(tier="laptop"), a=0.01),
    ]
    rebaseline(path, results)
    found = {(r["victim"], r["tier"], r["rate"], r["subpopulation"]): float(r["atol"]) for r in read(path)}
    pooled, ours = 3.355 * math.sqrt(0.001 * 0.4), ("logistic_regression", "embedded")
    assert found[*ours, "0.5", ""] == found[*ours, "2", ""] == pytest.approx(pooled, rel=2e-4)
    # Alone in their pools: 4 degrees of freedom, t(.995, 4) = 4.604, five noisy numbers in the file.
    assert found[*ours, "0.5", "3"] == pytest.approx(4.604 * 0.2 * math.sqrt(0.4), rel=2e-4)
    assert found["mlp", "embedded", "0.5", ""] == pytest.approx(4.604 * 0.3 * math.sqrt(0.4), rel=2e-4)
    assert found["logistic_regression", "laptop", "0.5", ""] == pytest.approx(4.604 * 0.01 * math.sqrt(0.4), rel=2e-4)


def test_a_wide_tolerance_has_no_power_and_a_larger_gap_fails(path: Path) -> None:
    noisy = stochastic(CELL, a=0.05, b=0.001)
    rebaseline(path, [noisy])
    atol = {r["metric"]: float(r["atol"]) for r in read(path)}
    assert atol["b"] < 0.1 < atol["a"]
    assert {name: v.verdict for name, v in verdicts_of(noisy, path).items()} == {"a": "no_power", "b": "pass"}
    assert status(noisy, path) == "pass"  # by b
    assert verdicts_of(moved(noisy, "a", 0.9 * atol["a"]), path)["a"].verdict == "no_power"
    assert status(moved(noisy, "a", 1.1 * atol["a"]), path) == "fail"
    assert status(moved(noisy, "b", 1.1 * atol["b"]), path) == "fail"


def test_a_single_seed_of_a_stochastic_victim_has_no_power(path: Path) -> None:
    single = replace(result(CELL.with_(n_seeds=1), clean_accuracy=0.9), exact=False)
    rebaseline(path, [single])
    assert [(r["std"], r["atol"]) for r in read(path)] == [("nan", "inf")]
    assert status(single, path) == "no_power"
    # With seeds elsewhere in its pool there is a tolerance: t(.9875, 4) = 3.495, one seed on either side.
    rebaseline(path, [stochastic(OTHER, clean_accuracy=0.01)])
    rebaseline(path, [single])
    assert [float(r["atol"]) for r in read(path) if r["rate"] == "0.5"] == [pytest.approx(3.495 * 0.01 * math.sqrt(2), rel=2e-4)]


def test_numbers_without_noise_of_a_stochastic_victim_are_held_like_exact_ones(path: Path) -> None:
    mixed = CellResult(CELL, (Number("a", 0.5, std=0.02), Number("holdout_rows", 3.0)), exact=False)
    rebaseline(path, [mixed])
    assert {r["metric"]: r["atol"] for r in read(path)}["holdout_rows"] == "0.03"
    # ... and do not count among the noisy ones: t(.975, 4)
    assert float(read(path)[0]["atol"]) == pytest.approx(2.776 * 0.02 * math.sqrt(0.4), rel=2e-4)


def test_more_noisy_numbers_in_the_run_widen_the_tolerance(path: Path) -> None:
    rebaseline(path, [stochastic(CELL, a=0.02)], n_noisy=5)
    assert float(read(path)[0]["atol"]) == pytest.approx(4.604 * 0.02 * math.sqrt(0.4), rel=2e-4)


def test_a_number_without_any_noise_is_held_to_the_exact_rule(path: Path) -> None:
    rebaseline(path, [stochastic(CELL, a=0.0)])
    assert status(moved(stochastic(CELL, a=0.0), "a", 1e-12), path) == "pass"
    assert status(moved(stochastic(CELL, a=0.0), "a", 0.02), path) == "fail"


# --- exact victims ----------------------------------------------------------------------------------------------------


def certain(of: CellResult, n_undecided: int | None = 0) -> CellResult:
    return replace(of, n_undecided=n_undecided)


ONE_ROW = 1 / 40 / 5
"""What one flipped test row of the smaller ranked subpopulations changes in a worst-5: below the old tolerance of .01."""


def test_one_flipped_row_fails_a_cell_in_which_nothing_is_undecided(path: Path) -> None:
    rebaseline(path, [result()])  # as before, without a bound
    assert status(moved(result(), "target_damage_worst_5", ONE_ROW), path) == "pass"
    rebaseline(path, [certain(result())])
    assert {r["atol"] for r in read(path)} == {"1e-09"}
    assert status(certain(result()), path) == "pass"
    assert status(moved(moved(certain(result()), "target_damage_worst_5", 1e-12), "n_flipped", 1e-10), path) == "pass"
    for metric, by in {"target_damage_worst_5": ONE_ROW, "clean_accuracy": 1e-4, "n_flipped": 1.0}.items():
        assert status(moved(certain(result()), metric, by), path) == "fail"


def test_a_run_in_which_something_is_undecided_may_differ_by_one_row(path: Path) -> None:
    rebaseline(path, [certain(result())])
    near = certain(result(), 1)
    assert status(moved(near, "target_damage_worst_5", ONE_ROW), path) == "pass"
    assert verdicts_of(near, path)["target_damage_worst_5"].atol == 0.01
    assert status(moved(near, "target_damage_worst_5", 0.011), path) == "fail"
    rebaseline(path, [near])
    assert {r["atol"] for r in read(path)} == {"0.01", "1.2"}
    assert status(moved(certain(result()), "target_damage_worst_5", ONE_ROW), path) == "pass"


def test_a_run_that_lost_its_bound_is_held_to_the_recorded_tolerance(path: Path) -> None:
    rebaseline(path, [certain(result())])
    assert status(moved(certain(result(), None), "target_damage_worst_5", ONE_ROW), path) == "fail"


def test_means_of_draws_bounds_and_stochastic_numbers_keep_their_rules(path: Path) -> None:
    drawn = (Number("error_sum", 0.9, 0.05, tolerance=0.05), Number("kkt_residual_max", 1e-9))
    rebaseline(path, [certain(replace(result(), numbers=drawn))])
    assert {r["metric"]: r["atol"] for r in read(path)} == {"error_sum": "0.05", "kkt_residual_max": "1e-06"}
    assert status(certain(replace(result(), numbers=(drawn[0], Number("kkt_residual_max", 1e-3))), 5), path) == "fail"
    path.unlink()
    noisy = replace(result(exact=False), numbers=(Number("n_flipped", 3.0),))
    rebaseline(path, [certain(noisy)])
    assert [r["atol"] for r in read(path)] == ["0.03"]


def test_the_worked_examples_of_the_documentation_are_right() -> None:
    found = doctest.testfile(str(Path(__file__).parents[2] / "docs" / "tolerances.md"), module_relative=False)
    assert found.attempted > 20
    assert found.failed == 0


# --- recording again --------------------------------------------------------------------------------------------------


def test_rebaseline_changes_our_columns_of_the_cells_that_ran_and_nothing_else(recorded: Path) -> None:
    by_hand = row(
        "published_metric", OTHER, rate="2.0", published="0.70", certainty="probable", value="0.50", n_seeds="5", atol="0.10"
    )
    rows: Sequence[dict[str, object]] = [
        {**r, "published": "0.460", "certainty": "certain"} if r["metric"] == "target_damage_worst_5" else dict(r)
        for r in read(recorded)
    ]
    only_published = row("finetuned_accuracy", published="0.50", certainty="about")
    write(recorded, [by_hand, only_published, *reversed(rows)])
    drifted = without(moved(result(), "target_damage_worst_5", 0.25), "clean_accuracy")
    rebaseline(
        recorded, [replace(drifted, numbers=(*drifted.numbers, Number("poison_recall", 1 / 3)))], hardware="new", commit="def"
    )
    after = read(recorded)
    others = [r for r in after if float(r["rate"]) == 2]
    assert sorted(others, key=str) == sorted(
        ({**dict.fromkeys(COLUMNS, ""), **r} for r in [by_hand, *rows] if float(str(r["rate"])) == 2), key=str
    )
    mine = {r["metric"]: r for r in after if float(r["rate"]) == 0.5}
    assert set(mine) == {"target_damage_worst_5", "n_flipped", "poison_recall", "finetuned_accuracy"}
    kept = {"published": "0.460", "certainty": "certain", "n_seeds": "5", "atol": "0.01", "hardware": "new", "commit": "def"}
    assert {name: mine["target_damage_worst_5"][name] for name in kept} == kept
    assert float(mine["target_damage_worst_5"]["value"]) == 0.45 + 0.25
    assert float(mine["poison_recall"]["value"]) == 1 / 3
    assert (mine["finetuned_accuracy"]["published"], mine["finetuned_accuracy"]["value"]) == ("0.50", "")
    # What did not change keeps the machine and the commit that it was measured with.
    assert (mine["n_flipped"]["hardware"], mine["n_flipped"]["commit"]) == ("machine", "abc")


def test_recording_the_same_again_changes_no_byte(path: Path) -> None:
    results = [result(), result(OTHER, exact=False), stochastic(CELL.with_(victim="mlp"), a=0.02, b=0.1)]
    rebaseline(path, results, hardware="one", commit="1")
    before = path.read_bytes()
    for again in (results, results[::-1], results[:1], results[1:]):
        rebaseline(path, again, hardware="two", commit="2")
        assert path.read_bytes() == before
    assert {p.name for p in path.parent.iterdir()} == {path.name, "SCHEMA"}


def test_a_part_recorded_alone_gets_the_tolerance_of_the_whole_file(path: Path) -> None:
    results = [stochastic(CELL.with_(rate=rate), a=0.02) for rate in (0.5, 1.0, 2.0)]
    rebaseline(path, results)
    whole = [r["atol"] for r in read(path)]
    rebaseline(path, [moved(results[1], "a", 0.3)])
    assert [r["atol"] for r in read(path)] == whole
    assert [r["value"] for r in read(path)] == ["0.5", "0.8", "0.5"]


def test_rows_are_sorted_with_rates_as_numbers(path: Path) -> None:
    rebaseline(path, [result(CELL.with_(rate=rate), m=0.5, a=0.1) for rate in (10.0, 2.0, 0.5, 1e-7)])
    assert [(r["rate"], r["metric"]) for r in read(path)] == [(t, m) for t in ("1e-07", "0.5", "2", "10") for m in ("a", "m")]


def test_an_interrupted_write_leaves_the_file_as_it_was(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    before = recorded.read_bytes()
    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rebaseline(recorded, [moved(result(), "clean_accuracy", 0.1)])
    assert recorded.read_bytes() == before
    assert {p.name for p in recorded.parent.iterdir()} == {recorded.name, "SCHEMA"}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(), min_size=1, max_size=5), st.floats(0, 10, allow_nan=False))
def test_any_recorded_value_reads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], rate: float
) -> None:
    path = tmp_path_factory.mktemp("any") / "stem.csv"
    of = result(CELL.with_(rate=rate), **{f"m{i}": value for i, value in enumerate(values)})
    rebaseline(path, [of])
    assert References.load(path).rows.keys() == {cell_key(of.cell)}
    for r, value in zip(read(path), values, strict=True):
        assert float(r["value"]) == value or (math.isnan(value) and r["value"] == "nan")
    assert {v.verdict for v in compare(of, References.load(path))} == {"pass"}


# --- bad files --------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_empty(path: Path) -> None:
    assert References.load(path).rows == {}


def test_a_duplicate_key_names_both_lines(path: Path) -> None:
    path.parent.mkdir()
    write(path, [row("a"), row("b"), row("a", rate="0.50", published="1")])
    with pytest.raises(BadInput, match=r"stem\.csv: lines 2 and 4 have the same key \(.*none.*-a\); delete one"):
        References.load(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"value": "0,45"}, "value is '0,45', not a number"),
        ({"published": "n/a"}, "published is 'n/a', not a number"),
        ({"published": "nan"}, "published cannot be 'nan'"),
        ({"rate": "half"}, "rate is 'half'"),
        ({"rate": ""}, "rate is empty"),
        ({"std": "-0.1"}, "std cannot be '-0.1'"),
        ({"atol": "-1"}, "atol cannot be '-1'"),
        ({"atol": "nan"}, "atol cannot be 'nan'"),
        ({"n_seeds": "2.5"}, r"n_seeds cannot be '2\.5'"),
        ({"n_seeds": "0"}, "n_seeds cannot be '0'"),
        ({"n_seeds": "inf"}, "n_seeds cannot be 'inf'"),
        ({"n_seeds": ""}, "n_seeds is empty"),
        ({"atol": ""}, "atol is empty"),
    ],
)
def test_a_malformed_row_is_refused_by_file_and_line(path: Path, columns: dict[str, str], message: str) -> None:
    path.parent.mkdir()
    write(path, [row("a"), row("b", **{"value": "0.5", "n_seeds": "5", "atol": "0.01", **columns})])
    with pytest.raises(BadInput, match=rf"stem\.csv, line 3: {message}"):
        References.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (",".join([*COLUMNS, "note"]) + "\n", r"line 1: unknown columns \['note'\], missing \[\]"),
        (",".join(COLUMNS[:-1]) + "\n", r"line 1: unknown columns \[\], missing \['commit'\]"),
        ("", "line 1: .*missing"),
        (",".join(COLUMNS) + "\na,b\n", "line 2: 2 fields, not 22"),
        (",".join(COLUMNS) + '\n"a', "line 2: not valid CSV"),
    ],
)
def test_a_file_of_another_shape_is_refused(path: Path, content: str, message: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(BadInput, match=rf"stem\.csv, {message}"):
        References.load(path)


def test_a_file_that_cannot_be_read_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(BadInput, match="cannot be read"):
        References.load(path)
    other = path.with_name("latin.csv")
    other.write_bytes(",".join(COLUMNS).encode() + b"\n\xe4")
    with pytest.raises(BadInput, match=r"latin\.csv cannot be read"):
        References.load(other)


def test_windows_line_ends_and_a_byte_order_mark_do_not_matter(recorded: Path) -> None:
    recorded.write_bytes(b"\xef\xbb\xbf" + recorded.read_bytes().replace(b"\n", b"\r\n"))
    assert status(result(), recorded) == "pass"
