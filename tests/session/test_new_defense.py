"""A new defense: the files that `subpop new-defense` writes, and the rows of `--only-mine`."""

import os
import re
import subprocess
import sys

import pytest
from small_projects import ROOT, make_project, numbers, run

from subpop.session.cli import main

FILTER = """
import numpy as np
from subpop import Defended

def every_ninth(train, fit, know, *, seed):
    keep = np.random.default_rng(seed).random(len(train)) > 1 / 9
    return Defended(fit(train[keep]), keep)
"""
NO_FILTER = """
from subpop import Defended

def plain(train, fit, know, *, seed):
    return Defended(fit(train))
"""
NO_MASK = """
from subpop import Defended

def maybe(train, fit, know, *, seed):
    return Defended(fit(train), None)
"""


def test_the_new_files_pass_their_test_and_the_contract_at_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new-defense", "my_filter"]) == 0
    told = capsys.readouterr().out
    assert "subpop run --only-mine -k scoreboard --defense my_filter.py:my_filter" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my_filter.py", "test_my_filter.py"]
    assert len((tmp_path / "my_filter.py").read_text().splitlines()) == 15
    assert main(["check", "my_filter.py:my_filter"]) == 0
    assert "warning" not in capsys.readouterr().out
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    idle = (tmp_path / "my_filter.py").read_text().replace("likely >=", "likely > -1 +")  # keeps every row
    (tmp_path / "my_filter.py").write_text(idle)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert "1 failed, 1 passed" in done.stdout


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("my-filter", "is not a name of a Python function"),
        ("class", "is not a name of a Python function"),
        ("trim", "is the name of a built-in defense"),
        ("numpy", "there is a module numpy already"),
        ("taken", "exists and is not overwritten"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_and_nothing_is_written(tmp_path, monkeypatch, capsys, name, reason):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_taken.py").write_text("mine")
    assert main(["new-defense", name]) == 2
    assert reason in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["test_taken.py"]
    assert (tmp_path / "test_taken.py").read_text() == "mine"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    project = make_project(tmp_path_factory.mktemp("project"))
    (project / "every_ninth.py").write_text(FILTER)
    (project / "plain.py").write_text(NO_FILTER)
    (project / "maybe.py").write_text(NO_MASK)
    suite = project / "benchmarks" / "test_little.py"
    suite.write_text(suite.read_text().replace('["none", "trim"', '["none", "random_filter", "trim"'))
    own = [f"--defense={name}.py:{name}" for name in ("every_ninth", "plain", "maybe")]
    done = run(project, "--only-mine", "--no-integrity", "--rebaseline", "-rs", *own)
    return project, done, numbers(project)


def test_only_mine_measures_own_rows_and_the_controls_that_belong_to_them(measured):
    _, done, found = measured
    names = {key[5] for key in found}
    skipped = {key[5] for key in found if key[8] == ""}
    assert names - skipped == {"none", "random_filter", "every_ninth", "matched_random_filter:every_ninth", "plain", "maybe"}
    assert skipped == {"matched_random_filter:maybe"}  # the file has a mask, the answers had none
    assert "maybe is not a filter, or not reusable, so that no random filter is matched to it" in done.stdout


def test_the_run_ends_with_the_score_of_each_defense(measured):
    _, done, _ = measured
    for name in ("every_ninth", "plain", "maybe"):
        (told,) = re.findall(rf"^{name}: .*\n(?:  .*\n)*", done.stdout, re.MULTILINE)
        assert max(map(len, told.splitlines())) <= 80
        score = told.replace("\n  ", " ")
        assert score.startswith((f"{name}: undecided (", f"{name}: equivalent to none within 5 points ("))
        assert ", an attacked subpopulation loses " in score
        assert " points without a defense. " in score


def test_the_matched_filter_removes_as_many_rows(measured):
    *_, found = measured
    removed = {key[5]: value for key, (value, _) in found.items() if key[4] == 1.0 and key[8] == "removed_share"}
    assert 0.08 < removed["every_ninth"] < 0.14
    assert removed["matched_random_filter:every_ninth"] == removed["every_ninth"]


def test_rows_matched_to_plug_ins_are_not_recorded(measured):
    project, *_ = measured
    text = (project / "baselines" / "little.csv").read_text()
    assert "random_filter" in text
    assert "every_ninth" not in text


def test_only_mine_needs_a_defense(measured):
    project, *_ = measured
    done = run(project, "--only-mine")
    assert done.returncode == 4
    assert (
        "--only-mine needs a defense or an attack of your own; name it with --defense or --attack path.py:function" in done.stderr
    )
