"""Chunks of plug-ins that are run in parts: a kill costs one part, and nothing else changes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from subpop.experiments import parts as parts_module
from subpop.experiments.experiment import Experiment
from subpop.experiments.integrity.record import SAMPLED, Recorder
from subpop.harness.plugins import DefenseSpec, parse_plugin
from subpop.runtime.estimate import Forecast
from subpop.runtime.no_store import NoStore
from subpop.runtime.store import Store, read_chunks
from subpop.session.merging import merged
from subpop.types import Trial
from subpop.types.grid import grid

CELL = grid(
    stem="s",
    tier="embedded",
    dataset="mixture_cells",
    victim="logistic_regression",
    partition="feature_match",
    rate=1.0,
    n_attacked=2,
    n_seeds=3,
    defense="mine.f",
)[0]
"""Six attacked trials, and three on clean data."""
PLUGIN = """
from pathlib import Path

import numpy as np

from subpop import Defended


HERE = Path(__file__).parent


def f(train, fit, know, *, seed):
    print("called", flush=True)
    share = float((HERE / "share").read_text())
    return Defended(fit(train[np.random.default_rng(seed).random(len(train)) > share]))
"""


@pytest.fixture(autouse=True)
def one_trial_a_part(monkeypatch):
    """As if every trial took a minute, after the first two."""
    monkeypatch.setattr(parts_module, "SECONDS", 0.0)
    monkeypatch.setattr(parts_module, "LOADS", 0.0)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "share").write_text("0.25")
    return tmp_path


def experiment(folder, store, heard=None):
    """An experiment as a new run makes it."""
    listener = None if heard is None else heard.append
    spec = parse_plugin(DefenseSpec, "mine.py:f", folder, "--defense ")
    return Experiment.on(store, plugins={"mine.f": spec}, listener=listener)


def predictions(results):
    return [(result.trial, result.arrays["right"].tolist()) for result in results]


def in_one_wave(folder, store):
    """The predictions of all trials if they run at once; the store's secret determines the order of rows."""
    own = experiment(folder, store)
    return predictions(own.run_chunk(CELL, own.list_trials(CELL)))


def calls(heard):
    return "".join(heard).count("called")


def trials_in(folder):
    return [len(chunk.trials) for chunk in read_chunks(folder / "s.sqlite")]


def interrupted_after(n_parts, own, monkeypatch):
    """Run the cell, and interrupt it before the part that follows."""
    waves = []

    def timed_chunk(cell, chunk):
        if len(waves) == n_parts:
            raise KeyboardInterrupt
        waves.append(len(chunk))
        return Experiment.timed_chunk(own, cell, chunk)

    monkeypatch.setattr(own, "timed_chunk", timed_chunk)
    with pytest.raises(KeyboardInterrupt):
        own.trials(CELL)
    return waves


def test_parts_give_what_one_wave_gives_and_leave_one_chunk(folder):
    with Store(folder / "s.sqlite") as store:
        expected, heard = in_one_wave(folder, store), []
        results, are_stored = experiment(folder, store, heard).trials(CELL)
        assert (predictions(results), are_stored, calls(heard)) == (expected, False, 9)
        again, are_stored = experiment(folder, store, heard).trials(CELL)
        assert (predictions(again), are_stored, calls(heard)) == (expected, True, 9)
    assert trials_in(folder) == [9]  # none is there twice


def test_an_interrupted_cell_goes_on_where_it_was(folder, monkeypatch):
    with Store(folder / "s.sqlite") as store:
        first = experiment(folder, store)
        assert interrupted_after(3, first, monkeypatch) == [2, 1, 1]
        heard = []
        second = experiment(folder, store, heard)
        assert [len(chunk) for _, chunk in second.missing_chunks(CELL)] == [5]
        results, _ = second.trials(CELL)
        assert calls(heard) == 5
        assert predictions(results) == in_one_wave(folder, store)
        assert not second.missing_chunks(CELL)
    assert trials_in(folder) == [9]


def test_a_part_that_is_gone_when_it_is_read_is_run_again_with_all_that_follow(folder, monkeypatch):
    """As when another run has just stored the whole chunk in its place."""
    with Store(folder / "s.sqlite") as store:
        interrupted_after(3, experiment(folder, store), monkeypatch)
        second = experiment(folder, store)
        gone = second.parts.stored(CELL, second.list_trials(CELL))[1]
        monkeypatch.setattr(second, "stored", lambda cell, part: None if part == gone else Experiment.stored(second, cell, part))
        assert predictions(second.trials(CELL)[0]) == in_one_wave(folder, store)


