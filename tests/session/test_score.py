"""`subpop score`, which action.yml and the reusable workflow run: in real repositories, a worse defense fails."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from subpop.report.paired_runs import COLUMNS, DAMAGES, differences, load_damages, paired_page, verdict_of
from subpop.results.paired import Difference
from subpop.runtime.store import read_chunks
from subpop.types import BadInput

ROOT = Path(__file__).parents[2]
PLAIN = """from subpop import Defended


def mine(train, fit, know, *, seed):
    return Defended(fit(train))
"""
WORSE = """import numpy as np
from subpop import Defended


def mine(train, fit, know, *, seed):  # drops the rows that the victim finds least likely: the clean ones of the target
    likely = fit(train).predict_proba(train.x)[np.arange(len(train)), train.y]
    keep = likely >= np.sort(likely)[len(train) // 3]
    return Defended(fit(train[keep]), keep)
"""
BROKEN = """def mine(train, fit, know, *, seed):
    raise ValueError("no defense today")
"""
SLOW = PLAIN.replace("    return", "    time.sleep(0.3)\n    return").replace("from subpop", "import time\n\nfrom subpop")
CELLS = ("-k", "scoreboard and mixture and split:0 and (none or mine)", "-q", "--no-integrity")


def git(folder, *arguments):
    names = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *names, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with the defense in a folder of it, unchanged, worse, broken and new on branches; one store for all."""
    folder = tmp_path_factory.mktemp("repository")
    git(folder, "init", "-q", "-b", "main")
    (folder / "defenses").mkdir()
    (folder / "defenses" / "mine.py").write_text(PLAIN)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "a defense")
    texts = {"unchanged": PLAIN + "\n# the same\n", "worse": WORSE, "broken": BROKEN, "slow": SLOW, "killed": "# killed\n"}
    for name, text in texts.items():
        git(folder, "switch", "-q", "-c", name, "main")
        (folder / "defenses" / "mine.py").write_text(text)
        git(folder, "commit", "-q", "-a", "-m", name)
    git(folder, "switch", "-q", "main")
    return folder


