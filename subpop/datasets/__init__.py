"""The data sets by name: one file each, `load(root) -> Dataset`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from subpop.datasets import adult, digits, mixture
from subpop.datasets.download import MissingData, RemoteFile, data_root, describe, fetch, verify
from subpop.types import BadInput, Dataset

__all__ = ["DATASETS", "DatasetSource", "MissingData", "data_root", "describe", "fetch", "load_dataset", "source_of", "verify"]


@dataclass(frozen=True)
class DatasetSource:
    """Where a data set comes from. load: root or None -> Dataset; files: what must be fetched first, if anything."""

    load: Callable[[Path | None], Dataset]
    summary: str
    licence: str
    files: tuple[RemoteFile, ...] = ()


DATASETS: dict[str, DatasetSource] = {
    "digits": DatasetSource(digits.load, "8x8 handwritten digits, parity; 1,797 rows", "CC BY 4.0"),
    "mixture": DatasetSource(partial(mixture.load, "mixture"), "Gaussian mixture, 2 classes, 16 subpopulations", "generated"),
    "mixture_2d": DatasetSource(
        partial(mixture.load, "mixture_2d"), "2-D mixture of Figure 2, one small subpopulation", "generated"
    ),
    "mixture_multiclass": DatasetSource(
        partial(mixture.load, "mixture_multiclass"), "Gaussian mixture, 3 classes, 15 subpopulations", "generated"
    ),
    "adult": DatasetSource(adult.load, "UCI Adult, income above 50,000; 48,842 rows", "CC BY 4.0", adult.FILES),
}


def source_of(name: str) -> DatasetSource:
    """The entry of a name; raises BadInput with the known names."""
    if name not in DATASETS:
        raise BadInput(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def load_dataset(name: str, root: Path | None = None) -> Dataset:
    """Load a data set by name; raises BadInput for an unknown one and MissingData if its files are not under `root`."""
    return source_of(name).load(root)
