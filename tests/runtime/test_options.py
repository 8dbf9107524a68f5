"""Options and settings that cannot be used are refused before anything runs, and paths follow the caller's folder."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from subpop.experiments.experiment import Experiment
from subpop.experiments.pools import check_executor
from subpop.runtime.options import check_device, check_device_name, check_timeout, place
from subpop.runtime.store import Store
from subpop.types import BadInput
from subpop.types.grid import grid

ROOT = Path(__file__).parents[2]
SUITE = '''"""Source: a test. Deviations: none."""
from subpop.types.grid import grid

shared = dict(tier="embedded", dataset="digits", victim="logistic_regression", partition="feature_match", n_seeds=1)
CELLS = grid(stem="{stem}", **shared, **{own})


def test_cell(cell, measure):
    measure(cell)
'''
BAD_CELLS = {
    "superscript": ({"rate": 1.0, "partition_seed": "²"}, "partition_seed=²"),
    "enormous": ({"rate": 1e9}, "rate=1e+09"),
    "rule": ({"rate": 1.0, "label_rule": "q"}, "label_rule=q"),
    "misspelt": ({"rate": 1.0, "samplin": "distinct"}, "did you mean sampling?"),
}
MANY_RUNS = """
import contextlib, io, json, os, sys
import pytest
from subpop.session.cli import main

for folder, environment, arguments in json.load(sys.stdin):
    os.chdir(folder)
    os.environ.update(environment)
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        command = main if arguments[0] == "report" else pytest.main
        status = command(arguments)
    print(json.dumps([int(status), told.getvalue(), "torch" in sys.modules]))
