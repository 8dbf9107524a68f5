"""A user's own pictures in a folder of classes, named `image_folder:PATH`, or `image_folder:PATH@32` for 32 pixels a side.

`PATH/CLASS/.../picture.jpg`, or `PATH/train/CLASS/...` and `PATH/test/CLASS/...`, whose test pictures are then held out. Classes
are numbered in the order of their names. Pictures are made square (64 pixels a side unless named) as `subpop.datasets.images`
says; two files of equal bytes never stand on two sides of a split. A relative path is looked for below the data root, then in
the caller's folder. Clusters as in `subpop.datasets.embeddings`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from subpop.datasets.embeddings import n_clusters, n_components, own_path
from subpop.datasets.images import Decoded, Picture, decode, pictures_below, shown
from subpop.types import BadInput, Bools, Dataset, Ints

SIZE = 64
_HALVES = ("test", "train")


def load(path: str, root: Path | None = None) -> Dataset:
    """Load a folder of pictures: x (n, 3, size, size) uint8, y the class; raises MissingData if there is no such folder."""
    named = re.fullmatch(r"(.+)@(\d+)", path)
    place, size = (named[1], int(named[2])) if named else (path, SIZE)
    folder = own_path(place, root, "image_folder")
    return read_folder(folder, size, f"image_folder:{path}")


def read_folder(folder: Path, size: int, name: str) -> Dataset:
    """The pictures of a folder of classes as a data set of that name; rows in the order of their paths.

    Raises BadInput for fewer than two classes, a class without pictures, a test class that is not trained on, or more
    undecodable pictures than may be left out.
    """
    pictures = _below_classes(folder)
    halved = _is_halved(folder)
    depth = 1 if halved else 0
    classes = _classes(folder, halved)
    code = {each: i for i, each in enumerate(classes)}
    decoded = decode(pictures, size, name)
    parts = [pictures[i].name.split("/") for i in decoded.kept]
    y = np.array([code[part[depth]] for part in parts], dtype=np.int64)
    _check_classes(folder, y, classes)
    n = len(y)
    return Dataset(
        name=name,
        x=decoded.x,
        y=y,
        n_classes=len(classes),
        official_test=_held_out(folder, parts, y, classes) if halved else None,
        hashes=decoded.hashes,
        n_clusters=n_clusters(n),
        n_components=n_components(n, decoded.x[0].size),
        notes=(*decoded.notes, *_size_note(decoded, size)),
        names=np.array([pictures[i].name for i in decoded.kept]),
        words={"y": classes},
    )


def _below_classes(folder: Path) -> list[Picture]:
    pictures, depth = pictures_below(folder), 2 if _is_halved(folder) else 1
    loose = [picture.name for picture in pictures if picture.name.count("/") < depth]
    if loose:
        raise BadInput(
            f"{folder}: {len(loose)} pictures lie in no class folder: {shown(loose)}; sort them into {folder}/CLASS/ or "
            f"{folder}/train/CLASS/ and {folder}/test/CLASS/"
        )
    return pictures


def _is_halved(folder: Path) -> bool:
    """Whether the folder holds `train` and `test` and nothing else: then classes lie one level below."""
    return _subfolders(folder) == _HALVES


def _subfolders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise BadInput(f"{folder} is a file; image_folder needs a folder that holds a folder of pictures for each class")
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def _classes(folder: Path, halved: bool) -> tuple[str, ...]:
    base = folder / "train" if halved else folder
    classes = _subfolders(base)
    if len(classes) < 2:
        raise BadInput(f"{base} holds {len(classes)} class folders ({', '.join(classes)}); at least two are needed")
    unknown = set(_subfolders(folder / "test")) - set(classes) if halved else set()
    if unknown:
        raise BadInput(f"{folder}/test has classes that {base} lacks: {shown(sorted(unknown))}; remove or add them")
    return classes


def _check_classes(folder: Path, y: Ints, classes: Sequence[str]) -> None:
    empty = [name for name, count in zip(classes, np.bincount(y, minlength=len(classes)), strict=True) if count == 0]
    if empty:
        raise BadInput(f"{folder}: no readable pictures of class {shown(empty)}; fill or remove those folders")


def _held_out(folder: Path, parts: Sequence[Sequence[str]], y: Ints, classes: Sequence[str]) -> Bools:
    test = np.array([part[0] == "test" for part in parts])
    _check_classes(folder / "train", y[~test], classes)
    if not test.any():
        raise BadInput(f"{folder}/test holds no readable picture; fill it, or put the classes into {folder} itself")
    return test


def _size_note(decoded: Decoded, size: int) -> tuple[str, ...]:
    other = (decoded.original_sizes != size).any(axis=1)
    return (f"{other.sum()} of {len(other)} pictures were resized to {size}x{size}",) if other.any() else ()
