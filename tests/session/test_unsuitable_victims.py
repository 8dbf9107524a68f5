"""A victim that cannot be used costs its own cells, told in one line; everything else of the run goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from subpop.types import BadInput
from subpop.victims import make_victim

ROOT = Path(__file__).parents[2]
VICTIMS = r"""
import sys
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LinearRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

def good_pipeline():
    return make_pipeline(StandardScaler(), GaussianNB())

def regression_pipeline():
    return make_pipeline(StandardScaler(), LinearRegression())

def nothing():
    return None

def fails():
    raise KeyError("two\nlines \x1b[31m")

def leaves():
    sys.exit("enough")

number = 3

class Untrainable(ClassifierMixin, BaseEstimator):
    def fit(self, x, y):
        raise RuntimeError("not today")

class Leaves(Untrainable):
    def fit(self, x, y):
        sys.exit(5)

class Mute(ClassifierMixin, BaseEstimator):
    def fit(self, x, y):
        self.classes_ = np.unique(y)
        return self
"""
UNSUITABLE = {
    "my_victims:regression_pipeline": "does not predict classes",
    "my_victims:nothing": "NoneType",
    "my_victims:fails": "KeyError: 'two\\nlines",
    "my_victims:leaves": "SystemExit: enough",
    "my_victims:number": "cannot be fitted",
    "my_victims:Untrainable": "RuntimeError: not today",
    "my_victims:Mute": "neither predict_proba",
    "my_victims:absent": "cannot be imported",
    "nowhere_at_all:Absent": "cannot be imported",
    "broken_victims:Any": "ZeroDivisionError",
    ":": "names no function; write package.module:Class",
}
SUITE = f'''"""Source: a test. Deviations: none."""
from subpop.types.grid import grid

CELLS = grid(stem="little", tier="embedded", dataset="digits", partition="feature_match", rate=1.0, n_seeds=1,
             victim=["logistic_regression", "my_victims:good_pipeline", *{list(UNSUITABLE)}])


def test_cell(cell, measure):
    measure(cell)
'''


def test_an_unsuitable_victim_costs_its_own_cells(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "test_little.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "my_victims.py").write_text(VICTIMS)
    (tmp_path / "broken_victims.py").write_text("1 / 0\n")
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "PYTHONDONTWRITEBYTECODE": "1"}
    env["LOKY_MAX_CPU_COUNT"] = "1"  # no worker processes: starting them would take longer than all else
    command = [sys.executable, "-m", "pytest", "benchmarks/", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    rows = json.loads((tmp_path / "runs" / "report" / "results.json").read_text())["cells"]
    measured = {row["victim"] for row in rows if row["metric"] == "clean_accuracy" and row["value"] > 0.5}
    assert measured == {"logistic_regression", "my_victims:good_pipeline"}
    reasons = {row["victim"]: row["reason"] for row in rows if row["verdict"] == "error"}
    assert reasons.keys() == UNSUITABLE.keys()
    for victim, said in UNSUITABLE.items():
        assert said in reasons[victim], victim
        assert "\n" not in reasons[victim], victim
    assert "nowhere_at_all:Absent-feature-label_flip-1-none cannot run: victim 'nowhere_at_all:Absent'" in done.stdout


@pytest.mark.parametrize("name", [":", ":Class", "module:", "os:path.join", "json:decoder:JSONDecoder"])
def test_a_name_that_leads_nowhere_is_refused(name):
    with pytest.raises(BadInput, match="module:Class"):
        make_victim(name)
