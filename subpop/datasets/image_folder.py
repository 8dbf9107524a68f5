"""A user's own pictures in a folder of classes, named `image_folder:PATH`, or `image_folder:PATH@32` for 32 pixels per side.

Expects `PATH/CLASS/.../picture.jpg`, or with a split of its own `PATH/train/CLASS/...` and `PATH/test/CLASS/...`, whose pictures
are then reserved for testing. These two may be called `training` and `testing`, in any capitalisation. With `train` but without
`test`, `val` (or `valid`, `validation`, `dev`) is used for testing; with both, its pictures are ignored, and the notes say so.
Any other folder next to them raises an error, because it could be a class or a part.

Classes are numbered in the order of their names, which the notes list with the number of their pictures. The notes also list
ignored files (`subpop.datasets.picture_files`). Pictures are made square (64 pixels per side by default) as described in
`subpop.datasets.images`; identical files are put on the same side of a split. A relative path is relative to the data root,
otherwise to the working directory. Clusters as in `subpop.datasets.embeddings`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from subpop.datasets.embeddings import n_clusters, n_components, own_path
from subpop.datasets.images import Decoded, decode
from subpop.datasets.picture_files import Listing, Picture, list_below, shown
from subpop.types import BadInput, Dataset, Ints

SIZE = 64
ROLES = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
}  # fmt: skip
"""Lower-case names of folders that contain a part of the rows rather than a class."""


def load(path: str, root: Path | None = None) -> Dataset:
    """Load a folder of pictures: x (n, 3, size, size) uint8, y the class; raises MissingData if there is no such folder."""
    named = re.fullmatch(r"(.+)@(\d+)", path)
    place, size = (named[1], int(named[2])) if named else (path, SIZE)
    folder = own_path(place, root, "image_folder")
    data = read_folder(folder, size, f"image_folder:{path}")
    counts = np.bincount(data.y, minlength=data.n_classes)
    found = [f"{name} ({count} pictures)" for name, count in zip(data.words["y"], counts, strict=True)]
    return replace(data, notes=(f"{data.n_classes} classes: {shown(found)}", *data.notes))


def read_folder(folder: Path, size: int, name: str) -> Dataset:
    """The pictures of a folder of classes as a data set of that name; rows in the order of their paths.

    Raises BadInput for fewer than two classes, a class without pictures, a test class that is not trained on, or more
    undecodable pictures than may be left out.
    """
    if not folder.is_dir():
        raise BadInput(f"{folder} is a file; image_folder needs a folder with one subfolder of pictures per class")
    listing = list_below(folder)
    parts = _parts(folder, listing)
    pictures = _used(folder, listing, parts)
    classes = _classes(folder, listing, parts)
    decoded = decode(pictures, size, name)
    names = [pictures[i].name.split("/") for i in decoded.kept]
    code = {each: i for i, each in enumerate(classes)}
    y = np.array([code[own[1 if parts else 0]] for own in names], dtype=np.int64)
    test = np.array([own[0] == parts.test for own in names]) if parts else None
    _check_classes(folder / parts.train if parts else folder, y if test is None else y[~test], classes)
    if test is not None and not test.any():
        raise BadInput(f"{folder}/{parts.test} contains no readable picture; add some, or put the classes into {folder} itself")
    return Dataset(
        name=name,
        x=decoded.x,
        y=y,
        n_classes=len(classes),
        official_test=test,
        hashes=decoded.hashes,
        n_clusters=n_clusters(len(y)),
        n_components=n_components(len(y), decoded.x[0].size),
        notes=(*_unused_note(listing, pictures, parts), *decoded.notes, *_size_note(decoded, size), *listing.notes),
        names=np.array([pictures[i].name for i in decoded.kept]),
        words={"y": classes},
    )


@dataclass(frozen=True)
class _Parts:
    """The folders of a split: for training, for testing, and ignored or ''. False if there is no split."""

    train: str = ""
    test: str = ""
    unused: str = ""

    def __bool__(self) -> bool:
        return bool(self.train)


def _parts(folder: Path, listing: Listing) -> _Parts:
    """Return the split in a folder, or none; raises BadInput if it is incomplete or next to other folders."""
    own = _subfolders(listing)
    named = [name for name in own if name.lower() in ROLES]
    if len(named) < len(own):  # a class may be called train, unless it contains classes itself
        named = [name for name in named if _subfolders(listing, name) and not _holds_pictures(listing, name)]
    if not named:
        return _Parts()
    roles = {ROLES[name.lower()]: name for name in named}
    if len(named) < len(own) or len(roles) < len(named) or "train" not in roles or len(roles) == 1:
        raise BadInput(
            f"{folder} contains {', '.join(own)}, which are neither classes nor one split; a split is `train` with classes and "
            "`test` or `val` of the same classes, and nothing else; remove the other folders, or use one of them "
            f"as the data, e.g. image_folder:{folder}/{named[0]}"
        )
    test = roles.get("test", roles.get("val", ""))
    return _Parts(roles["train"], test, roles.get("val", "") if "test" in roles else "")


def _subfolders(listing: Listing, inside: str = "") -> tuple[str, ...]:
    """Names of the folders directly in a folder."""
    start = f"{inside}/" if inside else ""
    below = [name.removeprefix(start) for name in listing.folders if name.startswith(start)]
    return tuple(name for name in below if "/" not in name)


def _holds_pictures(listing: Listing, inside: str) -> bool:
    return any(picture.name.rpartition("/")[0] == inside for picture in listing.pictures)


def _classes(folder: Path, listing: Listing, parts: _Parts) -> tuple[str, ...]:
    base = folder / parts.train
    classes = _subfolders(listing, parts.train)
    if len(classes) < 2:
        raise BadInput(f"{base} contains {len(classes)} class folders ({', '.join(classes)}); at least two are needed")
    unknown = set(_subfolders(listing, parts.test)) - set(classes) if parts else set()
    if unknown:
        raise BadInput(f"{folder / parts.test} has classes that {base} lacks: {shown(sorted(unknown))}; remove or add them")
    return classes


def _used(folder: Path, listing: Listing, parts: _Parts) -> list[Picture]:
    """Return the pictures of classes for training or testing; raises BadInput for pictures outside class folders."""
    loose = [picture.name for picture in listing.pictures if picture.name.count("/") < (2 if parts else 1)]
    if loose:
        raise BadInput(
            f"{folder}: {len(loose)} pictures are in no class folder: {shown(loose)}; sort them into {folder}/CLASS/ or "
            f"{folder}/train/CLASS/ and {folder}/test/CLASS/"
        )
    return [picture for picture in listing.pictures if not parts.unused or picture.name.partition("/")[0] != parts.unused]


def _check_classes(folder: Path, y: Ints, classes: Sequence[str]) -> None:
    empty = [name for name, count in zip(classes, np.bincount(y, minlength=len(classes)), strict=True) if count == 0]
    if empty:
        raise BadInput(f"{folder}: no readable pictures of class {shown(empty)}; fill or remove those folders")


def _unused_note(listing: Listing, used: Sequence[Picture], parts: _Parts) -> tuple[str, ...]:
    if not parts.unused:
        return ()
    count = len(listing.pictures) - len(used)
    return (f"{count} pictures of {parts.unused} are ignored: {parts.test} is used for testing and {parts.train} for training",)


def _size_note(decoded: Decoded, size: int) -> tuple[str, ...]:
    other = (decoded.original_sizes != size).any(axis=1)
    return (f"{other.sum()} of {len(other)} pictures were resized to {size}x{size}",) if other.any() else ()
