"""The pytest plug-in: cells as test items, the plan, the `measure` fixture, and the report at the end.

Heavy imports are inside hooks, so that other tests start fast. The plug-in is loaded by a line in conftest.py or by
`subpop run`. It is not an entry point, so that its options appear only where it is used.
"""

from __future__ import annotations

import gc
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from subpop.session.options import (
    add_options,
    advise,
    baselines_folder,
    checked_attacks,
    checked_defenses,
    checked_replacements,
    make_run,
    report_directory,
    workers_of,
)
from subpop.session.run_info import DIVISION, commit_of, docstrings, environment, run_info

if TYPE_CHECKING:
    from subpop.harness.plugins import AttackSpec, DefenseSpec
    from subpop.session.budget import Budget
    from subpop.session.replaced_cells import Replacements
    from subpop.session.run import Run
    from subpop.session.session_watch import SessionWatch
    from subpop.types import Cell, CellResult, Model

RUN = pytest.StashKey["Run"]()
PLUGINS: pytest.StashKey[dict[str, DefenseSpec]] = pytest.StashKey()
ATTACKS: pytest.StashKey[dict[str, AttackSpec]] = pytest.StashKey()
REPLACEMENTS: pytest.StashKey[Replacements | None] = pytest.StashKey()
WATCH = pytest.StashKey["SessionWatch"]()
MISTAKES = pytest.StashKey[list[str]]()
"""Errors in marks; reported after collection."""
BUDGET = pytest.StashKey["Budget"]()
MEASURING = pytest.StashKey[set[str]]()
"""Tests that measure cells, by node id."""
OFFERED = pytest.StashKey[list[str]]()
"""The collected suites that have cells of the tier, before -k."""
MANY = 20
"""From this many cells on, workers are forked from a process that has imported all libraries."""
CLOCK_OFFSET = [0.0]
"""Seconds that cells read from the store took when they were trained; the benchmark clock includes them."""


def clock() -> float:
    """A wall clock in seconds that includes the recorded time of stored cells."""
    return time.perf_counter() + CLOCK_OFFSET[0]


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    add_options(parser, has_xdist=pluginmanager.hasplugin("xdist"))
    config = pluginmanager.get_plugin("pytestconfig")
    if config is not None:
        advise(parser, config.invocation_params.args)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser) -> Generator[None, None, None]:
    """Advise on mistyped options again, once the options of all plug-ins are known."""
    yield
    advise(parser, early_config.invocation_params.args)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, int, int]:
    """In sessions that run suites, `-n N` trains in N processes but runs the tests in one; otherwise it is pytest-xdist's."""
    from subpop.session.collecting import names_suites, take_over_processes
    from subpop.types import BadInput

    if names_suites(config.args, config.invocation_params.dir, config.getini("python_files")):
        try:
            take_over_processes(config.option)
        except BadInput as error:
            raise pytest.UsageError(str(error)) from None
    elif getattr(config.option, "numprocesses", None) and not config.pluginmanager.hasplugin("xdist"):
        raise pytest.UsageError("-n is for suites; other tests need pytest-xdist for it: python -m pip install pytest-xdist")
    status = yield
    if "ray" in sys.modules:
        from subpop.experiments.pools import exit_if_ray_still_waits

        exit_if_ray_still_waits(int(status))
    return status


def pytest_configure(config: pytest.Config) -> None:
    from subpop.session.session_watch import SessionWatch

    config.stash[WATCH] = SessionWatch()
    config.pluginmanager.register(config.stash[WATCH], "subpop-watch")
    config.addinivalue_line("markers", "cells(**fields): the cells a claim is about, by field or setting")
    # A worker whose memory has grown is replaced between two tasks; nothing is lost, and nobody needs to act.
    config.addinivalue_line("filterwarnings", "ignore:A worker stopped while some jobs were given to the executor:UserWarning")
    config.addinivalue_line("markers", "smoke: one cell of each kind of measurement, set by the plug-in")
    from subpop.types import BadInput

    try:
        config.stash[PLUGINS], config.stash[ATTACKS] = checked_defenses(config), checked_attacks(config)
        config.stash[REPLACEMENTS] = checked_replacements(config)
    except BadInput as error:
        raise pytest.UsageError(str(error)) from None


