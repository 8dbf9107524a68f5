"""Data sets by name, one module each with `load(root) -> Dataset`, and users' own data, given by path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from subpop.datasets import (
    acs_income,
    adult,
    cifar10,
    compas,
    credit,
    digits,
    dogfish,
    embeddings,
    image_folder,
    imdb,
    imdb_minilm,
    mixture,
    mixture_sizes,
    reviews,
    utkface,
)
from subpop.datasets.download import MissingData, RemoteFile, data_root, describe, fetch, verify
from subpop.types import BadInput, Dataset
from subpop.types.base import nearest

__all__ = ["DATASETS", "DatasetSource", "MissingData", "data_root", "describe", "fetch", "load_dataset", "source_of", "verify"]


@dataclass(frozen=True)
class DatasetSource:
    """Where a data set comes from."""

    load: Callable[[Path | None], Dataset]
    """Loads the data from below a root folder."""
    summary: str
    """One line for `subpop data list`."""
    licence: str
    """The licence of the data."""
    files: tuple[RemoteFile, ...] = ()
    """Files to download before loading."""
    by_hand: str = ""
    """For data that needs a manual download: where to get it and where to put it."""
    folder: str = ""
    """The folder below the root; "" if it has the data set's name."""
    found: Callable[[Path], Path | None] | None = None
    """Locates the data below a root without reading it, None if it is missing; if not given, `files` are looked for."""

    def folder_below(self, root: Path, name: str) -> Path:
        """Return the folder of the files of the data set of that name."""
        return root / (self.folder or name)


def _utkface(size: int, summary: str) -> DatasetSource:
    return DatasetSource(
        partial(utkface.load, size=size),
        summary,
        utkface.LICENCE,
        by_hand=utkface.BY_HAND,
        folder="utkface",
        found=utkface.found,
    )


def _part_of_imdb(load: Callable[[Path | None], Dataset], summary: str) -> DatasetSource:
    return DatasetSource(load, summary, imdb.LICENCE, by_hand=imdb.PART_BY_HAND, folder="imdb", found=imdb.found)


