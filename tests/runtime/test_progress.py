"""How long cells will take, and what a run says of how far it is."""

import io
import math
import os
import sys
import threading
import time

import numpy as np
import pytest
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from small_projects import parse_defense

import subpop.runtime.progress
from subpop.experiments.experiment import Experiment
from subpop.experiments.integrity import Inspector
from subpop.report.figures.setups import headings_of, setup_of, titles_of
from subpop.runtime.estimate import Forecast, Rates
from subpop.runtime.progress import Progress, reporting, saying_that
from subpop.runtime.store import Store
from subpop.session.run import Plan, Run
from subpop.types.grid import grid

CELLS = grid(
    stem="s",
    tier="embedded",
    dataset="digits",
    victim="logistic_regression",
    partition="feature_match",
    rate=[0.5, 1.0],
    n_seeds=1,
    defense=["none", "mine.f"],
)
NONE, MINE, NONE_2, MINE_2 = CELLS


def test_long_work_without_any_count_says_that_it_goes_on(capsys):
    with saying_that("still checking", 0.05):
        assert capsys.readouterr().err == ""
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert set(lines) == {"subpop: still checking, 1 s so far"}
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_rates_come_from_the_nearest_record():
    rates = Rates()
    assert rates.fits(NONE.with_(defense="trim")) == 5, "nothing recorded: a table"
    rates.note(NONE, trials=10, seconds=2.0, fits=10)
    assert rates.seconds(NONE_2, NONE.victim, 1000) == pytest.approx(0.2)
    rates.note(MINE.with_(dataset="mixture"), trials=4, seconds=8.0, fits=40)
    assert rates.fits(MINE) == 10, "a plug-in's fits on other data"
    assert rates.seconds(MINE, MINE.victim, 1000) == pytest.approx(10 * 0.2)