# --- cells as test items ----------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise tests with the suite's CELLS of --tier and, if it is open to plug-ins, with --defense."""
    wanted = {"cell", "sweep"} & set(metafunc.fixturenames)
    if getattr(metafunc.module, "CELLS", None) is None or not wanted:
        return
    from subpop.session.collecting import cells_of_module, chosen
    from subpop.session.run import rows_of_plugins, select
    from subpop.types import BadInput
    from subpop.types.grid import sweep_id, sweeps

    cells = cells_of_module(metafunc.module)
    if cells is None:
        return
    config = metafunc.config
    plugins = config.stash[PLUGINS]
    if (times := config.getoption("--seeds-times")) > 1:
        cells = [cell.with_(n_seeds=cell.n_seeds * times) for cell in cells]
    is_open, only_mine = getattr(metafunc.module, "open_to_defenses", False), config.getoption("--only-mine")
    attacks = config.stash[ATTACKS]
    own = select(cells, config.getoption("--tier"), rows_of_plugins(plugins), is_open, only_mine, attacks)
    if (given := config.stash[REPLACEMENTS]) is not None:  # claims are about the suite's own victims and data
        own = given.cells(own) if is_open and "measure" in metafunc.fixturenames else []
    try:
        for mark in metafunc.definition.iter_markers("cells"):
            own = chosen(own, cells, mark.kwargs, metafunc.definition.nodeid)
    except BadInput as error:  # raised here, it would only be a collection error of one module
        if MISTAKES not in config.stash:
            config.stash[MISTAKES] = []
        config.stash[MISTAKES].append(str(error))
    if "cell" in wanted:
        metafunc.parametrize("cell", own, ids=[cell.id for cell in own])
    else:
        groups = sweeps(own)
        metafunc.parametrize("sweep", groups, ids=[sweep_id(group) for group in groups])


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Deselect suites' tests without cells, and speed suites unless they are named; mark a cell of each kind with `smoke`, before
    pytest selects by marks. Of what is then selected, keep the tests of --shard. Other projects' tests are not affected."""
    _prepare(config, items)
    yield
    if config.getoption("--shard") is not None:
        _keep_shard(config, items)


def _keep_shard(config: pytest.Config, items: list[pytest.Item]) -> None:
    from subpop.results.shards import name_of
    from subpop.session.collecting import measured_cells
    from subpop.session.shards import Shard, divide

    shard = Shard.parse(config.getoption("--shard"))
    shard_of = dict(zip(items, divide(items, shard.of), strict=True))
    numbers = {number: [item for item in items if shard_of[item] == number] for number in range(1, shard.of + 1)}
    config.stash[DIVISION] = [(name_of(cell), number) for number, own in numbers.items() for cell in measured_cells(own)]
    items[:] = numbers[shard.number]
    config.hook.pytest_deselected(items=[item for item, number in shard_of.items() if number != shard.number])


def _prepare(config: pytest.Config, items: list[pytest.Item]) -> None:
    from subpop.session.collecting import is_of_suite, needed_cells, runs_by_default, smoke_tests, without_cells

    mistakes = config.stash.get(MISTAKES, None)
    if mistakes:
        raise pytest.UsageError("\n".join(mistakes))
    if any(map(is_of_suite, items)):
        config.stash[OFFERED] = sorted({cell.stem for cell in needed_cells(items)})
    named = "speed" in (config.getoption("keyword") or "") or any("speed" in str(arg) for arg in config.args)
    dropped = [item for item in items if without_cells(item) or not (named or runs_by_default(item))]
    if dropped:
        items[:] = [item for item in items if item not in set(dropped)]
        config.hook.pytest_deselected(items=dropped)
    for item in smoke_tests(items):
        item.add_marker(pytest.mark.smoke)
    own = [item for item in items if is_of_suite(item) and "measure" in getattr(item, "fixturenames", ())]
    for item in own:
        item.add_marker(pytest.mark.benchmark(timer=clock))  # includes stored seconds
    config.stash[MEASURING] = {item.nodeid for item in own}


