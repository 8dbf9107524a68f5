"""Worker processes that are forked from one that has imported everything."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from subpop.runtime.threads import ONE_CORE
from subpop.runtime.workers import discard_prepared, prepare_workers, worker_processes

SCRIPT = """
import os, sys
from subpop.runtime.workers import discard_prepared, prepare_workers, worker_processes

print("the script runs")
prepare_workers("colorsys")
there = worker_processes(2).submit(lambda: ("colorsys" in sys.modules, os.getppid(), os.environ["OPENBLAS_NUM_THREADS"])).result()
assert there[0], "nothing was imported before it was forked"
assert there[1] != os.getpid(), "it is a child of this process, and not of the prepared one"
assert there[2] == "1"
assert "OPENBLAS_NUM_THREADS" not in os.environ
print("done")
"""

INTERRUPTED = """
import os, signal, sys, time
from subpop.runtime.workers import prepare_workers, worker_processes

def interrupt():
    for _ in range(10):
        time.sleep(0.05)
        os.killpg(0, signal.SIGINT)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *told: None)
    if sys.argv[1:]:
        prepare_workers(sys.argv[1])
    interrupt()
    answer = worker_processes(1).submit(os.getppid)
    while not answer.done():
        interrupt()
    print(answer.result() == os.getpid())
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")


def test_a_forked_worker_has_what_was_imported_and_does_not_run_the_script_again(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)  # without a guard for __main__
    env = {name: value for name, value in os.environ.items() if name not in ONE_CORE}
    done = subprocess.run([sys.executable, tmp_path / "script.py"], env=env, capture_output=True, text=True, timeout=60)
    assert (done.stdout.split("\n"), done.returncode) == (["the script runs", "done", ""], 0), done.stderr


def test_workers_start_where_signals_cannot_be_masked_as_on_windows(monkeypatch):
    monkeypatch.setattr("subpop.runtime.workers.signal", SimpleNamespace())
    workers = worker_processes(1)
    assert workers.submit(os.getppid).result(60) == os.getpid()
    workers.shutdown(kill_workers=True)


def test_the_prepared_process_ends_and_others_start_without_it(monkeypatch):
    prepare_workers("colorsys")
    workers = worker_processes(1)
    parent = workers.submit(os.getppid).result()
    workers.shutdown(kill_workers=True)
    assert parent != os.getpid()
    discard_prepared()
    assert not Path(f"/proc/{parent}").exists()
    discard_prepared()  # nothing left to do
    monkeypatch.setenv("SUBPOP_TEST", "set after the first was prepared")
    prepare_workers("colorsys")
    workers = worker_processes(1)
    assert workers.submit(os.getenv, "SUBPOP_TEST").result() == "set after the first was prepared"
    workers.shutdown(kill_workers=True)
    discard_prepared()
    workers = worker_processes(1)
    assert workers.submit(os.getppid).result() == os.getpid()
    workers.shutdown(kill_workers=True)


