"""What plug-in defenses print: shown with their test, passed through with -s, and a debugger that has the terminal."""

import os
import subprocess
import sys
from bdb import BdbQuit
from pathlib import Path

import numpy as np
import pytest
from small_projects import parse_defense

from subpop.harness.batching import DefenseError, DefenseTask, TrialBatch
from subpop.harness.sandbox import run_in_child
from subpop.runtime.output import LINE_BYTES, TAIL_LINES, Lines, Tail
from subpop.session import debugging
from subpop.session.cli import main
from subpop.types import Knowledge, TrainingSet

ROOT = Path(__file__).parents[2]
SUITE = '''"""Source: a test. Deviations: none."""
from subpop.types.grid import grid

open_to_defenses = True
CELLS = grid(stem="little", tier="embedded", dataset="digits", victim="logistic_regression", partition="feature_match",
             rate=1.0, n_seeds=1)


def test_cell(cell, measure):
    measure(cell)


def test_claim(cell, result_of):
    result_of(cell)
'''
TALKS = r"""
import os, sys
from subpop import Defended

def talks(train, fit, know, *, seed):
    print("hello from", len(train), "rows \x1b[31mred\x1b[0m")
    print("::error::obeyed", file=sys.stderr)
    print("no line end", end="")
    return Defended(fit(train))

def breaks(train, fit, know, *, seed):
    keep = train.y == train.y
    breakpoint()
    print("after the breakpoint:", keep.sum())
    return Defended(fit(train[keep]), keep)

def asks(train, fit, know, *, seed):
    keep = know.clean_holdout.y[:1].repeat(len(train)) >= 0
    fit(train)
    return Defended(fit(train), keep)

def stops(train, fit, know, *, seed):
    breakpoint()
    return Defended(fit(train))

def fails(train, fit, know, *, seed):
    raise KeyError("found in line 24")

asks.needs = {"clean_holdout"}
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "test_little.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "mine.py").write_text(TALKS)
    return tmp_path


def run(project, *arguments, said=""):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=project, env=env, input=said, capture_output=True, text=True, check=False, timeout=240)


def test_what_a_working_defense_prints_is_shown(project):
    options = ["benchmarks/", "-q", "-p", "no:cacheprovider", "--no-integrity", "--fresh", "--defense=mine.py:talks"]
    options += ["-k", "talks and test_cell"]
    both = f"import pytest, sys; sys.exit(sum(pytest.main([*{options}, o]) for o in sys.argv[1:]))"
    (project / "both.py").write_text(both)
    done = run(project, "both", "-rP", "-s")
    assert done.returncode == 0, done.stdout + done.stderr
    kept, through = done.stdout.split("report: ")[:2]
    assert "Captured stdout of mine.talks call" in kept
    assert "Captured stdout" not in through
    for told in (kept, through):
        assert "rows red\n" in told
        assert "\n: :error::obeyed\n" in told
        assert "no line end" in told


def test_a_breakpoint_in_a_child_names_the_command_for_it(project):
    rows = np.zeros((4, 2), np.float32)
    task = DefenseTask(TrainingSet.of(rows, np.arange(4) % 2), Knowledge(), 0)
    with pytest.raises(DefenseError, match="use `subpop debug"):
        list(run_in_child(parse_defense("mine.py:stops", project), TrialBatch([task], lambda requests: [None], rows, 2)))


def test_a_debugger_has_the_terminal(project):
    done = run(project, "subpop", "debug", "mine.py:breaks", "-k", "little feature", said="p len(train)\nkeep[:5] = False\nc\n")
    assert done.returncode == 0, done.stderr
    assert "little: embedded-digits-logistic_regression-feature-label_flip-1-mine.breaks" in done.stdout
    n_rows = int(done.stdout.split("seed 0: ")[1].split(" rows")[0])
    assert f"(Pdb) {n_rows}\n" in done.stdout
    assert f"after the breakpoint: {n_rows - 5}" in done.stdout
    assert f"removed: 5 of {n_rows} rows" in done.stdout
    assert "recall: " in done.stdout
    assert "not checked" not in done.stdout
    assert not (project / "runs").exists()


def test_leaving_the_debugger_is_no_traceback(project, monkeypatch, capsys):
    def leave(*_):
        raise BdbQuit

    monkeypatch.chdir(project)
    monkeypatch.setattr(debugging, "debug", leave)
    assert main(["debug", "mine.py:talks"]) == 1
    assert "the debugger was quit" in capsys.readouterr().err


def test_debugging_grants_what_is_needed_and_says_what_is_wrong(project):
    asks = run(project, "subpop", "debug", "mine.py:asks", "-k", "little")
    assert asks.returncode == 0, asks.stderr
    assert "holdout:0.05" in asks.stdout
    assert "recall: 0 of" in asks.stdout
    fails = run(project, "subpop", "debug", "mine.py:fails", "-k", "little")
    assert fails.returncode == 1
    assert "mine.py" in fails.stderr
    assert "found in line 24" in fails.stderr
    nothing = run(project, "subpop", "debug", "mine.py:fails", "-k", "nowhere")
    assert nothing.returncode == 2
    assert "'nowhere'" in nothing.stderr
    assert "little embedded-digits" in nothing.stderr


def test_the_first_cell_of_the_defenses_suite_is_the_default(monkeypatch):
    monkeypatch.chdir(ROOT)
    spec = parse_defense("examples/drop_random.py:drop_random", ROOT)
    cell = debugging._chosen(spec, debugging.DEFAULT_WORDS)
    assert cell.stem == "defenses_trim_sever"
    assert cell.defense == spec.name


def test_lines_are_whole_and_tails_are_short():
    told = []
    lines = Lines(told.append)
    for chunk in (b"on", b"e\ntw", b"o\n\n::er", b"ror::x\n", b"\xff\xc3", b"\xbc"):
        lines.feed(chunk)
    lines.end()
    assert told == ["one\n", "two\n\n", ": :error::x\n", "\\xff\u00fc\n"]
    told.clear()
    lines.feed(b"x" * (2 * LINE_BYTES + 1))
    lines.end()
    assert [len(line) for line in told] == [LINE_BYTES + 1, LINE_BYTES + 1, 2]
    tail = Tail()
    assert tail.take() == ""
    tail("".join(f"{i}\n" for i in range(TAIL_LINES + 3)))
    kept = tail.take().splitlines()
    assert kept[0] == "(3 lines before these are left out)"
    assert kept[1:] == [str(i) for i in range(3, TAIL_LINES + 3)]
    assert tail.take() == ""
