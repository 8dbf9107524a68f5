"""A data set, its split, and its subpopulations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from subpop.printable import printable
from subpop.types.base import Array, Bools, Ints


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled table, picture set or text set, before it is split.

    x: (n, ...); y: (n,) int64 in [0, n_classes); annotations: name -> (n,) int64, the features FeatureMatch may use;
    official_test: (n,) bool, rows that their source holds out, or None; hashes: (n,) content hashes where equal content
    must not stand on two sides of a split; sizes: (|D|, |D_aux|) or None for a third each; balanced: D and D_aux are drawn
    with as many negatives as positives; group_bounds: a subpopulation is attacked if its size in D_aux lies strictly between;
    n_clusters, n_components: k-means clusters and PCA components of ClusterMatch (None: no PCA); notes: what a report
    should say about this copy of the data; names: (n,) str, the file that each row comes from, or None; words: name of an
    annotation, or "y" -> what its codes mean, in order; texts: (n,) one text a row, or None for other data: x is then (n, 1)
    int64 row numbers, a place for the tokens or features that a victim reads the texts as; stratified: the sides of a split
    have the same shares of the classes.
    """

    name: str
    x: Array
    y: Ints
    n_classes: int
    annotations: Mapping[str, Ints] = field(default_factory=dict)
    official_test: Bools | None = None
    hashes: Array | None = None
    sizes: tuple[int, int] | None = None
    balanced: bool = False
    group_bounds: tuple[float, float] = (0, float("inf"))
    n_clusters: int = 100
    n_components: int | None = None
    notes: tuple[str, ...] = ()
    names: Array | None = None
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    texts: tuple[str, ...] | None = None
    stratified: bool = False

    def __post_init__(self) -> None:
        """Names of files, folders and columns are other people's text, and stand in reports and in the store."""
        for name, made in (
            ("notes", tuple(map(printable, self.notes))),
            ("annotations", {printable(name): codes for name, codes in self.annotations.items()}),
            ("words", {printable(name): tuple(map(printable, said)) for name, said in self.words.items()}),
        ):
            object.__setattr__(self, name, made)


@dataclass(frozen=True, eq=False)
class Splits:
    """Row numbers of a data set: train (D), aux (D_aux, the attacker's own sample), test (D_test)."""

    train: Ints
    aux: Ints
    test: Ints
    protocol: str
    seed: int


@dataclass(frozen=True, eq=False)
class Partition:
    """Which subpopulation each row is in. Chosen on D_aux alone.

    train, aux, test: (n,) int64 positions in `names`, -1 for none; names: one a subpopulation; attacked: those whose
    size in D_aux qualifies.
    """

    train: Ints
    aux: Ints
    test: Ints
    names: tuple[str, ...]
    attacked: tuple[int, ...]
