"""Temporary folders that do not stay behind when a run is killed: the next one deletes them.

Beside each folder is a file that its process keeps locked. The operating system ends the lock with the process, also after
`kill -9` and in other containers that share the folder for temporary files, where numbers of processes would say nothing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

PREFIX = "subpop-"
LOCK = ".lock"


class Scratch(tempfile.TemporaryDirectory[str]):
    """A temporary folder for one purpose, which is part of its name; deleted by `cleanup`, or by a later run.

    Examples
    --------
    >>> with Scratch("example") as folder:
    ...     Path(folder).is_dir()
    True
    >>> Path(folder).exists()
    False
    """

    def __init__(self, purpose: str) -> None:
        _delete_left_ones(tempfile.gettempdir(), os.getpid())
        super().__init__(prefix=f"{PREFIX}{purpose}-", ignore_cleanup_errors=True)
        new = Path(f"{self.name}.new")  # renamed when it is locked: an unlocked file of the final name belongs to nobody
        file = new.open("xb")
        fcntl.flock(file, fcntl.LOCK_EX)
        self._unlock = weakref.finalize(self, _unlocked, new.rename(f"{self.name}{LOCK}"), file)

    def cleanup(self) -> None:
        """Delete the folder."""
        super().cleanup()
        self._unlock()


def _unlocked(path: Path, file: BinaryIO) -> None:
    path.unlink(missing_ok=True)
    file.close()


@lru_cache(maxsize=1)
def _delete_left_ones(folder: str, process: int) -> None:
    """Delete what killed processes left in the folder for temporary files, once in each process."""
    for lock in Path(folder).glob(f"{PREFIX}*{LOCK}"):
        with suppress(OSError), lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink()