"""


def run_many(runs):
    """[(exit status, what was printed, whether torch is loaded)] of commands, one after another in one process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
    told = json.dumps([[str(folder), environment, arguments] for folder, environment, arguments in runs])
    command = [sys.executable, "-c", MANY_RUNS]
    done = subprocess.run(command, input=told, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def refused_options(project):
    (project / "loop.py").symlink_to("loop.py")
    (project / "folder.py").mkdir()
    os.mkfifo(project / "pipe.py")
    options = [
        (["--device", "bogus"], "--device bogus is unknown; use cpu, cuda"),
        (["--defense-timeout", "1e12"], "1e+12"),
        (["--tire", "laptop"], "did you mean: --tier\n"),
        (["--defense-timeout", "nan"], "nan must be a number of seconds"),
        (["--defense-timeout", "inf"], "inf must be a number of seconds"),
        (["--defense", "loop.py:f"], "loop.py cannot be read (Too many levels of symbolic links)"),
        (["--defense", "folder.py:f"], "is a folder"),
        (["--defense", "pipe.py:f"], "not a regular file"),
        (["--defense", f"{'x' * 300}.py:f"], "File name too long"),
    ]
    for name in ("dask", "ray"):
        missing = importlib.util.find_spec(name) is None
        options += [(["--executor", name, "--device", "cuda:1"], "pip install" if missing else "use --device cuda\n")]
    return [*options, (["--device", "cuda"], "needs an NVIDIA GPU"), (["--device", "cuda:7"], "needs an NVIDIA GPU")]


def test_what_cannot_be_used_is_refused_at_the_start_and_places_follow_the_caller(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    for stem, (own, _) in {**BAD_CELLS, "good": ({"rate": 1.0}, "")}.items():
        folder = tmp_path / (stem if stem in BAD_CELLS else "benchmarks")
        folder.mkdir(exist_ok=True)
        (folder / f"test_{stem}.py").write_text(SUITE.format(stem=stem, own=own), encoding="utf-8")
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    caller = tmp_path / "deep" / "below"
    caller.mkdir(parents=True)
    quiet = ["../../benchmarks/", "-q", "-p", "no:cacheprovider"]
    places = ["--store", "my/store.sqlite", "--report-dir", "../report", "--data-root", "data"]
    refused = refused_options(tmp_path)
    runs = [(caller, {}, [*quiet, "--device", "cpu", "-k", "nothing"]), (caller, {}, [*quiet, "-k", "good", *places])]
    runs += [(caller, {}, ["report", "--store", "my/store.sqlite", "--report-dir", "again"])]
    runs += [(tmp_path, {}, ["benchmarks/", "-q", "-p", "no:cacheprovider", *options]) for options, _ in refused]
    runs += [(tmp_path, {}, [f"{stem}/", "-q", "-p", "no:cacheprovider"]) for stem in BAD_CELLS]
    runs += [(tmp_path, {"GITHUB_STEP_SUMMARY": str(tmp_path)}, ["benchmarks/", "-q"])]
    nothing, good, report, *others, summary = run_many(runs)
    bad, suites = others[: len(refused)], others[len(refused) :]
    assert nothing[0] == 5
    assert not nothing[2], "torch was loaded to check --device cpu"
    assert (caller / "my" / "store.sqlite").is_file()
    assert f"report: {tmp_path / 'deep' / 'report' / 'README.md'}" in good[1]
    assert (tmp_path / "deep" / "report" / "README.md").is_file()
    assert str(caller / "again" / "README.md") in report[1]
    for (options, said), (status, told, _) in zip(refused, bad, strict=True):
        assert status == 4, (options, told)
        assert said in told, (options, told)
        assert "Traceback" not in told, (options, told)
    for (stem, (_, said)), (status, told, _) in zip(BAD_CELLS.items(), suites, strict=True):
        assert status == 2, (stem, told)  # an error while the suite is collected, with its line
        assert said in told, (stem, told)
        assert f"test_{stem}.py:5" in told, (stem, told)
    assert summary[0] == 4
    assert f"$GITHUB_STEP_SUMMARY names {tmp_path}" in summary[1]


def test_devices_and_limits():
    for good in ("cpu", "cuda", "cuda:0", "cuda:12"):
        check_device_name(good)
    check_device("cpu")
    for bad in ("", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "mps", "meta"):
        with pytest.raises(BadInput, match="use cpu, cuda"):
            check_device(bad)
    assert check_timeout(0.5) == 0.5
    for bad in (0, -1, float("nan"), float("inf"), 1e12):
        with pytest.raises(BadInput, match="number of seconds above 0"):
            check_timeout(bad)


def test_an_executor_whose_package_is_missing_is_refused(monkeypatch):
    monkeypatch.setattr("subpop.experiments.pools.find_spec", lambda name: None)
    check_executor("loky")
    for name in ("dask", "ray"):
        with pytest.raises(BadInput, match=rf"--executor {name} needs the package .*\[{name}\]"):
            check_executor(name)


def test_places(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place("a/../b", tmp_path) == tmp_path / "b"
    assert place("~/x", Path("/elsewhere")) == tmp_path / "x"
    assert place("/absolute", tmp_path) == Path("/absolute")
    with pytest.raises(BadInput, match="without ~"):
        place("~nobody-of-that-name/x", tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"partition_seed": "²"}, "partition_seed=²"),
        ({"partition_seed": "-1"}, "partition_seed=-1"),
        ({"split": "1" * 5000}, "at most 999999999"),
        ({"n_attacked": "1.5"}, "n_attacked=1.5"),
        ({"max_length": "³"}, "max_length=³"),
        ({"max_length": "0"}, "max_length=0"),
        ({"rate": 1e9}, "rate=1e[+]09"),
        ({"rate": float("inf")}, "rate=inf"),
        ({"label_rule": "q"}, "own, common, rarest"),
        ({"smapling": "distinct"}, "did you mean sampling?"),
        ({"worlds": "paired"}, "does not apply to a cell of kind poisoning"),
        ({"epsilon": "16"}, "does not apply to a cell of kind poisoning with attack label_flip"),
        ({"against": "x"}, "does not apply to a cell of kind poisoning"),
        ({"sampling": "twice"}, "with_replacement, distinct"),
        ({"n_poison_told": "third"}, "exact, half, twice"),
        ({"groups_told": "all"}, "target, superset, unrelated"),
        ({"panels": "maybe"}, "yes, no"),
        ({"attacked_by": "x"}, "least_confident"),
        ({"attack": "gradient_match", "objective": "x"}, "inner"),
        ({"alpha_base": "x"}, "aux, train"),
        ({"holdout": "nan"}, "holdout=nan"),
        ({"attack": "influence", "epsilon": "nan"}, "epsilon=nan"),
        ({"holdot": "0.1"}, "did you mean holdout?"),
        ({"n_seeds": 0}, "n_seeds=0"),
    ],
)
def test_a_setting_that_cannot_be_used_is_refused_without_data(changes, said, tmp_path):
    good = grid(stem="s", tier="embedded", dataset="nowhere", victim="none", partition="feature_match", rate=1.0)[0]
    with pytest.raises(BadInput, match=said):
        good.with_(**changes)


def test_a_rate_beyond_all_rows_and_a_rule_for_two_classes_are_refused_before_training(tmp_path, monkeypatch):
    [cell] = grid(
        stem="s", tier="embedded", dataset="digits", victim="logistic_regression", partition="feature_match", rate=100, n_seeds=1
    )
    monkeypatch.setattr(Experiment, "run_chunk", lambda *_: pytest.fail("it trains"))
    monkeypatch.setattr("subpop.attacks.drawing.MOST_POISON", 1)
    with Store(tmp_path / "store.sqlite") as store:
        with pytest.raises(BadInput, match="more than 1 times the"):
            Experiment.on(store).run(cell.with_(alpha_base="aux"))
        three = cell.with_(dataset="mixture_multiclass", rate=1.0, label_rule="own")
        with pytest.raises(BadInput, match=r"label_rule=own .* has 3; use common or rarest"):
            Experiment.on(store).run(three)
