"""Hiding files written since a given time from a process, so that trials cannot pass messages to each other in files."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

NEVER_HIDDEN = ("/proc/", "/sys/")
"""Virtual file systems, whose files are generated when they are read."""


class Hiding:
    """From its construction to the end of the process, prevents newer regular files from being opened for reading.

    since: seconds since the epoch; source: the plug-in's own file, which is never hidden. Files that the process itself created
    can be read. Bytecode is hidden too, so Python compiles the module again. Files opened by native code are not hidden.
    """

    def __init__(self, since: float, source: Path) -> None:
        self._since, self._own = since, {os.path.abspath(source)}
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            self._opened(arguments[0], arguments[2] or 0)
        elif event == "sqlite3.connect":
            self._opened(arguments[0], os.O_RDWR)

    def _opened(self, path: object, flags: int) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        where = os.path.abspath(os.fsdecode(path))
        is_young = self._is_young(where)
        if flags & os.O_TRUNC or (is_young is None and flags & os.O_CREAT):
            self._own.add(where)
        elif is_young and where not in self._own and flags & os.O_ACCMODE != os.O_WRONLY:
            raise FileNotFoundError(2, "no such file, for a trial that is replayed alone", where)

    def _is_young(self, where: str) -> bool | None:
        """Whether a file is newer than `since`; None if it does not exist."""
        try:
            found = os.stat(where)
        except (OSError, ValueError):
            return None
        return stat.S_ISREG(found.st_mode) and found.st_mtime >= self._since and not where.startswith(NEVER_HIDDEN)
