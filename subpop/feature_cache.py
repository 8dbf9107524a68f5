"""Arrays of features on disk, one file a key: a killed run, a second process or a bad disk never gives wrong features.

A file is written under another name, then renamed, and ends in a checksum that is compared at every reading.
"""

from __future__ import annotations

import fcntl
import os
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from subpop.fingerprint import DIGEST_BYTES, data_hash
from subpop.types import BadInput, Floats


def cached(folder: Path | None, key: str, shape: tuple[int, int], compute: Callable[[], Floats]) -> Floats:
    """The features of a key, read-only and mapped from FOLDER/KEY.npy; computed where that is missing or damaged.

    Without a folder they are computed and not kept. Processes that want the same key wait for the first of them.
    """
    if folder is None:
        features = compute()
        features.setflags(write=False)
        return features
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}.npy"
    with _only_one(path):
        found = _read(path, shape)
        if found is None:
            _write(path, compute())
            found = _read(path, shape)
    if found is None:
        raise BadInput(f"{path} cannot be read back right after it was written; check the disk, or name another cache folder")
    return found


def _checksum(features: Floats) -> bytes:
    return bytes.fromhex(data_hash(features))


def _read(path: Path, shape: tuple[int, int]) -> Floats | None:
    """The features of a file, mapped read-only; None where there is none or, with a warning, where it is damaged."""
    if not path.is_file():
        return None
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as file:
            file.seek(-DIGEST_BYTES, os.SEEK_END)
            checksum = file.read()
        if isinstance(features, np.memmap) and features.shape == shape and checksum == _checksum(features):
            return features
        problem = "its content is not what was written"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        problem = str(error)
    warnings.warn(f"the features in {path} are damaged ({problem}); they are computed again", stacklevel=3)
    return None


def _write(path: Path, features: Floats) -> None:
    """Write under a name of one's own, then rename: whoever reads sees the whole file or none."""
    own = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        with own.open("xb") as file:
            np.save(file, features, allow_pickle=False)
            file.write(_checksum(features))  # past the array: np.load does not look there
            file.flush()
            os.fsync(file.fileno())
        own.replace(path)
    finally:
        own.unlink(missing_ok=True)


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Let one process at a time compute the same features; the next then finds them. A killed process frees its lock."""
    with path.with_suffix(".lock").open("a") as file:
        with suppress(OSError):  # some network disks have no locks: then both compute, and the rename keeps that harmless
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
