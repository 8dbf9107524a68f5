"""Processes that start warm: forked from one that has imported everything, so that a run of a project takes no seconds to start.

They are real processes with a group of their own: they can be killed, and a full disk is a limit of their files.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from importlib import import_module
from multiprocessing import forkserver, get_context
from pathlib import Path

from small_projects import ROOT

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["warm_runs"])
PATIENCE = 300
"""Seconds after which a process that does not end by itself is a failure."""
IMPORTED = (
    "pytest", "joblib.externals.loky.process_executor", "sklearn.linear_model", "distributed.cli.dask_worker",
    "subpop.pytest_plugin", "subpop.experiments.executors", "subpop.report", "subpop.session.cli", "subpop.session.merging",
    "subpop.session.run", "subpop.victims",
)  # fmt: skip


class WarmRun:
    """A function of a module that takes arguments of a command line, as `pytest:main`, in a process of its own.

    limit: bytes that no file may grow beyond.
    """

    def __init__(self, function: str, folder: Path, *arguments: str, limit: int | None = None, **environment: str) -> None:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        before, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH"), paths
        try:
            forkserver.ensure_running()  # imports the modules, which it looks for in the environment's paths only
        finally:
            os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)
        self._output = folder / f"output-{os.urandom(8).hex()}"
        environment = {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **environment}
        self._process = CONTEXT.Process(target=_work, args=(function, arguments, folder, self._output, limit, environment))
        self._process.start()
        self.pid: int = self._process.pid or 0

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._process.exitcode

    def signal(self, number: int) -> None:
        """Send a signal to the process and all others of its group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def ended(self) -> str:
        """What it printed, when it has ended."""
        self._process.join(PATIENCE)
        assert self.poll() is not None, f"still running: {self.output()}"
        return self.output()

    def output(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""


def _work(
    function: str, arguments: tuple[str, ...], folder: Path, output: Path, limit: int | None, environment: dict[str, str]
) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    sys.dont_write_bytecode = True
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    module, _, name = function.partition(":")
    sys.argv = [module, *arguments]
    status = getattr(import_module(module), name)(list(arguments))
    sys.stdout.flush()
    sys.exit(status)


if "forkserver" in sys.orig_argv[-1]:  # this is the process from which they are forked
    for each in IMPORTED:
        with suppress(ImportError):
            import_module(each)
