"""`--budget`: the order of worth, what still fits, and a run that is unfinished and not red."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_projects import ROOT, make_project, run

from subpop.runtime.estimate import Forecast
from subpop.runtime.options import budget_seconds
from subpop.session.budget import Budget, in_order_of_worth
from subpop.types import BadInput
from subpop.types.grid import grid

CELLS = grid(
    stem="some",
    tier="embedded",
    dataset="digits",
    partition="feature_match",
    victim="logistic_regression",
    rate=[0.5, 1.0, 2.0],
    n_seeds=1,
    defense=["none", "trim"],
)
MODULE = ModuleType("suite")
MODULE.CELLS = CELLS


@dataclasses.dataclass(eq=False)
class Item:
    """A test as pytest has them."""

    name: str
    callspec: SimpleNamespace
    fixturenames: tuple[str, ...] = ()
    module: ModuleType = MODULE
    path: Path = Path("benchmarks/test_some.py")


def measuring(cell):
    return Item(f"test_cell[{cell.id}]", SimpleNamespace(params={"cell": cell}), ("cell", "measure"))


def claim(name, cells):
    return Item(name, SimpleNamespace(params={"sweep": tuple(cells)} if cells else {}), ("sweep", "result_of"))


def names(items):
    return [item.name for item in items]


def test_claims_come_first_then_cells_with_references_then_the_others():
    a, b, c, d, e, f = CELLS
    seconds = dict(zip(CELLS, (5.0, 1.0, 2.0, 9.0, 3.0, 4.0), strict=True))
    slow, fast = claim("slow", [a, b]), claim("fast", [b, c])  # 6 s, and 3 s; after fast, slow needs 5 more
    items = [*map(measuring, CELLS), slow, fast]
    found = in_order_of_worth(items, seconds, lambda cell: cell != e)
    cells = {item.name: item for item in map(measuring, CELLS)}
    of = lambda cell: f"test_cell[{cell.id}]"  # noqa: E731
    assert names(found) == [of(b), of(c), "fast", of(a), "slow", of(f), of(d), of(e)]
    assert set(names(found)) == {*cells, "slow", "fast"}


def test_a_claim_that_names_no_cell_needs_all_of_its_suite():
    seconds = dict.fromkeys(CELLS, 1.0)
    items = [*map(measuring, CELLS), claim("all", []), claim("one", CELLS[3:4])]
    assert names(in_order_of_worth(items, seconds, lambda cell: True)) == [
        f"test_cell[{CELLS[3].id}]", "one", *(f"test_cell[{cell.id}]" for cell in sorted(set(CELLS) - {CELLS[3]})), "all"
    ]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.floats(0.0, 10.0), min_size=6, max_size=6),
    st.lists(st.lists(st.sampled_from(CELLS), min_size=1, max_size=3, unique=True), max_size=3),
)
def test_no_order_judges_the_first_claim_sooner(seconds, claims):
    """Brute force: whichever claim were first, its cells would take at least as long; and no test is lost."""
    expected = dict(zip(CELLS, seconds, strict=True))
    items = [*map(measuring, CELLS), *(claim(f"claim {i}", cells) for i, cells in enumerate(claims))]
    found = in_order_of_worth(items, expected, lambda cell: True)
    assert sorted(names(found)) == sorted(names(items))
    spent = itertools.accumulate(expected.get(item.callspec.params.get("cell"), 0.0) for item in found)
    first = next((total for item, total in zip(found, spent, strict=True) if item.name.startswith("claim")), None)
    if claims:
        assert first == pytest.approx(min(sum(expected[cell] for cell in cells) for cells in claims))
    rest = [
        expected[item.callspec.params["cell"]] for item in found[names(found).index(last_claim(found)) + 1 if claims else 0 :]
    ]
    assert rest == sorted(rest)


def last_claim(items):
    return [item.name for item in items if item.name.startswith("claim")][-1]


def test_a_test_begins_if_it_fits_into_what_is_left():
    now = [0.0]
    forecast = Forecast(seconds=dict.fromkeys(CELLS, 10.0))
    budget = Budget("25s", 25.0, clock=lambda: now[0])
    items = [*map(measuring, CELLS), claim("both", CELLS[:2])]
    assert "about 2 of 6 cells fit" in budget.spend_on(items, forecast)
    done = set()
    assert budget.allows(items[0], done)
    for passed, cell in ((10.0, CELLS[0]), (20.0, CELLS[1])):
        now[0] = passed
        forecast.end(cell)
        done.add(cell)
        assert budget.allows(items[1], done - {CELLS[1]}) == (passed == 10.0)
    assert budget.allows(items[-1], done), "a claim about measured cells costs nothing"
    assert not budget.allows(items[2], done)
    assert budget.description_of(CELLS[2:]) == "--budget 25s left 4 cells, roughly 40 s: some (4)"
    assert budget.description_of([]) == ""


def test_a_control_costs_what_the_filter_costs_whose_trials_it_runs_first():
    plain, filtered = CELLS[0], CELLS[0].with_(defense="mine.f")
    control = plain.with_(defense="matched_random_filter:mine.f")
    forecast = Forecast(seconds={plain: 5.0, filtered: 100.0, control: 1.0})
    items = in_order_of_worth([*map(measuring, (control, filtered, plain))], forecast.seconds, lambda cell: False)
    assert names(items) == names(map(measuring, (plain, filtered, control)))
    budget = Budget("50s", 50.0, clock=lambda: 0.0)
    budget.spend_on(items, forecast)
    assert budget.allows(items[0], ())
    assert not budget.allows(items[2], [plain])
    assert budget.allows(items[2], [plain, filtered])


def test_cells_that_take_longer_than_expected_leave_less():
    """The first cell takes 20 s instead of 10: the second is expected to take about 20 too, and does not fit."""
    now = [0.0]
    forecast = Forecast(seconds=dict.fromkeys(CELLS[:2], 10.0))
    budget = Budget("32s", 32.0, clock=lambda: now[0])
    items = [*map(measuring, CELLS[:2])]
    budget.spend_on(items, forecast)
    assert budget.allows(items[0], ())
    now[0] = 20.0
    forecast.end(CELLS[0])
    assert forecast.pace(20.0) == pytest.approx(23 / 13)
    assert not budget.allows(items[1], CELLS[:1])


def test_what_workers_have_trained_costs_nothing_more_and_no_test_waits_after_the_end():
    now = [0.0]
    forecast = Forecast(seconds=dict.fromkeys(CELLS[:3], 10.0), fits=dict.fromkeys(CELLS[:3], 4.0))
    budget = Budget("25s", 25.0, clock=lambda: now[0])
    items = [*map(measuring, CELLS[:3])]
    budget.spend_on(items, forecast)
    assert budget.allows(items[0], ())
    now[0] = 20.0
    forecast.receive(CELLS[1], 4)
    forecast.receive(CELLS[2], 1)
    forecast.end(CELLS[0])
    assert budget.room() == pytest.approx(5 * 26 / 23.5)
    assert not budget.allows(items[2], CELLS[:1]), "7.5 s are left to do"
    assert budget.allows(items[1], CELLS[:1])
    assert not budget.has_ended_tests
    now[0] = 25.0
    assert budget.has_ended_tests
    assert budget.room() == 0
    assert not budget.allows(items[1], CELLS[:2]), "a claim may need cells that it does not name"


def test_the_first_test_always_runs():
    budget = Budget("1s", 1.0, clock=lambda: 100.0)
    items = [*map(measuring, CELLS)]
    budget.spend_on(items, Forecast(seconds=dict.fromkeys(CELLS, 50.0)))
    assert budget.allows(items[0], ())
    assert not budget.has_ended_tests
    assert not budget.allows(items[1], ())


@pytest.mark.parametrize("text", ["", "m", "-5m", "0", "0s", "5 days", "nan", "5", "5x", "30m1h", "1m1m"])
def test_a_budget_that_is_no_time_is_refused(text):
    with pytest.raises(BadInput, match=f"^--budget {text} is not a duration; write one above 0 with h, m or s, such as"):
        budget_seconds(text, "--budget ")


def test_budgets_have_units_in_either_case_and_numbers_are_seconds():
    told = {"90s": 90, "30S": 30, "5m": 300, "1.5h": 5400, "1h30m": 5400, " 1 h 2 m 3 s ": 3723, 30: 30, 0.5: 0.5}
    assert {each: budget_seconds(each) for each in told} == told


def test_a_run_with_a_budget_is_unfinished_and_not_red(tmp_path):
    project = make_project(tmp_path)
    done = run(project, "--budget", "0.001s", "--no-references", "-p", "no:xdist")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (project / "runs" / "report" / "README.md").read_text().splitlines()[2]
    told = json.loads((project / "runs" / "report" / "results.json").read_text())
    measured = told["measured"]
    assert 1 <= measured < 6 == told["planned"]
    assert not told["complete"]
    assert page.startswith(f"**Unfinished: {measured} of 6 cells measured; --budget 0.001s left {6 - measured} cells, roughly ")
    assert f"Unfinished: {measured} of 6 cells measured" in done.stdout
    assert " passed" in done.stdout
    assert " skipped" in done.stdout
    assert "failed" not in done.stdout
    again = run(project, "--budget", "1h", "--no-references", "-p", "no:xdist", "--shard", "1/1")
    assert again.returncode == 0, again.stdout
    assert "Unfinished" not in (project / "runs" / "report" / "README.md").read_text()


SLOW = """
import time
from sklearn.naive_bayes import GaussianNB


