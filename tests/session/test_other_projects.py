"""The plug-in in somebody else's project: it touches what belongs to suites and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGIN = 'pytest_plugins = ["subpop.pytest_plugin"]\n'
THEIR_SPEED = "def test_of_theirs(benchmark):\n    benchmark(sum, [1, 2])\n"
THEIR_TESTS = """
import pytest

@pytest.mark.parametrize("cell", [])
def test_nothing(cell):
    pass

def test_something():
    pass
"""
SUITE = '''"""Source: a test. Deviations: none."""
import pytest
from subpop.types.grid import grid

CELLS = grid(stem="little", tier="embedded", dataset="digits", victim="logistic_regression", partition="feature_match",
             rate=[0.5, 1.0], sampling="distinct", n_seeds=1)


def test_cell(cell, measure):
    measure(cell)


@pytest.mark.cells(@@)
def test_claim(sweep, result_of):
    assert all(result_of(cell)["clean_accuracy"] > 0.8 for cell in sweep)
'''


def pytest_in(folder, *options, **environment):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}  # else no benchmarks
    env = {**outside, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120)


def project(folder, **files):
    (folder / "conftest.py").write_text(PLUGIN)
    (folder / "pytest.ini").write_text("[pytest]\n")
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_their_tests_and_tables_are_left_alone(tmp_path):
    project(tmp_path, test_speed_of_theirs=THEIR_SPEED, test_theirs=THEIR_TESTS)
    done = pytest_in(tmp_path, "-ra")
    assert "2 passed, 1 skipped" in done.stdout, done.stdout
    assert "test_of_theirs" in done.stdout
    assert "Name (time in" in done.stdout
    assert not (tmp_path / "runs").exists()


def test_cells_of_another_meaning_are_theirs(tmp_path):
    """A spreadsheet, or a biologist's project, has CELLS too."""
    theirs = 'CELLS = {"A1": 3}\n\ndef test_theirs():\n    assert CELLS["A1"] == 3\n'
    project(tmp_path, test_theirs=theirs, test_more=theirs.replace('{"A1": 3}', "[1]").replace('CELLS["A1"] == 3', "CELLS"))
    done = pytest_in(tmp_path)
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_a_read_only_folder_is_no_reason_to_refuse_their_tests(tmp_path):
    project(tmp_path, test_theirs="def test_something():\n    pass\n")
    (tmp_path / "runs").write_text("a file of theirs")
    assert "1 passed" in pytest_in(tmp_path).stdout


def test_what_a_suite_drops_is_reported(tmp_path):
    project(tmp_path, test_little=SUITE.replace("@@", "rate=0.5"), test_speed_little=SUITE.replace("@@", ""))
    done = pytest_in(tmp_path, "--collect-only", "--tier", "laptop")
    assert "4 deselected" in done.stdout, done.stdout
    assert not (tmp_path / "runs").exists()


def test_misspelt_marks_are_one_usage_error(tmp_path):
    told = {
        'defence="none"': "did you mean 'defense'?",
        'sampled="distinct"': "did you mean 'sampling'?",
        'defense="nothing"': "matches no cell of this suite in any tier",
    }
    suites = {f"test_little_{i}": SUITE.replace("@@", fields) for i, fields in enumerate(told)}
    project(tmp_path, **suites)
    done = pytest_in(tmp_path, "--collect-only")
    assert done.returncode == 4, done.stdout
    for words, line in zip(told.values(), done.stderr.splitlines(), strict=False):
        assert words in line
        assert "test_claim" in line


@pytest.mark.parametrize("listing", ["--fixtures", "--setup-plan"])
def test_listings_make_no_plan(tmp_path, listing):
    project(tmp_path, test_little=SUITE.replace("@@", ""))
    done = pytest_in(tmp_path, listing)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "subpop plan" not in done.stdout
    assert not (tmp_path / "runs").exists()


def test_a_suite_s_page_begins_with_its_docstring_wherever_it_lies(tmp_path):
    project(tmp_path, test_little='"""What this little suite is for."""\n' + SUITE.replace("@@", ""))
    pytest_in(tmp_path, "-k", "test_cell")
    assert "What this little suite is for." in (tmp_path / "runs/report/little.md").read_text()


def test_cells_stay_out_of_the_benchmark_table_and_in_its_file(tmp_path):
    project(tmp_path, test_little=SUITE.replace("@@", ""), test_speed_of_theirs=THEIR_SPEED)
    done = pytest_in(tmp_path, "--benchmark-json", "b.json")
    table = done.stdout.partition("Name (time in")[2].partition("Legend")[0]
    assert "test_of_theirs" in table
    assert "test_cell" not in table
    names = {each["name"].partition("[")[0] for each in json.loads((tmp_path / "b.json").read_text())["benchmarks"]}
    assert "test_of_theirs" in names
