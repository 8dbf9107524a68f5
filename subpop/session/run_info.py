"""Facts about a session for its report: command, commit, machine, and docstrings of the suites."""

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
"""The command line, if it was not `python -m pytest` with its arguments."""

DIVISION = pytest.StashKey[list[tuple[str, int]]]()
"""With --shard, each planned cell of all shards and its shard."""


def run_info(config: pytest.Config) -> RunInfo:
    """The facts about the session: its options, command, commit and machine."""
    from subpop.report import RunInfo
    from subpop.types.printable import printable

    typed = config.stash.get(COMMAND, ["python", "-m", "pytest", *map(str, config.invocation_params.args)])
    return RunInfo(
        tier=config.getoption("--tier"),
        device=config.getoption("--device"),
        commit=commit_of(config.rootpath),
        command=printable(shlex.join(typed)),
        started=time.time(),
        part=_part(config),
        **environment(),
    )


def _part(config: pytest.Config) -> str:
    """Which part of the selected cells a session with --shard measures."""
    if DIVISION not in config.stash:
        return ""
    from subpop.session.shards import Shard

    shard, numbers = Shard.parse(config.getoption("--shard")), [number for _, number in config.stash[DIVISION]]
    return f"This is {shard}: {numbers.count(shard.number)} of {len(numbers)} planned cells."


def docstrings(session: pytest.Session, stems: Iterable[str]) -> dict[str, str]:
    """The docstrings of suites by stem, wherever their modules are."""
    collected = {path.stem.removeprefix("test_"): path for path in (item.path for item in session.items)}
    paths = {stem: collected.get(stem) for stem in stems}
    return {stem: _docstring(path) if path and path.exists() else "" for stem, path in paths.items()}


def _docstring(path: Path) -> str:
    from subpop.types.printable import printable

    return printable(ast.get_docstring(ast.parse(path.read_bytes())) or "")


def commit_of(root: Path) -> str:
    """The commit of the CI job, otherwise that of the folder; "unknown" outside a repository."""
    commit = os.environ.get("GITHUB_SHA", "")
    if commit:
        return commit[:12]
    try:
        done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def environment() -> dict[str, Any]:
    """Facts about the machine: versions, processor, and kernels of numerical libraries."""
    from subpop.runtime.fingerprint import versions
    from subpop.runtime.hardware import hardware

    return {"versions": versions(), "hardware": hardware()}
