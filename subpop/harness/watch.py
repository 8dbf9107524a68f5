"""Recording what a plug-in's process imports and opens, with an audit hook, for the manifest (`subpop.harness.manifest`).

The hook is installed in the child process before the plug-in's file is imported. It sees only files that Python opens. If a
plug-in starts processes or calls its own native code, a reason is recorded for which its trials must not be reused.
"""

from __future__ import annotations

import os
import resource
import site
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any


def _below(*folders: str) -> tuple[str, ...]:
    """Path prefixes of folders, with and without symbolic links resolved."""
    return tuple({way(folder) + os.sep for folder in folders for way in (os.path.abspath, os.path.realpath)})


STDLIB = _below(*(sysconfig.get_path(name) for name in ("stdlib", "platstdlib")))
INSTALLED = _below(
    *(sysconfig.get_path(name) for name in ("purelib", "platlib")), *site.getsitepackages(), site.getusersitepackages()
)
"""Path prefixes of the standard library and of installed distributions; the latter may be inside the former."""
NO_FILES = ("/dev/", "/proc/", "/sys/")
IMPORTING = {"exec_module", "get_code", "_find_and_load", "_find_spec", "updatecache", "getlines"}
"""Functions that read source and bytecode, or lines for a traceback. Their files are ignored: modules are tracked by code."""
ASKS_FOR_HARDWARE = {"lscpu", "uname", "sysctl"}
"""Programs that libraries run to detect the hardware."""
STARTERS = ("popen_fork", "popen_spawn_posix", "popen_forkserver", "popen_loky_posix")
"""Modules that are imported when a process is started."""


class Watch:
    """Records events from its construction to the end of the process. `seen` returns plain data for JSON."""

    def __init__(self) -> None:
        self._before = frozenset(sys.modules)
        self._files: dict[str, tuple[int, int] | None] = {}
        self._own: set[str] = set()
        self._folders: set[str] = set()
        self._reasons: set[str] = set()
        self._busy = threading.local()
        self._asked_for_hardware = False
        self._handlers: dict[str, Callable[..., None]] = {
            "open": self._opened,
            "sqlite3.connect": lambda path: self._opened(path, "r", os.O_RDWR),
            "os.mkdir": lambda path, *_: self._made(path),
            "os.listdir": self._listed,
            "os.scandir": self._listed,
            "subprocess.Popen": lambda program, *_: self._started(program),
            "ctypes.dlopen": self._native,
            "socket.connect": lambda *_: self._because("it uses the network"),
        }
        for event in ("os.system", "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn"):
            self._handlers[event] = lambda *_: self._because("it starts processes")
        sys.addaudithook(self._hear)

    def seen(self) -> dict[str, Any]:
        """What was recorded: files of loaded modules by name, names of new ones, opened files, listed folders, reasons."""
        self._busy.now = True  # ignore events caused by this method
        modules = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
        new = [name for name in modules if name not in self._before]
        self._look_for_processes(new)
        return {
            "modules": {name: file for name, file in modules.items() if isinstance(file, str)},
            "new": new,
            "files": self._files,
            "folders": sorted(self._folders),
            "reasons": sorted(self._reasons),
        }

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        handler = self._handlers.get(event)
        if handler is None or getattr(self._busy, "now", False):
            return
        self._busy.now = True
        try:
            handler(*arguments)
        except (OSError, TypeError, ValueError, AttributeError):
            self._because(f"{event} could not be followed")
        finally:
            self._busy.now = False

    def _because(self, reason: str) -> None:
        self._reasons.add(reason)

    def _opened(self, path: object, mode: object = None, flags: int = 0) -> None:
        where = _absolute(path)
        if where is None or where.startswith(NO_FILES) or "__pycache__" in where or _is_importing() or os.path.isdir(where):
            return
        if where in self._files or self._is_own(where):
            return
        if flags & os.O_ACCMODE == os.O_WRONLY or flags & os.O_TRUNC:
            self._own.add(where)
            return
        if not where.startswith(STDLIB) or where.startswith(INSTALLED):
            self._files[where] = stamp(where)

    def _listed(self, path: object = None) -> None:
        where = _absolute("." if path is None else path)
        if where is None or where.startswith((*NO_FILES, *STDLIB)) or self._is_own(where) or _is_importing():
            return
        if not _looks_for_distributions() or (where + os.sep).startswith(INSTALLED):
            self._folders.add(where)

    def _made(self, path: object) -> None:
        where = _absolute(path)
        if where is not None and not os.path.isdir(where):
            self._own.add(where)

    def _is_own(self, where: str) -> bool:
        """Whether a file or folder was created in this process before anything in it was read."""
        return where in self._own or any(str(folder) in self._own for folder in Path(where).parents)

    def _started(self, program: object) -> None:
        name = os.path.basename(os.fsdecode(program)) if isinstance(program, str | bytes | os.PathLike) else ""
        if name in ASKS_FOR_HARDWARE:
            self._asked_for_hardware = True
        else:
            self._because("it starts processes")

    def _native(self, library: object) -> None:
        """Record native code that is not from an installed distribution, or that the plug-in calls itself."""
        where = _absolute(library) if isinstance(library, str | bytes) and os.sep in os.fsdecode(library) else None
        own_library = where is not None and not where.startswith((*INSTALLED, *STDLIB, "/lib", "/usr/lib"))
        if own_library or not _innermost_file().startswith(INSTALLED):
            self._because("it calls native code through ctypes")

    def _look_for_processes(self, new: list[str]) -> None:
        """Detect processes that were started without an audit event."""
        started = any(name.rpartition(".")[2] in STARTERS for name in new) or _has_children()
        if not self._asked_for_hardware:
            started = started or resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0
        if started:
            self._because("it starts processes")


def stamp(path: str) -> tuple[int, int] | None:
    """Size and modification time of a file; None if it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _absolute(path: object) -> str | None:
    return os.path.abspath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else None


def _frames_inside() -> list[FrameType]:
    """Frames of the standard library through which an event came, innermost first, then the first frame outside it."""
    frames: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name != __file__:
            frames.append(frame)
            if not name.startswith("<frozen") and (not name.startswith(STDLIB) or name.startswith(INSTALLED)):
                break
        frame = frame.f_back
    return frames


def _is_importing() -> bool:
    return any(frame.f_code.co_name in IMPORTING for frame in _frames_inside()[:-1])


def _looks_for_distributions() -> bool:
    """Whether a library asks for an installed version, for which each folder of `sys.path` is listed: the plug-in's own, too."""
    files = [frame.f_code.co_filename for frame in _frames_inside()]
    return any(f"{os.sep}importlib{os.sep}metadata{os.sep}" in file or "importlib_metadata" in file for file in files)


def _innermost_file() -> str:
    frames = _frames_inside()
    return os.path.realpath(frames[-1].f_code.co_filename) if frames else ""


def _has_children() -> bool:
    files = Path("/proc/self/task").glob("*/children") if sys.platform == "linux" else ()
    return any(_text_of(file).strip() for file in files)


def _text_of(file: Path) -> str:
    """The content of a file in /proc; empty if its thread has ended in the meantime."""
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