def command(folder, *options, **environment):
    """What starts a process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "GITHUB_"))}
    env = {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    words = [sys.executable, "-m", "subpop", "score", "mine.py:mine", *options]
    return {"args": words, "cwd": folder, "env": env, "text": True}


def score(folder, *options, **environment):
    return subprocess.run(**command(folder, *options, **environment), capture_output=True, check=False, timeout=900)


def test_a_worse_defense_fails_and_an_unchanged_one_passes(repository, tmp_path):
    here, summary = repository / "defenses", tmp_path / "summary.md"
    summary.touch()
    git(repository, "switch", "-q", "worse")
    failed = score(here, *CELLS, GITHUB_STEP_SUMMARY=str(summary))
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "**Worse: mine.**" in failed.stdout
    posted = summary.read_text()
    assert posted.count("# Scoreboard") == 1  # of this branch only
    assert posted.rstrip().endswith("the whole interval is above 0.")
    assert git(repository, "worktree", "list").count("\n") == 1
    assert git(repository, "status", "--short") == ""
    # In a shallow clone, whose main branch must be fetched:
    git(tmp_path, "clone", "-q", "--depth", "1", "--branch", "unchanged", f"file://{repository}", "clone")
    passed = score(tmp_path / "clone" / "defenses", *CELLS)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "**No defense is worse.**" in passed.stdout
    assert "| mine" not in passed.stdout  # its damages are equal


def test_ctrl_c_stops_all_of_it_and_the_next_run_continues(repository):
    here = repository / "defenses"
    git(repository, "switch", "-q", "unchanged")
    options = (*CELLS, "--against", "slow", "--folder", "../out")
    started = subprocess.Popen(
        **command(here, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job begins without it
    )  # fmt: skip
    out, deadline = repository / "out", time.monotonic() + 100
    while not (out / "base").exists() or 2 not in [len(chunk.trials) for chunk in read_chunks(out / "store.sqlite")]:
        assert started.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGINT)
    shown, said = started.communicate(timeout=60)  # until every process has ended
    assert started.returncode == 130
    assert re.search(r"^Interrupted.*: 1 of 2 cells measured\.$", shown, re.MULTILINE), shown + said
    last = "subpop score: interrupted; the finished trials are stored, and the same command continues from there"
    assert said.splitlines()[-1] == last
    assert "Traceback" not in shown + said
    assert git(repository, "worktree", "list").count("\n") == 1
    again = score(here, *options)
    assert again.returncode == 0, again.stdout + again.stderr
    assert re.findall(r"(\d+) of them in the store", again.stdout) == ["65", "32"]
    assert "**No defense is worse.**" in again.stdout


@pytest.fixture
def flow(repository, tmp_path):
    """Runs the script with an interpreter that only notes its commands, fails on the branch `broken` and dies on `killed`."""
    (tmp_path / "python").write_text(
        '#!/bin/sh\necho "$3 in $(pwd)" >> "$NOTES"\n! grep -qs "no defense today" "${7%%:*}" || exit 1\n'
        '! grep -qs killed "${7%%:*}" || kill -9 $$\n'
    )
    (tmp_path / "python").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "GITHUB_"))}

    def run(branch, base, folder="defenses"):
        git(repository, "switch", "-q", branch)
        words = [str(tmp_path / "python"), "mine.py:mine", base, str(tmp_path / "out")]
        notes = tmp_path / f"{branch}-{base}"
        done = subprocess.run(
            ["bash", str(ROOT / "subpop" / "session" / "score.sh"), *words],
            cwd=repository / folder, env={**kept, "NOTES": str(notes)}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stderr, notes.read_text().splitlines()

    return run


def test_a_broken_defense_fails_and_one_that_was_broken_is_not_compared(flow):
    status, _, commands = flow("broken", "main")
    assert (status, len(commands)) == (1, 1)
    status, said, commands = flow("unchanged", "broken")
    assert (status, len(commands)) == (0, 2)
    assert "could not be measured as it is in broken" in said
    status, said, commands = flow("unchanged", "killed")  # as by the kernel, for want of memory
    assert (status, len(commands)) == (137, 2)
    assert "a signal ended the measurement of mine.py:mine as it is in killed (status 137); run the same command again" in said


def test_a_new_defense_and_the_main_branch_itself_are_measured_only(flow, repository):
    status, said, commands = flow("main", "main")
    assert (status, len(commands)) == (0, 1)
    assert "main is what was measured: nothing to compare" in said
    git(repository, "switch", "-q", "-c", "moved")
    git(repository, "mv", "defenses/mine.py", "mine.py")
    git(repository, "commit", "-q", "-m", "moved")
    status, said, commands = flow("moved", "main", ".")
    assert (status, len(commands)) == (0, 1)
    assert "mine.py is not in main: a new defense has nothing to be compared with" in said


def test_main_is_measured_in_a_tree_of_its_own_at_the_same_place(flow, repository):
    status, _, commands = flow("worse", "main")
    assert status == 0  # the comparison, which this interpreter passes
    here, there, last = commands
    assert here == last.replace("compare", "run") == f"run in {repository / 'defenses'}"
    assert re.fullmatch(r"run in .*/tree/defenses", there)


def test_bad_input(tmp_path, repository):
    (tmp_path / "mine.py").write_text(PLAIN)
    alone = score(tmp_path, *CELLS, GIT_CEILING_DIRECTORIES=str(tmp_path.parent))
    assert alone.returncode == 2
    assert alone.stderr.startswith("subpop score: git finds no repository in this folder (not a git repository")
    git(repository, "switch", "-q", "main")
    unknown = score(repository / "defenses", "--against", "nowhere", *CELLS)
    assert unknown.returncode == 2
    assert "there is no commit nowhere here or at origin; name a branch with --against, or fetch it" in unknown.stderr
    assert not (tmp_path / "runs").exists()


# --- the rule ---------------------------------------------------------------------------------------------------------


def damages(values, *, defense="mine", secret="s", dataset="digits", exact=True):
    """Rows of damages-by-seed.csv: values[subpopulation][seed], without attack settings."""
    about = dict.fromkeys(COLUMNS, "x") | {"rate": 1.0, "dataset": dataset, "defense": defense, "secret": secret, "exact": exact}
    return pd.DataFrame(
        [
            {**about, "split": "0", "subpopulation": f"g{group}", "seed": seed, "target_damage": value}
            for group, row in enumerate(values)
            for seed, value in enumerate(row)
        ]
    )


def sides(a, b, plain=((0.5, 0.5),) * 4, **about):
    none = damages(plain, defense="none", secret="")
    return pd.concat([damages(a, **about), none]), pd.concat([damages(b, **about), none])


def test_the_difference_by_hand():
    """Four subpopulations become worse by .1 to .4: the mean is .25, and the jackknife's error is that of a mean."""
    before = [[0.1, 0.1]] * 4
    found = differences(*sides(before, [[0.1 + step, 0.1 + step] for step in (0.1, 0.2, 0.3, 0.4)]))["mine"]
    assert found.value == pytest.approx(0.25)
    assert found.std_error == pytest.approx(np.std([0.1, 0.2, 0.3, 0.4], ddof=1) / 2)
    assert found.half_width == pytest.approx(3.18245 * found.std_error, rel=1e-4)  # t with 3 degrees of freedom
    assert verdict_of(found) == "worse"
    assert verdict_of(Difference(-found.value, found.std_error, 3, 4)) == "better"
    assert verdict_of(Difference(0.2, 0.1, 3, 4)) == "undecided"


