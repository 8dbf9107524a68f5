"""The process that starts the children of plug-in defenses, and the supervisor of each child.

This fork server is started once with a clean environment: children have no access to the current cell, to the harness's
arguments or to tokens in its environment, and start within milliseconds. torch hangs after a fork of the harness itself, so the
server imports what children need and never starts a thread. It forks a supervisor for each child. The supervisor has no data; it
ends all descendants of the child when the child has ended, when the harness requests it, and when the harness has ended, even by
kill -9.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import NamedTuple, NoReturn

from subpop.runtime.processes import adopt_orphans, die_with_parent, end_descendants, reaped
from subpop.types import BadInput

PRELOADED = ("subpop.harness.child", "subpop.victims")
"""Modules that are imported once for all children, including the victims whose models they unpickle."""

ALLOWED = """PATH HOME USER LOGNAME LANG LANGUAGE TZ TMPDIR TEMP TMP LD_LIBRARY_PATH LD_PRELOAD DYLD_LIBRARY_PATH VIRTUAL_ENV
CONDA_PREFIX XDG_CACHE_HOME HF_HOME TORCH_HOME"""
ALLOWED_PREFIXES = """LC_ PYTHON OMP_ KMP_ GOMP_ OPENBLAS_ GOTO_ MKL_ BLIS_ VECLIB_ NUMEXPR_ NUMBA_ ATEN_ ONEDNN_ DNNL_ TORCH_
CUDA_ CUBLAS_ NVIDIA_ MALLOC_ LOKY_"""
"""Variables of a child's environment: paths of programs and libraries, language, threads and kernels. All others are removed."""
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Set to 1 in a child unless the user has set them: sets of a few hundred rows are slower with more threads, on a busy machine by
far, and the results of a defense should not depend on the number of cores."""

START = (
    "import json, sys; sys.path[:] = json.loads(input()); from subpop.harness.fork_server import serve; serve(int(sys.argv[1]))"
)
START_SECONDS = 120.0
END_SECONDS = 15.0
_PIDS, _STATUS = struct.Struct("ii"), struct.Struct("i")


def clean_environment() -> dict[str, str]:
    """The part of the environment that children may have, and one thread for numerical libraries if it does not say otherwise."""
    names, prefixes = frozenset(ALLOWED.split()), tuple(ALLOWED_PREFIXES.split())
    kept = {name: value for name, value in os.environ.items() if name in names or name.startswith(prefixes)}
    return {**dict.fromkeys(THREADS, "1"), **kept}


def search_path() -> list[str]:
    """`sys.path` with absolute paths, for a process in another folder."""
    return [os.path.abspath(entry) for entry in sys.path]


# --- the harness's side -----------------------------------------------------------------------------------------------


class Child:
    """A started child: its messages, its output, and the connection to its supervisor."""

    def __init__(self, connection: Connection, output: Connection, control: socket.socket, pids: tuple[int, int]) -> None:
        self.connection, self.output, self.control = connection, output, control
        self._supervisor, self._group = pids
        self._exitcode: int | None = None
        self._supervised = True

    def exitcode(self, seconds: float) -> int | None:
        """The child's exit code, -n for signal n; None if it still runs after waiting this long."""
        if self._exitcode is None and select.select([self.control], [], [], seconds)[0]:
            status = _received(self.control, _STATUS.size)
            self._supervised = bool(status)
            self._exitcode = os.waitstatus_to_exitcode(_STATUS.unpack(status)[0]) if status else -signal.SIGKILL
        return self._exitcode

    def end(self) -> None:
        """Kill the child and all processes that it started."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)
        code = self.exitcode(END_SECONDS)
        if code is None or not self._supervised:
            # Another process stopped or killed its supervisor: end all processes below it.
            end_descendants(self._supervisor, self._group)
        if code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._supervisor, signal.SIGKILL)
        self.control.settimeout(END_SECONDS)
        _received(self.control, 1)  # no more data is sent: waits until the supervisor ends too
        self.control.close()
        deadline = time.monotonic() + 1
        with contextlib.suppress(ProcessLookupError, PermissionError):
            while time.monotonic() < deadline:
                os.kill(self._supervisor, 0)
                time.sleep(0.001)


class ForkServer:
    """Starts the server when the first child is requested, and again if it has ended."""

    def __init__(self) -> None:
        self._lock, self._owner = threading.Lock(), 0
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    @property
    def pid(self) -> int:
        """The server's process id; 0 if it has not been started."""
        return self._process.pid if self._process is not None and self._owner == os.getpid() else 0

    def child(self) -> Child:
        """A new child, which waits for its first message."""
        connection, theirs = Pipe()
        output, their_output = Pipe(duplex=False)
        control, their_control = socket.socketpair()
        with theirs, their_output, their_control:
            self._send([theirs.fileno(), their_output.fileno(), their_control.fileno()])
        control.settimeout(START_SECONDS)
        pids = _received(control, _PIDS.size)
        control.settimeout(None)
        if not pids:
            raise BadInput("the process that starts plug-in defenses has ended; see its output on the terminal for the reason")
        return Child(connection, output, control, _PIDS.unpack(pids))

    def _send(self, fds: list[int]) -> None:
        with self._lock:
            for line in (self._started(), None):
                try:
                    socket.send_fds(line or self._restarted(), [b"+"], fds)
                except OSError:
                    if line is None:
                        raise
                else:
                    return

    def _started(self) -> socket.socket:
        if self._line is None or self._owner != os.getpid():  # a fork of the harness has no own server yet
            return self._restarted()
        return self._line

    def _restarted(self) -> socket.socket:
        self._line, theirs = socket.socketpair()
        self._owner = os.getpid()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, str(theirs.fileno())],
                stdin=subprocess.PIPE,
                env=clean_environment(),
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(json.dumps(search_path()).encode() + b"\n")
        return self._line

    def close(self) -> None:
        """End the server; children that still run keep their supervisors."""
        if self._line is not None and self._process is not None and self._owner == os.getpid():
            self._line.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
            self._line = None


