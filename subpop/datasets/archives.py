"""Reading downloaded archives into memory: nothing is unpacked to disk, so no member can be written elsewhere."""

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
"""Largest size of one file inside: a few bytes of a malicious archive may unpack to a terabyte."""
LARGEST_SUM = 1 << 32
"""Maximum total size of all files inside, whether they are wanted or not."""

_ELSEWHERE = "it is not the published archive: fetch it from its own site"
Wanted = Callable[[str], bool]


def is_archive(path: Path) -> bool:
    """Whether a file name is that of a tar or zip archive."""
    return path.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip"))


def files_in(path: Path, wanted: Wanted) -> dict[str, bytes]:
    """Read the wanted files of a tar or zip archive, by their names inside.

    Raises BadInput for an archive that is damaged or truncated, contains links, absolute names, `..` or a name twice, or is too
    large when unpacked. Sizes are checked before files are read.
    """
    if not path.is_file():
        raise BadInput(f"{path} is not a regular file; an archive is a tar or zip file")
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
    check = _Checks(path)
    with tarfile.open(path) as archive:
        for member in archive:
            check(member.name, member.size, "folder" if member.isdir() else "file" if member.isfile() else "other")
            file = archive.extractfile(member) if member.isfile() and wanted(member.name) else None
            if file is not None:
                yield member.name, file.read()
        # The checksum of a compressed archive is after the end marker at which tarfile stops.
        while archive.fileobj is not None and (rest := archive.fileobj.read(1 << 20)):
            check.add(len(rest))


def _zip_files(path: Path, wanted: Wanted) -> Iterator[tuple[str, bytes]]:
    check = _Checks(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            plain = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
            check(member.filename, member.file_size, "folder" if member.is_dir() else "file" if plain else "other")
        for member in archive.infolist():
            if not member.is_dir() and wanted(member.filename):
                yield member.filename, archive.read(member)


class _Checks:
    """Raises BadInput for members that published archives do not have."""

    def __init__(self, path: Path) -> None:
        self._path, self._bytes, self._names = path, 0, set[PurePosixPath]()

    def __call__(self, name: str, n_bytes: int, kind: str) -> None:
        inside = PurePosixPath(name.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts or name[1:2] == ":":
            wrong = "is outside its folder"
        elif kind == "other":
            wrong = "is a link or a device"
        elif n_bytes > LARGEST:
            wrong = f"has {n_bytes} bytes, more than the {LARGEST} allowed"
        elif kind == "file" and inside in self._names:
            wrong = "occurs twice"
        else:
            self._names.add(inside)
            self.add(n_bytes)
            return
        raise BadInput(f"{self._path} contains {name!r}, which {wrong}; {_ELSEWHERE}")

    def add(self, n_bytes: int) -> None:
        """Count bytes that are about to be read."""
        self._bytes += n_bytes
        if self._bytes > LARGEST_SUM:
            raise BadInput(f"{self._path} has more than {LARGEST_SUM} bytes when unpacked, the most allowed; {_ELSEWHERE}")
