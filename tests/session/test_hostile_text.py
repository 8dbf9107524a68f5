"""Other people's text in real runs: what a defense says reaches the terminal, the report and the store as harmless text."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_projects import parse_defense

from subpop.harness.batching import DefenseError
from subpop.harness.outcome import Outcome, check_outcome
from subpop.types import BadInput, Dataset

ROOT = Path(__file__).parents[2]
SUITE = '''"""Source: a test with an accent, é. Deviations: none."""
from subpop.types.grid import grid

open_to_defenses = True
CELLS = grid(stem="little", tier="embedded", dataset="digits", victim="logistic_regression", partition="feature_match",
             rate=1.0, n_seeds=1)


def test_cell(cell, measure):
    measure(cell)
'''
HOSTILE = r"""
import os, sys
from subpop import Defended

SAID = "bad \ud800 \x1b]0;title\x07\x1b[2J\u202e größer\n::error file=x.py::obeyed\r##[error]obeyed too\x00\x85"

class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")

def says(train, fit, know, *, seed):
    print(SAID.encode("utf-8", "surrogatepass").decode("latin-1"))
    raise ValueError(SAID)

def cannot_say(train, fit, know, *, seed):
    raise Unspeakable

def leaves(train, fit, know, *, seed):
    sys.exit(SAID)

def names(train, fit, know, *, seed):
    return Defended(fit(train), diagnostics={"a\x1b[2Jb\n::error::c": 1.0})

def real_time_signal(train, fit, know, *, seed):
    os.kill(os.getpid(), 40)
"""
FUNCTIONS = ["says", "cannot_say", "leaves", "names", "real_time_signal"]


def is_harmless(text):
    """Nothing that a terminal or GitHub obeys, but pytest's own colours, which are off in a pipe."""
    bad = [line for line in text.splitlines() if line.lstrip().startswith("::") or "##[" in line]
    return not bad and not set("\x1b\x07\x00\x85\u202e\r") & set(text)


def test_a_hostile_defense_costs_its_cells_and_no_byte_of_the_report(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "test_little.py").write_text(SUITE, encoding="utf-8")
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "bad.py").write_text(HOSTILE, encoding="utf-8")
    summary = tmp_path / "summary"
    summary = tmp_path / "summary"
    ascii_locale = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
        "GITHUB_STEP_SUMMARY": str(summary),
    }
    options = [
        "-q",
        "-p",
        "no:cacheprovider",
        "--color=no",
        "--no-integrity",
        *(f"--defense=bad.py:{name}" for name in FUNCTIONS),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks/", *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **ascii_locale},
        capture_output=True,
        check=False,
        timeout=240,
    )
    terminal = done.stdout.decode("ascii")
    assert done.returncode == 1, terminal + done.stderr.decode()
    assert is_harmless(terminal)
    report = tmp_path / "runs" / "report"
    rows = json.loads((report / "results.json").read_text(encoding="utf-8"))["cells"]
    reasons = {row["defense"].removeprefix("bad."): row["reason"] for row in rows if row["verdict"] == "error"}
    assert sorted(reasons) == sorted(FUNCTIONS)
    assert "bad \\ud800 \\u202e größer\n: :error file=x.py::obeyed\n# #[error]obeyed too\\x00\\x85" in reasons["says"]
    assert "sys.exit(bad \\ud800" in reasons["leaves"]
    assert "its message cannot be read" in reasons["cannot_say"]
    assert "a name is one line" in reasons["names"]
    assert "signal 40" in reasons["real_time_signal"]
    for path in [*report.glob("*.md"), *report.glob("*.csv"), summary]:
        assert is_harmless(path.read_text(encoding="utf-8")), path
    assert "é" in (report / "little.md").read_text(encoding="utf-8")


def test_names_of_columns_and_words_are_made_printable():
    codes = np.zeros(2, np.int64)
    made = Dataset("d", np.zeros((2, 1)), codes, 2, {"a\x1b[1mb": codes}, words={"y": ("c\ud800", "d")}, notes=("::error::x",))
    assert list(made.annotations) == ["ab"]
    assert made.words["y"] == ("c\\ud800", "d")
    assert made.notes == (": :error::x",)


def test_counts_from_another_process_fit_into_the_store():
    zeros = np.zeros(3, np.int64)
    with pytest.raises(BadInput, match="are not valid counts"):
        check_outcome(Outcome({"": zeros}, n_fits=10**30), 3, 3, 2)


def test_every_error_is_printable():
    assert str(BadInput("the class 'a\x1b[31m\u202e' is unknown")) == "the class 'a\\u202e' is unknown"
    told = DefenseError(0, "x\x07", "line\n::error::y", "group \ud800")
    assert str(told) == "trial 0 (group \\ud800): x\\x07\nline\n: :error::y"


def test_a_defense_in_a_file_with_an_odd_name_gets_a_printable_one(tmp_path):
    path = tmp_path / os.fsdecode(b"b\x1b[31mad\xff\n.py")
    path.write_text("def f(train, fit, know, *, seed):\n    return None\n")
    name = parse_defense(f"{path.name}:f", tmp_path).name
    assert name == "bad\\udcff .f"


def test_names_from_another_process_are_checked_again():
    zeros = np.zeros(3, np.int64)
    for outcome in (
        Outcome({"": zeros, "a\nb": zeros}),
        Outcome({"": zeros}, certified_radii={"\x1b[2J": zeros}),
        Outcome({"": zeros}, diagnostics={"x" * 101: 1.0}),
    ):
        with pytest.raises(BadInput, match="a name is one line"):
            check_outcome(outcome, 3, 3, 2)
