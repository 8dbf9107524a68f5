"""The nouns of the project: what is attacked, what a defense sees, and what a number belongs to.

Everything here is plain data or a Protocol; nothing trains. Row numbers of a `Pool` would tell poison from clean rows
(poison comes from D_aux), so a defense is handed a `TrainingSet` and never a `Pool` or a `FleetJob`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Setting = tuple[tuple[str, str], ...]


class BadInput(ValueError):
    """Input that cannot be used: the message names the value, what is allowed and the fix."""


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pool:
    """Rows that all victims of a cell share: first the `n_train` rows of D, then those of D_aux. Never written to.

    x: (N, ...) float32 rows, uint8 NCHW images or int64 tokens; y: (N,) int64 true labels in [0, n_classes).
    """

    x: Array
    y: Ints
    n_train: int
    n_classes: int

    def __post_init__(self) -> None:
        if not 0 < self.n_train <= len(self.y) == len(self.x):
            found = f"{len(self.x)} rows and {len(self.y)} labels"
            raise BadInput(f"a pool of {found} cannot hold n_train={self.n_train} rows of D")
        self.x.setflags(write=False)
        self.y.setflags(write=False)

    def __len__(self) -> int:
        return len(self.y)

    def clean_job(self) -> FleetJob:
        """The victim that nobody attacks: all of D with its own labels."""
        return FleetJob(self, np.arange(self.n_train), self.y[: self.n_train])


@dataclass(frozen=True, eq=False)
class FleetJob:
    """One victim's training set, as rows of the shared pool.

    rows: (n,) int64; a number r >= len(pool) stands for `extra_x[r - len(pool)]`, a row outside the pool.
    y: (n,) int64 labels, perhaps flipped; weights: (n,) float64 >= 0 or None for all ones; extra_x: (e, ...) or None.
    """

    pool: Pool
    rows: Ints
    y: Ints
    weights: NDArray[np.float64] | None = None
    extra_x: Array | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def x(self) -> Array:
        """(n, ...) the inputs, gathered anew at each call."""
        n = len(self.pool)
        if self.extra_x is None or not len(self.extra_x):
            return np.asarray(self.pool.x[self.rows])
        out = np.empty((len(self.rows), *self.pool.x.shape[1:]), self.pool.x.dtype)
        inside = self.rows < n
        out[inside] = self.pool.x[self.rows[inside]]
        out[~inside] = self.extra_x[self.rows[~inside] - n]
        return out

    def canonical(self) -> FleetJob:
        """The same training set in the one order that does not depend on how it was shuffled: by row, then label.

        Victims train on this form, so that a defense that keeps exactly D gets the clean victim, bit for bit.
        """
        order = np.argsort(self.rows * self.pool.n_classes + self.y, kind="stable")
        weights = None if self.weights is None else self.weights[order]
        return replace(self, rows=self.rows[order], y=self.y[order], weights=weights)


class RowSource(Protocol):
    """Where a training set's inputs lie: gathers rows by number."""

    def __len__(self) -> int: ...
    def gather(self, index: Ints) -> Array: ...


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """A row source over an array of its own; n_classes: of the data it comes from, 0 where that is not known."""

    array: Array
    n_classes: int = 0

    def __len__(self) -> int:
        return len(self.array)

    def gather(self, index: Ints) -> Array:
        return np.asarray(self.array[index])


