"""Worker processes of this machine, which train cells and draw figures.

On Linux they can be forked from a process that has imported all libraries once, so that none of them spends seconds on imports.
That process has one thread, as forking requires, and holds no data.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from multiprocessing import current_process, parent_process
from threading import Thread, current_thread
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from subpop.runtime.memory import for_long_runs
from subpop.runtime.scratch import Scratch
from subpop.runtime.threads import ONE_CORE, use_one_core

if sys.platform == "linux":
    from multiprocessing.context import ForkServerContext, ForkServerProcess
    from multiprocessing.forkserver import ForkServer

if TYPE_CHECKING:
    from joblib.externals.loky.process_executor import ProcessPoolExecutor

GROWTH = 1_500_000_000
"""Bytes that a worker may grow by before it is replaced."""
_context: list[Any] = []


def worker_processes(n_workers: int) -> ProcessPoolExecutor:
    """Processes with one core each that end with this one; `shutdown(kill_workers=True)` ends them earlier."""
    from joblib.externals.loky.process_executor import ProcessPoolExecutor

    class Workers(ProcessPoolExecutor):  # type: ignore[misc]
        def _ensure_executor_running(self) -> None:
            with _unreached_by_interrupts():
                super()._ensure_executor_running()

    context = _context[0] if _context else None
    return Workers(n_workers, context=context, env=ONE_CORE, initializer=begin, initargs=(os.getpid(),))


@contextmanager
def _unreached_by_interrupts() -> Iterator[None]:
    """Processes that this thread starts in this context ignore Ctrl-C, which a terminal sends to all of them.

    It would end them with a traceback while they import what they need. They end with this process. Windows has no such masks.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # to start it later would end the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- the process that has imported everything -------------------------------------------------------------------------


def prepare_workers(module: str) -> None:
    """Start a process that imports a module; it does so while this one goes on. Later workers are forked from it.

    The module has to limit its process to one core before it imports libraries with threads. This function does nothing on
    systems other than Linux, where libraries may not survive forking, and if there is no room for its socket in the folder of
    temporary files, or the path of that is too long.
    """
    if sys.platform == "linux" and not _context:
        with suppress(OSError):
            _Forked.prepared = _Prepared(module)
            _context.append(_Forking())


def discard_prepared() -> None:
    """End that process, and start later workers in the ordinary way."""
    if _context:
        _context.clear()
        _Forked.prepared.end()


if sys.platform == "linux":

    class _Prepared(ForkServer):
        """The process that has imported a module: not that of `multiprocessing`, which the program that starts a session may use.

        Its socket is in a folder that a later run deletes if this one is killed.
        """

        def __init__(self, module: str) -> None:
            super().__init__()
            self._place = Scratch("workers")
            self.set_forkserver_preload([module])
            try:
                self.ensure_running()
            except OSError:
                self._place.cleanup()
                raise

        def ensure_running(self) -> None:
            """Start the process, or another one if it has died. What other threads see of this process stays as it is."""
            if self._runs():
                return
            config: Any = current_process()._config  # type: ignore[attr-defined]
            before = config.get("tempdir")
            config["tempdir"] = self._place.name
            try:
                with _unreached_by_interrupts():
                    super().ensure_running()
            finally:
                config["tempdir"] = before

        def _runs(self) -> bool:
            server: Any = self
            with suppress(TypeError, ChildProcessError):  # never started; somebody else has noticed its end
                return os.waitid(os.P_PID, server._forkserver_pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            return False

        def end(self) -> None:
            server: Any = self
            with suppress(OSError, TypeError):
                os.kill(server._forkserver_pid, signal.SIGKILL)
            with suppress(ChildProcessError, FileNotFoundError):  # somebody else has noticed its end, or deleted its socket
                server._stop()
            self._place.cleanup()

    class _Forked(ForkServerProcess):
        """A process that does not run this session's main script once more, which may start a session when it is imported."""

        prepared: _Prepared

        @staticmethod
        def _Popen(process_obj: Any) -> Any:
            from multiprocessing import forkserver, popen_forkserver, spawn

            original = spawn.get_preparation_data

            def without_script(name: str) -> dict[str, Any]:
                return {key: value for key, value in original(name).items() if not key.startswith("init_main")}

            script = patch.object(spawn, "get_preparation_data", without_script)
            connect = patch.object(forkserver, "connect_to_new_process", _Forked.prepared.connect_to_new_process)
            with script, connect:
                return popen_forkserver.Popen(process_obj)

    class _Forking(ForkServerContext):
        Process = _Forked


# --- in a worker ------------------------------------------------------------------------------------------------------


def begin(harness: int) -> None:
    """What a process of this machine does before its first task. harness: the one that started it, with whose end it ends."""
    _end_with(harness)
    settle()


@lru_cache(maxsize=1)
def settle() -> None:
    """Limit this process to one core, once, and let it live for long; workers of a cluster do it at their first task."""
    from joblib.externals.loky import process_executor

    use_one_core()
    for_long_runs()
    # Where psutil is installed, loky ends workers that grow by 0.3 GB, which data alone does; the next has to read it again.
    process_executor._MAX_MEMORY_LEAK_SIZE = GROWTH


def _end_with(harness: int) -> None:
    """Make a worker end when the harness does, even by kill -9 or before the worker had started, and ignore Ctrl-C."""

    def watch() -> None:
        started_by = parent_process()
        if started_by is not None and started_by.sentinel is not None:  # forked from a process between the two
            started_by.join()
        else:
            while os.getppid() == harness:
                time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    if current_thread().name == "MainThread":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=watch, daemon=True).start()
