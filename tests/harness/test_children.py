"""The processes of plug-in defenses: what a child finds around it, and that nothing it starts outlives its cell."""

import json
import os
import signal
import sys
import time
from functools import lru_cache

import numpy as np
import pytest
from small_projects import parse_defense
from test_sandbox import _nothing_is_left, batch, children, is_alive, script, wait_until_gone  # noqa: F401

from subpop.harness import fork_server
from subpop.harness.batching import DefenseError
from subpop.harness.fork_server import SERVER, clean_environment
from subpop.harness.sandbox import run_in_child
from subpop.runtime.processes import descendants

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who descends from whom")

PLUGIN = '''
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from subpop import Defended

HERE = Path(__file__).parent


def note(name, pid):
    (HERE / name).write_text(str(pid))


def parents():
    """Process ids upwards, as far as the first that has a test on its command line or none is left."""
    found, pid = [], os.getpid()
    while pid > 1:
        found.append(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def looks_around(train, fit, know, *, seed):
    said = {"environ": dict(os.environ), "argv": sys.argv, "folder": os.listdir("."), "where": os.getcwd()}
    if sys.platform == "linux":
        above = parents()[:3]  # the child, its supervisor, the server
        files = [Path(f"/proc/{pid}/{name}") for pid in above for name in ("environ", "cmdline")]
        said["all"] = [file.read_bytes().decode("latin1") for file in files]
    (HERE / "said.json").write_text(json.dumps(said))
    return Defended(fit(train))


def leaves_a_session(train, fit, know, *, seed):
    note("grandchild", subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
    return Defended(fit(train))


def leaves_a_daemon(train, fit, know, *, seed):
    """Fork twice, with a session between: the classic daemon, an orphan in a group of its own."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note("grandchild", os.getpid())
            os.execvp("sleep", ["sleep", "600"])
        os._exit(0)
    while not (HERE / "grandchild").exists() or not (HERE / "grandchild").read_text():
        time.sleep(0.01)
    return Defended(fit(train))


def leaves_a_daemon_and_crashes(train, fit, know, *, seed):
    leaves_a_daemon(train, fit, know, seed=seed)
    os._exit(3)


def leaves_many(train, fit, know, *, seed):
    """Processes that start others as fast as they can."""
    code = "import os, time\\nos.setsid()\\nfor _ in range(6):\\n    if os.fork() == 0:\\n        os.setsid()\\ntime.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code])
    time.sleep(0.5)
    return Defended(fit(train))


def sleeps(train, fit, know, *, seed):
    note("grandchild", subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
    note("pid", os.getpid())
    time.sleep(600)


def kills_its_supervisor(train, fit, know, *, seed):
    note("grandchild", subprocess.Popen(["sleep", "600"]).pid)
    note("pid", os.getpid())
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)


def stops_its_supervisor(train, fit, know, *, seed):
    note("grandchild", subprocess.Popen(["sleep", "600"], start_new_session=True).pid)
    note("pid", os.getpid())
    os.kill(os.getppid(), signal.SIGSTOP)
    return Defended(fit(train))


def none(train, fit, know, *, seed):
    return Defended(fit(train))
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    return tmp_path


@lru_cache
def spec_of(folder, function):
    return parse_defense(f"plugin.py:{function}", folder)


def run(folder, function, n=1, timeout=60.0):
    return list(run_in_child(spec_of(folder, function), batch(n), timeout))


def pid_in(folder, name="grandchild"):
    return int((folder / name).read_text())


# --- what a child finds -----------------------------------------------------------------------------------------------

SECRETS = {"GITHUB_TOKEN": "ghs_tokentoken", "AWS_SECRET_ACCESS_KEY": "keykeykey", "MY_STORE": "/somewhere/store.sqlite"}


@pytest.fixture
def fresh_server(monkeypatch):
    """A server started under an environment that holds secrets, as in a CI job."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "argv", ["pytest", "--store", "/somewhere/store.sqlite"])
    SERVER.close()
    yield
    SERVER.close()


def test_a_child_finds_no_test_no_token_and_no_store(folder, fresh_server):
    assert os.environ["PYTEST_CURRENT_TEST"]
    run(folder, "looks_around")
    text = (folder / "said.json").read_text()
    said = json.loads(text)
    assert said["argv"] == ["defense"]
    assert said["folder"] == []
    assert said["where"] not in ("/", os.getcwd())
    assert not os.path.exists(said["where"])  # gone with the child
    assert said["environ"]["PATH"] == os.environ["PATH"]
    assert said["environ"]["OMP_NUM_THREADS"] == "1"
    for word in (*SECRETS, *SECRETS.values(), "PYTEST_CURRENT_TEST", "PYTEST_VERSION", "store", "test_a_child_finds"):
        assert word not in json.dumps([said["environ"], said["argv"], said.get("all")]), word
    if sys.platform == "linux":
        assert len(said["all"]) == 6


def test_what_an_environment_keeps():
    kept = clean_environment()
    assert kept["PATH"] == os.environ["PATH"]
    assert not [name for name in kept if name.startswith(("PYTEST", "GITHUB", "CI", "SUBPOP", "ACTIONS", "RUNNER"))]


@pytest.mark.parametrize(("own", "expected"), [(None, "1"), ("3", "3")])
def test_numerical_libraries_of_a_child_use_one_thread_unless_told_otherwise(monkeypatch, own, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    assert clean_environment()["OMP_NUM_THREADS"] == expected


def test_a_server_that_was_killed_is_started_again(folder):
    assert len(run(folder, "none")) == 1
    before = SERVER.pid
    os.kill(before, signal.SIGKILL)
    time.sleep(0.1)
    assert len(run(folder, "none")) == 1
    assert SERVER.pid != before


def test_a_child_starts_fast(folder):
    run(folder, "none")
    started = time.monotonic()
    for _ in range(5):
        run(folder, "none")
    assert time.monotonic() - started < 5  # 0.1 s on an idle machine


# --- what a child leaves behind ---------------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("function", ["leaves_a_session", "leaves_a_daemon"])
def test_a_grandchild_of_its_own_session_does_not_outlive_its_cell(folder, function):
    assert len(run(folder, function)) == 1
    assert not is_alive(pid_in(folder))


@linux
def test_a_daemon_does_not_outlive_a_child_that_ends_itself(folder):
    with pytest.raises(DefenseError, match="ended itself with exit code 3"):
        run(folder, "leaves_a_daemon_and_crashes")
    assert not is_alive(pid_in(folder))


@linux
def test_processes_that_start_others_all_end(folder):
    before = set(descendants(1))
    assert len(run(folder, "leaves_many")) == 1
    deadline = time.monotonic() + 2
    while children() and time.monotonic() < deadline:  # the supervisor itself is the last to go
        time.sleep(0.01)
    assert not children()
    assert not [pid for pid in set(descendants(1)) - before if b"os.setsid" in _command(pid)]


def _command(pid):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


@linux
def test_a_grandchild_of_its_own_session_ends_with_a_killed_harness(folder, tmp_path):
    with script(folder, "sleeps", tmp_path) as process:
        deadline = time.monotonic() + 60
        while not (folder / "pid").exists() or not (folder / "pid").read_text():
            assert time.monotonic() < deadline, "the defense did not start"
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    assert wait_until_gone(pid_in(folder, "pid"))
    assert wait_until_gone(pid_in(folder))


@linux
def test_a_child_that_kills_its_supervisor_ends_with_it(folder):
    with pytest.raises(DefenseError, match="its process was ended by SIGKILL"):
        run(folder, "kills_its_supervisor")
    assert wait_until_gone(pid_in(folder, "pid"))
    assert wait_until_gone(pid_in(folder))


@linux
def test_a_child_that_stops_its_supervisor_ends_all_the_same(folder, monkeypatch):
    monkeypatch.setattr(fork_server, "END_SECONDS", 0.5)
    assert np.isfinite(run(folder, "stops_its_supervisor")[0].seconds)
    assert wait_until_gone(pid_in(folder, "pid"))
    assert wait_until_gone(pid_in(folder))


def test_two_children_at_once(folder):
    first, second = (run_in_child(spec_of(folder, "none"), batch(2)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.predictions[""], other.predictions[""])
