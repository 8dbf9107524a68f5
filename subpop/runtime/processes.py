"""Who descends from a process, and how all of them end: what a plug-in starts must not outlive its cell.

Linux keeps orphans below a subreaper, so that even those that left their group are found in /proc. Elsewhere only the group
of the child is known; a process that left it stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path

SECONDS = 5.0
"""How long killing goes on: something that is killed may just have started something else."""
PAUSE = 0.005
_SET_PARENT_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends (Linux)."""
    _prctl(_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Be killed when the parent ends (Linux)."""
    _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """Running processes that descend from this one, itself left out; none where there is no /proc."""
    children, ended = defaultdict(list), set()
    for path in Path("/proc").glob("[0-9]*/stat") if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
            children[int(parent)].append(int(path.parent.name))
            if state in "ZX":  # its children may not have moved to their new parent yet
                ended.add(int(path.parent.name))
    found: list[int] = []
    waiting = list(children[pid])
    while waiting:
        found.append(waiting.pop())
        waiting += children[found[-1]]
    return [each for each in found if each not in ended]


def end_descendants(pid: int, group: int) -> None:
    """Kill a process group and all that descends from a process, until nothing is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    deadline = time.monotonic() + SECONDS
    while (left := descendants(pid)) and time.monotonic() < deadline:
        for each in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(each, signal.SIGKILL)
        if pid == os.getpid():
            reaped()
        time.sleep(PAUSE)


def reaped() -> dict[int, int]:
    """Own children that have ended, with their wait statuses."""
    found = {}
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found[ended[0]] = ended[1]
    return found