SERVER = ForkServer()
atexit.register(SERVER.close)


def _received(line: socket.socket, size: int) -> bytes:
    """Receive this number of bytes; returns none if the other end is closed or silent."""
    try:
        return line.recv(size, socket.MSG_WAITALL)
    except OSError:
        return b""


# --- the server -------------------------------------------------------------------------------------------------------


def serve(fd: int) -> None:
    """Run the server: fork a supervisor for each request until the harness has ended."""
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended supervisors are reaped automatically
    with socket.socket(fileno=fd) as requests:
        while (asked := socket.recv_fds(requests, 1, 3))[0]:
            if os.fork() == 0:
                requests.close()
                _supervise(*asked[1])
            for each in asked[1]:
                os.close(each)


class _Woken(NamedTuple):
    """A pipe that becomes readable when a child has ended."""

    read: int
    write: int


def _supervise(connection: int, output: int, control: int) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    adopt_orphans()
    child = os.fork()
    if child == 0:
        os.close(control)
        _become_child(connection, output)
    os.close(connection)
    os.close(output)
    with contextlib.suppress(OSError):
        os.write(control, _PIDS.pack(os.getpid(), child))
    status = _wait(child, control)
    end_descendants(os.getpid(), child)
    with contextlib.suppress(OSError):
        os.write(control, _STATUS.pack(reaped().get(child, signal.SIGKILL) if status is None else status))
    os._exit(0)


def _wait(child: int, control: int) -> int | None:
    """Return the child's wait status once it has ended; None if the harness requests its end or has ended."""
    woken = _Woken(*os.pipe())
    for fd in woken:
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(woken.write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    while child not in (ended := reaped()):
        if control in select.select([control, woken.read], [], [])[0]:
            return None
        with contextlib.suppress(BlockingIOError):
            os.read(woken.read, 1 << 10)
    return ended[child]


def _become_child(connection: int, output: int) -> NoReturn:
    die_with_parent()
    from subpop.harness.child import child_main

    child_main(Connection(connection), Connection(output, readable=False))
    os._exit(0)
