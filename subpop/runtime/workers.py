"""Worker processes of this machine, which train cells and draw figures.

On Linux they can be forked from a process that has imported all libraries once, so that none of them spends seconds on imports.
That process has one thread, as forking requires, and holds no data.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from functools import lru_cache
from multiprocessing import parent_process
from threading import Thread, current_thread
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from subpop.runtime.memory import for_long_runs
from subpop.runtime.threads import ONE_CORE, use_one_core

if sys.platform == "linux":
    from multiprocessing.context import ForkServerContext, ForkServerProcess

if TYPE_CHECKING:
    from joblib.externals.loky.process_executor import ProcessPoolExecutor

GROWTH = 1_500_000_000
"""Bytes that a worker may grow by before it is replaced."""
_context: list[Any] = []


def worker_processes(n_workers: int) -> ProcessPoolExecutor:
    """Processes with one core each that end with this one; `shutdown(kill_workers=True)` ends them earlier."""
    from joblib.externals.loky.process_executor import ProcessPoolExecutor

    context = _context[0] if _context else None
    return ProcessPoolExecutor(n_workers, context=context, env=ONE_CORE, initializer=begin, initargs=(os.getpid(),))


# --- the process that has imported everything -------------------------------------------------------------------------


def prepare_workers(module: str) -> None:
    """Start a process that imports a module; it does so while this one goes on. Later workers are forked from it.

    Does nothing on other systems than Linux, where libraries may not survive forking, and if there is no room for its socket in
    the folder of temporary files, or the path of that is too long.
    """
    if sys.platform == "linux" and not _context:
        from multiprocessing import forkserver

        forkserver.set_forkserver_preload([module])
        with patch.dict(os.environ, ONE_CORE), suppress(OSError):
            forkserver.ensure_running()
            _context.append(_Forking())


def discard_prepared() -> None:
    """End that process, and start later workers in the ordinary way."""
    if _context:
        from multiprocessing import forkserver

        _context.clear()
        forkserver.set_forkserver_preload([])
        server: Any = forkserver._forkserver
        with suppress(OSError, TypeError):
            os.kill(server._forkserver_pid, signal.SIGKILL)
        with suppress(ChildProcessError):  # it had died, and somebody has noticed
            server._stop()


if sys.platform == "linux":

    class _Forked(ForkServerProcess):
        """A process that does not run this session's main script once more, which may start a session when it is imported."""

        @staticmethod
        def _Popen(process_obj: Any) -> Any:
            from multiprocessing import popen_forkserver, spawn

            told = spawn.get_preparation_data

            def without_script(name: str) -> dict[str, Any]:
                return {key: value for key, value in told(name).items() if not key.startswith("init_main")}

            with patch.object(spawn, "get_preparation_data", without_script):
                return popen_forkserver.Popen(process_obj)

    class _Forking(ForkServerContext):
        Process = _Forked


# --- in a worker ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def begin(harness: int = 0) -> None:
    """What a process does before its first task. harness: the one that started it, with whose end it ends; 0 for none."""
    from joblib.externals.loky import process_executor

    if harness:
        _end_with(harness)
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
