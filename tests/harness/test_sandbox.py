"""Plug-in defenses in real child processes: good ones, broken ones, hanging ones and cheating ones."""

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from subpop.harness import child, sandbox
from subpop.harness.batching import DefenseError, DefenseTask, PoolRows, TrialBatch, job_of
from subpop.harness.child import receive_message, send_message
from subpop.harness.fork_server import SERVER
from subpop.harness.plugins import DefenseSpec, load, parse_plugin
from subpop.harness.sandbox import run_in_child
from subpop.runtime.processes import descendants
from subpop.types import BadInput, Knowledge, Pool, TrainingSet
from subpop.victims.linear_model import LinearModel

ROOT = Path(__file__).parents[2]
N, D, N_TEST = 60, 5, 17

PLUGIN = '''
import os
import sys
import threading
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from subpop import Defended, TrainingSet, fit_all

HERE = Path(__file__).parent


def note_pid(name, pid):
    (HERE / name).write_text(str(pid))


def none(train, fit, know, *, seed):
    return Defended(fit(train))


def drop_random(train, fit, know, *, seed):
    keep = np.random.default_rng(seed).random(len(train)) > 0.3
    model = fit(train)
    for _ in range(seed % 3):
        model = fit(train[keep])
    votes = lambda x: np.arange(2 * len(x)).reshape(len(x), 2) % 2
    return Defended(model, keep, {"first": fit(train)}, lambda x: np.arange(len(x)), {"kept": keep.mean()}, votes)


def everything(train, fit, know, *, seed):
    fit(train.relabel(1 - train.y))
    fit(train[[3, 3, 1]])
    fit(TrainingSet.of(train.x.astype(float) * 2, train.y))
    fit(know.clean_holdout)
    numbers = {"n_poison": know.n_poison, "told": know.representation.features(train.x).sum(), "group_1": know.groups.sum()}
    return Defended(fit(train), diagnostics=numbers)


everything.needs = {"n_poison", "clean_holdout", "representation", "groups"}


def several_at_once(train, fit, know, *, seed):
    shifted = [TrainingSet.of(train.x + shift, train.y) for shift in (-2.0, 2.0)]
    half = train[np.random.default_rng(seed).random(len(train)) > 0.5]
    models = fit_all(fit, [half, *shifted, know.clean_holdout, train.relabel(1 - train.y)][: 5 - seed])
    return Defended(fit(train), stages=dict(zip("abcde", models)))


several_at_once.needs = {"clean_holdout"}


def told(train, fit, know, *, seed):
    return Defended(fit(train), diagnostics={"told": sum(v is not None for v in vars(know).values())})


def no_fit(train, fit, know, *, seed):
    class Coin:
        def predict_proba(self, x):
            return np.full((len(x), 2), 0.5)

    return Defended(Coin())


def raises(train, fit, know, *, seed):
    print("starting", seed)
    fit(train)
    if seed == 1:
        raise KeyError("no such thing")
    return Defended(fit(train))


def exits(train, fit, know, *, seed):
    sys.exit(3)


def ends_process(train, fit, know, *, seed):
    fit(train)
    print("the last word")
    os._exit(7)


def crashes(train, fit, know, *, seed):
    import ctypes

    ctypes.string_at(0)


def out_of_memory(train, fit, know, *, seed):
    np.zeros(1 << 50)


def sleeps(train, fit, know, *, seed):
    note_pid("pid", os.getpid())
    fit(train)
    if seed == 1:
        time.sleep(1000)
    return Defended(fit(train))


def spins(train, fit, know, *, seed):
    while True:
        pass


def spins_in_c(train, fit, know, *, seed):
    import re
    import subprocess

    note_pid("pid", os.getpid())
    note_pid("grandchild", subprocess.Popen(["sleep", "600"]).pid)
    re.match(r"(a+)+$", "a" * 60 + "b")  # holds the interpreter for ages


def spins_behind_fit(train, fit, know, *, seed):
    import re

    threading.Thread(target=re.match, args=(r"(a+)+$", "a" * 60 + "b")).start()
    return Defended(fit(train))


class SlowModel:
    def predict_proba(self, x):
        time.sleep(1000)


def predicts_for_ever(train, fit, know, *, seed):
    return Defended(SlowModel())


def predicts_badly(train, fit, know, *, seed):
    class Bad:
        def predict_proba(self, x):
            return np.full((len(x), 2), np.nan)

    return Defended(Bad())


def keeps_wrongly(train, fit, know, *, seed):
    return Defended(fit(train), np.ones(3, bool))


def writes(train, fit, know, *, seed):
    train.y.setflags(write=True)
    train.y[:] = 0
    return Defended(fit(train))


def prints(train, fit, know, *, seed):
    for i in range(40000):
        print("line", i, "x" * 60)
    os.write(2, b"to the end")
    raise ValueError("printed enough")


def starts_threads(train, fit, know, *, seed):
    for daemon in (True, False):
        threading.Thread(target=time.sleep, args=(1000,), daemon=daemon).start()
    return Defended(fit(train))


def fits_in_threads(train, fit, know, *, seed):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        return Defended(next(pool.map(fit, [train, train])))


def fits_in_processes(train, fit, know, *, seed):
    import multiprocessing

    def work(out):
        try:
            fit(train)
        except Exception as error:
            out.put(str(error))

    context = multiprocessing.get_context("fork")
    out = context.Queue()
    context.Process(target=work, args=(out,)).start()
    raise RuntimeError(out.get(timeout=5))


def leaves_children(train, fit, know, *, seed):
    import subprocess

    note_pid("grandchild", subprocess.Popen(["sleep", "600"]).pid)
    return Defended(fit(train))


def half_a_second(train, fit, know, *, seed):
    for _ in range(4):
        time.sleep(0.1)
        model = fit(train)
    return Defended(model)


def fits_for_ever(train, fit, know, *, seed):
    while True:
        fit(train)


def fits_often(train, fit, know, *, seed):
    for _ in range(7):
        model = fit(train)
    return Defended(model)


fits_often.max_fits = 7


def fits_too_often(train, fit, know, *, seed):
    for _ in range(6 + seed):
        model = fit(train)
    return Defended(model)


fits_too_often.max_fits = 6


def fakes_turns(train, fit, know, *, seed):
    """Say again and again that it is another trial's turn, or the harness's."""
    import gc

    send_message = sys.modules["subpop.harness.child"].send_message
    desk = next(thing for thing in gc.get_objects() if type(thing).__name__ == "_HarnessClient")
    for task in range(10000):
        for turn in ((task, "defense"), (task, "predictions"), (-1, "harness")):
            send_message(desk._connection, "turn", task=turn[0], phase=turn[1], at=time.monotonic())
            time.sleep(0.01)


def predicts_slowly(train, fit, know, *, seed):
    class Slow:
        def predict_proba(self, x):
            time.sleep(0.45)
            return np.full((len(x), 2), 0.5)

    return Defended(Slow())


def speaks_out_of_turn(train, fit, know, *, seed):
    """Misuse the line to the harness: what comes from the child must be harmless."""
    send_message = sys.modules["subpop.harness.child"].send_message
    import gc

    desk = next(thing for thing in gc.get_objects() if type(thing).__name__ == "_HarnessClient")
    connection = desk._connection
    speech = (HERE / "speech").read_text()
    exec(speech)
    time.sleep(30)


def reachable(*roots):
    """Everything that attributes, closures and containers lead to."""
    seen, waiting = {}, list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, (type, str, bytes, int, float, type(sys), type(None))):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, dict):
            waiting += [*thing.keys(), *thing.values()]
        elif isinstance(thing, (list, tuple, set, frozenset)):
            waiting += list(thing)
        else:
            names = [*getattr(thing, "__dict__", ()), *getattr(type(thing), "__slots__", ()), "__self__", "base"]
            waiting += [getattr(thing, name, None) for name in names]
            waiting += [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
    return list(seen.values())


def cheats(train, fit, know, *, seed):
    """Look for the pool, row numbers, masks, or an order that tells where poison lies."""
    found = reachable(train, fit, know)
    arrays = [a for a in found if isinstance(a, np.ndarray)]
    n = len(train)
    masks = [a for a in arrays if a.dtype == bool and a.size == n]
    numbers = [a for a in arrays if a.dtype.kind == "i" and a.shape == (n,) and a.max() >= n - 1]
    rows = [a for a in numbers if not np.array_equal(a, np.arange(n))]
    held = [thing for thing in found if type(thing).__name__ in ("Pool", "PoolRows", "FleetJob")]
    names = [thing for thing in sys.modules if thing.startswith("test_")]
    return Defended(fit(train), diagnostics={"things": len(masks) + len(rows) + len(held) + len(names), "looked_at": len(found)})
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "plugin.py").write_text(PLUGIN)
    return folder


def children():
    """Live children of the server, and what descends from them."""
    return descendants(SERVER.pid) if SERVER.pid else []


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    deadline = time.monotonic() + 1
    while children() and time.monotonic() < deadline:  # a process that has said its last word may still be there for a moment
        time.sleep(0.01)
    assert not children()
    assert not [thread.name for thread in threading.enumerate() if "_drain" in thread.name or thread.name.startswith("trial ")]


RNG = np.random.default_rng(0)
Y = np.arange(N) % 2
POOL = Pool((RNG.normal(size=(N, D)) + 2 * Y[:, None]).astype(np.float32), Y, 45, 2)
TEST_X = RNG.normal(size=(N_TEST, D)).astype(np.float32) + 1


def fit_many(requests):
    """Nearest class means: a linear model in closed form."""
    models = []
    for _, train in requests:
        job = job_of(POOL, train).canonical()
        low, high = (job.x[job.y == c].mean(0) if (job.y == c).any() else np.zeros(D) for c in (0, 1))
        models.append(LinearModel(np.append(high - low, (low @ low - high @ high) / 2)[:, None].astype(float)))
    return models


def tasks(n=3, **knowledge):
    made = []
    for seed in range(n):
        rows = np.random.default_rng(seed).permutation(N)[:50]
        train = TrainingSet(PoolRows(POOL, rows), np.arange(50), POOL.y[rows])
        made.append(DefenseTask(train, Knowledge(**knowledge), seed, f"group {seed}"))
    return made


def batch(n=3, fit=fit_many, **knowledge):
    return TrialBatch(tasks(n, **knowledge), fit, TEST_X, 2)


@lru_cache
def spec_of(folder, function):
    return parse_plugin(DefenseSpec, f"plugin.py:{function}", folder, "--defense ")


def run(folder, function, n=3, fit=fit_many, timeout=60.0, **knowledge):
    return list(run_in_child(spec_of(folder, function), batch(n, fit, **knowledge), timeout))


def is_alive(pid):
    try:
        status = Path(f"/proc/{pid}/stat").read_text() if Path("/proc/self").exists() else ""
        os.kill(pid, 0)
    except (ProcessLookupError, FileNotFoundError):
        return False
    return " Z " not in status


def wait_until_gone(pid, seconds=5.0):
    deadline = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


# --- what works -------------------------------------------------------------------------------------------------------


def test_a_child_s_outcomes_are_those_of_this_process(folder):
    theirs = run(folder, "drop_random", 7)
    ours = list(batch(7).run(load(spec_of(folder, "drop_random"))))
    for a, b in zip(theirs, ours, strict=True):
        assert a.predictions.keys() == {"", "first"}
        assert all(np.array_equal(a.predictions[name], b.predictions[name]) for name in b.predictions)
        assert np.array_equal(a.keep, b.keep)
        assert a.certified_radii[""].tolist() == list(range(N_TEST))
        assert a.votes.tolist() == [[0, 1]] * N_TEST
        assert a.diagnostics == b.diagnostics
        assert a.n_fits == b.n_fits
        assert 0 < a.seconds < 1


def test_fits_are_batched_in_task_order(folder):
    batches = []

    def recording(requests):
        batches.append([index for index, _ in requests])
        return fit_many(requests)

    run(folder, "drop_random", 4, recording)  # seeds 0..3 fit 2, 3, 4 and 2 times
    assert batches == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2], [2]]


def test_several_sets_in_one_call_get_the_models_that_they_get_in_this_process(folder):
    holdout = TrainingSet(PoolRows(POOL, np.array([50, 51, 52, 53])), np.arange(4), POOL.y[50:54])
    batches = []

    def recording(requests):
        batches.append([index for index, _ in requests])
        return fit_many(requests)

    theirs = run(folder, "several_at_once", 3, recording, clean_holdout=holdout)
    ours = list(batch(3, clean_holdout=holdout).run(load(spec_of(folder, "several_at_once"))))
    assert batches == [[0] * 5 + [1] * 4 + [2] * 3, [0, 1, 2]]
    for seed, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        assert list(a.predictions) == ["", *"abcde"[: 5 - seed]]
        assert {name: found.tolist() for name, found in a.predictions.items()} == {
            name: found.tolist() for name, found in b.predictions.items()
        }
        assert a.n_fits == b.n_fits == 6 - seed
    assert not np.array_equal(theirs[0].predictions["b"], theirs[0].predictions["c"])


def test_every_kind_of_set_reaches_the_harness_as_its_own_rows(folder):
    asked = []

    def recording(requests):
        asked.extend(job_of(POOL, train) for _, train in requests)
        return fit_many(requests)

    holdout = TrainingSet(PoolRows(POOL, np.array([50, 51, 52])), np.arange(3), POOL.y[50:53])
    knowledge = {"n_poison": 5, "clean_holdout": holdout, "representation": LinearModel(np.zeros((D + 1, 1)))}
    knowledge["groups"] = (np.arange(50) < 7).astype(np.int64)
    (outcome,) = run(folder, "everything", 1, recording, **knowledge)
    train = tasks(1)[0].train
    rows = job_of(POOL, train).rows
    flipped, picked, scaled, held_out, plain = asked
    assert np.array_equal(flipped.rows, rows)
    assert np.array_equal(flipped.y, 1 - train.y)
    assert picked.rows.tolist() == rows[[3, 3, 1]].tolist()
    assert scaled.rows.tolist() == (N + np.arange(50)).tolist()
    assert np.array_equal(scaled.x, 2 * train.x)
    assert held_out.rows.tolist() == [50, 51, 52]
    assert np.array_equal(plain.rows, rows)
    assert outcome.n_fits == 5
    numbers = {"n_poison": 5.0, "told": pytest.approx(float(train.x.sum()), rel=1e-5), "group_1": 7.0}
    assert outcome.diagnostics == numbers


def test_a_defense_is_told_only_what_it_asked_for(folder):
    holdout = TrainingSet.of(POOL.x[:3], POOL.y[:3])
    more = {"representation": LinearModel(np.zeros((D + 1, 1))), "groups": np.zeros(50, np.int64)}
    (outcome,) = run(folder, "told", 1, n_poison=5, clean_holdout=holdout, **more)
    assert outcome.diagnostics["told"] == 0
    with pytest.raises(BadInput, match="poison_mask"):
        run(folder, "told", 1, poison_mask=np.zeros(50, bool))


def test_a_defense_need_not_fit(folder):
    assert [outcome.n_fits for outcome in run(folder, "no_fit")] == [0, 0, 0]


def test_threads_and_processes_it_starts_end_with_it(folder):
    assert len(run(folder, "starts_threads")) == 3
    assert len(run(folder, "leaves_children", 1)) == 1
    assert wait_until_gone(int((folder / "grandchild").read_text()))


def test_time_in_fit_does_not_count(folder):
    def slow(requests):
        time.sleep(0.3)
        return fit_many(requests)

    (outcome,) = run(folder, "half_a_second", 1, slow, timeout=1.2)  # 0.4 s of its own, 1.2 s of ours
    assert 0.4 <= outcome.seconds < 1.2


def test_own_time_adds_up_over_turns(folder):
    with pytest.raises(DefenseError, match=r"its own code ran over the limit of 0\.25 s"):
        run(folder, "half_a_second", 1, timeout=0.25)


def test_an_iterator_that_is_dropped_ends_its_child(folder):
    outcomes = run_in_child(spec_of(folder, "none"), batch(100))  # too many to be done before the next line
    next(outcomes)
    assert children()
    outcomes.close()
    assert not children()


def test_what_fit_many_raises_passes_through(folder):
    with pytest.raises(ZeroDivisionError):
        run(folder, "none", fit=lambda requests: 1 / 0)


def test_a_wrong_number_of_models_is_refused(folder):
    with pytest.raises(BadInput, match="1 models for 3 training sets"):
        run(folder, "none", fit=lambda requests: fit_many(requests[:1]))


# --- what goes wrong in the child -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises", r"trial 1 \(group 1\): plugin.raises: KeyError: 'no such thing'"),
        ("exits", r"trial 0 .*called sys.exit\(3\)"),
        ("ends_process", "trial 0 .*ended itself with exit code 7"),
        ("crashes", "trial 0 .*ended by SIGSEGV"),
        ("out_of_memory", "trial 0 .*MemoryError"),
        ("predicts_badly", "predict_proba of the model has NaN or infinite values in 17 of 17 rows"),
        ("keeps_wrongly", r"keep is bool of shape \(3,\)"),
        ("writes", "wrote into its training set"),
        ("fits_in_threads", "fit was called from a thread"),
        ("fits_in_processes", "fit was called from a thread or process that the defense started"),
    ],
)
def test_a_broken_defense_is_reported(folder, function, message):
    with pytest.raises(DefenseError, match=message):
        run(folder, function)


def test_the_report_holds_traceback_and_last_output(folder):
    with pytest.raises(DefenseError) as caught:
        run(folder, "raises")
    assert caught.value.task == 1
    assert "plugin.py" in caught.value.details
    assert 'raise KeyError("no such thing")' in caught.value.details
    assert caught.value.details.endswith("its last output:\nstarting 0\nstarting 1\nstarting 2")
    with pytest.raises(DefenseError, match="the last word"):
        run(folder, "ends_process")


def test_a_flood_of_output_is_cut_and_stays_off_the_terminal(folder, capfd):
    with pytest.raises(DefenseError, match="printed enough") as caught:
        run(folder, "prints", 1)
    assert caught.value.details.endswith("to the end")
    assert len(str(caught.value)) < 12000
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("sleeps", r"trial 1 \(group 1\): plugin.sleeps: its own code ran over the limit of 0.5 s .* raise --defense-timeout"),
        ("spins", "trial 0 .*its own code ran over the limit of 0.5 s"),
        ("spins_in_c", "trial 0 .*its own code ran over the limit of 0.5 s"),
        ("predicts_for_ever", "trial 0 .*predicting the test rows ran over the limit of 0.5 s"),
    ],
)
def test_a_hanging_defense_is_stopped(folder, function, message):
    started = time.monotonic()
    with pytest.raises(DefenseError, match=message):
        run(folder, function, timeout=0.5)
    assert time.monotonic() - started < 5
    for name in ("pid", "grandchild"):
        if function == "spins_in_c":
            assert wait_until_gone(int((folder / name).read_text()))


def test_faked_turns_cannot_stretch_the_limit(folder):
    started = time.monotonic()
    with pytest.raises(DefenseError, match=r"its trials together ran over the limit of 3 x 0\.5 s") as caught:
        run(folder, "fakes_turns", timeout=0.5)
    assert caught.value.task is None
    assert time.monotonic() - started < 6


@pytest.mark.parametrize(
    "speech", ["os.write(line, bytes(2) + b'xx half')", "while os.write(line, bytes(4)[:1]): time.sleep(0.1)"]
)
def test_a_message_that_does_not_end_is_waited_for_no_longer_than_the_trial(folder, speech):
    (folder / "speech").write_text(f"line = connection.fileno()\nos.write(line, (1 << 20).to_bytes(4, 'big'))\n{speech}")
    started = time.monotonic()
    with pytest.raises(DefenseError, match=r"trial 0 .*its own code ran over the limit of 0\.5 s"):
        run(folder, "speaks_out_of_turn", timeout=0.5)
    assert time.monotonic() - started < 5


def test_a_chunk_may_take_as_long_as_its_trials_together(folder, monkeypatch):
    monkeypatch.setattr(sandbox, "HANDING_OVER", 0.0)
    assert len(run(folder, "predicts_slowly", timeout=0.8)) == 3

    def slow(requests):
        time.sleep(0.4)
        return fit_many(requests)

    assert len(run(folder, "fits_often", 1, slow, timeout=1.0)) == 1  # 2.8 s in fit are nobody's


def test_a_trial_may_fit_so_often_and_no_more(folder, monkeypatch):
    assert [outcome.n_fits for outcome in run(folder, "fits_often")] == [7, 7, 7]
    with pytest.raises(DefenseError, match=r"trial 1 \(group 1\): plugin.fits_too_often: it called fit more than 6 times"):
        run(folder, "fits_too_often")
    endless = spec_of(folder, "fits_for_ever")
    assert endless.max_fits == 2000
    with pytest.raises(DefenseError, match=r"called fit more than 100 times; .*fits_for_ever.max_fits = 1000"):
        list(run_in_child(replace(endless, max_fits=100), batch(2)))


def test_a_thread_that_holds_up_the_harness_is_stopped(folder, monkeypatch):
    monkeypatch.setattr(sandbox, "PATIENCE", 0.5)
    with pytest.raises(DefenseError, match="ran over the limit"):
        run(folder, "spins_behind_fit", 1, timeout=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nimport nowhere_to_be_found\n", r"plugin: .*first.py, line 2: importing it failed with ModuleNotFoundError"),
        ("import sys\nsys.exit(4)\n", r"line 2: importing it failed with sys.exit\(4\)"),
        ("import os\nos._exit(4)\n", "ended itself with exit code 4"),
        ("while True: pass\n", "importing its file ran over the limit of 0.6 s"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(sandbox, "PATIENCE", 0.6)
    (tmp_path / "first.py").write_text(text + "def plugin(train, fit, know, *, seed): ...\n")
    spec = parse_plugin(DefenseSpec, "first.py:plugin", tmp_path, "--defense ")
    with pytest.raises(DefenseError, match=message.replace("plugin: ", "")) as caught:
        list(run_in_child(spec, batch(1), 0.5))
    assert caught.value.task is None


# --- what must not pass -----------------------------------------------------------------------------------------------


def test_nothing_within_reach_tells_where_the_poison_is(folder):
    for outcome in run(folder, "cheats"):
        assert outcome.diagnostics["things"] == 0
        assert outcome.diagnostics["looked_at"] > 10
    cheats = load(spec_of(folder, "cheats"))
    (here,) = batch(1).run(cheats)
    assert here.diagnostics["things"] >= 3  # the search does find them where they are


PICKLE = "(b'\\x80\\x04cposix\\nsystem\\n(S\"true\"tR.')"


@pytest.mark.parametrize(
    ("speech", "message"),
    [
        ("connection.send_bytes(b'hello')", "sent a message that cannot be used"),
        (f"connection.send_bytes({PICKLE})", "sent a message that cannot be used"),
        ("connection.send_bytes(b'[1, 2]')", "sent a message that cannot be used"),
        ("connection.send_bytes(b'[' * 100000)", "sent a message that cannot be used"),
        (f'connection.send_bytes(b\'{{"kind": "fit", "arrays": ["y"]}}\'); connection.send_bytes({PICKLE})', "cannot be used"),
        ("send_message(connection, 'hello')", "sent 'hello' out of turn"),
        ("send_message(connection, 'ready')", "sent 'ready' out of turn"),
        ("send_message(connection, 'turn', task='x', phase='y', at=0)", "cannot be used"),
        ("send_message(connection, 'error', task=[], reason=3, details=None)", "plugin.speaks_out_of_turn: 3"),
        ("send_message(connection, 'fit', requests=[(9, 'train', 1)])", "came out of order"),
        ("send_message(connection, 'fit', requests=[(-1, 'train', 1)])", "came out of order"),
        (
            "y = {'y': train.y[:2], 'ids': train.y[:2]}\n"
            "send_message(connection, 'fit', y, requests=[(1, 'train', 1), (0, 'train', 1)])",
            "a request of trial 0 came out of order",
        ),
        (
            "send_message(connection, 'fit', {'y': train.y[:1], 'ids': train.y[:1] + 50}, requests=[(0, 'train', 1)])",
            "rows outside its train",
        ),
        (
            "send_message(connection, 'fit', {'y': train.y[:1], 'ids': train.y[:1]}, requests=[(0, 'holdout', 1)])",
            "outside its holdout",
        ),
        (
            "send_message(connection, 'fit', {'y': train.y[:1] + 7, 'ids': train.y[:1]}, requests=[(0, 'train', 1)])",
            "labels outside",
        ),
        (
            "send_message(connection, 'fit', {'y': train.y[:1] / 2, 'ids': train.y[:1]}, requests=[(0, 'train', 1)])",
            "cannot be used",
        ),
        (
            "send_message(connection, 'fit', {'y': train.y[:0], 'ids': train.y[:0]}, requests=[(0, 'train', 0)])",
            "asked for 0 rows",
        ),
        ("send_message(connection, 'outcome', task=1)", "where that of trial 0 was due"),
        ("send_message(connection, 'outcome', task=0, models=[''], diagnostics={}, n_fits=0, seconds=0)", "KeyError: 'p0'"),
        (
            "p = {'p0': np.full(17, 2)}\n"
            "send_message(connection, 'outcome', p, task=0, models=[''], diagnostics={}, n_fits=0, seconds=0)",
            "not 17 classes from 0 to 1",
        ),
    ],
)
def test_a_child_that_speaks_out_of_turn_is_ended(folder, speech, message):
    (folder / "speech").write_text(speech)
    with pytest.raises(DefenseError, match=message):
        run(folder, "speaks_out_of_turn", timeout=10.0)


def test_a_message_is_json_and_plain_arrays():
    ours, theirs = multiprocessing.Pipe()
    send_message(theirs, "hello", {"a": np.arange(6).reshape(2, 3)[:, ::2]}, n=1)
    values, arrays = receive_message(ours)
    assert values == {"kind": "hello", "arrays": ["a"], "n": 1}
    assert arrays["a"].tolist() == [[0, 2], [3, 5]]
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], object), allow_pickle=True)
    theirs.send_bytes(json.dumps({"kind": "hello", "arrays": ["a"]}).encode())
    theirs.send_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="header for object"):
        receive_message(ours)


def test_an_array_may_not_claim_more_memory_than_was_sent():
    ours, theirs = multiprocessing.Pipe()
    for shape in ((1 << 40,), (1 << 20, 1 << 20), (-1,), (3,)):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
        theirs.send_bytes(json.dumps({"kind": "hello", "arrays": ["a"]}).encode())
        theirs.send_bytes(header.getvalue() + bytes(16))
        with pytest.raises(ValueError, match="and 16 bytes of data"):
            receive_message(ours)
    theirs.send_bytes(bytes(8))
    with pytest.raises(ValueError, match="more than 4 bytes"):
        child._receive_bytes(ours, 4)


class Talkative(LinearModel):
    """A model that kept the job it was trained on."""


def test_models_must_be_fit_to_travel(folder):
    def with_job(requests):
        models = fit_many(requests)
        for model, (_, train) in zip(models, requests, strict=True):
            object.__setattr__(model, "job", job_of(POOL, train))
        return models

    with pytest.raises(BadInput, match="a plug-in defense would have received a FleetJob"):
        run(folder, "none", fit=with_job)
    with pytest.raises(BadInput, match="models must be picklable"):
        run(folder, "none", fit=lambda requests: [threading.Lock()] * len(requests))


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_time_limits_that_are_refused(folder, timeout):
    with pytest.raises(BadInput, match="--defense-timeout"):
        run(folder, "none", timeout=timeout)


# --- the harness's own life -------------------------------------------------------------------------------------------

SCRIPT = """
    import sys
    sys.path.insert(0, {tests!r})
    import test_sandbox as t
    print("main module", flush=True)
    print(len(t.run(t.Path({folder!r}), {function!r})), flush=True)
"""


def script(folder, function, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parent), folder=str(folder), function=function))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, str(path)], stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("function", ["sleeps", "spins_in_c"])
def test_a_killed_harness_takes_its_child_along(folder, tmp_path, function):
    names = ["pid"] if function == "sleeps" else ["pid", "grandchild"]
    if function == "spins_in_c" and sys.platform != "linux":
        pytest.skip("only Linux can end a process whose interpreter is held")
    for name in names:
        (folder / name).unlink(missing_ok=True)
    with script(folder, function, tmp_path) as process:
        deadline = time.monotonic() + 30
        while not all((folder / name).exists() and (folder / name).read_text() for name in names):
            assert time.monotonic() < deadline, "the defense did not start"
            time.sleep(0.02)
        time.sleep(0.2)
        pids = [int((folder / name).read_text()) for name in names]
        assert all(is_alive(pid) for pid in pids)
        os.kill(process.pid, signal.SIGKILL)
        assert process.stdout.read() == "main module\n"  # the child did not run the script again, which has no main guard
    assert all(wait_until_gone(pid) for pid in pids)
