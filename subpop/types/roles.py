"""Protocols of models, victims and defenses, and what a defense receives and returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from subpop.types.base import Array, Bools, Floats, Ints
from subpop.types.rows import FleetJob, TrainingSet


@runtime_checkable
class Model(Protocol):
    """A trained classifier in evaluation mode. Any object with these two methods is a model.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import Model
    >>> class AlwaysFirst:
    ...     def predict_proba(self, x):
    ...         return np.tile(np.float32([1, 0]), (len(x), 1))
    ...
    ...     def features(self, x):
    ...         return np.asarray(x, np.float32).reshape(len(x), -1)
    >>> isinstance(AlwaysFirst(), Model)
    True
    """

    def predict_proba(self, x: Array) -> Floats:
        """Predict class probabilities.

        Parameters
        ----------
        x
            (n, ...) inputs.

        Returns
        -------
        Floats
            (n, C) float32; each row sums to 1. There is a column for every class, also for one that was missing in training.
        """
        ...

    def features(self, x: Array) -> Floats:
        """Compute the inputs of the last linear layer.

        Parameters
        ----------
        x
            (n, ...) inputs.

        Returns
        -------
        Floats
            (n, d) float32.
        """
        ...


@runtime_checkable
class StoredModel(Model, Protocol):
    """A model that can be saved as plain arrays."""

    def state(self) -> dict[str, Array]:
        """Return the model's parameters.

        Returns
        -------
        dict
            Arrays by name.
        """
        ...

    @classmethod
    def from_state(cls, state: Mapping[str, Array]) -> Model:
        """Restore a model.

        Parameters
        ----------
        state
            What `state()` returned.

        Returns
        -------
        Model
            A model with the same predictions.
        """
        ...


class ChannelModel(Model, Protocol):
    """A convolutional model whose last layer's channels can be observed, masked and fine-tuned, as Fine-Pruning requires."""

    def channel_activations(self, x: Array) -> Floats:
        """Measure how active each channel is.

        Parameters
        ----------
        x
            (n, ...) inputs.

        Returns
        -------
        Floats
            (n, c) activation of each channel, averaged over positions; 0 for masked channels.
        """
        ...

    def channel_zeros(self, x: Array) -> Floats:
        """Measure how often each channel is inactive.

        Parameters
        ----------
        x
            (n, ...) inputs.

        Returns
        -------
        Floats
            (n, c) fraction of each channel's positions with activation zero, in [0, 1]; 1 for masked channels.
        """
        ...

    def pruned(self, keep: Bools) -> ChannelModel:
        """Mask channels.

        Parameters
        ----------
        keep
            (c,) bool; channels where it is False are masked, in addition to those that already are.

        Returns
        -------
        ChannelModel
            A copy of the model.
        """
        ...

    def fine_tuned(self, train: TrainingSet, *, epochs: int, learning_rate: float, batch_size: int, seed: int) -> ChannelModel:
        """Continue training with Adam; masked channels stay masked.

        Parameters
        ----------
        train
            The rows to train on.
        epochs, learning_rate, batch_size
            Settings of the training.
        seed
            Seed of the batch order.

        Returns
        -------
        ChannelModel
            A trained copy of the model.
        """
        ...


class Loss(Protocol):
    """A loss of logits and its gradient in closed form. Networks are trained by the loss, linear models by the gradient."""

    def __call__(self, logits: Any) -> Any:
        """The loss, a scalar tensor, of logits (B, C), a tensor of torch."""
        ...

    def gradient(self, logits: Array) -> Array:
        """(B, C) float64 the gradient of the loss at logits (B, C)."""
        ...


class Training(Protocol):
    """One network of the victim while it is trained. Rows may also be floats, such as averages of two pictures."""

    size: int
    """Number of parameters."""

    def proba(self, x: Array) -> Floats:
        """(n, C) float64 probabilities of the classes for inputs x, (n, ...), as the network is now."""
        ...

    def descend(self, x: Array, loss: Loss) -> None:
        """Take one step of the victim's optimiser on a loss of the logits of inputs x, (B, ...), plus the victim's penalty."""
        ...

    def descend_clipped(self, x: Array, y: Ints, norm: float, noise: Array | None = None) -> None:
        """Take one step on the mean of the rows' gradients of the log loss, each scaled down to at most `norm`.

        noise: (size,), added to the sum of the gradients. The gradient of the penalty depends on no row, and is added unchanged.
        """
        ...

    def model(self) -> Model:
        """The model that the network is now."""
        ...


class Trainable(Protocol):
    """The recipe by which the victim of one trial is trained, as `Knowledge.training` grants it."""

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        ...

    @property
    def batch_size(self) -> int:
        """Number of rows in a batch."""
        ...

    def begin(self, train: TrainingSet, member: int = 0) -> Training:
        """A network before its first step on `train`, whose parameters follow from the victim's seed.

        member: number of the network; 0 begins as the victim itself does, others with other parameters.
        """
        ...

    def batches(self, train: TrainingSet, epoch: int, member: int = 0) -> list[Ints]:
        """Positions of the rows of `train` in each batch of an epoch.

        The order follows from the victim's seed and the inputs of the rows, not from their order: where rows are left out, the
        others are visited in the same order as before.
        """
        ...


class Victim(Protocol):
    """A learning algorithm under attack.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import Pool, make_victim
    >>> x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    >>> pool = Pool(x, (x[:, 0] > 0).astype(np.int64), n_train=30, n_classes=2)
    >>> victim = make_victim("logistic_regression")
    >>> victim.exact
    True
    >>> [model] = victim.fit_many([pool.clean_job()], seeds=[0])
    >>> model.predict_proba(x).shape
    (40, 2)
    """

    exact: bool
    """Whether the same training set gives the same model for every seed."""

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """Train one model for each job.

        Parameters
        ----------
        jobs
            Training sets, all from the same pool.
        seeds
            seeds[i] determines the initialisation and the batch order of jobs[i].

        Returns
        -------
        list of Model
            In the order of the jobs.
        """
        ...


