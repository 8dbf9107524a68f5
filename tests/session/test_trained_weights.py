"""Digests of trained weights: noted for the first trainings of each victim, and kept where nothing is trained again."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from subpop import victims
from subpop.session import trained_weights
from subpop.session.trained_weights import FILE, MOST, read_weights, weights_of
from subpop.types import FleetJob, Pool

ROOT = Path(__file__).parents[2]


class Session:
    """A pytest configuration with a folder of reports."""

    def __init__(self, folder):
        self.invocation_params, self.cleanups, self.option = SimpleNamespace(dir=folder), [], SimpleNamespace()

    def getoption(self, name):
        return {"--report-dir": "report"}[name]

    def add_cleanup(self, function):
        self.cleanups.append(function)


def noted_by(folder, monkeypatch, train):
    """What a session notes that trains in this way."""
    with monkeypatch.context() as patched:
        patched.setattr(victims, "VICTIMS", dict(victims.VICTIMS))
        session = Session(folder)
        trained_weights.pytest_configure(session)
        train(victims.make_victim)
        for function in session.cleanups:
            function()
    return read_weights(folder / "report" / FILE)


def jobs(n):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    pool = Pool(x, y, n_train=30, n_classes=2)
    return [FleetJob(pool, np.arange(i % 5, 30), y[i % 5 : 30]) for i in range(n)]


def test_the_first_trainings_of_a_victim_are_noted(tmp_path, monkeypatch):
    found = noted_by(tmp_path, monkeypatch, lambda make: make("mlp").fit_many(jobs(MOST + 5), range(MOST + 5)))
    assert len(found["mlp"]) == len(set(found["mlp"].values())) == MOST
    assert found["conv_net"] == {}
    (model,) = victims.make_victim("mlp").fit_many(jobs(1), [0])
    assert next(iter(found["mlp"].values())) == weights_of(model.state())


def test_a_session_that_trains_nothing_keeps_what_was_noted(tmp_path, monkeypatch):
    before = noted_by(tmp_path, monkeypatch, lambda make: make("mlp").fit_many(jobs(2), [0, 1]))
    assert len(before["mlp"]) == 2
    assert noted_by(tmp_path, monkeypatch, lambda make: None) == before


def test_weights_are_noted_where_workers_were_asked_for(tmp_path):
    cell = "feature_match and test_cell and digits and mlp and 0.5 and none and split"
    command = [sys.executable, "-m", "subpop", "run", "-q", "-n", "2", "-k", cell, "-p", trained_weights.__name__]
    places = ["--store", str(tmp_path / "store.sqlite"), "--report-dir", str(tmp_path / "report")]
    run = subprocess.run([*command, *places], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert "training processes failed" not in run.stdout + run.stderr
    assert len(read_weights(tmp_path / "report" / FILE)["mlp"]) == MOST


def test_one_rounding_is_another_digest_and_names_of_files_are_not():
    weights = np.ones(3, np.float32)
    state = {"w": weights, "origin": np.array("folder")}
    assert weights_of({"w": np.nextafter(weights, np.float32(2)), "origin": np.array("folder")}) != weights_of(state)
    assert weights_of({"w": weights, "origin": np.array("elsewhere"), "n": np.array(3)}) == weights_of(state)


@pytest.mark.parametrize("name", ["mlp", "logistic_regression"])
def test_a_watched_victim_is_the_same_victim(tmp_path, monkeypatch, name):
    (before,) = victims.make_victim(name).fit_many(jobs(1), [0])
    trained = []
    noted_by(tmp_path, monkeypatch, lambda make: trained.extend(make(name).fit_many(jobs(1), [0])))
    assert weights_of(trained[0].state()) == weights_of(before.state())
    assert type(trained[0]) is type(before)