def test_a_run_learns_from_its_store(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        run = Run(Experiment.on(store), store, tmp_path)
        run.experiment.run(NONE)
        trained = sum(seconds for _, _, seconds, _ in store.costs())
        expected = run.plan([NONE_2])
        assert expected.n_fits == len(run.experiment.list_trials(NONE_2))
        assert run.forecast.seconds[NONE_2] == pytest.approx(trained + subpop.session.run.SUMMARY_SECONDS)
        assert run.plan([NONE]).n_fits == 0


def test_fits_that_nobody_expected_are_counted_and_expected_elsewhere():
    now = Forecast(seconds=dict.fromkeys(CELLS, 1.0), fits=dict.fromkeys(CELLS, 100.0))
    now.advance(100)
    now.end(NONE)
    assert (now.fits_done, now.total_fits) == (100, 400)
    now.advance(1000)
    assert now.total_fits >= now.fits_done
    now.end(MINE)
    assert (now.fits_done, now.total_fits) == (1100, 1100 + 100 + 1000), "ten times the plan, there as well"
    now.advance(100)
    now.end(NONE_2)
    now.receive(MINE_2, 100)
    now.end(MINE_2)
    assert now.fits_done == now.total_fits == 1300


def test_the_time_left_is_measured_by_the_cells_that_ended():
    now = Forecast(seconds=dict.fromkeys(CELLS, 100.0), fits={})
    assert now.seconds_left(0.0) == pytest.approx(400)
    for cell in CELLS[:2]:
        now.end(cell)
    assert 500 < now.seconds_left(600.0) < 600, "three times slower than expected"
    for cell in CELLS:
        now.end(cell)
    assert now.seconds_left(1200.0) == 0


@pytest.mark.parametrize(("before", "after"), [(1.0, 3.0), (3.0, 1.0)])
def test_the_time_left_follows_a_machine_that_becomes_slower_or_faster(before, after):
    """In the middle of 200 equal cells the pace changes. From then on, the mean of the past is at least half as far off again."""
    many = [NONE.with_(rate=i / 100) for i in range(1, 201)]
    now, passed = Forecast(dict.fromkeys(many, 1.0)), 0.0
    errors = []
    for i, cell in enumerate(many[:-1]):
        passed += before if i < 100 else after
        now.end(cell)
        told = now.seconds_left(passed), (199 - i) * now.pace(passed)
        errors.append([abs(math.log(left / ((199 - i) * after))) for left in told])
    recent, whole = np.mean(errors[100:], axis=0)
    assert recent < whole / 1.5


def test_the_start_of_workers_counts_once():
    """Nothing has finished after 15 s: the time left is the same as by the mean of the past."""
    now = Forecast(dict.fromkeys(CELLS, 3.0))
    assert now.seconds_left(15.0) == pytest.approx(12 * now.pace(15.0))


def test_the_time_left_of_a_steady_run_is_as_good_as_by_the_mean_of_the_past():
    """200 cells, each of which takes 1.5 times as long as expected, times a random factor."""
    generator, errors = np.random.default_rng(0), []
    many = [NONE.with_(rate=i / 100) for i in range(1, 201)]
    for _ in range(5):
        took = 1.5 * generator.lognormal(-0.08, 0.4, 200)
        now = Forecast(dict.fromkeys(many, 1.0))
        for i, cell in enumerate(many[:-10]):
            now.end(cell)
            passed, rest = took[: i + 1].sum(), took[i + 1 :].sum()
            told = now.seconds_left(passed), (199 - i) * now.pace(passed)
            errors.append([abs(math.log(left / rest)) for left in told])
    recent, whole = np.mean(errors, axis=0)
    assert recent <= 1.05 * whole


def test_what_workers_have_done_ahead_of_the_tests_counts():
    """By hand: of 100 expected seconds 20 + 15 are done after 70, so that all takes twice as long but for what is trusted."""
    now = Forecast(seconds={MINE: 40.0, MINE_2: 60.0}, fits={MINE: 200.0, MINE_2: 400.0})
    now.receive(MINE, 100)
    now.receive(MINE_2, 50)
    now.receive(MINE_2, 50)
    assumed = 1 + (77 / 42 - 1) * 35 / 42
    assert now.seconds_left(70) == pytest.approx(65 * (70 + 7 * assumed) / (35 + 7))
    now.end(MINE)
    kept, assumed = 0.5 ** (20 / 12), 1 + (77 / 62 - 1) * 55 / 62
    assert now.seconds_left(70) == pytest.approx(45 * (70 * kept + 7 * assumed) / (35 * kept + 20 + 7))
    now.receive(MINE_2, 1000)
    assert now.seconds_left(70) == 0.0


def test_without_a_terminal_a_line_comes_now_and_then(monkeypatch):
    clock, said = [0.0], []
    monkeypatch.setattr(subpop.runtime.progress.time, "monotonic", lambda: clock[0])
    many = [NONE.with_(rate=i / 10) for i in range(100)]
    progress = Progress(Forecast(dict.fromkeys(many, 1.0), dict.fromkeys(many, 20.0)), said.append)
    for cell in many:
        clock[0] += 0.5
        progress.advance(20)
        progress.end(cell)
    assert said[0] == "subpop: 10 of 100 cells, 200 of about 2,000 fits, 5 s so far, about 57 s left"
    assert 9 <= len(said) <= 11
    assert said[-1].endswith("about 1 s left")
    clock[0] += 11
    progress.tick()
    assert len(said) >= 10, "ten seconds without a cell are worth a line"


def test_lines_that_say_nothing_new_become_rare(monkeypatch):
    clock, said = [0.0], []
    monkeypatch.setattr(subpop.runtime.progress.time, "monotonic", lambda: clock[0])
    progress = Progress(Forecast(dict.fromkeys(CELLS, 1000.0), dict.fromkeys(CELLS, 20.0)), said.append)

    def lines_in(seconds):
        before = len(said)
        for _ in range(seconds):
            clock[0] += 1
            progress.tick()
        return len(said) - before

    assert lines_in(600) == 7, "after 10, 40, 100, 220, 340, 460 and 580 seconds"
    progress.advance(5)
    assert lines_in(120) > 0
    before = len(said)
    for _ in range(12):  # something happens every 11 seconds
        progress.advance(1)
        lines_in(11)
    assert len(said) - before == 12


def test_a_line_may_be_made_while_cells_end():
    """Another thread tells how far the run is, and must not fail because this one goes on."""
    many = [NONE.with_(rate=i / 1000) for i in range(1, 501)]
    now, failed = Forecast(dict.fromkeys(many, 1.0), dict.fromkeys(many, 2.0)), []
    over = threading.Event()

    def tell():
        while not over.wait(0.001):
            try:
                assert 0 <= now.n_ended <= len(many)
                assert now.total_fits > 0
                assert now.seconds_left(1.0) >= 0
            except RuntimeError as error:
                failed.append(error)
                return

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        for i, cell in enumerate(many):
            now.end(cell)
            now.receive(cell.with_(n_seeds=2 + i % 3), 1)
    finally:
        over.set()
        teller.join()
    assert not failed


def test_silence_is_broken_without_a_terminal(monkeypatch):
    monkeypatch.setattr(subpop.runtime.progress, "SILENT_SECONDS", 0.2)
    progress = Progress(Forecast({NONE: 100.0}, {NONE: 20.0}))
    progress.begin(NONE)
    there, here = os.pipe()
    progress.say_from_time_to_time(here)
    with os.fdopen(there) as lines:
        assert lines.readline() == "\n"
        line = lines.readline()
        assert line.startswith("subpop: 0 of 1 cells, 0 of about 20 fits, ")
        assert line.endswith(f"time left not yet known; now {NONE.id}\n")
        progress.close()
        rest = lines.read()  # until the other end is closed
    assert rest.count("subpop") <= 1
    progress.end(NONE)


def test_the_bar_fits_into_80_columns():
    file = io.StringIO()
    names = ("cells", "fits", "left")
    texts = [TextColumn(f"{{task.fields[{name}]}}") for name in names]
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    bar = Bar(texts[0], BarColumn(bar_width=12), *texts[1:], TextColumn("{task.description}"), console=console)
    many = [NONE.with_(rate=i / 10) for i in range(455)]
    progress = Progress(Forecast(dict.fromkeys(many, 1e3), dict.fromkeys(many, 91.0), fits_done=15_320), bar=bar)
    with progress.showing(NONE.id):
        pass
    assert "0/455 cells" in file.getvalue()
    assert "? left" in file.getvalue(), "nothing has ended"
    progress.end(many[0])
    with progress.showing(NONE.id):
        pass
    shown = file.getvalue()
    assert "15320/56725 fits" in shown
    assert "h left" in shown
    assert "…" in shown.replace("logistic_regre…", "…"), "the name is cut, not the numbers"


@pytest.mark.parametrize("captured", [True, False])
def test_the_bar_leaves_captured_output_alone(monkeypatch, captured):
    """What replaces it may be kept by others and used once it is closed."""
    other_end, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        progress = Progress.of_run(Forecast({NONE: 1.0}), None, will_be_captured=captured)
        before = sys.stdout
        with progress.showing("something"):
            assert (sys.stdout is before) == captured
        assert sys.stdout is before
    os.close(other_end)


def test_headings_are_unique():
    cells = [
        NONE,
        NONE.with_(sampling="distinct"),
        NONE.with_(sampling="with_replacement"),
        NONE.with_(stem="t", sampling="distinct"),
        NONE.with_(victim="mlp"),
    ]
    headings = headings_of(setup_of(cell) for cell in cells)
    assert len(set(headings.values())) == len(cells)
    assert headings[setup_of(cells[4])] == "digits · mlp · feature_match"
    assert "with_replacement" in headings[setup_of(cells[2])]


def test_cells_that_cannot_run_are_not_counted_as_ended():
    now = Forecast(seconds={NONE: 1.0, MINE: 1.0})
    for cell in (NONE, NONE_2, MINE_2):
        now.end(cell)
    assert Progress(now).line().startswith("1 of 2 cells")


def test_a_reason_that_many_cells_have_is_told_once():
    told = str(Plan(4, 0, 0, 0, 1.0, {}, {"a": "no such data", "b": "no such data", "c": "other", "d": "no such data"}))
    assert told.splitlines()[1:] == ["  a and 2 more cannot run: no such data", "  c cannot run: other"]
    assert str(Plan(1, 0, 0, 0, 1.0, {"a": "no file"})).splitlines()[1:] == ["  1 cell will be skipped: no file"]
    assert str(Plan(1, 0, 0, 0, 1.0, {}, {"a-1": "a-1: no rows"})).splitlines()[1:] == ["  cannot run: a-1: no rows"]


def test_a_plan_without_fits_says_that_there_is_nothing_to_train():
    assert str(Plan(1, 80, 80, 0, 1.0, {})).endswith("80 of them in the store; nothing to train, roughly 1 s")
    assert "about 80 fits to do" in str(Plan(1, 80, 0, 80, 1.0, {}))
    assert str(Plan(1, 80, 0, 80, 0.0, {}, untimed=["f"])).endswith("about 80 fits to do; the time of f is not known yet")


def test_titles_of_panels_are_unique():
    settings = [{"epsilon": "16", "objective": "cosine"}, {"epsilon": "16", "objective": "inner"}, {"objective": "cosine"}]
    cells = [NONE.with_(attack="gradient_match", **setting) for setting in settings]
    for width in (42, 26):
        titles = titles_of(map(setup_of, [NONE, *cells]), width)
        assert len(set(titles.values())) == 4, titles


def test_the_probes_of_a_plug_in_are_part_of_the_plan(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "from subpop import Defended\ndef f(train, fit, know, *, seed): return Defended(fit(train))\n"
    )
    plugins = {"mine.f": parse_defense("mine.py:f", tmp_path)}
    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment.on(store, plugins=plugins)
        unprobed, probed = (
            Run(experiment, store, tmp_path),
            Run(experiment, store, tmp_path, inspector=Inspector(experiment, grace=7)),
        )
        plan = probed.plan([NONE, MINE, MINE_2])
        unprobed.plan([NONE, MINE, MINE_2])
        with_probes, without = (sum(run.forecast.seconds.values()) for run in (probed, unprobed))
        assert without + 7 <= with_probes <= 2 * without + 7
        assert plan.seconds == probed.forecast.seconds[NONE]
        assert str(plan).endswith("roughly 1 s and the time of mine.f, which is not known yet")
        monkeypatch.setattr(store, "costs", lambda: [({**MINE.record()}, 10, 2.0, 10)])
        recorded = probed.plan([NONE, MINE, MINE_2])
    assert recorded.seconds == pytest.approx(sum(probed.forecast.seconds.values()))
    assert str(recorded).endswith(" s")


def test_the_time_of_a_plug_in_is_not_told_before_a_cell_of_it_has_ended(monkeypatch):
    """By hand: 30 s for 10 fits, without the 4 s of the first probes, are 52 s for 20; all else takes as long as expected."""
    clock = [0.0]
    monkeypatch.setattr(subpop.runtime.progress.time, "monotonic", lambda: clock[0])
    now = Forecast({NONE: 6.0, NONE_2: 5.0, MINE: 0.1, MINE_2: 0.1}, dict(zip(CELLS, (20, 10, 20, 20), strict=True)))
    now.guessed = dict.fromkeys((MINE, MINE_2), ("mine.f", "logistic_regression"))
    now.once = {MINE: 4.0}
    progress, lines = Progress(now), []
    for cell, seconds in ((NONE, 6.0), (NONE_2, 5.0), (MINE, 30.0)):
        lines.append(progress.line())
        progress.begin(cell)
        clock[0] += seconds
        progress.end(cell)
    unknown = "time left not yet known"
    assert [line.partition("so far, ")[2] for line in lines] == [
        unknown,
        "about 5 s left plus 2 cells whose time is not known",
        unknown,
    ]
    assert now.seconds_left(clock[0]) == pytest.approx(52, rel=0.02)
    assert progress.line() == "3 of 4 cells, 0 of about 20 fits, 41 s so far, about 52 s left"


def test_a_run_without_fits_counts_none(monkeypatch):
    """It said "0 of about 0 fits" until it ended."""
    monkeypatch.setattr(subpop.runtime.progress.time, "monotonic", lambda: 0.0)
    progress = Progress(Forecast({NONE: 6.0, NONE_2: 5.0}, {}))
    assert progress.line() == "0 of 2 cells, 1 s so far, time left not yet known"


def test_the_time_of_an_own_victim_is_that_of_the_first_fits_of_workers():
    """By hand: five fits of 12 s each are half of ten; with two workers, 60 s and 120 s are to be expected of 10 and 20."""
    now = Forecast({MINE: 0.1, MINE_2: 0.1}, {MINE: 10, MINE_2: 20}, guessed=dict.fromkeys((MINE, MINE_2), ("v", "d")), jobs=2)
    assert (now.untimed, now.has_begun) == ([MINE, MINE_2], False)
    now.receive(MINE, 5, 60.0)
    assert (now.untimed, now.has_begun) == ([], True)
    assert now.seconds_left(30.0) == pytest.approx(150, rel=0.01)
    now.receive(MINE, 5, 600.0)
    now.end(MINE, 0.1)  # the test only waits for workers
    assert now.seconds[MINE_2] == pytest.approx(120, rel=0.01)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_computation_shows_a_bar_on_a_terminal_and_a_line_elsewhere(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for stream in (io.StringIO(), Terminal()):
        monkeypatch.setattr(sys, "stderr", stream)
        with reporting("features of digits by vgg16") as report:
            report(3, 7)
        if stream.isatty():
            assert "3/7" in stream.getvalue()
        else:
            assert stream.getvalue() == "subpop: features of digits by vgg16\n"
