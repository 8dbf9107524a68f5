"""What CI promises: actions pinned by commit, a matrix of versions and kernels, and a store that only main reads and writes."""

import re
from pathlib import Path

import pytest
import yaml

from subpop.session.kernels import PROFILES

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "action.yml", *sorted((ROOT / ".github" / "workflows").glob("*.yml"))]


def steps(path):
    found = yaml.safe_load(path.read_text())
    parts = [found["runs"]] if "runs" in found else found["jobs"].values()
    return [step for part in parts for step in part["steps"]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit(path):
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)


def test_ci_tries_three_versions_of_python_under_two_profiles():
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["cpu"]
    matrix = job["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert len(matrix["kernels"]) == 2
    assert set(matrix["kernels"]) <= set(PROFILES)
    run = next(step for step in job["steps"] if step.get("run") == "bash .ci/run")
    assert run["env"]["KERNELS"] == "${{ matrix.kernels }}"
    assert "KERNELS" in (ROOT / ".ci" / "run").read_text()


def test_fresh_seeds_run_nightly_and_on_a_release():
    workflow = yaml.safe_load((ROOT / ".github/workflows/seeds.yml").read_text())
    triggers = workflow[True]  # YAML reads `on` as a boolean
    assert triggers["schedule"]
    assert triggers["release"] == {"types": ["published"]}
    assert any(step.get("run") == "python -m tox -e seeds" for step in workflow["jobs"]["seeds"]["steps"])
    section = (ROOT / "tox.ini").read_text().partition("[testenv:seeds]")[2].partition("[testenv:")[0]
    assert "--seeds-times 4" in section


@pytest.mark.parametrize(("is_main", "kept"), [("true", True), ("false", False), ("", False)])
def test_only_main_keeps_its_store(is_main, kept, tmp_path):
    """The step that chooses the store, run as the runner would run it."""
    import os
    import subprocess

    job = yaml.safe_load((ROOT / ".github/workflows/benchmarks.yml").read_text())["jobs"]["gpu"]
    assert job["env"]["IS_MAIN"] == "${{ github.event_name != 'pull_request' && github.ref == 'refs/heads/main' }}"
    chooses = next(step for step in job["steps"] if step.get("id") == "store")
    places = {"HOME": str(tmp_path / "home"), "RUNNER_TEMP": str(tmp_path / "temp"), "GITHUB_OUTPUT": str(tmp_path / "output")}
    subprocess.run(["bash", "-e", "-c", chooses["run"]], env={**os.environ, **places, "IS_MAIN": is_main}, check=True)
    told = (tmp_path / "output").read_text().strip()
    assert told.startswith(f"path={tmp_path / ('home' if kept else 'temp')}/")
    measures = next(step for step in job["steps"] if "pytest benchmarks/" in step.get("run", ""))
    assert '--store "$STORE"' in measures["run"]
    assert measures["env"]["STORE"] == "${{ steps.store.outputs.path }}"
    assert "$HOME" not in measures["run"]


def test_no_project_of_the_same_name_is_installed():
    """`subpop` on PyPI belongs to somebody else, so that the reusable workflow must be told what to install."""
    inputs = yaml.safe_load((ROOT / ".github/workflows/score.yml").read_text())[True]["workflow_call"]["inputs"]
    assert inputs["package"]["required"] is True
    assert "default" not in inputs["package"]


def test_a_contributed_row_is_measured_without_secrets_by_the_script_of_the_recipe():
    workflow = yaml.safe_load((ROOT / ".github/workflows/row.yml").read_text())
    assert workflow[True] == {"pull_request": {"paths": ["contributed/**.py"]}}  # YAML reads `on` as a boolean
    assert workflow["permissions"] == {"contents": "read"}
    assert any(step.get("run") == "bash .ci/row contributed" for step in workflow["jobs"]["row"]["steps"])
    assert "`bash .ci/row contributed`" in (ROOT / "CONTRIBUTING.md").read_text()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "there is no defense in"),
        (["own.py"], "own.py has no test"),
        (["test_own.py", "conftest.py"], "there is no defense in"),
    ],
)
def test_a_contribution_without_a_defense_or_its_test_is_refused(tmp_path, files, said):
    import subprocess

    for name in files:
        (tmp_path / name).touch()
    done = subprocess.run(["bash", ".ci/row", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