class Slow(GaussianNB):
    def fit(self, x, y):
        time.sleep(10.0)
        return super().fit(x, y)
"""
SUITE = '''"""Source: a test. Deviations: none."""
from subpop.types.grid import grid

COMMON = dict(stem="little", tier="embedded", dataset="digits", partition="feature_match", sampling="distinct", n_seeds=1)
CELLS = [*grid(victim="logistic_regression", rate=[0.25, 0.5, 1.0], **COMMON),
         *grid(victim="own_slow:Slow", rate=[0.5, 1.0], **COMMON)]


def test_cell(cell, measure):
    measure(cell)

'''


def test_workers_end_with_the_budget(tmp_path):
    """A test that had begun waited for them without a limit."""
    project = make_project(tmp_path)
    (project / "benchmarks" / "test_little.py").write_text(SUITE)
    (project / "own_slow.py").write_text(SLOW)
    path = {"PYTHONPATH": f"{ROOT}:{project}"}
    started = time.monotonic()
    done = run(project, "-n", "2", "--budget", "12s", "--no-references", "-p", "no:xdist", **path)
    passed = time.monotonic() - started
    assert done.returncode == 0, done.stdout + done.stderr
    assert passed < 40, f"{passed:.0f} s, with two cells of more than 100 s each"
    assert "Unfinished: 3 of 5 cells measured; --budget 12s left 2 cells" in done.stdout
    assert "3 passed, 2 skipped" in done.stdout