@pytest.mark.parametrize("size", [2, 9])
def test_no_part_is_left_after_a_damaged_one(folder, monkeypatch, size):
    with Store(folder / "s.sqlite") as store:
        interrupted_after(3, experiment(folder, store), monkeypatch)
        store.in_one_transaction(lambda connection: connection.execute("UPDATE chunks SET digest = '' WHERE id = 1"))
    with Store(folder / "s.sqlite") as store:
        second = experiment(folder, store)
        second.parts._pace["mine.f", CELL.dataset] = 1.0, 0.0
        monkeypatch.setattr(parts_module, "SECONDS", float(size))
        assert predictions(second.trials(CELL)[0]) == in_one_wave(folder, store)
        assert len(store.notes) == 1
    assert trials_in(folder) == [9]


def test_stores_with_different_secrets_are_merged(folder):
    """Each shuffles the rows of a plug-in by its own secret, so that its random filter keeps other rows."""
    paths = [folder / "a.sqlite", folder / "b.sqlite"]
    for path in paths:
        with Store(path) as store:
            experiment(folder, store).trials(CELL)
    assert "9 trials of stochastic or user-supplied victims or defenses differ" in merged(paths, folder / "both.sqlite")


@pytest.mark.parametrize("finished_first", [False, True])
def test_an_unfinished_store_merged_with_the_finished_one_counts_each_trial_once(folder, monkeypatch, finished_first):
    unfinished, finished, both = (folder / f"{name}.sqlite" for name in ("unfinished", "finished", "both"))
    with Store(unfinished) as store:
        interrupted_after(3, experiment(folder, store), monkeypatch)
    shutil.copy(unfinished, finished)  # with the same secret
    with Store(finished) as store:
        experiment(folder, store).trials(CELL)
    paths = [finished, unfinished] if finished_first else [unfinished, finished]
    assert "both.sqlite: 9 trials, 9 of them new" in merged(paths, both)
    assert [len(chunk.trials) for chunk in read_chunks(both)] == [9]
    with Store(both) as store:
        assert not experiment(folder, store).missing_chunks(CELL)


def test_merging_keeps_the_finished_parts_of_a_later_version(folder, monkeypatch):
    """The whole chunk in the store is of an earlier version of a file that the plug-in reads."""
    with Store(folder / "s.sqlite") as store:
        experiment(folder, store).trials(CELL)
        (folder / "share").write_text("0.5")
        interrupted_after(3, experiment(folder, store), monkeypatch)
    merged([folder / "s.sqlite"], folder / "both.sqlite")
    with Store(folder / "both.sqlite") as store:
        assert [len(chunk) for _, chunk in experiment(folder, store).missing_chunks(CELL)] == [5]


def test_two_runs_that_divide_a_chunk_otherwise_leave_one_chunk(folder, monkeypatch):
    with Store(folder / "s.sqlite") as store, Store(folder / "s.sqlite") as other:
        first, second = experiment(folder, store), experiment(folder, other)
        expected = in_one_wave(folder, store)

        def timed_chunk(cell, chunk):
            if len(chunk) == 1:  # after the first part
                monkeypatch.setattr(first, "timed_chunk", lambda *given: Experiment.timed_chunk(first, *given))
                second.parts._pace["mine.f", CELL.dataset] = 1.0, 0.0
                assert predictions(second.trials(CELL)[0]) == expected
            return Experiment.timed_chunk(first, cell, chunk)

        monkeypatch.setattr(first, "timed_chunk", timed_chunk)
        assert predictions(first.trials(CELL)[0]) == expected
    assert trials_in(folder) == [9]


def test_finished_parts_are_run_again_where_what_the_plug_in_read_has_changed(folder, monkeypatch):
    with Store(folder / "s.sqlite") as store:
        interrupted_after(3, experiment(folder, store), monkeypatch)
        (folder / "share").write_text("0.5")
        heard = []
        second = experiment(folder, store, heard)
        assert [len(chunk) for _, chunk in second.missing_chunks(CELL)] == [9]
        second.trials(CELL)
        assert calls(heard) == 9
        assert experiment(folder, store).trials(CELL)[1]


def test_what_changed_between_two_parts_of_a_run_makes_the_whole_not_reusable(folder, monkeypatch):
    with Store(folder / "s.sqlite") as store:
        own = experiment(folder, store)

        def timed_chunk(cell, chunk):
            ran = Experiment.timed_chunk(own, cell, chunk)
            (folder / "share").write_text(f"0.{len(ran)}5")
            return ran

        monkeypatch.setattr(own, "timed_chunk", timed_chunk)
        own.trials(CELL)
        assert "changed while it ran" in own._not_reusable(CELL)[0]
        assert not experiment(folder, store).trials(CELL)[1]