Fit = Callable[[TrainingSet], Model]
"""A function that trains the victim on a training set and returns the model: the `fit` that a defense receives.

Examples
--------
>>> import numpy as np
>>> from subpop import Fit, TrainingSet
>>> def train_both(train: TrainingSet, fit: Fit):
...     return fit(train), fit(train[train.ids % 2 == 0])
"""


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Side information that a defense receives in addition to its training rows.

    A field is None unless the defense declares it in `needs` and the cell grants it.

    Examples
    --------
    >>> from subpop import Defended, Knowledge
    >>> def uses_the_budget(train, fit, know, *, seed):
    ...     print(f"about {know.n_poison} rows are poisoned")
    ...     return Defended(fit(train))
    >>> uses_the_budget.needs = {"n_poison"}
    """

    n_poison: int | None = None
    """The number of poison rows in the training set; half or twice as large in cells with `n_poison_told="half"` or `"twice"`."""
    clean_holdout: TrainingSet | None = None
    """Clean rows, none of them from the target subpopulation."""
    representation: Model | None = None
    """A frozen model that was trained without the labels of the training set; use its `features`."""
    poison_mask: Bools | None = None
    """(n,) bool, True for poison rows; granted to the perfect filter only."""
    groups: Ints | None = None
    """(n,) int64 group of each training row, 0 or 1, by its inputs; poison rows are in the group of the rows that they were made
    from. Group 1 is the target subpopulation, a superset or another one, as the cell's setting `groups_told` says."""
    training: Trainable | None = None
    """How the trial's victim is trained, for built-in defenses that change the training itself; None for victims that are not
    trained step by step."""


@dataclass(frozen=True, eq=False)
class AttackSample:
    """What an attack of your own receives: the attacker's data, and nothing of the training set, the test set or the defense.

    The attack is a function `(sample, count, *, seed)` that returns a pair (rows, labels) of `count` positions in the sample and
    the labels that these rows get, or (rows, labels, x) with the changed inputs of the rows.

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import AttackSample
    >>> def flips(sample, count, *, seed):
    ...     rows = np.random.default_rng(seed).choice(sample.members, count)
    ...     return rows, 1 - sample.y[rows]
    >>> sample = AttackSample(np.zeros((4, 2), np.float32), np.array([0, 0, 1, 1]), np.array([0, 1]), n_classes=2)
    >>> rows, labels = flips(sample, 3, seed=0)
    >>> labels.tolist()
    [1, 1, 1]
    """

    x: Array
    """(n, ...) the inputs of the attacker's rows, D_aux."""
    y: Ints
    """(n,) int64 true labels."""
    members: Ints
    """(a,) positions of the rows in the attacked subpopulation."""
    n_classes: int
    """The number of classes."""
    target: int | None = None
    """With three classes or more, the label that label flipping would give to all poison rows; None for two classes."""


GRANTED = ("n_poison", "clean_holdout", "representation", "groups")
"""Fields of `Knowledge` that a plug-in may declare in its `needs`."""

Certificate = Callable[[Array], Ints]
"""A function from inputs, (m, ...), to (m,) int64 certified radii: how many poison rows, or flipped labels, provably cannot
change the prediction of each input."""


@dataclass(frozen=True, eq=False)
class Defended:
    """The result of a defense.

    Examples
    --------
    A filter returns the model and the rows that it was trained on:

    >>> from subpop import Defended
    >>> def drop_first_half(train, fit, know, *, seed):
    ...     keep = train.ids >= len(train) // 2
    ...     return Defended(fit(train[keep]), keep, diagnostics={"removed": float((~keep).sum())})
    """

    model: Model
    """The defended model: one that `fit` returned, or any object with `predict_proba`."""
    keep: Bools | None = None
    """(n,) bool, for filters: True for the rows of the training set that the model was trained on."""
    stages: Mapping[str, Model] = field(default_factory=dict)
    """Further models to evaluate, by name, such as the model before a repair."""
    certified_radius: Certificate | Mapping[str, Certificate] | None = None
    """A certificate, or several by name."""
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    """Numbers to report next to the result, by name."""
    votes: Callable[[Array], Ints] | None = None
    """For ensembles in which a training row reaches one member only: a function from inputs, (m, ...), to the (m, k) int64
    classes that the k members predict. The harness computes from them how many rows of a subpopulation insertions can turn
    together."""


class Defense(Protocol):
    """A defense: one function, in any file.

    It may have the attributes `needs` (names of fields of `Knowledge`), `max_fits` (calls of `fit` per trial, 2,000 by default)
    and `deterministic` (False if the same trial may give different results).

    Examples
    --------
    >>> import numpy as np
    >>> from subpop import Defended
    >>> def drop_random(train, fit, know, *, seed):
    ...     keep = np.random.default_rng(seed).random(len(train)) > 0.1
    ...     return Defended(fit(train[keep]), keep)
    >>> from subpop.testing import check_defense
    >>> all(result.passed for result in check_defense(drop_random))
    True
    """

    def __call__(self, train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
        """Defend one training set.

        Parameters
        ----------
        train
            The training set, perhaps poisoned.
        fit
            Trains the victim on a training set.
        know
            The side information that was granted.
        seed
            Seed for everything random; two calls with the same seed give the same result.

        Returns
        -------
        Defended
            The model, and for filters the rows that it was trained on.
        """
        ...