DATASETS: dict[str, DatasetSource] = {
    "digits": DatasetSource(digits.load, "8x8 handwritten digits, even or odd; 1,797 rows", "CC BY 4.0"),
    "mixture": DatasetSource(partial(mixture.load, "mixture"), "Gaussian mixture, 2 classes, 16 subpopulations", "generated"),
    "mixture_2d": DatasetSource(
        partial(mixture.load, "mixture_2d"), "2-D mixture of Figure 2, one small subpopulation", "generated"
    ),
    "mixture_multiclass": DatasetSource(
        partial(mixture.load, "mixture_multiclass"), "Gaussian mixture, 3 classes, 15 subpopulations", "generated"
    ),
    "mixture_cells": DatasetSource(
        partial(mixture.load, "mixture_cells"), "mixture for local learners, pure labels, 8 subpopulations", "generated"
    ),
    "mixture_cells_noisy": DatasetSource(
        partial(mixture.load, "mixture_cells_noisy"), "the same with one eighth of the labels wrong", "generated"
    ),
    "mixture_sizes": DatasetSource(mixture_sizes.load, "Gaussian mixture, 16 subpopulations of 45 to 4,500 rows", "generated"),
    "adult": DatasetSource(adult.load, "UCI Adult, income above 50,000; 48,842 rows", "CC BY 4.0", adult.FILES),
    "acs_income": DatasetSource(
        acs_income.load,
        "ACS income above 50,000, California 2018; unverified",
        acs_income.LICENCE,
        acs_income.FILES,
        found=acs_income.found,
    ),
    "south_german_credit": DatasetSource(
        credit.load_south_german,
        "South German credit, 1,000 rows; unverified",
        credit.LICENCE,
        credit.SOUTH_GERMAN_FILES,
    ),
    "german_credit": DatasetSource(
        credit.load_german, "the same with the codes of 1994, some of them wrong; unverified", credit.LICENCE, credit.GERMAN_FILES
    ),
    "compas": DatasetSource(compas.load, "charged again within two years, 6,172 rows; unverified", compas.LICENCE, compas.FILES),
    "digits_images": DatasetSource(digits.load_images, "the digits as pictures, 1x8x8", "CC BY 4.0"),
    "utkface": _utkface(100, "faces, gender; 20,054 pictures of 100x100"),
    "utkface_64": _utkface(64, "the same at 64x64"),
    "utkface_32": _utkface(32, "the same at 32x32"),
    "utkface_mobilenet": DatasetSource(
        utkface.load_mobilenet,
        "the same as 1,024 features of MobileNet-v1",
        utkface.LICENCE,
        by_hand=utkface.MOBILENET_BY_HAND,
        folder="embeddings",
        found=utkface.found_mobilenet,
    ),
    "cifar10": DatasetSource(
        cifar10.load, "10 classes, 60,000 pictures of 32x32", cifar10.LICENCE, cifar10.FILES, found=cifar10.found
    ),
    "cifar10_jpeg": DatasetSource(
        cifar10.load_jpeg,
        "CIFAR-10 (JPEG q75), a lossy copy",
        cifar10.LICENCE,
        by_hand=cifar10.JPEG_BY_HAND,
        found=cifar10.found_jpeg,
    ),
    "dogfish": DatasetSource(
        dogfish.load_full,
        "dogs and fish from ImageNet, 299x299, and target dogs",
        dogfish.LICENCE,
        by_hand=dogfish.RECIPES["dogfish"].by_hand,
        found=dogfish.found_full,
    ),
    "tiny_dogfish": DatasetSource(
        dogfish.load_tiny,
        "the same from Tiny ImageNet, 32x32",
        dogfish.LICENCE,
        by_hand=dogfish.RECIPES["tiny_dogfish"].by_hand,
        found=dogfish.found_tiny,
    ),
    "reviews": DatasetSource(reviews.load, "generated film reviews, 12 genres; 2,400 texts", "generated"),
    "imdb": DatasetSource(
        imdb.load, "film reviews, positive or negative; 50,000 texts", imdb.LICENCE, imdb.FILES, found=imdb.found
    ),
    "imdb_as_released": _part_of_imdb(partial(imdb.load, as_released=True), "the same, cleaned as by the released script"),
    "imdb_small": _part_of_imdb(imdb.load_small, "one fifth of the reviews, for transformers on a CPU"),
    "imdb_minilm": DatasetSource(
        imdb_minilm.load,
        "all reviews as 384 features of all-MiniLM-L6-v2",
        imdb.LICENCE,
        by_hand=imdb_minilm.BY_HAND,
        folder="embeddings",
        found=imdb_minilm.found,
    ),
}
"""Every data set by name: its loader, summary, licence and files.

Examples
--------
>>> from subpop import DATASETS
>>> DATASETS["digits"].licence
'CC BY 4.0'
"""

OWN_DATA: dict[str, Callable[[str, Path | None], Dataset]] = {
    "image_folder": image_folder.load,
    "embeddings": embeddings.load,
}
"""Loaders of users' own data, which is named `kind:PATH`."""


def source_of(name: str) -> DatasetSource:
    """Return the entry of a name, or a new one for `kind:PATH`; raises BadInput for an unknown name."""
    if not isinstance(name, str):
        raise BadInput(f"the name of a data set is a string, not {type(name).__name__}; use one of {', '.join(DATASETS)}")
    kind, _, path = name.partition(":")
    if kind in OWN_DATA and path:
        return DatasetSource(partial(OWN_DATA[kind], path), f"your own data, {path}", "your own")
    if name not in DATASETS:
        if kind != name or name in OWN_DATA:
            own = " or ".join(f"{each}:PATH" for each in OWN_DATA)
            raise BadInput(f"unknown data set {name!r}; write your own data as {own}, such as embeddings:mine.npz")
        own = ", ".join(f"{each}:PATH" for each in OWN_DATA)
        raise BadInput(f"unknown data set {name!r}; {nearest(name, DATASETS, f', or your own data: {own}')}")
    return DATASETS[name]


def load_dataset(name: str, root: Path | None = None) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    name
        A name from `DATASETS`, or your own data: `image_folder:PATH` or `embeddings:PATH.npz`.
    root
        The folder of all data files; None for $SUBPOP_DATA or the user's cache.

    Returns
    -------
    Dataset
        All rows, not split and not scaled.

    Raises
    ------
    BadInput
        If the name is unknown or the files are invalid.
    MissingData
        If the files are not below `root`; the message says how to get them.

    Examples
    --------
    >>> from subpop import load_dataset
    >>> data = load_dataset("digits")
    >>> data.x.shape, data.n_classes
    ((1797, 64), 2)
    """
    if not isinstance(root, Path | None):
        raise BadInput(f"root={root!r} is {type(root).__name__}; give the folder of all data files as a pathlib.Path, or None")
    return source_of(name).load(root)