class TrainingSet:
    """What a defense sees: rows, labels, and nothing that tells poison from clean.

    `ids` name rows within this set and are kept by `t[mask_or_ids]` (they may repeat); they mean nothing elsewhere.
    """

    __slots__ = ("_source", "_ids", "_y")

    def __init__(self, source: RowSource, ids: Ints, y: Ints) -> None:
        self._source = source
        self._ids = _read_only(ids, np.int64)
        self._y = _read_only(y, np.int64)
        if self._ids.shape != self._y.shape or self._ids.ndim != 1:
            raise BadInput(f"a training set needs one label a row: {self._ids.shape} ids, {self._y.shape} labels")

    @classmethod
    def of(cls, x: Array, y: Array) -> TrainingSet:
        """A training set of new inputs: x (n, ...) finite, y (n,) integer labels."""
        x, y = np.asarray(x), np.asarray(y)
        if len(x) != len(y):
            raise BadInput(f"{len(x)} rows and {len(y)} labels: give one label for each row")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise BadInput("new inputs hold NaN or infinite values; remove or impute them before TrainingSet.of")
        return cls(ArrayRows(x), np.arange(len(x)), y)

    @property
    def x(self) -> Array:
        """(n, ...) the inputs: gathered at each access, kept by nobody, read-only."""
        x = self._source.gather(self._ids)
        x.setflags(write=False)
        return x

    @property
    def y(self) -> Ints:
        """(n,) int64 labels, perhaps poisoned; read-only."""
        return self._y

    @property
    def ids(self) -> Ints:
        """(n,) int64 names of the rows within this set; read-only."""
        return self._ids

    @property
    def n_classes(self) -> int:
        """Classes of the data, at least 2; the largest label + 1 where only labels tell."""
        return max(2, int(getattr(self._source, "n_classes", 0)), int(self._y.max(initial=0)) + 1)

    def __len__(self) -> int:
        return len(self._y)

    def __getitem__(self, chosen: Array | Sequence[int]) -> TrainingSet:
        """The rows where a (n,) bool mask is True, or those whose ids are given, in that order."""
        chosen = np.asarray(chosen)
        if chosen.dtype == bool:
            if chosen.shape != self._y.shape:
                raise BadInput(
                    f"a mask of shape {chosen.shape} cannot choose among {len(self)} rows; it must have shape ({len(self)},)"
                )
            return TrainingSet(self._source, self._ids[chosen], self._y[chosen])
        if chosen.size and chosen.dtype.kind not in "iu":
            raise BadInput(f"choose rows by a boolean mask or by integer ids, not by {chosen.dtype}")
        position = self._positions(chosen.astype(np.int64).ravel())
        return TrainingSet(self._source, self._ids[position], self._y[position])

    def relabel(self, y: Array) -> TrainingSet:
        """The same rows with other labels: y (n,) integers."""
        return TrainingSet(self._source, self._ids, np.asarray(y))

    def _positions(self, ids: Ints) -> Ints:
        order = np.argsort(self._ids, kind="stable")
        found = np.searchsorted(self._ids, ids, sorter=order)
        known = found < len(order)
        known[known] = self._ids[order[found[known]]] == ids[known]
        if not known.all():
            raise BadInput(f"id {ids[~known][0]} is not in this training set of {len(self)} rows; use values of `.ids`")
        return order[found]

    def __repr__(self) -> str:
        return f"TrainingSet({len(self)} rows)"


def _read_only(values: Array, dtype: type) -> Ints:
    values = np.asarray(values)
    if values.size and values.dtype.kind not in "iub":
        raise BadInput(f"labels and ids are integers, not {values.dtype}")
    out: Ints = np.array(values, dtype=dtype, copy=True)
    out.setflags(write=False)
    return out


# --- models, victims, defenses ----------------------------------------------------------------------------------------


@runtime_checkable
class Model(Protocol):
    """A trained classifier in evaluation mode."""

    def predict_proba(self, x: Array) -> Floats:
        """(n, C) float32, rows sum to 1; C columns even if a class was missing in training."""
        ...

    def features(self, x: Array) -> Floats:
        """(n, d) float32, the input of the last linear layer."""
        ...


@runtime_checkable
class StoredModel(Model, Protocol):
    """A model that can be kept on disk as plain arrays."""

    def state(self) -> dict[str, Array]:
        """The model as arrays by name."""
        ...

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> Model:
        """The model that gave this state."""
        ...


class ChannelModel(Model, Protocol):
    """A model whose channels of the last convolutional layer can be seen, masked and trained on: what Fine-Pruning works on."""

    def channel_activations(self, x: Array) -> Floats:
        """(n, c) mean activation over positions of each channel; 0 for a masked one."""
        ...

    def channel_zeros(self, x: Array) -> Floats:
        """(n, c) share of a channel's positions whose activation is zero, in [0, 1]; 1 for a masked one."""
        ...

    def pruned(self, keep: Bools) -> ChannelModel:
        """The same model with the channels masked where `keep`, (c,) bool, is False, and those masked before."""
        ...

    def fine_tuned(self, train: TrainingSet, *, epochs: int, learning_rate: float, batch_size: int, seed: int) -> ChannelModel:
        """A copy trained on by Adam on other rows; masked channels stay masked."""
        ...


class Victim(Protocol):
    """A learning algorithm. `exact`: the same training set gives the same model whatever the seed."""

    exact: bool

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """Train one model a job; jobs share one pool, seeds[i] draws the initialisation and batch order of jobs[i]."""
        ...


Fit = Callable[[TrainingSet], Model]


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What a defender is told beyond its training rows; every field None unless asked for in `needs` and granted.

    n_poison: rows of poison in the training set; clean_holdout: clean rows without the target subpopulation;
    representation: a frozen, label-free model; poison_mask: (n,) bool, for the perfect filter alone.
    """

    n_poison: int | None = None
    clean_holdout: TrainingSet | None = None
    representation: Model | None = None
    poison_mask: Bools | None = None


Certificate = Callable[[Array], Ints]


@dataclass(frozen=True, eq=False)
class Defended:
    """What a defense returns.

    keep: (n,) bool, filters only, over the rows of the set it was given; stages: further models to score by name;
    certified_radius: x -> (n,) int64 poison rows (or flips) provably tolerated, or several such certificates by name;
    diagnostics: numbers to show beside the result.
    """

    model: Model
    keep: Bools | None = None
    stages: Mapping[str, Model] = field(default_factory=dict)
    certified_radius: Certificate | Mapping[str, Certificate] | None = None
    diagnostics: Mapping[str, float] = field(default_factory=dict)


class Defense(Protocol):
    """What a defense author writes: one function, in any file. `needs` (optional): names of Knowledge fields."""

    def __call__(self, train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended: ...


# --- data and subpopulations ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Dataset:
    """A labelled table, picture set or text set, before it is split.

    x: (n, ...); y: (n,) int64 in [0, n_classes); annotations: name -> (n,) int64, the features FeatureMatch may use;
    official_test: (n,) bool, rows that their source holds out, or None; hashes: (n,) content hashes where equal content
    must not stand on two sides of a split; sizes: (|D|, |D_aux|) or None for a third each; balanced: D and D_aux are drawn
    with as many negatives as positives; group_bounds: a subpopulation is attacked if its size in D_aux lies strictly between;
    n_clusters, n_components: k-means clusters and PCA components of ClusterMatch (None: no PCA); notes: what a report
    should say about this copy of the data; names: (n,) str, the file that each row comes from, or None; words: name of an
    annotation, or "y" -> what its codes mean, in order.
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