def test_a_prepared_process_that_died_and_was_reaped_is_discarded_all_the_same():
    code = (
        "import os, signal\nfrom subpop.runtime.workers import discard_prepared, prepare_workers, worker_processes\n"
        "prepare_workers('colorsys')\npid = worker_processes(1).submit(os.getppid).result()\n"
        "os.kill(pid, signal.SIGKILL)\nos.waitpid(pid, 0)\ndiscard_prepared()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_fork_server_of_the_program_that_starts_a_session_is_left_alone():
    """It was used as the prepared process, and killed at the end: a pool of the program then waited for ever."""
    code = (
        "import os\nfrom multiprocessing import forkserver, get_context\n"
        "from subpop.runtime.workers import discard_prepared, prepare_workers, worker_processes\n"
        "own = get_context('forkserver')\nown.set_forkserver_preload(['sched'])\n"
        "with own.Pool(1) as pool:\n"
        "    parent = pool.apply(os.getppid)\n"
        "    prepare_workers('colorsys')\n"
        "    assert worker_processes(1).submit(os.getppid).result() not in (parent, os.getpid())\n"
        "    discard_prepared()\n"
        "    assert pool.apply(os.getppid) == parent\n"
        "assert forkserver._forkserver._preload_modules == ['sched']"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def short_path():
    """A folder of whose path a socket has room, which is not certain of pytest's own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_a_folder_for_temporary_files_that_is_deleted_meanwhile_costs_no_traceback(short_path):
    code = (
        "import shutil\nfrom subpop.runtime.workers import discard_prepared, prepare_workers\n"
        f"prepare_workers('colorsys')\nshutil.rmtree({str(short_path)!r})\ndiscard_prepared()"
    )
    env = {**os.environ, "TMPDIR": str(short_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert (done.stderr, done.returncode) == ("", 0)


def test_what_a_killed_session_leaves_is_deleted_by_the_next(short_path):
    code = "import os\nfrom subpop.runtime.workers import prepare_workers\nprepare_workers('colorsys')\n"
    env = {**os.environ, "TMPDIR": str(short_path)}
    subprocess.run([sys.executable, "-c", f"{code}os.kill(os.getpid(), 9)"], env=env, check=False, timeout=60)
    assert list(short_path.iterdir())
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)
    assert not list(short_path.iterdir())


@pytest.mark.parametrize("module", ["slow", ""])
def test_an_interrupt_reaches_no_process_that_still_imports(tmp_path, module):
    """A terminal sends Ctrl-C to all processes of a run, and those that were starting ended with a traceback."""
    (tmp_path / "slow.py").write_text("import time\n\ntime.sleep(1)\n")
    (tmp_path / "script.py").write_text(INTERRUPTED)
    command = [sys.executable, tmp_path / "script.py", *filter(None, [module])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert (done.stdout, done.stderr) == (f"{not module}\n", "")


def test_a_path_that_is_too_long_for_a_socket_costs_nothing_but_time(tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    prepare_workers("colorsys")
    workers = worker_processes(1)
    assert workers.submit(os.getppid).result() == os.getpid()
    workers.shutdown(kill_workers=True)
    discard_prepared()


def test_what_a_session_imports_beforehand_leaves_one_thread_and_knows_all_victims():
    """More threads could hold a lock at the moment of forking. The one of jemalloc, which pyarrow brings, looks after that."""
    code = (
        "import sys; from pathlib import Path; import subpop.session.preloaded\n"
        "print({'torch', 'sklearn.linear_model', 'subpop.victims.mlp_narrow', 'matplotlib.figure'} - set(sys.modules))\n"
        "print(*[path.read_text().strip() for path in Path('/proc/self/task').glob('*/comm')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **ONE_CORE}, capture_output=True, text=True, timeout=120
    )
    missing, threads = done.stdout.splitlines()
    assert missing == "set()"
    assert len([name for name in threads.split() if name != "jemalloc_bg_thd"]) == 1, threads


def test_starting_workers_does_not_change_what_other_threads_see_of_the_environment(tmp_path):
    """It emptied and refilled the environment for a moment, in which a plug-in's process could start without a PATH."""
    code = """
import os, threading, time
from subpop.runtime.workers import _Forked, discard_prepared, prepare_workers

before, seen, over = dict(os.environ), [], threading.Event()

def watch():
    while not over.is_set():
        seen.append(dict(os.environ) == before)

thread = threading.Thread(target=watch)
prepare_workers("colorsys")
thread.start()
ends = time.monotonic() + 1
while time.monotonic() < ends:
    _Forked.prepared.ensure_running()
over.set()
thread.join()
discard_prepared()
assert len(seen) > 100 and all(seen), (len(seen), seen.count(False))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_libraries_that_were_imported_before_a_worker_was_forked_have_one_thread():
    """Numba reads its number of threads once, when it is imported."""
    code = """
from subpop.runtime.workers import discard_prepared, prepare_workers, worker_processes

def threads():
    import sys
    return sys.modules["numba"].config.NUMBA_NUM_THREADS

prepare_workers("subpop.session.preloaded")
print(worker_processes(1).submit(threads).result())
discard_prepared()
"""
    env = {name: value for name, value in os.environ.items() if name not in ONE_CORE}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "1"
