"""Finds pictures below a folder, and lists other files.

Each file is listed once. Links are followed unless their target is listed anyway or contains the folder that is being listed, so
that loops and links to a parent add nothing. Only regular files are opened, no pipes, sockets or devices. Folders that systems
create (hidden ones, `@eaDir`, `__MACOSX`, thumbnails) are skipped.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from subpop.datasets.archives import LARGEST, files_in
from subpop.types import BadInput

SUFFIXES = frozenset(
    """
    .jpg .jpeg .jpe .jfif .mpo .png .apng .gif .bmp .dib .webp .avif .avifs .tif .tiff .jp2 .j2k .jpx .jpf .jpc .j2c .tga .ppm
    .pgm .pbm .pnm .pcx .sgi .ras .xbm .xpm .ico .icns .psd .qoi .dds
    """.split()  # noqa: SIM905
)
"""Formats that Pillow decodes by itself, except rare ones. (For EPS it starts another program; it reads no pixels of HDF5.)"""
SYSTEM_FOLDERS = frozenset(
    ("@eadir", "__macosx", "@recycle", "#recycle", "$recycle.bin", "system volume information", "lost+found", "__pycache__",
     "thumbs", "thumbnails")
)  # fmt: skip
"""In lower case. Hidden folders are skipped as well."""
SHOWN = 5
"""Maximum number of names listed in a message."""


@dataclass(frozen=True)
class Picture:
    """A picture before it is decoded. name: its path inside the folder or archive, with `/` as the separator."""

    name: str
    read: Callable[[], bytes]

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.name).name


@dataclass(eq=False)
class Listing:
    """The contents of a folder. Names are relative paths.

    pictures: by name; folders: all that were searched; suffixes: number of files by other suffixes; skipped: folders of the
    system; links: those not followed; special: pipes, sockets and devices.
    """

    pictures: list[Picture] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    suffixes: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)

    @property
    def notes(self) -> tuple[str, ...]:
        """Return remarks for a report; none if all files are pictures."""
        notes = []
        if self.suffixes:
            counts = [f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(self.suffixes.items())]
            notes.append(f"{self.suffixes.total()} files left aside, which are not known as pictures: {shown(counts)}")
        for what, names in (
            ("system folders skipped", self.skipped),
            ("links not followed, which are broken or lead to a parent folder or to files that are listed anyway", self.links),
            ("pipes, sockets or devices left aside", self.special),
        ):
            notes += [f"{len(names)} {what}: {shown(names)}"] if names else []
        return tuple(notes)


def shown(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def is_picture(name: str) -> bool:
    """Return whether a path has the suffix of a picture; False for hidden files (`._x.jpg`) and files in hidden or system
    folders."""
    path = PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not any(_is_of_the_system(part) for part in path.parts if part != ".")


def _is_of_the_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM_FOLDERS


def pictures_below(folder: Path) -> list[Picture]:
    """All pictures below a folder, by name; none if there is no such folder."""
    return list_below(folder).pictures if folder.is_dir() else []


def pictures_in(archive: Path) -> list[Picture]:
    """All pictures of a tar or zip archive, by name; raises BadInput for a damaged or dangerous archive."""
    found = files_in(archive, is_picture)
    return [Picture(name, partial(found.__getitem__, name)) for name in sorted(found)]


def list_below(folder: Path) -> Listing:
    """Everything below a folder; raises BadInput for a folder that cannot be read."""
    return _Walk(folder).listing


class _Walk:
    """Walk through a folder: its own contents first, then the targets of links, each in the order of names."""

    def __init__(self, folder: Path) -> None:
        self.listing = Listing()
        self._folder, self._real = folder, Path(os.path.realpath(folder))
        self._seen: set[str] = set()
        self._links: list[str] = []
        files = dict(self._below("", str(self._real)))
        while self._links:
            waiting, self._links = sorted(self._links), []
            for name in waiting:
                files |= dict(self._follow(name))
        self._sort(files)

    def _sort(self, files: Mapping[str, Path]) -> None:
        found = self.listing
        for name in sorted(files):
            if is_picture(name):
                found.pictures.append(Picture(name, partial(_content, files[name])))
            elif not _is_of_the_system(PurePosixPath(name).name):
                found.suffixes[PurePosixPath(name).suffix.lower()] += 1
        for names in (found.folders, found.skipped, found.links, found.special):
            names.sort()

    def _below(self, name: str, real: str) -> Iterator[tuple[str, Path]]:
        """Files with their names in a folder that is not a link, and recursively in its subfolders."""
        waiting = [(name, real)]
        while waiting:
            inside, real = waiting.pop()
            if real in self._seen:
                continue
            self._seen.add(real)
            self.listing.folders += [inside] if inside else []
            for entry in self._entries(real):
                name = f"{inside}/{entry.name}" if inside else entry.name
                if entry.is_symlink():
                    self._links.append(name)
                elif entry.is_file():
                    self._seen.add(entry.path)
                    yield name, Path(entry.path)
                elif not entry.is_dir():
                    self.listing.special.append(name)
                elif _is_of_the_system(entry.name):
                    self.listing.skipped.append(name)
                else:
                    waiting.append((name, entry.path))

    def _entries(self, real: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(real) as entries:
                return list(entries)
        except OSError as error:
            raise BadInput(f"{real} cannot be read ({error.strerror}); allow it or move it out of {self._folder}") from error

    def _follow(self, name: str) -> Iterator[tuple[str, Path]]:
        link = os.path.join(self._folder, name)
        place, around = Path(os.path.realpath(link)), Path(os.path.realpath(os.path.dirname(link)))
        if _is_of_the_system(PurePosixPath(name).name):
            self.listing.skipped.append(name)
        elif str(place) in self._seen or place in {*self._real.parents, *around.parents} or not place.exists():
            self.listing.links.append(name)
        elif place.is_dir():
            yield from self._below(name, str(place))
        elif place.is_file():
            self._seen.add(str(place))
            yield name, place
        else:
            self.listing.special.append(name)


def _content(path: Path) -> bytes:
    n_bytes = path.stat().st_size
    if n_bytes > LARGEST:
        raise ValueError(f"{n_bytes} bytes, more than the {LARGEST} allowed")
    return path.read_bytes()
