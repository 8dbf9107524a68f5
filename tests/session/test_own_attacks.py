"""User-supplied attacks: what they receive, what they may return, and what a failing one costs."""

import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import subpop
from subpop import BadInput
from subpop.attacks import AttackTask
from subpop.attacks.user_attacks import user_attack
from subpop.harness.attack_child import checked
from subpop.harness.batching import DefenseError
from subpop.harness.plugins import AttackSpec, parse_plugin
from subpop.testing import check_attack
from subpop.types import AttackSample, Pool
from subpop.types.specifications import LabelFlip
from tests.small_projects import ROOT, make_project, run

FLIPS = """
    import numpy as np

    def flips(sample, count, *, seed, shift=0.0):
        rows = np.random.default_rng(seed).choice(sample.members, count, replace=True)
        labels = 1 - sample.y[rows] if sample.target is None else np.full(count, sample.target)
        return (rows, labels, sample.x[rows] + shift) if shift else (rows, labels)
"""
POOL = Pool(np.arange(12, dtype=np.float32).reshape(12, 1), np.array([0, 1] * 6), n_train=4, n_classes=2)


def task(count=3, **settings):
    """Rows 4 to 11 of the pool are D_aux; the subpopulation is rows 6 and 7."""
    return AttackTask(LabelFlip(name="own", **settings), POOL, np.array([6, 7]), count, None, np.random.default_rng(0))


def spec_of(folder, text, name="flips"):
    path = folder / "own_attack.py"
    path.write_text(textwrap.dedent(text))
    return parse_plugin(AttackSpec, f"{path}:{name}", folder, "--attack ")


def test_positions_in_the_sample_become_rows_of_the_pool(tmp_path):
    spec = spec_of(tmp_path, "def f(sample, count, *, seed):\n    return sample.members[[0, 1, 1]], [1, 1, 0]", "f")
    poison = user_attack(spec, 20)(task())
    assert poison.rows.tolist() == [6, 7, 7]
    assert poison.y.tolist() == [1, 1, 0]
    assert poison.n_flipped == 2  # rows 6 and 7 have the labels 0 and 1
    with pytest.raises(DefenseError, match="chose a row twice, and the cell has sampling=distinct"):
        user_attack(spec, 20)(task(sampling="distinct"))


def test_changed_inputs_are_rows_outside_the_pool_made_from_rows_of_the_sample(tmp_path):
    text = "def f(sample, count, *, seed):\n    return sample.members[[0, 1, 0]], [1, 0, 1], sample.x[:3] + 0.5"
    poison = user_attack(spec_of(tmp_path, text, "f"), 20)(task(sampling="distinct"))
    assert poison.rows.tolist() == [12, 13, 14]
    assert poison.origin.tolist() == [6, 7, 6]
    assert poison.extra_x.ravel().tolist() == [4.5, 5.5, 6.5]
    assert poison.n_flipped == 3


def test_an_attack_receives_the_attackers_rows_and_nothing_else(tmp_path):
    """Whatever it can reach of its argument are the rows of D_aux: its own message says what came."""
    text = """
        def f(sample, count, *, seed):
            raise ValueError(sorted(vars(sample)), sample.x.ravel().tolist(), sample.y.tolist(), sample.members.tolist(), count)
    """
    told = ["members", "n_classes", "target", "x", "y"]
    with pytest.raises(DefenseError) as error:
        user_attack(spec_of(tmp_path, text, "f"), 20)(task())
    assert f"({told}, {[float(i) for i in range(4, 12)]}, {[0, 1] * 4}, [2, 3], 3)" in str(error.value)