@pytest.hookimpl(optionalhook=True, wrapper=True)
def pytest_benchmark_group_stats(
    config: pytest.Config, benchmarks: list[dict[str, Any]], group_by: str
) -> Generator[None, list[Any], list[Any]]:
    """Omit cells from pytest-benchmark's table, which would have a row per cell; --benchmark-json includes them all."""
    asked = ("compare", "compare_fail", "verbose", "histogram", "cprofile")
    if not any(config.getoption(f"benchmark_{name}", None) for name in asked):
        cells = config.stash.get(MEASURING, set())
        benchmarks[:] = [each for each in benchmarks if each["fullname"] not in cells]
    return (yield)


# --- the run ----------------------------------------------------------------------------------------------------------


def _run_of(config: pytest.Config) -> Run:
    if RUN not in config.stash:
        plugins, attacks = config.stash[PLUGINS], config.stash[ATTACKS]
        config.stash[RUN] = make_run(config, plugins, attacks, config.stash[REPLACEMENTS])
    return config.stash[RUN]


def _add_output(request: pytest.FixtureRequest, run: Run, cell: Cell) -> None:
    """Add the output of the cell's defense to pytest's report of the test."""
    from subpop.runtime.output import Tail

    listener = run.experiment.listener
    if isinstance(listener, Tail) and (text := listener.take()):
        request.node.add_report_section("call", f"stdout of {cell.defense}", text)


