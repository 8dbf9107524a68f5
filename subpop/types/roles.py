"""What parts do: models, victims and defenses, and what a defense is told and returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from subpop.types.base import Array, Bools, Floats, Ints
from subpop.types.rows import FleetJob, TrainingSet


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


GRANTED = ("n_poison", "clean_holdout", "representation")
"""Fields of `Knowledge` that a plug-in may declare in its `needs`."""

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
