"""`-n N` in real pytest processes: N processes train, the tests stay in one, and the verdict is that of a run without."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_projects import CLOCK

from subpop.session.collecting import declares_cells, names_suites, take_over_processes
from subpop.types import BadInput

ROOT = Path(__file__).parents[2]
SUITE = '''"""Source: a test. Deviations: none."""
import os
from subpop.types.grid import grid

COMMON = dict(stem="little", tier="embedded", dataset="digits", victim="logistic_regression", partition="feature_match",
              sampling="distinct", n_seeds=1)
CELLS = [*grid(rate=[0.5, 1.0], defense=["none", "trim", "matched_random_filter:trim"], **COMMON),
         *grid(**{**COMMON, "victim": "mlp"}, rate=1.0),
         *grid(**{**COMMON, "tier": "paper", "dataset": "embeddings:nowhere.npz"}, rate=1.0)]


def test_cell(cell, measure):
    measure(cell)
    with open("who_tests", "a") as file:
        file.write(f"{os.getpid()}\\n")


def test_claim(sweep, result_of):
    assert all(result_of(cell)["clean_accuracy"] > 0.5 for cell in sweep)
'''


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jobs")
    for name in ("benchmarks", "baselines", "tests"):
        (folder / name).mkdir()
    (folder / "benchmarks" / "test_little.py").write_text(SUITE)
    (folder / "tests" / "test_own.py").write_text("def test_one(worker_id):\n    assert worker_id.startswith('gw')\n")
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def run(folder, *options):
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}  # else no benchmarks
    env = {**outside, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=200)


def results(folder, name):
    """All of results.json but what a clock or the command says."""
    told = json.loads((folder / name / "results.json").read_text())
    for key in ("seconds", "started", "command"):
        told.pop(key)
    told["cells"] = [cell for cell in told["cells"] if cell["metric"] != CLOCK]
    for cell in told["cells"]:
        cell.pop("seconds")
    return told


def test_the_verdict_is_that_of_a_run_without(project, as_many_threads_as_cores):
    recorded = run(project, "benchmarks/", "-n", "2", "--rebaseline", "--store", "a.sqlite", "--report-dir", "a")
    assert recorded.returncode == 1, recorded.stdout
    assert recorded.stdout.index("subpop: planning 7 cells") < recorded.stdout.index("subpop plan: 7 cells")
    assert "report: " in recorded.stdout
    (project / "who_tests").unlink()
    ahead = run(project, "benchmarks/", "-n2", "--store", "b.sqlite", "--report-dir", "b", "--benchmark-json", "b.json")
    assert ahead.returncode == 0, ahead.stdout
    assert len(set((project / "who_tests").read_text().split())) == 1
    here = run(project, "benchmarks/", "-p", "no:xdist", "--store", "c.sqlite", "--report-dir", "c")
    assert here.returncode == 0, here.stdout
    assert results(project, "b") == results(project, "c")
    timed = json.loads((project / "b.json").read_text())["benchmarks"]
    assert len(timed) == 7
    assert all(each["stats"]["mean"] > 0 and each["extra_info"]["n_fits"] >= 0 for each in timed)


def test_without_xdist_and_with_every_cell_skipped(project):
    done = run(project, "benchmarks/", "-p", "no:xdist", "-n", "2", "--tier", "paper", "--report-dir", "d", "--store", "d.sqlite")
    assert done.returncode == 1, done.stdout + done.stderr
    assert results(project, "d")["complete"]
    assert (project / "d" / "README.md").read_text().splitlines()[2].startswith("**Nothing was measured**")
    refused = run(project, "tests/", "-p", "no:xdist", "-n", "2")
    assert refused.returncode == 4
    assert "pytest-xdist" in refused.stderr


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_full_store_ends_the_run_with_a_sentence(project, jobs):
    """Every further cell was trained for nothing, and failed with a traceback."""
    (project / "small_store.py").write_text(
        "from subpop.runtime.store import Store\n\n_open = Store._open\n\n\ndef small(store):\n    _open(store)\n"
        "    store._connection.execute('PRAGMA max_page_count = 35')\n\n\nStore._open = small\n"
    )
    places = ("--store", f"full{jobs}.sqlite", "--report-dir", f"full{jobs}")
    done = run(project, "benchmarks/", "-n", jobs, "-p", "small_store", "--no-references", *places)
    assert done.returncode == 2, done.stdout
    assert done.stdout.count("cannot be used") == 1
    assert f"full{jobs}.sqlite cannot be used (database or disk is full); free some disk space, or name another" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "store.py" not in done.stdout
    assert "Interrupted by a store that takes nothing any longer: " in done.stdout
    assert len(done.stdout.splitlines()) < 30
    again = run(project, "benchmarks/", "-p", "no:xdist", "--no-references", *places)
    assert again.returncode == 0, again.stdout
    assert ", 0 of them in the store" not in again.stdout, "what was measured is lost"


def test_training_processes_that_fail_are_reported_and_cost_no_cell(project):
    """The run used to train everything in one process without a word."""
    (project / "broken_workers.py").write_text(
        "import subpop.experiments.executors\n\n\ndef broken(*told):\n    raise RuntimeError('no worker today')\n\n\n"
        "subpop.experiments.executors.pool_of = broken\n"
    )
    done = run(
        project, "benchmarks/", "-n", "2", "-p", "broken_workers", "--store", "f.sqlite", "--report-dir", "f", "-k", "test_cell"
    )
    told = "the training processes failed (RuntimeError: no worker today); the remaining trials are trained in this process"
    assert done.stdout.count("training processes failed") == 1
    assert done.stdout.index(told) < done.stdout.index("[100%]"), "it was told after the last test"
    cells = results(project, "f")["cells"]
    assert cells
    assert not [cell for cell in cells if cell["verdict"] == "error"]


@pytest.mark.parametrize("options", [("--jobs", "-3"), ("-n", "0", "--executor", "dask"), ("-n", "0", "--executor", "ray")])
def test_a_number_of_processes_that_is_none_is_refused_before_anything_waits_for_them(project, options):
    """A cluster without workers was waited for without end."""
    done = run(project, "benchmarks/", "--store", "n.sqlite", "--report-dir", "n", *options)
    assert done.returncode == 4
    assert f"{options[1]} is not a number of processes" in done.stderr
    assert "give 1 or more" in done.stderr


def test_other_tests_keep_pytest_xdist(project):
    done = run(project, "tests/", "-n", "2")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_which_arguments_name_suites(project):
    patterns = ["test_*.py", "*_test.py"]
    assert names_suites(["benchmarks/"], project, patterns)
    assert names_suites(["benchmarks/test_little.py::test_claim"], project, patterns)
    assert names_suites(["."], project, patterns)
    assert not names_suites(["tests/"], project, patterns)
    assert not names_suites(["nowhere"], project, patterns)
    assert not names_suites(["tests"], ROOT, patterns), "the project's own tests are no suites"
    assert all(declares_cells(path) for path in (ROOT / "benchmarks").glob("test_*.py"))


@pytest.mark.parametrize(
    ("asked", "most", "jobs", "found"),
    [("2", None, None, 2), (3, 2, None, 2), ("2", None, 5, 5), (None, None, None, None), (0, None, None, 0)],
)
def test_the_number_of_processes_is_taken_over(asked, most, jobs, found):
    class Option:
        numprocesses, maxprocesses, dist, tx = asked, most, "load", ["popen"]

    option = Option()
    option.jobs = jobs
    take_over_processes(option)
    assert (option.jobs, option.numprocesses, option.dist, option.tx) == (found, None, "no", [])
    option.jobs, option.numprocesses = None, "auto"
    take_over_processes(option)
    assert option.jobs >= 1


@pytest.mark.parametrize("asked", ["many", "-1", "1.5"])
def test_what_is_no_number_of_processes_is_refused(asked):
    with pytest.raises(BadInput, match=f"-n {asked} is not a number of processes; give a whole number such as 2, or auto"):
        take_over_processes(SimpleNamespace(numprocesses=asked, jobs=None))


def test_the_projects_own_tests_need_no_xdist():
    command = [sys.executable, "-m", "pytest", "tests", "-p", "no:xdist", "--markers"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
