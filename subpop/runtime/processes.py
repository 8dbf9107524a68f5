"""Finding and killing all descendants of a process, so that processes started by a plug-in do not outlive its cell.

On Linux a subreaper adopts orphans, so even processes that left their group are found in /proc. On other systems only the
child's process group can be killed, and processes that left it survive.
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
"""How long to keep killing: a process may have started another one just before it was killed."""
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
    """Running descendants of a process, without the process itself; empty on systems without /proc."""
    children, ended = defaultdict(list), set()
    for path in Path("/proc").glob("[0-9]*/stat") if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):  # it has ended in the meantime
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
            children[int(parent)].append(int(path.parent.name))
            if state in "ZX":  # its children may not have been adopted yet
                ended.add(int(path.parent.name))
    found: list[int] = []
    waiting = list(children[pid])
    while waiting:
        found.append(waiting.pop())
        waiting += children[found[-1]]
    return [each for each in found if each not in ended]


def end_descendants(pid: int, group: int) -> None:
    """Kill a process group and all descendants of a process, until none is left."""
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
    """Reap own children that have ended; returns their wait statuses by pid."""
    found = {}
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found[ended[0]] = ended[1]
    return found
