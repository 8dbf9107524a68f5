"""`subpop/AGENTS.md`: its commands run as they stand, in an empty folder, and it is one page of the wheel."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "subpop" / "AGENTS.md"


def blocks(text):
    """(language, content) of each block of code, in order."""
    return re.findall(r"^```(bash|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(tmp_path):
    """Runs a command in an empty folder, with `subpop` and `python` as an installation has them."""
    (tmp_path / "bin").mkdir()
    for name, rest in {"subpop": " -m subpop", "python": ""}.items():
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{rest} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"

    def run(command):
        told = {"capture_output": True, "text": True, "check": False, "timeout": 240}
        return subprocess.run(["bash", "-c", command], cwd=tmp_path / "empty", env=environment, **told)

    run.folder = tmp_path / "empty"
    return run


def test_every_command_runs(shell):
    said = {}
    for language, content in blocks(PAGE.read_text()):
        if language == "python":
            name = re.match(r"# (\S+\.py)\n", content)
            assert name, f"a block of Python does not name its file: {content}"
            (shell.folder / name[1]).write_text(content)
            continue
        for command in content.splitlines():
            done = shell(command)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            said[command.partition("#")[0].strip()] = done.stdout
    assert len(said) == 9
    rows = [row.split() for row in said["python read.py"].splitlines()]
    assert {tuple(row[:2]) for row in rows} == {
        (name, "mixture") for name in ("none", "my_filter", "matched_random_filter:my_filter")
    }
    assert all(0 < float(row[2]) < 1 for row in rows)
    listed = next(text for command, text in said.items() if "--collect-only" in command)
    assert "test_scoreboard.py::" in listed
    assert "trim" in said["subpop list defenses"].split()
    assert {path.name for path in (shell.folder / "tables").iterdir()} == {"numbers.csv", "trials.csv", "columns.csv"}


def test_it_is_one_page_and_shipped():
    assert len(PAGE.read_text().splitlines()) <= 66
    package_data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["subpop"]
    assert PAGE.name in package_data


def test_what_it_says_of_the_interface_is_so():
    """Names in backquotes that look like attributes of the package exist."""
    import subpop

    named = re.findall(r"`(?:help\()?subpop\.(\w+)", PAGE.read_text())
    assert named
    assert all(hasattr(subpop, name) for name in named)
