"""The harness as its users meet it: real pytest processes on the embedded tier, in a folder of their own."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from small_projects import CLOCK, ROOT, command, make_project, numbers, run, run_all


@pytest.fixture
def project(tmp_path):
    return make_project(tmp_path)


@pytest.fixture(scope="module")
def recorded_once(tmp_path_factory):
    """The small project with its references recorded."""
    folder = make_project(tmp_path_factory.mktemp("recorded"))
    first = run(folder, "--rebaseline")
    assert first.returncode == 1, first.stdout
    return folder


@pytest.fixture
def recorded(recorded_once, tmp_path):
    return Path(shutil.copytree(recorded_once, tmp_path / "project"))


def test_a_run_without_references_fails_and_says_how_to_record_them(recorded):
    (recorded / "baselines" / "little.csv").unlink()
    done = run(recorded)
    assert done.returncode == 1
    assert "--rebaseline" in done.stdout


def test_recorded_references_pass_and_the_second_run_trains_nothing(recorded):
    done = run(recorded)
    assert done.returncode == 0, done.stdout
    assert "subpop plan: 6 cells" in done.stdout
    assert all(c["from_store"] for c in json.loads((recorded / "runs/report/results.json").read_text())["cells"])
    assert (recorded / "runs/report/README.md").exists()


def test_a_damaged_chunk_is_trained_again_and_said_once(recorded):
    """A stored number that was changed is not served; the other cells come from the store."""
    before = numbers(recorded)
    with sqlite3.connect(recorded / "runs" / "store.sqlite", isolation_level=None) as connection:
        connection.execute("UPDATE trials SET attacked = 1 - attacked WHERE id = 3")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    done = run(recorded)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("are damaged") == 1, done.stdout
    assert numbers(recorded) == before
    cells = json.loads((recorded / "runs/report/results.json").read_text())["cells"]
    assert len({(c["rate"], c["defense"]) for c in cells if not c["from_store"]}) == 1


def test_a_moved_reference_fails_its_cell_alone(recorded):
    path = recorded / "baselines" / "little.csv"
    lines = path.read_text().splitlines()
    header = lines[0].split(",")
    at = next(i for i, line in enumerate(lines) if "target_damage_worst_5," in line and ",none," in line)
    fields = lines[at].split(",")
    fields[header.index("value")] = str(float(fields[header.index("value")]) + 0.1)
    lines[at] = ",".join(fields)
    path.write_text("\n".join(lines) + "\n")
    done = run(recorded)
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    assert "target_damage_worst_5" in done.stdout
    assert fields[header.index("value")][:6] in done.stdout


def test_a_deleted_reference_and_a_deleted_metric_fail(recorded, tmp_path):
    other = Path(shutil.copytree(recorded, tmp_path / "other"))
    path = Path("baselines") / "little.csv"
    lines = (recorded / path).read_text().splitlines()
    (recorded / path).write_text("\n".join(line for line in lines if "collateral_damage_max" not in line) + "\n")
    gone = lines[1].replace(lines[1].split(",")[9], "a_metric_nobody_measures")
    (other / path).write_text("\n".join([*lines, gone]) + "\n")
    no_reference, no_metric = run_all([recorded, other], [[], []])
    assert no_reference.returncode == 1
    assert "collateral_damage_max" in no_reference.stdout
    assert no_metric.returncode == 1
    assert "a_metric_nobody_measures" in no_metric.stdout


def test_options_are_refused_before_anything_runs(project):
    (project / "in_the_way").write_text("")
    refused = [
        (["--tier", "huge"], "embedded"),
        (["--executor", "cloud"], "loky"),
        (["--defense", "nowhere.py:f"], "nowhere.py"),
        (["--defense-timeout", "0"], "above 0"),
        (["--report-dir", "in_the_way/report"], "in_the_way"),
        (["--store", "benchmarks"], "folder"),
    ]
    for (options, word), done in zip(refused, run_all([project] * len(refused), [own for own, _ in refused]), strict=True):
        assert done.returncode == 4, (options, done.stdout)
        assert word in done.stdout + done.stderr


def test_a_doubled_reference_and_an_unknown_suite_are_told_before_anything_runs(recorded):
    path = recorded / "baselines" / "little.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]) + "\n")
    done = run(recorded)
    assert done.returncode == 4
    assert "little.csv" in done.stdout + done.stderr
    nothing = run(recorded, "-k", "table99")
    assert nothing.returncode == 5
    assert "little" in nothing.stdout


def test_plug_ins_cost_their_own_cells_only(recorded):
    (recorded / "mine.py").write_text(
        "import sys, time\nimport numpy as np\nfrom subpop import Defended\n"
        "def good(train, fit, know, *, seed):\n    return Defended(fit(train))\n"
        "def crash(train, fit, know, *, seed):\n    raise RuntimeError('no idea')\n"
        "def leave(train, fit, know, *, seed):\n    sys.exit(3)\n"
        "def hang(train, fit, know, *, seed):\n    time.sleep(1000)\n"
        "class Nan:\n"
        "    def predict_proba(self, x):\n        return np.full((len(x), 2), np.nan, np.float32)\n"
        "    def features(self, x):\n        return x\n"
        "def nan(train, fit, know, *, seed):\n    return Defended(Nan())\n"
    )
    functions = ["good", "crash", "leave", "hang", "nan"]
    names = [f"mine.{function}" for function in functions]
    done = run(recorded, *[f"--defense=mine.py:{function}" for function in functions], "--defense-timeout", "1", "--no-integrity")
    assert done.returncode == 1
    rows = json.loads((recorded / "runs/report/results.json").read_text())["cells"]
    gated = [row for row in rows if row["verdict"] != "not_gated" and row["metric"] != CLOCK]
    verdicts = {name: {row["verdict"] for row in gated if row["defense"] == name} for name in ["none", "trim", *names]}
    assert verdicts["none"] == verdicts["trim"] == {"pass"}
    assert verdicts["mine.good"] == {"no_reference"}
    for name in names[1:]:
        assert verdicts[name] == {"error"}, name
    assert "no idea" in done.stdout
    assert "--defense-timeout" in done.stdout
    same = numbers(recorded)
    for key, value in same.items():
        if key[5] == "mine.good" and not key[8].startswith(("defended", "kkt")):
            assert value == same[(*key[:5], "none", *key[6:])], key


def test_a_plug_in_cannot_take_a_built_in_name(project):
    (project / "trim.py").write_text("def trim(train, fit, know, *, seed):\n    return None\n")
    done = run(project, "--defense", "trim.py:trim")
    assert done.returncode == 4
    assert "built-in" in done.stdout + done.stderr


CHEATS = '''
import numpy as np
from subpop import Defended

def last_rows(train, fit, know, *, seed):
    """Poison appended last?"""
    keep = np.arange(len(train)) < len(train) - know.n_poison
    return Defended(fit(train[keep]), keep)

def flags(train, fit, know, *, seed):
    """Any attribute that tells?"""
    found = [getattr(know, name) for name in dir(know) if "mask" in name and getattr(know, name) is not None]
    keep = ~found[0] if found else np.ones(len(train), bool)
    return Defended(fit(train[keep]), keep)

def twins(train, fit, know, *, seed):
    """Exact duplicates?"""
    rows = np.column_stack([train.x, train.y])
    _, group, count = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
    keep = count[group.ravel()] == 1
    return Defended(fit(train[keep]), keep)

def rebuilt_shuffle(train, fit, know, *, seed):
    """The shuffle from the seed, in the ways that come to mind, and by the harness's own function."""
    from subpop.runtime.seeds import derived_seed
    n = len(train)
    guesses = [np.random.default_rng(s).permutation(n) for s in (seed, derived_seed("shuffle", seed), derived_seed(seed))]
    guesses.append(np.random.RandomState(seed % 2**32).permutation(n))
    keep = ~(guesses[seed % len(guesses)] >= n - know.n_poison)
    return Defended(fit(train[keep]), keep)

