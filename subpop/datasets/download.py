"""Locate, download and verify the files of a data set.

The files of the data set `name` are in ROOT/name/, unless its entry specifies another folder. Existing files are used and never
overwritten. For data without a download address, `fetch` says where to get the files and where to put them.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from subpop.runtime.options import place
from subpop.types import BadInput

if TYPE_CHECKING:
    from subpop.datasets import DatasetSource


class MissingData(BadInput):
    """Files of a data set are missing. The message contains the command that fetches them, or the steps of a manual download."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file."""

    name: str
    """Path below the data set's folder."""
    url: str
    """Where it is downloaded from."""
    md5: str = ""
    """The checksum of the published file; "" if nobody has computed it from that file."""
    n_bytes: int = 0
    """Its size; 0 if it is not known."""


@dataclass(frozen=True)
class FileState:
    """A file on disk, compared with the published checksum."""

    dataset: str
    """Name of the data set."""
    path: Path
    """The file."""
    state: Literal["ok", "missing", "different", "unverified"]
    """`ok`, `missing`, `different`, or `unverified`: there, with no published checksum."""
    expected_md5: str
    """The published checksum, "" if there is none."""
    found_md5: str = ""
    """The checksum of the file, "" if it is missing."""

    def __str__(self) -> str:
        found = f" (md5 {self.found_md5}, published {self.expected_md5})" if self.state == "different" else ""
        if self.state == "unverified":
            found = f" (md5 {self.found_md5}; no checksum of the published file is known to compare it with)"
        if self.state == "ok" and not self.expected_md5:
            found = " (exists; there is no published checksum to compare it with)"
        return f"{self.dataset}: {self.path} {self.state}{found}"


@dataclass(frozen=True)
class DatasetRecord:
    """A line of `subpop data list`."""

    name: str
    """Name of the data set."""
    summary: str
    """What it is."""
    licence: str
    """The licence of the data."""
    needs_files: bool
    """Whether a command downloads its files."""
    ready: bool
    """Whether all files are present."""
    megabytes: float
    """Size of the download."""
    folder: str
    """Folder of its files."""
    command: str
    """The command that downloads it or explains the manual download; "" if it needs no files."""


def data_root(option: str | Path | None = None) -> Path:
    """Return the folder of the data sets: the option, otherwise $SUBPOP_DATA, otherwise the user's cache folder."""
    import pooch

    chosen = option or os.environ.get("SUBPOP_DATA") or pooch.os_cache("subpop")
    root = place(str(chosen), Path.cwd())
    if root.exists() and not root.is_dir():
        raise BadInput(f"the data root {root} is a file; name a folder with --data-root or SUBPOP_DATA")
    return root


def fetch_command(name: str, root: Path | None = None) -> str:
    """Return the command that fetches a data set, with `--data-root` unless `root` is the default."""
    option = "" if root is None or root == data_root() else f" --data-root {shlex.quote(str(root))}"
    return f"subpop data fetch {name}{option}"


def fetch(name: str, root: Path | None = None, progress: bool = True) -> list[FileState]:
    """Download the missing files of a data set; returns [] if it needs no files.

    Raises MissingData, with instructions, if the data needs a manual download and is missing.
    """
    source = _source(name)
    unpacked = _found_otherwise(name, source, root)
    if source.by_hand and not unpacked:
        raise missing_by_hand(name, source.folder_below(root or data_root(), name), source.by_hand)
    return unpacked or fetch_files(name, source.files, root, progress)


def verify(name: str, root: Path | None = None) -> list[FileState]:
    """Compare a data set's files with the published checksums; returns [] if it needs no files."""
    source = _source(name)
    if source.by_hand and not _found_otherwise(name, source, root):
        return [FileState(name, source.folder_below(root or data_root(), name), "missing", "")]
    return _found_otherwise(name, source, root) or verify_files(name, source.files, root)


def missing_by_hand(name: str, folder: Path, how: str) -> MissingData:
    """Return the error for files that need a manual download. how: where to get them and what to put into `folder`."""
    return MissingData(f"{name}: no data in {folder}; it needs a manual download: {how}, into {folder}")


def _found_otherwise(name: str, source: DatasetSource, root: Path | None) -> list[FileState]:
    """Return the states of data in a form without a published checksum: unpacked, or downloaded manually."""
    root = root or data_root()
    path = source.found(root) if source.found else None
    published = [root / name / file.name for file in source.files]
    return [] if path is None or path in published else [FileState(name, path, "ok", "")]


