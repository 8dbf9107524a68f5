"""A cache of feature arrays on disk, one file per key, safe under killed runs, concurrent processes and disk errors.

A file is written under a temporary name and then renamed; it ends in a checksum that is verified on every read. Arrays larger
than memory are written block by block (`cached_blocks`).
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import shutil
import tempfile
import tokenize
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import DTypeLike

from subpop.runtime.fingerprint import DIGEST_BYTES, data_hash
from subpop.types import Array, BadInput, Floats

Blocks = Callable[[], Iterable[Array]]
UNREADABLE = (
    OSError, ValueError, EOFError, TypeError, OverflowError, MemoryError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip
"""Exceptions that `np.load` raises for a damaged file, whose header it parses as Python."""


def cached(folder: Path | None, key: str, shape: tuple[int, int], compute: Callable[[], Floats]) -> Floats:
    """The features of a key, memory-mapped read-only from FOLDER/KEY.npy; computed if that file is missing or damaged.

    Without a folder they are computed and not cached. Processes that need the same key wait for the first of them.
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


def cached_blocks(folder: Path | None, key: str, shape: tuple[int, int], dtype: DTypeLike, blocks: Blocks) -> Array:
    """Like `cached`, for an array of any dtype that is larger than memory: `blocks()` yields consecutive blocks of its rows.

    Without a folder, the array is in a temporary file that is deleted with it. Raises BadInput if the disk has no room for it.
    """
    if folder is None:
        with tempfile.TemporaryFile() as file, _room(Path(tempfile.gettempdir()), shape, dtype):
            start = _write_blocks(file, shape, dtype, blocks())
            return np.memmap(file, np.dtype(dtype), "r", start, shape)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}.npy"
    with _only_one(path):
        found = _read(path, shape, dtype)
        if found is None:
            with _room(folder, shape, dtype), _renamed(path) as file:
                start = _write_blocks(file, shape, dtype, blocks())
                file.write(_checksum(np.memmap(file, np.dtype(dtype), "r", start, shape)))
            found = _read(path, shape, dtype)
    if found is None:
        raise BadInput(f"{path} cannot be read back right after it was written; check the disk, or name another cache folder")
    return found


def keep(folder: Path, key: str, array: Array) -> None:
    """Write FOLDER/KEY.npy, to be read by `kept`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"{key}.npy", array)


def kept(folder: Path, key: str, shape: tuple[int, ...] | None = None, dtype: DTypeLike | None = None) -> Array | None:
    """The array of a key, read-only; None if it is missing, damaged, or of another shape or dtype."""
    return _read(folder / f"{key}.npy", shape, dtype)


def _write_blocks(file: IO[bytes], shape: tuple[int, int], dtype: DTypeLike, blocks: Iterable[Array]) -> int:
    """Write header and rows; returns the offset at which the rows begin."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, header)
    start, n_rows = file.tell(), 0
    for block in blocks:
        if block.dtype != np.dtype(dtype) or block.shape[1:] != shape[1:]:
            raise BadInput(f"a block of {block.dtype} {block.shape} does not fit an array of {np.dtype(dtype)} {shape}")
        file.write(np.ascontiguousarray(block).data)
        n_rows += len(block)
    if n_rows != shape[0]:
        raise BadInput(f"blocks of {n_rows} rows in all do not fit an array of {shape[0]}")
    file.flush()
    return start


@contextmanager
def _room(folder: Path, shape: tuple[int, int], dtype: DTypeLike) -> Iterator[None]:
    """Raise BadInput if the array does not fit on the disk, or if the disk turns out to be full while it is written."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    message = f"no room for {size / 1e9:.2g} GB in {folder}; free some, or name another folder for the cache"
    if shutil.disk_usage(folder).free < size:
        raise BadInput(message)
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise BadInput(f"{message} ({error})") from error


def _checksum(features: Array) -> bytes:
    return bytes.fromhex(data_hash(features))


def _read(path: Path, shape: tuple[int, ...] | None, dtype: DTypeLike | None = None) -> Array | None:
    """The features of a file, memory-mapped read-only; None if it is missing or, with a warning, damaged."""
    if not path.is_file():
        return None
    try:
        features = np.load(path, mmap_mode="r", allow_pickle=False)
        with path.open("rb") as file:
            file.seek(-DIGEST_BYTES, os.SEEK_END)
            checksum = file.read()
        same = shape in (None, features.shape) and (dtype is None or features.dtype == np.dtype(dtype))
        if isinstance(features, np.memmap) and same and checksum == _checksum(features):
            return features
        problem = "its content is not what was written"
    except UNREADABLE as error:
        problem = str(error)
    warnings.warn(f"the features in {path} are damaged ({problem}); they are computed again", stacklevel=3)
    return None


def _write(path: Path, features: Array) -> None:
    with _renamed(path) as file:
        np.save(file, features, allow_pickle=False)
        file.write(_checksum(features))  # after the array, where np.load ignores it


@contextmanager
def _renamed(path: Path) -> Iterator[IO[bytes]]:
    """A file under a temporary name, renamed once complete: readers see the whole file or none."""
    own = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
    try:
        with own.open("x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        own.replace(path)
    finally:
        own.unlink(missing_ok=True)


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Lock the computation of the same features to one process at a time; the lock of a killed process is released."""
    with path.with_suffix(".lock").open("a") as file:
        with suppress(OSError):  # some network disks have no locks: then both compute, which the rename makes harmless
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