last_rows.needs = flags.needs = rebuilt_shuffle.needs = {"n_poison"}
'''


def test_cheats_gain_nothing(project):
    """They remove poison no better than at random, which is n_poison / n of it."""
    (project / "cheat.py").write_text(CHEATS)
    functions = ["last_rows", "flags", "twins", "rebuilt_shuffle"]
    options = [f"--defense=cheat.py:{function}" for function in functions]
    run(project, *options, "--no-integrity", "-k", "cheat and not matched_random_filter")
    found = numbers(project)
    for function in functions:
        for rate in (0.5, 1.0):
            recall = [v for k, v in found.items() if k[5] == f"cheat.{function}" and k[4] == rate and k[8] == "poison_recall"]
            assert recall, function
            assert recall[0][0] < 0.25, (function, rate, recall)


@pytest.mark.slow
def test_twenty_kills_change_nothing(project):
    undisturbed = project / "undisturbed"
    shutil.copytree(project / "benchmarks", undisturbed / "benchmarks")
    for name in ("conftest.py", "pytest.ini"):
        shutil.copy(project / name, undisturbed / name)
    (undisturbed / "baselines").mkdir()
    started = time.monotonic()
    run(undisturbed)
    length = time.monotonic() - started

    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    rng = random.Random(0)
    chunks = 0
    for _ in range(20):
        process = subprocess.Popen(
            command(), cwd=project, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(rng.uniform(0.3, 1.0) * length)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        store = project / "runs" / "store.sqlite"
        if store.exists():
            with sqlite3.connect(store) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                found = connection.execute("SELECT count(*) FROM chunks").fetchone()[0] if chunks else 0
                assert found >= chunks
                chunks = found
    run(project)
    assert numbers(project) == numbers(undisturbed)