def test_only_subpopulations_that_are_hurt_undefended_count():
    before, after = [[0.1, 0.1]] * 4, [[0.1, 0.1], [0.1, 0.1], [0.1, 0.1], [0.9, 0.9]]
    found = differences(*sides(before, after, plain=((0.5, 0.5),) * 3 + ((0.05, 0.05),)))["mine"]
    assert (found.value, found.n_groups, verdict_of(found)) == (0.0, 3, "unchanged")


def test_rounding_is_no_change():
    before = [[0.1, 0.1]] * 4
    found = differences(*sides(before, [[0.1 + 1e-13] * 2] * 4))["mine"]
    assert verdict_of(found) == "unchanged"


def test_runs_of_two_stores_are_not_compared():
    a, _ = sides([[0.1, 0.1]] * 4, [[0.1, 0.1]] * 4)
    _, b = sides([[0.1, 0.1]] * 4, [[0.9, 0.9]] * 4, secret="other")
    found = differences(a, b)["mine"]
    assert "measure both with the same --store" in found.reason
    assert verdict_of(found) == "undecided"


def test_the_page_names_what_is_worse_and_what_one_run_lacks(tmp_path):
    a, b = sides([[0.1, 0.1]] * 4, [[0.3, 0.3], [0.3, 0.3], [0.3, 0.3], [0.3, 0.31]])
    b = pd.concat([b, damages([[0.1, 0.1]] * 4, defense="new"), damages([[0.1, 0.1]] * 4, defense="matched_random_filter:new")])
    for name, rows in {"a": a, "b": b}.items():
        (tmp_path / name).mkdir()
        rows.to_csv(tmp_path / name / DAMAGES, index=False)
    page, status = paired_page(tmp_path / "a", tmp_path / "b")
    assert status == 1
    assert "**Worse: mine.**" in page
    assert "Measured in one of the runs only: new." in page
    assert paired_page(tmp_path / "b", tmp_path / "a")[1] == 0


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", ",".join(COLUMNS) + "\n" + ",".join(["x"] * len(COLUMNS)) + "\n"])
def test_other_files_are_refused(tmp_path, content):
    with pytest.raises(BadInput, match=r"there is no .*, which --paired compares"):
        load_damages(tmp_path)
    (tmp_path / DAMAGES).write_text(content)
    with pytest.raises(BadInput, match="is not as a run wrote it"):
        load_damages(tmp_path)


# --- what CI calls ----------------------------------------------------------------------------------------------------


def steps_of(path):
    found = yaml.safe_load(path.read_text())
    return found["runs"]["steps"] if "runs" in found else [step for job in found["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", [ROOT / "action.yml", ROOT / ".github" / "workflows" / "score.yml"], ids=lambda path: path.name)
def test_the_action_and_the_workflow_run_the_command(path, tmp_path):
    """Their last command runs here with a `subpop` that notes its arguments: inputs arrive whole and are no commands."""
    steps = steps_of(path)
    assert all("${{" not in step.get("run", "") for step in steps)
    [step] = [step for step in steps if "subpop score" in step.get("run", "")]
    (tmp_path / "subpop").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "subpop").chmod(0o755)
    given = {"DEFENSE": "a b.py:$(touch bad)", "AGAINST": "main; touch bad", "OPTIONS": "--tier laptop"}
    assert set(step["env"]) == set(given)
    env = {**os.environ, **given, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["score", given["DEFENSE"], "--against", given["AGAINST"], "--tier", "laptop"]
    assert not (tmp_path / "bad").exists()
    [cache] = [step for step in steps if step.get("uses", "").startswith("actions/cache@")]
    assert cache["with"]["path"] == "runs/score/store.sqlite*"  # where the command keeps its store by default
