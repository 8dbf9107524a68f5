"""Arrays that the workers of one machine share during a run, so that none is made twice: clean models, partitions, draws.

Each is a file in a folder that the harness deletes at the end of the run. Its name is the key under which the harness stores
it, a hash of everything that it depends on.
"""

from __future__ import annotations

import fcntl
import time
import uuid
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np

from subpop.types import Array

PATIENCE = 60.0
"""Seconds for which a worker that keeps others waiting itself waits for another one; then it makes the array, too."""
PAUSE = 0.01


class SharedArrays:
    """The arrays in a folder, as one process sees them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._claims: dict[str, IO[bytes]] = {}

    def get(self, key: str) -> dict[str, Array] | None:
        """The arrays of a key; if there are none, other processes wait for this one to `put` them, or to `release` them."""
        found = self._read(key)
        if found is None and self._claim(key):
            found = self._read(key)  # another process may have made it in the meantime
            if found is not None:
                self._release(key)
        return found

    def put(self, key: str, arrays: Mapping[str, Array]) -> None:
        """Hand arrays to the other processes; on a full disk they make their own."""
        own = self._folder / f"{uuid.uuid4().hex}.tmp"
        with suppress(OSError):
            try:
                with own.open("xb") as file:
                    np.savez(file, **dict(arrays))  # type: ignore[arg-type]
                own.replace(self._path(key))
            finally:
                own.unlink(missing_ok=True)
        self._release(key)

    def release(self) -> None:
        """Let other processes make what this one has not made after all."""
        for key in list(self._claims):
            self._release(key)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.npz"

    def _read(self, key: str) -> dict[str, Array] | None:
        try:
            with np.load(self._path(key), allow_pickle=False) as found:
                return dict(found)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None

    def _claim(self, key: str) -> bool:
        """Wait until no other process makes these arrays; returns False after PATIENCE if others may wait for this process."""
        if key in self._claims:
            return False
        with suppress(OSError):
            file = (self._folder / f"{key}.lock").open("ab")
            deadline = time.monotonic() + PATIENCE
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the lock of a process that dies is released
                    self._claims[key] = file
                    return True
                except BlockingIOError:
                    if self._claims and time.monotonic() > deadline:
                        file.close()
                        return False
                    time.sleep(PAUSE)
        return False

    def _release(self, key: str) -> None:
        if key in self._claims:
            self._claims.pop(key).close()