def describe(root: Path | None = None) -> list[DatasetRecord]:
    """One record per data set. Checks whether files exist, but does not read them."""
    from subpop.datasets import DATASETS

    folder = root or data_root()
    return [_record(name, source, folder) for name, source in DATASETS.items()]


def verify_files(name: str, files: Sequence[RemoteFile], root: Path | None = None) -> list[FileState]:
    """Compare each file under the root with its published checksum; downloads nothing."""
    folder = (root or data_root()) / name
    return [_state(name, file, folder) for file in files]


def require_files(name: str, files: Sequence[RemoteFile], root: Path | None = None) -> list[Path]:
    """The paths of a data set's files; raises MissingData if one is not there."""
    folder = (root or data_root()) / name
    missing = [file.name for file in files if not (folder / file.name).is_file()]
    if missing:
        raise MissingData(f"{name}: {', '.join(missing)} not found in {folder}; download with: {fetch_command(name, root)}")
    return [folder / file.name for file in files]


def fetch_files(name: str, files: Sequence[RemoteFile], root: Path | None = None, progress: bool = True) -> list[FileState]:
    """Download missing files; a download is only used if its checksum is the published one, where that is known.

    Raises BadInput if a download fails or differs, or if a different file already exists at its path.
    """
    for before, file in zip(verify_files(name, files, root), files, strict=True):
        if before.state == "different":
            raise BadInput(
                f"{before.path} has md5 {before.found_md5}, the published file has {file.md5}; it is left alone: "
                f"move it away and run: {fetch_command(name, root)}"
            )
        if before.state == "missing":
            _download(file, before.path, progress)
    return verify_files(name, files, root)


def _source(name: str) -> DatasetSource:
    # The data sets import this module, so their table is imported late.
    from subpop.datasets import source_of

    return source_of(name)


def _record(name: str, source: DatasetSource, root: Path) -> DatasetRecord:
    files = all((root / name / file.name).is_file() for file in source.files)
    from_disk = bool(source.files or source.by_hand)
    return DatasetRecord(
        name=name,
        summary=source.summary,
        licence=source.licence,
        needs_files=bool(source.files),
        ready=files if source.found is None else source.found(root) is not None,
        megabytes=round(sum(file.n_bytes for file in source.files) / 1e6, 1),
        folder=str(source.folder_below(root, name)) if from_disk else "",
        command=fetch_command(name, root) if from_disk else "",
    )


def _state(name: str, file: RemoteFile, folder: Path) -> FileState:
    path = folder / file.name
    if not path.is_file():
        return FileState(name, path, "missing", file.md5)
    found = md5(path)
    agrees: Literal["ok", "different"] = "ok" if found == file.md5 else "different"
    return FileState(name, path, agrees if file.md5 else "unverified", file.md5, found)


def md5(path: Path) -> str:
    """The md5 of a file, as 32 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _download(file: RemoteFile, path: Path, progress: bool) -> None:
    import pooch

    try:
        # pooch writes to a temporary file and moves it once the checksum agrees: no partial file is left behind.
        with _bar(file) if progress else _no_bar() as bar:
            downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=30)
            pooch.retrieve(
                file.url, f"md5:{file.md5}" if file.md5 else None, fname=path.name, path=path.parent, downloader=downloader
            )
    except ValueError as error:
        raise BadInput(
            f"{file.url} is not the published file of {file.n_bytes} bytes with md5 {file.md5} ({error}); it was discarded: "
            f"run the command again, or put the published file at {path}"
        ) from error
    except OSError as error:
        raise BadInput(f"cannot fetch {file.url} ({error}); check the connection, or put the file at {path} yourself") from error


@contextmanager
def _no_bar() -> Iterator[bool]:
    yield False


@contextmanager
def _bar(file: RemoteFile) -> Iterator[_Bar]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:
        yield _Bar(shown, shown.add_task(file.name, total=file.n_bytes))


class _Bar:
    """The progress bar interface of pooch (total, update, reset, close), drawn by rich."""

    def __init__(self, shown: Any, task: Any) -> None:
        self._shown, self._task = shown, task
        self.total = 0

    def update(self, n_bytes: int) -> None:
        self._shown.update(self._task, advance=n_bytes, total=self.total or None)

    def reset(self) -> None:
        self._shown.reset(self._task)

    def close(self) -> None:
        self._shown.refresh()
