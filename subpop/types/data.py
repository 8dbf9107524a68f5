"""A data set, its split, and its subpopulations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from subpop.types.base import Array, Bools, Ints
from subpop.types.printable import printable


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled table, picture set or text set, before it is split.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import Dataset
    >>> x = np.arange(12, dtype=np.float32).reshape(6, 2)
    >>> y = np.array([0, 1, 0, 1, 0, 1])
    >>> data = Dataset("toy", x, y, n_classes=2, annotations={"shift": np.array([0, 0, 0, 1, 1, 1])})
    >>> data.x.shape, data.n_classes
    ((6, 2), 2)
    """

    name: str
    """The name in reports and in the store."""
    x: Array
    """(n, ...) inputs: float32 features, uint8 NCHW pictures or int64 tokens."""
    y: Ints
    """(n,) int64 labels in [0, n_classes)."""
    n_classes: int
    """The number of classes."""
    annotations: Mapping[str, Ints] = field(default_factory=dict)
    """Annotated features by name, (n,) int64 each. FeatureMatch groups rows by them."""
    official_test: Bools | None = None
    """(n,) bool, the rows that the source reserves for testing; None if it reserves none."""
    hashes: Array | None = None
    """(n,) content hashes; rows of equal hash are put on the same side of a split."""
    sizes: tuple[int, int] | None = None
    """Number of rows in D and in D_aux; None for a third of the rows each."""
    balanced: bool = False
    """Whether D and D_aux are drawn with as many negative as positive rows."""
    group_bounds: tuple[float, float] = (0, float("inf"))
    """A subpopulation is attacked if its number of rows in D_aux lies strictly between these bounds."""
    n_clusters: int = 100
    """Number of k-means clusters for ClusterMatch."""
    n_components: int | None = None
    """Number of PCA components for ClusterMatch; None to cluster without PCA."""
    notes: tuple[str, ...] = ()
    """Remarks on this copy of the data, for the report."""
    names: Array | None = None
    """(n,) str, the file that each row was read from, or None."""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The meaning of the codes of an annotation, or of the labels under "y": names in the order of the codes."""
    texts: tuple[str, ...] | None = None
    """One text per row, or None for other data. `x` then contains row numbers, (n, 1) int64, which victims and encoders
    replace by tokens or features of the texts."""
    stratified: bool = False
    """Whether all sides of a split have the same class proportions."""

    @property
    def holds_texts(self) -> bool:
        """Whether rows are texts that a victim has to read; False where published features take their place."""
        return self.texts is not None and self.x.dtype.kind == "i"

    def __post_init__(self) -> None:
        """Make names of files, folders and columns printable: they come from other people and appear in reports."""
        for name, made in (
            ("notes", tuple(map(printable, self.notes))),
            ("annotations", {printable(name): codes for name, codes in self.annotations.items()}),
            ("words", {printable(name): tuple(map(printable, said)) for name, said in self.words.items()}),
        ):
            object.__setattr__(self, name, made)


@dataclass(frozen=True, eq=False)
class Splits:
    """A data set divided into the victim's training set, the attacker's auxiliary set and the test set.

    Examples
    --------
    >>> from subpop import load_dataset
    >>> from subpop.datasets.split import split
    >>> sides = split(load_dataset("mixture"), seed=0)
    >>> len(sides.train) == len(sides.aux)
    True
    """

    train: Ints
    """Row numbers of D, the victim's training set."""
    aux: Ints
    """Row numbers of D_aux, the attacker's auxiliary set."""
    test: Ints
    """Row numbers of D_test."""
    protocol: str
    """Name of the split protocol; see `subpop.datasets.split.split`."""
    seed: int
    """Seed of the draw."""


@dataclass(frozen=True, eq=False)
class Partition:
    """The subpopulation of each row. Subpopulations are defined on D_aux alone.

    Examples
    --------
    >>> from subpop import feature_match, load_dataset
    >>> from subpop.datasets.split import split
    >>> data = load_dataset("mixture")
    >>> partition = feature_match(data, split(data))
    >>> partition.names[partition.attacked[0]]
    'component=0'
    """

    train: Ints
    """(|D|,) int64 positions in `names`, -1 for rows in no subpopulation."""
    aux: Ints
    """(|D_aux|,) int64 positions in `names`, -1 for rows in no subpopulation."""
    test: Ints
    """(|D_test|,) int64 positions in `names`, -1 for rows in no subpopulation."""
    names: tuple[str, ...]
    """The name of each subpopulation."""
    attacked: tuple[int, ...]
    """Positions of the subpopulations that are attacked: those whose size in D_aux lies within the data set's
    `group_bounds` and that have a test row."""
