"""Arrays as rows of a database, addressed by a hash of the stored bytes, so that corruption is found before an array is used."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from subpop.types import Array, BadInput

ZLIB_PAYS = 0.9
ZLIB_SAMPLE = 1 << 16

Blob = tuple[str, str, str, str, bytes]
"""Hash of the other four; dtype; shape as JSON; codec; content, with booleans packed to bits, compressed if that saves space."""


def encode_all(arrays: Mapping[str, Array]) -> list[tuple[str, Blob]]:
    """A blob for each array, by name. Raises BadInput for arrays of objects."""
    for name, array in arrays.items():
        if np.asarray(array).dtype.kind not in "biufcSUmM":
            raise BadInput(f"array {name!r} of {np.asarray(array).dtype} cannot be stored; give numbers, booleans or strings")
    return [(name, _encode(np.asarray(array))) for name, array in arrays.items()]


def _encode(array: Array) -> Blob:
    dtype, shape = array.dtype.str, json.dumps(array.shape)
    packed = np.packbits(array).tobytes() if array.dtype == np.bool_ else array.tobytes()
    # Decided on a sample: compressing a large array of random bits in vain would take seconds.
    sample = packed[:ZLIB_SAMPLE]
    pays = len(zlib.compress(sample, 1)) < ZLIB_PAYS * len(sample)
    codec, content = ("zlib", zlib.compress(packed, 1)) if pays else ("raw", packed)
    return _sha(dtype, shape, codec, content), dtype, shape, codec, content


def is_intact(blob: tuple[object, ...]) -> bool:
    """Whether a row of the table `blobs` is exactly what was written, including its types."""
    sha, dtype, shape, codec, content = blob
    texts = isinstance(dtype, str) and isinstance(shape, str) and isinstance(codec, str) and isinstance(content, bytes)
    return texts and _sha(dtype, shape, codec, content) == sha  # type: ignore[arg-type]


def decode(blob: Blob) -> Array:
    """The array of an intact blob, C-contiguous and writable."""
    _, dtype, text, codec, content = blob
    shape = _shape(text)
    plain = zlib.decompress(content) if codec == "zlib" else content
    if np.dtype(dtype) == np.bool_:
        plain = np.unpackbits(np.frombuffer(plain, np.uint8), count=math.prod(shape)).tobytes()
    return np.frombuffer(bytearray(plain), dtype).reshape(shape)


@lru_cache(maxsize=256)
def _shape(text: str) -> tuple[int, ...]:
    return tuple(json.loads(text))


def _sha(dtype: str, shape: str, codec: str, content: bytes) -> str:
    digest = hashlib.sha256("\0".join([dtype, shape, codec, ""]).encode("utf-8", "surrogatepass"))
    digest.update(content)
    return digest.hexdigest()