FAILURES = {
    "raises": ("raise KeyError('x')", "attack own_attack.f: KeyError: 'x'"),
    "ends itself": ("import os; os._exit(3)", "ended itself with exit code 3"),
    "exits": ("raise SystemExit(2)", "SystemExit: 2"),
    "is killed": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
    "hangs": ("while True: pass", "its code ran over the limit of 0.5 s and was stopped"),
    "returns nothing": ("pass", "it returned NoneType; return .rows, labels."),
    "too few": ("return [0], [1]", r"its rows are int64 of shape \(1,\); return 3 whole numbers"),
    "no such row": ("return [0, 1, 8], [1, 1, 1]", "its rows run from 0 to 8; they must be in 0 to 7"),
    "no such label": ("return [0, 1, 2], [1, 1, 2]", "its labels run from 1 to 2; they must be in 0 to 1"),
    "text": ("return [0, 1, 2], ['a', 'b', 'c']", "its labels are <U1; return arrays of numbers"),
    "NaN": ("return [0, 1, 2], [1, 1, 1], sample.x[:3] * float('nan')", "its x has NaN"),
    "shape": ("return [0, 1, 2], [1, 1, 1], sample.x[:2]", r"its x has shape \(2, 1\)"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failing_attack_is_named_with_its_reason(tmp_path, name):
    body, words = FAILURES[name]
    spec = spec_of(tmp_path, f"def f(sample, count, *, seed):\n    {body}", "f")
    with pytest.raises(DefenseError, match=words):
        user_attack(spec, 0.5)(task())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("f = 3", "is a constant; an attack is a function"),
        ("def f(sample):\n    pass", "cannot be called as f.sample, count, seed=0."),
        ("class f:\n    pass", "is a class"),
        ("def g(sample, count, *, seed):\n    pass", "has no function 'f'; it has g"),
    ],
)
def test_what_is_no_attack_is_found_without_running_it(tmp_path, text, words):
    with pytest.raises(BadInput, match=words):
        spec_of(tmp_path, text, "f")


def test_pictures_and_texts_keep_their_kind():
    pictures = AttackSample(np.zeros((4, 1, 2, 2), np.uint8), np.zeros(4, np.int64), np.arange(4), 2)
    given = {"rows": np.arange(2), "labels": np.ones(2, np.int64)}
    with pytest.raises(BadInput, match="its x is float64; return inputs as uint8"):
        checked(pictures, 2, {**given, "x": np.zeros((2, 1, 2, 2))})
    texts = AttackSample(np.zeros((4, 1), np.int64), np.zeros(4, np.int64), np.arange(4), 2)
    with pytest.raises(BadInput, match="texts cannot be changed"):
        checked(texts, 2, {**given, "x": np.zeros((2, 1), np.int64)})


def test_the_contract():
    def flips(sample, count, *, seed):
        rows = np.random.default_rng(seed).choice(sample.members, count)
        return rows, 1 - sample.y[rows] if sample.target is None else np.full(count, sample.target)

    def writes(sample, count, *, seed):
        sample.y[:] = 1 - sample.y
        return sample.members[:count], sample.y[sample.members[:count]]

    def wanders(sample, count, *, seed):
        rows = np.random.default_rng().choice(sample.members, count)
        return rows, sample.y[rows]

    assert {result.status for result in check_attack(flips)} == {"ok"}
    failed = {result.name for result in check_attack(writes) if not result.passed}
    assert "leaves_its_input_alone" in failed
    found = {result.name: result.status for result in check_attack(wanders)}
    assert found["same_seed_same_answer"] == "failed"
    assert found["makes_wrong_labels"] == "warning"


def test_from_python_an_attack_of_a_file_is_served_from_the_store(tmp_path):
    """Its damage is near that of label flipping, which draws in the same way from other seeds."""
    spec_of(tmp_path, FLIPS)
    own = f"{tmp_path / 'own_attack.py'}:flips"

    def breaks(sample, count, *, seed):
        raise RuntimeError("no luck")

    given = [
        "label_flip",
        own,
        lambda sample, count, *, seed: (sample.members[[0] * count], 1 - sample.y[[sample.members[0]] * count]),
    ]
    places = {"n_seeds": 2, "store": tmp_path / "store.sqlite"}
    first, second = (subpop.measure("mixture", attack=[*given, breaks], **places) for _ in range(2))
    assert [report.cell.attack for report in first.reports] == ["label_flip", "own_attack.flips", "lambda", "breaks"]
    assert [report.result and report.result.from_store for report in second.reports] == [True, True, False, None]
    assert "no luck" in second.reports[3].reason
    damage = [report.result["target_damage_mean"] for report in first.reports[:3]]
    assert damage[1] == pytest.approx(damage[0], abs=0.1)
    assert damage[0] > 0.2
    assert "is an attack of your own: each call ran in a child process" in first.reports[1].result.notes[-1]


SUITE = '''"""Source: a test. Deviations: none."""
from subpop import grid

open_to_defenses = True
CELLS = grid(stem="little", tier="embedded", dataset="mixture", victim="logistic_regression", partition="feature_match",
             rate=1.0, n_seeds=1, defense=["none", "trim"])


def test_cell(cell, measure):
    measure(cell)
'''


