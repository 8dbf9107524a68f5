"""Archives that a user downloaded, read into memory: nothing is unpacked to disk, so that no member can land elsewhere."""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from subpop.types import BadInput

LARGEST = 1 << 28
"""Bytes of one file inside, at most: a few bytes of a made-up archive may stand for a terabyte."""

Wanted = Callable[[str], bool]


def is_archive(path: Path) -> bool:
    """Whether the name is that of a tar or zip archive."""
    return path.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"))


def files_in(path: Path, wanted: Wanted) -> dict[str, bytes]:
    """Content of the wanted files of a tar or zip archive, by their names inside.

    Raises BadInput for an archive that is damaged or cut short, and for one with links, absolute names or `..` inside.
    """
    with _damage_named(path):
        return dict(_zip_files(path, wanted) if path.suffix == ".zip" else _tar_files(path, wanted))


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError, RuntimeError, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"{path} cannot be read to its end ({reason}); it is damaged or cut short: fetch it again") from error


def _tar_files(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            _check_member(path, member.name, member.size, plain=member.isfile() or member.isdir())
            file = archive.extractfile(member) if member.isfile() and wanted(member.name) else None
            if file is not None:
                yield member.name, file.read()
        # The checksum of a compressed archive comes behind the end mark at which tarfile stops.
        while archive.fileobj is not None and archive.fileobj.read(1 << 20):
            pass


def _zip_files(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            _check_member(path, member.filename, member.file_size, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
            if not member.is_dir() and wanted(member.filename):
                yield member.filename, archive.read(member)


def _check_member(path: Path, name: str, n_bytes: int, plain: bool) -> None:
    inside = PurePosixPath(name.replace("\\", "/"))
    if inside.is_absolute() or ".." in inside.parts or name[1:2] == ":":
        wrong = "lies outside its folder"
    elif not plain:
        wrong = "is a link or a device"
    elif n_bytes > LARGEST:
        wrong = f"has {n_bytes} bytes, more than the {LARGEST} allowed"
    else:
        return
    raise BadInput(f"{path} holds {name!r}, which {wrong}; it is not the published archive: fetch it from its own site")
