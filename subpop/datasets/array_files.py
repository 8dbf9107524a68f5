"""Plain arrays in an `.npz` file, with checks before any memory is allocated.

An `.npz` file is a zip file of `.npy` members. Each member's header and size are checked before an array is made, because a
header of a few bytes may ask for a terabyte. Pickles are never loaded.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from subpop.types import Array, BadInput

LARGEST_SUM = 1 << 33
"""Maximum total size of all arrays of a file."""


def read_arrays(path: Path) -> Mapping[str, Array]:
    """Read all arrays of an `.npz` file.

    Raises BadInput for other, truncated or too large files, for pickled arrays, and for duplicate member names, of which readers
    would silently use the last.
    """
    if not (path.is_file() or path.is_dir()):
        raise BadInput(f"{path} is not a regular file; give an .npz file, as numpy.savez writes it")
    try:
        with zipfile.ZipFile(path) as file:
            return _arrays(path, file)
    except BadInput:
        raise
    # Exceptions of damaged zip files and members, including encrypted ones and unknown compressions.
    except (TypeError, ValueError, EOFError, OSError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(
            f"{path} cannot be read as an .npz file of plain arrays ({type(error).__name__}: {error}); it may be truncated or "
            "another kind of file, or contain Python objects: write it with numpy.savez, each array of numbers or texts"
        ) from error


def _arrays(path: Path, file: zipfile.ZipFile) -> dict[str, Array]:
    members = file.infolist()
    counts = Counter(_key(member) for member in members)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise BadInput(f"{path} contains {', '.join(twice)} twice, which is ambiguous; save each array once")
    total = sum(member.file_size for member in members)
    if total > LARGEST_SUM:
        raise BadInput(
            f"{path} contains {total} bytes of arrays, more than the {LARGEST_SUM} allowed; save fewer rows or float32"
        )
    for member in members:
        with file.open(member) as stream:
            _check_header(_key(member), stream, member.file_size)
    return {_key(member): _read(file, member) for member in members}


def _key(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _check_header(key: str, stream: IO[bytes], n_bytes: int) -> None:
    """Raise ValueError for anything but an array of numbers or texts, or for a header that contradicts the member's size."""
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(stream)
    if dtype.hasobject:
        raise ValueError(f"{key} is an array of objects, a pickle, which is never loaded")
    wanted = dtype.itemsize
    for length in shape:
        wanted *= length
    if dtype.itemsize == 0 or min(shape, default=0) < 0 or wanted != n_bytes - stream.tell():
        raise ValueError(f"{key} has a header for {wanted} bytes of {dtype}{shape} and contains {n_bytes - stream.tell()}")


def _read(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with file.open(member) as stream:
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def decoded_texts(path: Path, key: str, values: Array) -> Array:
    """Texts as str: bytes are decoded as UTF-8, and other values are converted to text."""
    if values.dtype.kind != "S":
        return values.astype(np.str_)
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: {key} contains bytes that are not UTF-8 ({error}); save it as texts") from error