def test_the_option_adds_the_undefended_cells_of_open_suites_with_the_attack(tmp_path):
    project = make_project(tmp_path)
    (project / "benchmarks" / "test_little.py").write_text(SUITE)
    (project / "mine.py").write_text(textwrap.dedent(FLIPS) + "\ndef broken(sample, count, *, seed):\n    return None\n")
    options = ["--attack", "mine.py:flips(shift=0.25)", "--attack", "mine.py:broken", "-k", "mine"]
    done = run(project, *options)
    rows = json.loads((project / "runs" / "report" / "results.json").read_text())["cells"]
    found = {(row["attack"], row["defense"]): row["verdict"] for row in rows if row["metric"] in ("", "target_damage_mean")}
    assert found == {("mine.flips(shift=0.25)", "none"): "no_reference", ("mine.broken", "none"): "error"}
    assert "1 failed, 1 passed, 2 deselected" in done.stdout, done.stdout
    assert "return (rows, labels)" in done.stdout
    on_two = run(project, "-n", "2", "--fresh", *options)
    assert "1 failed, 1 passed, 2 deselected" in on_two.stdout, on_two.stdout
    assert "training processes failed" not in on_two.stdout
    twice = run(project, "--attack", "mine.py:flips", "--attack", "mine.py:flips")
    assert "--attack names mine.flips more than once" in twice.stderr


def test_the_section_of_the_readme_keeps_the_contract(tmp_path):
    section = (ROOT / "README.md").read_text().split("[start:attack] -->")[1].split("<!-- --8<-- [end")[0]
    (tmp_path / "my_attack.py").write_text(section.split("```python\n")[1].split("```")[0])
    command = [sys.executable, "-m", "subpop", "check", "--attack", "my_attack.py:flip_the_centre"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok"] * 7


# --- integrity --------------------------------------------------------------------------------------------------------

BODIES = {
    "honest": "pass",
    "writes into its input": "sample.x[:] = 0; sample.y[:] = 0; sample.members[:] = 0",
    "changes the global generators": "np.random.seed(3); import random; random.seed(4)",
    "reads a file of its own": "(Path(__file__).parent / 'weights.txt').read_text()",
    "draws unseeded": "seed = None",
    "keeps the time": "import time; seed = time.monotonic_ns() % 2**32",
    "reads the data set": "(Path(find_spec('sklearn').origin).parent / 'datasets/data/digits.csv.gz').read_bytes()",
    "starts a process": "import subprocess; subprocess.run(['true'])",
}
FOUND = {
    "honest": ("no known cheat found", "repeated call: passed .*; opened files: passed .0 files besides its code."),
    "writes into its input": ("no known cheat found", "repeated call: passed"),
    "changes the global generators": ("no known cheat found", "repeated call: passed"),
    "reads a file of its own": ("no known cheat found", "1 files besides its code: weights.txt"),
    "draws unseeded": ("flag: two calls with the same sample and seed differ", r"\d+ of \d+ rows differ"),
    "keeps the time": ("flag: two calls with the same sample and seed differ", r"\d+ of \d+ rows differ"),
    "reads the data set": ("flag: opens files of data sets", "files of data sets: digits.csv.gz"),
    "starts a process": ("no known cheat found", "opened files: not run .it starts processes"),
}


@pytest.mark.parametrize("name", BODIES)
def test_probes_of_an_attack(tmp_path, name):
    """Nothing that an attack does in its process reaches the run: the clean accuracy is that of label flipping."""
    (tmp_path / "weights.txt").write_text("1")
    text = f"""
import numpy as np
from importlib.util import find_spec  # to import scikit-learn would take each call half a second
from pathlib import Path

def flips(sample, count, *, seed):
    members, y, own = sample.members.copy(), sample.y.copy(), seed
    {BODIES[name]}
    rows = np.random.default_rng(seed).choice(members, count)
    return rows, 1 - y[rows]
"""
    spec = spec_of(tmp_path, text)
    state = np.random.get_state()[1].copy()
    found = subpop.measure("mixture", attack=["label_flip", f"{spec.path}:flips"], n_seeds=1, store=None)
    flipped, own = (report.result for report in found.reports)
    assert flipped.integrity == ""
    column, words = FOUND[name]
    assert own.integrity.startswith(column), own.integrity
    assert re.search(words, own.probes), own.probes
    assert own["clean_accuracy"] == flipped["clean_accuracy"]
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_an_attack_may_go_unprobed(tmp_path):
    own = f"{spec_of(tmp_path, FLIPS).path}:flips"
    unprobed = subpop.measure("mixture", attack=own, n_seeds=1, store=None, integrity=False)
    assert unprobed.reports[0].result.integrity == "unchecked"
