"""Pictures of any format as rows: uint8, (n, 3, size, size), in the order of their names.

Pictures are rotated and mirrored according to their EXIF orientation, cropped to their central square, and resized (bilinear,
with antialiasing). A JPEG that is at least twice too large is decoded at a half, a quarter or an eighth of its size, which the
format supports. Grey, palette, transparent and CMYK pictures become RGB (transparency is dropped). Pictures that cannot be
decoded are named, counted and left out.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from subpop.datasets.picture_files import SUFFIXES, Picture, shown
from subpop.types import BadInput, Ints

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

LARGEST_SIZE = 1024
LIMIT = 0.01
"""Largest fraction of pictures that may be left out because they cannot be decoded."""
CHUNK = 64


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pictures as rows.

    x: (n, 3, size, size) uint8; kept: (n,) their positions among the given pictures; hashes: (n,) md5 of each file's bytes;
    original_sizes: (n, 2) width and height before resizing; left_out: pictures that could not be decoded, with the reason.
    """

    x: NDArray[np.uint8]
    kept: Ints
    hashes: NDArray[np.str_]
    original_sizes: Ints
    left_out: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """Return remarks for a report; none if all pictures were decoded."""
        if not self.left_out:
            return ()
        return (f"{len(self.left_out)} of {len(self.left_out) + len(self.kept)} left out, unreadable: {shown(self.left_out)}",)


def decode(pictures: Sequence[Picture], size: int, what: str, limit: float = LIMIT) -> Decoded:
    """Decode pictures to `size` pixels per side, in a few threads and with a progress bar on a terminal; `what` names them in
    messages.

    Raises BadInput if there are none, or if more than the fraction `limit` of them cannot be decoded.
    """
    if not 1 <= size <= LARGEST_SIZE:
        raise BadInput(f"{what}: size {size} is outside 1..{LARGEST_SIZE} pixels; use a size such as 32")
    if not pictures:
        raise BadInput(f"{what}: there are no pictures; add files ending in {' '.join(sorted(SUFFIXES))}")
    n = len(pictures)
    job = _Job(pictures, np.empty((n, 3, size, size), np.uint8), np.empty(n, "<U32"), np.zeros((n, 2), np.int64))
    starts = range(0, n, CHUNK)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, _bar(f"decoding {what}", n) as advance:
        wrong: dict[int, str] = {}
        for start, found in zip(starts, pool.map(job.decode_from, starts), strict=True):
            wrong |= found
            advance(min(CHUNK, n - start))
    if len(wrong) > limit * n:
        raise BadInput(
            f"{what}: {len(wrong)} of {n} pictures will not decode, more than {limit:.0%}: {shown(list(wrong.values()))}; "
            "replace or remove them"
        )
    kept = np.setdiff1d(np.arange(n), list(wrong)) if wrong else np.arange(n)
    x, hashes, sizes = (job.x, job.hashes, job.sizes) if not wrong else (job.x[kept], job.hashes[kept], job.sizes[kept])
    return Decoded(x, kept, hashes, sizes, tuple(wrong.values()))


@dataclass(frozen=True, eq=False)
class _Job:
    """Arrays that several threads fill, each its own rows."""

    pictures: Sequence[Picture]
    x: NDArray[np.uint8]
    hashes: NDArray[np.str_]
    sizes: Ints

    def decode_from(self, start: int) -> dict[int, str]:
        """Fill a chunk of rows; returns names and reasons of those that could not be decoded."""
        from PIL import Image, UnidentifiedImageError

        wrong = {}
        for i in range(start, min(start + CHUNK, len(self.pictures))):
            try:
                content = self.pictures[i].read()
                self.x[i], self.sizes[i] = _pixels(content, self.x.shape[-1])
                self.hashes[i] = hashlib.md5(content).hexdigest()
            # Exceptions that Pillow's decoders are known to raise for damaged files.
            except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, Image.DecompressionBombError) as error:
                reason = "not a picture" if isinstance(error, UnidentifiedImageError) else str(error)
                wrong[i] = f"{self.pictures[i].name} ({reason})"
        return wrong


def _pixels(content: bytes, size: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """(3, size, size) pixels of a picture's central square, and its width and height when upright."""
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(content)) as picture:
        original = picture.size
        if picture.mode.startswith(("I", "F")):
            raise ValueError(f"{picture.mode} pixels have more than 8 bits; convert it to 8 bits")
        picture.draft(None, (size, size))
        rgb = (ImageOps.exif_transpose(picture) if _is_turned(picture) else picture).convert("RGB")
    if (original[0] < original[1]) != (rgb.width < rgb.height):
        original = original[::-1]
    if rgb.size != (size, size):
        width, height = rgb.size
        side = min(rgb.size)
        left, top = (width - side) / 2, (height - side) / 2
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    return np.asarray(rgb).transpose(2, 0, 1), original


def _is_turned(picture: PillowImage) -> bool:
    """Return whether the EXIF tags declare a rotation or reflection; False if they cannot be read."""
    from PIL import ExifTags

    try:
        return picture.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    except (OSError, SyntaxError, ValueError, LookupError, EOFError, struct.error):
        return False


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar with the remaining time, on a terminal only; yields a function to call with the number of pictures
    done."""
    if not sys.stderr.isatty():
        print(f"subpop: {what}", file=sys.stderr, flush=True)
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)
