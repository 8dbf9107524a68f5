"""A small project of its own, run as a user runs it."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from subpop.harness.plugins import DefenseSpec, parse_plugin

ROOT = Path(__file__).parents[1]
SUITE = '''"""Source: a test. Deviations: none."""
from subpop.types.grid import grid

open_to_defenses = True
CELLS = grid(stem="little", tier="embedded", dataset="digits", victim="logistic_regression", partition="feature_match",
             rate=RATES, sampling="distinct", n_seeds=2, defense=["none", "trim", "matched_random_filter:trim"])


def test_cell(cell, measure):
    measure(cell)


def test_claim(sweep, result_of):
    assert all(result_of(cell)["clean_accuracy"] > 0.8 for cell in sweep)
'''


CLOCK = "seconds_a_trial"
"""The metric of every cell that a clock measures."""


def make_project(folder, rates=(0.5, 1.0)):
    """A checkout of one small suite, with six cells for two rates."""
    (folder / "benchmarks").mkdir()
    (folder / "baselines").mkdir()
    (folder / "benchmarks" / "test_little.py").write_text(SUITE.replace("RATES", str(list(rates))))
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def parse_defense(spec, base_dir):
    """The defense that `--defense` names."""
    return parse_plugin(DefenseSpec, spec, base_dir, "--defense ")


def command(*options):
    return [sys.executable, "-m", "pytest", "benchmarks/", "-q", "-p", "no:cacheprovider", *options]


def run(project, *options, **environment):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(command(*options), cwd=project, env=env, capture_output=True, text=True, check=False, timeout=240)


def run_all(projects, options):
    """A process for each project and its options, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda project, own: run(project, *own), projects, options))


def numbers(project, folder="runs/report"):
    """Every number of a run by cell and metric, without what a clock says."""
    cells = json.loads((project / folder / "results.json").read_text())["cells"]
    keys = ("stem", "dataset", "victim", "partition", "rate", "defense", "setting", "subpopulation", "metric")
    return {tuple(c[k] for k in keys): (c["value"], c["std_error"]) for c in cells if c["metric"] != CLOCK}
