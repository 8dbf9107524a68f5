"""What the report says of a session beside its numbers: command, commit, machine, and the suites' own words."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from subpop.report import RunInfo

COMMAND = pytest.StashKey[list[str]]()
"""What was typed, where that is not `python -m pytest` with its arguments."""


def run_info(config: pytest.Config) -> RunInfo:
    """What the report says of the session: its options, command, commit and machine."""
    from subpop.report import RunInfo
    from subpop.types.printable import printable

    typed = config.stash.get(COMMAND, ["python", "-m", "pytest", *map(str, config.invocation_params.args)])
    return RunInfo(
        tier=config.getoption("--tier"),
        device=config.getoption("--device"),
        commit=commit_of(config.rootpath),
        command=printable(shlex.join(typed)),
        started=time.time(),
        **environment(),
    )


def docstrings(session: pytest.Session, stems: Iterable[str]) -> dict[str, str]:
    """What each suite says of itself, wherever its module lies."""
    collected = {path.stem.removeprefix("test_"): path for path in (item.path for item in session.items)}
    paths = {stem: collected.get(stem) for stem in stems}
    return {stem: _docstring(path) if path and path.exists() else "" for stem, path in paths.items()}


def _docstring(path: Path) -> str:
    from subpop.types.printable import printable

    return printable(ast.get_docstring(ast.parse(path.read_bytes())) or "")


def commit_of(root: Path) -> str:
    """The commit that a CI job names, else that of the folder; "unknown" outside a repository."""
    told = os.environ.get("GITHUB_SHA", "")
    if told:
        return told[:12]
    try:
        done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def environment() -> dict[str, Any]:
    """What a report says of the machine: versions, processor, and the kernels that made its numbers."""
    from subpop.runtime.fingerprint import versions
    from subpop.runtime.hardware import hardware

    return {"versions": versions(), "hardware": hardware()}