# --- what a number belongs to -----------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Cell:
    """All subpopulations and seeds of one set-up. `setting` holds what else tells two cells apart, sorted by name."""

    stem: str
    tier: str
    dataset: str
    victim: str
    partition: str
    attack: str
    rate: float
    defense: str = "none"
    setting: Setting = ()
    n_seeds: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "rate", float(self.rate))  # 1 and 1.0 are one cell, also by their repr

    @property
    def setting_text(self) -> str:
        """`name=value;...`, as baselines and reports write it."""
        return ";".join(f"{name}={value}" for name, value in self.setting)

    def option(self, name: str, default: str) -> str:
        return dict(self.setting).get(name, default)

    def with_(self, **changes: Any) -> Cell:
        """The same cell with other fields; names that are no field go into `setting` (None removes one)."""
        own = {name: changes.pop(name) for name in list(changes) if name in self.__dataclass_fields__}
        setting = {**dict(self.setting), **{k: None if v is None else str(v) for k, v in changes.items()}}
        own.setdefault("setting", tuple(sorted((k, v) for k, v in setting.items() if v is not None)))
        return replace(self, **own)

    @property
    def id(self) -> str:
        """The test id: feature_match reads `feature`, so that `-k feature_match` selects the suite of that name only."""
        partition = self.partition.removesuffix("_match")
        parts = [self.tier, self.dataset, self.victim, partition, self.attack, f"{self.rate:g}", self.defense]
        return "-".join([*parts, *([self.setting_text] if self.setting else [])])


@dataclass(frozen=True, order=True)
class Trial:
    """One trained victim of a cell. `attacked` False: the defense runs on clean D, told what the attacked trial is told."""

    subpopulation: str
    seed: int
    attacked: bool = True


@dataclass(frozen=True)
class TrialResult:
    """What one trial leaves behind: numbers by metric name and arrays by name (bits of right test rows, ...)."""

    trial: Trial
    metrics: Mapping[str, float]
    arrays: Mapping[str, Array] = field(default_factory=dict)
    seconds: float = 0.0
    n_fits: int = 0


@dataclass(frozen=True)
class Number:
    """One number of a cell: a metric over all subpopulations (subpopulation '') or of one."""

    metric: str
    value: float
    std_error: float | None = None
    subpopulation: str = ""
    std: float | None = None
    """Sample deviation over seeds that `std_error` and tolerances rest on; None for exact victims' fixed numbers."""


@dataclass(frozen=True)
class CellResult:
    """All numbers of a cell, and what they cost. `table` has one row a subpopulation and `arrays` what panels are drawn from."""

    cell: Cell
    numbers: tuple[Number, ...]
    table: tuple[Mapping[str, float | str], ...] = ()
    arrays: Mapping[str, Array] = field(default_factory=dict)
    knowledge: str = ""
    exact: bool = True
    n_subpopulations: int = 0
    n_fits: int = 0
    seconds: float = 0.0
    from_store: bool = False
    notes: tuple[str, ...] = ()

    def __getitem__(self, metric: str) -> float:
        """The value of an aggregate metric."""
        for number in self.numbers:
            if number.metric == metric and not number.subpopulation:
                return number.value
        known = sorted({number.metric for number in self.numbers if not number.subpopulation})
        raise KeyError(f"{metric!r} is not a metric of {self.cell.id}; it has {known}")


VERDICTS = ("pass", "fail", "no_power", "no_reference", "published_only", "skipped", "error")


@dataclass(frozen=True)
class Verdict:
    """A number of a run beside its reference."""

    number: Number
    verdict: str
    reason: str = ""
    reference: float | None = None
    atol: float | None = None
    published: float | None = None
    certainty: str = ""


@dataclass(frozen=True)
class CellReport:
    """What the reporter gets for each cell: its result (None where skipped or in error) and its verdicts."""

    cell: Cell
    result: CellResult | None
    verdicts: tuple[Verdict, ...] = ()
    status: str = "pass"
    """The worst verdict of the cell, or `skipped` / `error`."""
    reason: str = ""