def pytest_collection_finish(session: pytest.Session) -> None:
    """List the available suites if -k matches nothing; say so if no suite has cells of the tier."""
    reporter, offered = session.config.pluginmanager.get_plugin("terminalreporter"), session.config.stash.get(OFFERED, None)
    if session.items or reporter is None or offered is None:
        return
    tier, words = session.config.getoption("--tier"), session.config.getoption("keyword")
    if not offered:
        reporter.write_line(f"these suites have no cells in the tier {tier}; choose another one with --tier")
    elif words:
        reporter.write_line(
            f"no cell of the tier {tier} matches -k {words!r}; suites with cells in this tier: {', '.join(offered)}"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Before the first test, print the plan and start the workers. Not for listings of tests."""
    from subpop.report.verdict import n_cells
    from subpop.runtime.memory import for_long_runs
    from subpop.runtime.workers import prepare_workers
    from subpop.session.collecting import declares_cells, needed_cells

    config, cells = session.config, needed_cells(session.items)
    broken = any(declares_cells(config.rootpath / name) for name in config.stash[WATCH].broken_files())
    unmatched = not session.items and OFFERED in config.stash and (report_directory(config) / "README.md").exists()
    if any(config.getoption(name, False) for name in ("collectonly", "setuponly", "setupplan")):
        return
    if not (cells or broken or unmatched):
        _record_shard(config, ended=True)  # more shards than tests
        return
    stops_here = session.testsfailed and not config.getoption("continue_on_collection_errors")
    for_long_runs()
    if len(cells) >= MANY and workers_of(config).executor == "loky" and config.getoption("--device") == "cpu":
        prepare_workers("subpop.session.preloaded")
    gc.freeze()  # what was imported and collected stays: the collector of garbage need not look at it while the plan is made
    _begin(config, session.items, () if stops_here else cells)
    _record_shard(config, ended=False)
    if stops_here or not (cells or broken):  # `_begin` has replaced the pages of an earlier run
        return
    _start_budget(config)
    run, workers = _run_of(config), workers_of(config)
    say = _say(config)
    say(f"subpop: planning {n_cells(len(cells))}: reading data, decoding pictures, computing features that are not cached yet")
    with _on_screen(config):  # these steps show their own progress bars
        plan = run.plan(cells, workers.count)
    say(str(plan))
    if BUDGET in config.stash:
        say(_order_by_worth(config, session.items))
        cells = needed_cells(session.items)
    _start_progress(config, run, say)
    gc.freeze()  # so does the data
    if workers.executor != "here":
        budget = config.stash.get(BUDGET, None)
        room = None if budget is None else budget.room
        run.train_ahead(cells, workers.executor, workers.count, worth=workers.worth, room=room)
        if run.ahead is not None:
            run.ahead.idle = partial(_while_waiting, run, say, budget)


def _while_waiting(run: Run, say: Callable[[str], None], budget: Budget | None) -> None:
    """Show the progress; say that the workers are lost; skip a test that still waits for workers when the budget ends."""
    run.experiment.context.progress.tick()
    _tell_news(run, say)
    if budget is not None and budget.has_ended_tests:
        pytest.skip(f"left by --budget {budget.text}")


@contextmanager
def _ending_without_store(config: pytest.Config) -> Generator[None, None, None]:
    """End the session if the store takes nothing any longer."""
    from subpop.runtime.store import Unusable

    try:
        yield
    except Unusable as error:
        config.stash[WATCH].stop_without_store(error)


def _tell_news(run: Run, say: Callable[[str], None], rest: str = "; the remaining trials are trained in this process") -> None:
    news = "" if run.ahead is None else run.ahead.news()
    if news:
        say(f"subpop: {news}{rest}")


def _begin(config: pytest.Config, items: list[pytest.Item], cells: Sequence[Cell]) -> None:
    """Report problems with the report folder, the store or the references before anything is trained; write first pages."""
    from subpop.report import check_report_directory, check_summary
    from subpop.runtime.places import check_writable
    from subpop.types import BadInput

    try:
        check_report_directory(report_directory(config))
        if config.getoption("--rebaseline"):
            check_writable(baselines_folder(config))
        check_summary()
        for stem in set() if config.getoption("--no-references") else {cell.stem for cell in cells}:
            _run_of(config).references(stem)
        config.stash[WATCH].begin(items, report_directory(config), run_info(config), _run_of(config) if cells else None)
    except BadInput as error:
        raise pytest.UsageError(str(error)) from None


def _start_budget(config: pytest.Config) -> None:
    text = config.getoption("--budget")
    if text is not None:
        from subpop.runtime.options import budget_seconds
        from subpop.session.budget import Budget

        config.stash[BUDGET] = Budget(text, budget_seconds(text))


def _order_by_worth(config: pytest.Config, items: list[pytest.Item]) -> str:
    """With --budget, put the tests in the order of their worth; returns what to say about it."""
    from subpop.results.references import cell_key
    from subpop.session.budget import in_order_of_worth

    run = _run_of(config)

    def has_reference(cell: Cell) -> bool:
        return not config.getoption("--no-references") and cell_key(cell) in run.references(cell.stem).rows

    items[:] = in_order_of_worth(items, run.forecast.seconds, has_reference)
    return config.stash[BUDGET].spend_on(tuple(items), run.forecast)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say that the workers are lost; skip a test that does not fit into what is left of --budget."""
    budget, run = item.config.stash.get(BUDGET, None), item.config.stash.get(RUN, None)
    if run is not None:
        _tell_news(run, _say(item.config))
    if budget is not None and run is not None and not budget.allows(item, {*run.results, *run.failed, *run.reports}):
        pytest.skip(f"left by --budget {budget.text}")


def _record_shard(config: pytest.Config, *, ended: bool) -> None:
    """With --shard, note in the store which part of which cells this session measures."""
    if DIVISION not in config.stash:
        return
    from subpop.results.shards import KIND, record_of_shard
    from subpop.session.shards import Shard

    shard = Shard.parse(config.getoption("--shard"))
    division = config.stash[DIVISION]
    key, record = record_of_shard(shard.number, shard.of, division)
    _run_of(config).store.put_record(key, {**record, "ended": ended}, KIND)


def _start_progress(config: pytest.Config, run: Run, say: Callable[[str], None]) -> None:
    from subpop.runtime.progress import Progress

    with _on_screen(config):
        is_captured = config.getoption("capture") != "no"
        run.experiment.context.progress = Progress.of_run(run.forecast, say, will_be_captured=is_captured)


def _say(config: pytest.Config) -> Callable[[str], None]:
    """A function that immediately writes a separate line between pytest's output, bypassing its capture."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")

    def say(line: str) -> None:
        if reporter is None:
            return
        writer = config.get_terminal_writer()
        with _on_screen(config):
            if writer.width_of_current_line:
                writer.line()
            writer.line(line)
            writer.flush()

    return say


def _on_screen(config: pytest.Config) -> AbstractContextManager[None]:
    """A context whose output goes to the terminal instead of pytest's capture."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    return nullcontext() if capture is None else capture.global_and_fixture_disabled()


@pytest.fixture
def measure(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[Cell], CellResult]:
    """Measure a cell and compare its metrics with the stored references.

    `cell` is a parameter of the test: the plug-in runs the test once for each cell of the module's `CELLS`. Results that are in
    the store are read from it. The test fails if a gated metric is out of tolerance or has no reference, if a
    metric with a reference is missing, or if the cell raises an error; it is skipped if data or network weights are missing.

    Returns
    -------
    callable
        `measure(cell)` returns the `CellResult`; `result[metric]` is the value of a metric, in its own unit (damages are
        fractions).

    Examples
    --------
    ```python
    def test_cell(cell, measure):
        result = measure(cell)
        assert result["collateral_damage_max"] < 0.05
    ```
    """
    from subpop.session.run import failures

    run = _run_of(request.config)

    def measured(cell: Cell) -> CellResult:
        ahead = run.wait_for(cell)
        with _ending_without_store(request.config):
            report = benchmark.pedantic(lambda: _timed(run, cell, ahead), rounds=1, iterations=1)
        _add_output(request, run, cell)
        if report.status == "skipped":
            pytest.skip(report.reason)
        if report.result is None:
            named = cell.id in report.reason
            pytest.fail(report.reason if named else f"{cell.id}\n{report.reason}", pytrace=False)
        numbers = {number.metric: number.value for number in report.result.numbers if not number.subpopulation}
        benchmark.extra_info.update(numbers, from_store=report.result.from_store, n_fits=report.result.n_fits)
        if report.status == "fail" and not request.config.getoption("--rebaseline"):
            pytest.fail(failures(report), pytrace=False)
        return report.result  # type: ignore[no-any-return]

    return measured


def _timed(run: Run, cell: Cell, ahead: bool) -> Any:
    report = run.measure(cell)
    if report.result is not None and (report.result.from_store or ahead):
        CLOCK_OFFSET[0] += report.result.seconds
    return report


@pytest.fixture
def result_of(request: pytest.FixtureRequest) -> Callable[[Cell], CellResult]:
    """The results of a cell, for assertions about it: computed once per run and not compared with references. The test is skipped
    if data or network weights are missing."""
    from subpop.datasets.download import MissingData

    run = _run_of(request.config)

    def result(cell: Cell) -> CellResult:
        try:
            with _ending_without_store(request.config):
                return run.result(cell)
        except MissingData as missing:
            pytest.skip(str(missing))
        finally:
            _add_output(request, run, cell)

    return result


@pytest.fixture(scope="session")
def clean_model(request: pytest.FixtureRequest) -> Callable[..., Model]:
    """Train a victim on clean data.

    Returns
    -------
    callable
        `clean_model(dataset, victim, seed=0)` returns the `Model` of a victim trained on D; it is cached in the store.

    Examples
    --------
    ```python
    def test_accuracy(clean_model):
        model = clean_model("digits", "logistic_regression")
    ```
    """
    from subpop.types import Cell

    run = _run_of(request.config)

    def model(dataset: str, victim: str, seed: int = 0) -> Model:
        cell = Cell.of(dataset=dataset, victim=victim, partition="none")
        with _ending_without_store(request.config):
            return run.experiment.context.clean_model(cell, seed)

    return model


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the report; a run that measured nothing, or that rewrote references, does not pass."""
    config, watch = session.config, session.config.stash.get(WATCH, None)
    if watch is None or not watch.has_begun:
        if DIVISION in config.stash and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK  # more shards than tests
        return
    if "hypothesis" not in sys.modules and config.pluginmanager.hasplugin("hypothesispytest"):
        config.pluginmanager.unregister(name="hypothesispytest")  # its summary would import hypothesis, which takes a second
    run = config.stash.get(RUN, None)
    if run is not None:
        run.experiment.context.progress.close()
    if run is not None and run.ahead is not None:
        run.ahead.stop()
    rebaselined = False
    if config.getoption("--rebaseline") and run is not None and run.reports:
        rewritten = run.rebaseline(environment()["hardware"], commit_of(config.rootpath))
        rebaselined = bool(rewritten or run.recorded)
    found = [] if run is None or rebaselined or watch.was_interrupted else run.drifts()
    drifted = [drift for drift in found if drift.is_red]
    for drift in drifted:
        watch.add_drift(drift)
    if session.exitstatus == pytest.ExitCode.OK and (rebaselined or drifted or not watch.measured_anything()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if BUDGET in config.stash and not watch.was_interrupted:
        watch.left = config.stash[BUDGET].description_of(watch.unmeasured)
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and watch.is_complete:
        _record_shard(config, ended=True)
    suites = partial(docstrings, session)
    try:
        plugins, attacks = config.stash[PLUGINS], config.stash[ATTACKS]
        status = int(session.exitstatus)
        watch.finish(status, rebaselined=rebaselined, suites=suites, drifts=found, defenses=plugins, attacks=attacks)
    except OSError as error:  # a full disk: the page in the folder, if there is one, stays unfinished
        watch.unwritten = f"{error.strerror or error}"
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure(config: pytest.Config) -> None:
    run = config.stash.get(RUN, None)
    if run is not None:
        run.store.close()
    if "subpop.runtime.workers" in sys.modules:
        sys.modules["subpop.runtime.workers"].discard_prepared()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    run, watch, write = config.stash.get(RUN, None), config.stash.get(WATCH, None), terminalreporter.write_line
    if run is not None:
        _write_notes(run, write, was_interrupted=watch is not None and watch.was_interrupted)
    if watch is None or not watch.has_begun:
        return
    terminalreporter.section("subpop")
    _write_results(watch, write)
    if config.getoption("--rebaseline") and watch.reports and run is not None:
        moved = run.moved.splitlines() if any(report.result is not None for report in run.reports.values()) else []
        for line in [*run.recorded, *(moved or ["no cell was measured, so no reference was recorded"])]:
            write(line)
    if watch.was_interrupted:
        without = " without --fresh" if config.getoption("--fresh") else ""
        own = ", those of your own defense about once a minute" if config.getoption("--defense") else ""
        write(f"the finished trials are stored{own}: run the same command again{without} to continue")
    place = report_directory(config) / "README.md"
    if watch.unwritten:
        write(
            f"the report {place} could not be written ({watch.unwritten}); free some room, or name another folder with "
            "--report-dir. What was measured is in the store: run the same command again"
        )
    else:
        write(f"report: {place}")


def _write_notes(run: Run, write: Callable[[str], None], *, was_interrupted: bool) -> None:
    """What the store found damaged, and what failed in training processes."""
    for note in run.store.new_notes():
        write(f"subpop: {note}")
    if run.ahead is not None and run.ahead.failures:
        n, first = len(run.ahead.failures), run.ahead.failures[0]
        parts = "1 part of the work" if n == 1 else f"{n:,} parts of the work"
        write(f"subpop: training processes failed in {parts}, which this process tried again; the first: {first}")
    _tell_news(run, write, "" if was_interrupted else "; the remaining trials were trained in this process")


def _write_results(watch: SessionWatch, write: Callable[[str], None]) -> None:
    """The headline, the number of cells by outcome, and what was measured of user-supplied code."""
    from collections import Counter

    from subpop.report.verdict import WITHOUT_REFERENCES, cells_that, outcome

    counts = Counter(map(outcome, watch.reports.values()))
    for status in WITHOUT_REFERENCES if watch.numbers else ():  # the headline says so
        del counts[status]
    if watch.headline:
        write(watch.headline.replace("**", ""))
    for line in watch.drifted:
        write(line)
    outcomes = ", ".join(cells_that(n, status) for status, n in sorted(counts.items()))
    if outcomes:
        write(f"with the old references: {outcomes}" if watch.has_rebaselined else outcomes)
    columns = shutil.get_terminal_size().columns
    for sentence in (*watch.numbers, *watch.about_own):
        for line in textwrap.wrap(sentence, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False):
            write(line)
