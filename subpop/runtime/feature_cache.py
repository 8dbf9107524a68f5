"""Arrays of features on disk, one file a key: a killed run, a second process or a bad disk never gives wrong features.

A file is written under another name, then renamed, and ends in a checksum that is compared at every reading. What is larger
than memory is written block by block (`cached_blocks`).
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
"""What numpy raises for a damaged header, which it reads as Python text."""


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


def cached_blocks(folder: Path | None, key: str, shape: tuple[int, int], dtype: DTypeLike, blocks: Blocks) -> Array:
    """As `cached`, for an array of any dtype that is larger than memory: `blocks()` gives its rows in order, some at a time.

    Without a folder the array lies in a temporary file that goes with it. BadInput where the disk has no room for it.
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
    """Write FOLDER/KEY.npy, which `kept` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / f"{key}.npy", array)


def kept(folder: Path, key: str, shape: tuple[int, ...] | None = None, dtype: DTypeLike | None = None) -> Array | None:
    """The array of a key, read-only; None where there is none, or none of this shape and dtype, or a damaged one."""
    return _read(folder / f"{key}.npy", shape, dtype)


def _write_blocks(file: IO[bytes], shape: tuple[int, int], dtype: DTypeLike, blocks: Iterable[Array]) -> int:
    """Write header and rows; returns where the rows begin."""
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
    """Refuse at once what does not fit on the disk, and say so where it turns out to be full later."""
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
    """The features of a file, mapped read-only; None where there is none or, with a warning, where it is damaged."""
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
        file.write(_checksum(features))  # past the array: np.load does not look there


@contextmanager
def _renamed(path: Path) -> Iterator[IO[bytes]]:
    """A file under a name of one's own, renamed once it is complete: whoever reads sees the whole file or none."""
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
    """Let one process at a time compute the same features; the next then finds them. A killed process frees its lock."""
    with path.with_suffix(".lock").open("a") as file:
        with suppress(OSError):  # some network disks have no locks: then both compute, and the rename keeps that harmless
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