def test_a_fast_plug_in_runs_in_two_parts_on_the_first_cell_and_then_in_one(folder, monkeypatch):
    monkeypatch.setattr(parts_module, "SECONDS", 60.0)
    own, sizes = experiment(folder, NoStore()), []
    monkeypatch.setattr(
        own, "timed_chunk", lambda cell, chunk: sizes.append(len(chunk)) or Experiment.timed_chunk(own, cell, chunk)
    )
    own.trials(CELL)
    own.trials(CELL.with_(rate=2.0))
    assert sizes == [2, 7, 9]


LAZY = """
import time

from subpop import Defended

LOADED = []


def f(train, fit, know, *, seed):
    print("called", flush=True)
    if not LOADED:
        time.sleep(1)
    LOADED.append(seed)
    return Defended(fit(train))
"""


def test_what_a_plug_in_loads_in_its_first_trial_is_not_loaded_for_each_trial_again(folder, monkeypatch):
    monkeypatch.setattr(parts_module, "SECONDS", 0.5)  # half of what loading takes
    monkeypatch.setattr(parts_module, "LOADS", 10.0)
    (folder / "mine.py").write_text(LAZY)
    own, sizes = experiment(folder, NoStore()), []
    monkeypatch.setattr(
        own, "timed_chunk", lambda cell, chunk: sizes.append(len(chunk)) or Experiment.timed_chunk(own, cell, chunk)
    )
    own.trials(CELL)
    assert sizes == [2, 7]


KILLED = """
import sys
from pathlib import Path
from types import SimpleNamespace

from subpop.experiments import parts
from subpop.runtime.store import Store
from test_parts import CELL, experiment

parts.SECONDS = parts.LOADS = 0.0
folder, said = Path(sys.argv[1]), SimpleNamespace(append=lambda line: print(line, flush=True))
with Store(folder / "s.sqlite") as store:
    experiment(folder, store, said).trials(CELL)
"""


def test_a_run_that_is_killed_has_stored_its_finished_parts(folder):
    here = Path(__file__).parent
    with subprocess.Popen([sys.executable, "-c", KILLED, folder], stdout=subprocess.PIPE, text=True, cwd=here) as run:
        for _ in range(5):  # the fifth trial is in the fourth part
            assert "called" in next(line for line in run.stdout if line.strip())
        run.kill()
    with Store(folder / "s.sqlite") as store:
        heard = []
        own = experiment(folder, store, heard)
        n_stored = 9 - sum(len(chunk) for _, chunk in own.missing_chunks(CELL))
        assert 4 <= n_stored < 9
        results, _ = own.trials(CELL)
        assert calls(heard) == 9 - n_stored
        assert predictions(results) == in_one_wave(folder, store)


def test_parts_count_as_one_batch_of_which_a_secret_sample_is_recorded():
    recorder, trials = Recorder(), [Trial("a", seed) for seed in range(40)]
    seen = set()
    for _ in range(60):
        with recorder.sampling(trials):
            for trial in trials:
                recorder.watch(CELL, [SimpleNamespace(trial=trial)], lambda requests: [])
                recorder.note(CELL, [None])
        records = [record.prepared.trial for record in recorder.take(CELL)]
        assert len(set(records)) == len(records) == SAMPLED
        seen |= set(records)
    assert len(seen) > 35  # of 40: any of them may be drawn
    recorder.watch(CELL, [SimpleNamespace(trial=trial) for trial in trials], lambda requests: [])
    assert len(recorder._open) == SAMPLED


def test_a_part_tells_how_long_the_rest_and_cells_alike_take():
    cells = [CELL, CELL.with_(rate=2.0)]
    group = ("mine.f", "logistic_regression")
    forecast = Forecast(
        dict.fromkeys(cells, 1.0), dict.fromkeys(cells, 9.0), dict.fromkeys(cells, 9), guessed=dict.fromkeys(cells, group)
    )
    assert forecast.untimed == cells
    forecast.run_part(CELL, 3, 60.0)  # 20 s a trial
    assert forecast.untimed == []
    assert forecast.seconds_of(cells) == pytest.approx(6 * 20 + 9 * 20, abs=0.2)
    forecast.run_part(CELL, 6, 120.0)
    assert forecast.seconds_of([CELL]) == pytest.approx(0, abs=0.1)
    forecast.end(CELL, 270.0)  # with what is besides the trials
    assert forecast.seconds_of(cells[1:]) == pytest.approx(270, abs=0.2)
    assert forecast.seconds_left(275.0) == pytest.approx(270, rel=0.1)
    forecast.under_way = 60.0
    assert forecast.seconds_left(305.0) == pytest.approx(240, rel=0.1)  # on schedule
    assert forecast.seconds_left(435.0) > 250  # and 100 s late: 210 if it were not
    known = Forecast({CELL: 90.0}, {CELL: 9.0}, {CELL: 9})
    known.run_part(CELL, 3, 60.0)
    assert known.seconds_of([CELL]) == pytest.approx(60)
