"""Subpopulation poisoning as an attack class of the Adversarial Robustness Toolbox (extra `art`).

`SubpopulationAttack` has the interface of the toolbox's black-box poisoning attacks. Where the toolbox is installed it is a
subclass of their base class; without it, it works all the same.

*Source*: Jagielski, Severi, Pousette Harger, Oprea, Subpopulation Data Poisoning Attacks (CCS 2021), FeatureMatch and
ClusterMatch with label flips; the toolbox's version 1.20.1 for the interface.
*Deviations*: the attack has no model, so that a common label is given and not the one that a model finds least likely.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, ClassVar, TypeGuard, get_args

import numpy as np

from subpop.attacks.label_flip import label_flip, poison_count
from subpop.datasets.partitions import MAX_ITER, N_INIT
from subpop.runtime.threads import one_thread
from subpop.types import Array, BadInput, Bools
from subpop.types.specifications import Sampling

try:
    from art.attacks.attack import PoisoningAttackBlackBox as _BlackBox
except ImportError:
    _BlackBox = object


class SubpopulationAttack(_BlackBox):  # type: ignore[misc]
    """Poison rows that turn a model against one subpopulation: some of its rows, with another label.

    Parameters
    ----------
    alpha
        Number of poison rows for each row of the subpopulation among the attacker's rows, above 0.
    target
        The subpopulation: a value of `groups`, or a tuple with one value for each column of it; with `n_clusters`, the number of
        a cluster.
    n_clusters
        None for FeatureMatch: rows with equal `groups` are a subpopulation. For ClusterMatch, the number of k-means clusters.
    poison_label
        The label of all poison rows; None to give each row the other of two labels.
    sampling
        "with_replacement", or "distinct": no row is drawn twice.
    seed
        Seed of the draw and of k-means; the same seed gives the same poison.

    Raises
    ------
    BadInput
        If a value is not allowed. It is a ValueError, as the toolbox raises.

    Examples
    --------
    Four rows of group 1, and as many poison rows as they are:

    >>> import numpy as np
    >>> from subpop.attacks.adapters import SubpopulationAttack
    >>> x, y, groups = np.arange(8.0)[:, None], np.zeros(8, int), np.repeat([0, 1], 4)
    >>> attack = SubpopulationAttack(alpha=1.0, target=1, sampling="distinct")
    >>> x_poison, y_poison = attack.poison(x, y, groups=groups)
    >>> sorted(x_poison.ravel().tolist()), y_poison.tolist()
    ([4.0, 5.0, 6.0, 7.0], [1, 1, 1, 1])
    """

    attack_params: ClassVar[list[str]] = [
        *getattr(_BlackBox, "attack_params", ()),
        *("alpha", "target", "n_clusters", "poison_label", "sampling", "seed"),
    ]
    _estimator_requirements: ClassVar[tuple[Any, ...]] = ()

    def __init__(
        self,
        alpha: float = 1.0,
        target: int | tuple[int, ...] = 0,
        n_clusters: int | None = None,
        poison_label: int | None = None,
        sampling: Sampling = "with_replacement",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.alpha, self.target, self.n_clusters = alpha, target, n_clusters
        self.poison_label, self.sampling, self.seed = poison_label, sampling, seed
        self._clusters: Any = None
        self._check_params()

    def poison(
        self, x: Array, y: Array | None = None, *, groups: Array | None = None, features: Array | None = None, **kwargs: object
    ) -> tuple[Array, Array]:
        """Make the poison rows, which the attacker adds to the training set.

        Parameters
        ----------
        x
            (n, ...) the attacker's rows.
        y
            (n,) their true labels from 0 on, or (n, C) one-hot.
        groups
            (n,) or (n, k) annotations of the rows, for FeatureMatch.
        features
            (n, d) what is clustered, for ClusterMatch; None for the rows themselves.
        **kwargs
            Further arguments of other attacks of the toolbox are ignored.

        Returns
        -------
        tuple of Array
            (m, ...) rows of the subpopulation, and their m labels in the form of `y`.

        Raises
        ------
        BadInput
            If labels or groups are missing or do not fit the rows, or the subpopulation has too few of them.
        """
        x = np.asarray(x)
        if y is None:
            raise BadInput("the true labels y of the rows are needed to change them; call poison(x, y)")
        labels, n_classes = _class_numbers(np.asarray(y), len(x))
        if self.poison_label is None and n_classes != 2:
            raise BadInput(f"each row gets the other of two labels, and there are {n_classes}; give a poison_label for all rows")
        if self.poison_label is not None and self.poison_label >= n_classes:
            raise BadInput(f"poison_label={self.poison_label} is not a label of y; use one from 0 to {n_classes - 1}")
        if self.n_clusters is not None:
            self._clusters = self._clustered(_flat(x if features is None else features, len(x)))
        rows = np.flatnonzero(self.members(x, groups=groups, features=features))
        poison = label_flip(
            rows,
            labels[rows],
            poison_count(self.alpha, len(rows)),
            n_classes=n_classes,
            rule="own" if self.poison_label is None else "common",
            target=self.poison_label,
            sampling=self.sampling,
            generator=np.random.default_rng(self.seed),
        )
        return x[poison.rows].copy(), _like(np.asarray(y), poison.y)

    def members(self, x: Array, *, groups: Array | None = None, features: Array | None = None) -> Bools:
        """Say which rows are in the attacked subpopulation, such as rows of a test set.

        Parameters
        ----------
        x
            (n, ...) rows.
        groups
            (n,) or (n, k) their annotations, for FeatureMatch.
        features
            (n, d) what was clustered, for ClusterMatch, in which a row is in the cluster with the nearest centre of the last
            `poison`; None for the rows themselves.

        Returns
        -------
        Bools
            (n,) True for rows of the subpopulation.

        Raises
        ------
        BadInput
            If groups are missing or do not fit the rows or the target, or `poison` has not yet clustered any.
        """
        if self.n_clusters is None:
            return self._matched(groups, len(x))
        if self._clusters is None:
            raise BadInput("there are no clusters yet; call poison first, which clusters the attacker's rows")
        with one_thread():
            numbers = self._clusters.predict(_flat(x if features is None else features, len(x)))
        return np.asarray(numbers == self.target)

    def set_params(self, **kwargs: Any) -> None:
        """Change settings.

        Parameters
        ----------
        **kwargs
            New values by the names of the constructor's parameters. After an error, nothing has changed.

        Raises
        ------
        BadInput
            If there is no such setting, or a value is not allowed.
        """
        if unknown := sorted(kwargs.keys() - set(self.attack_params)):
            raise BadInput(f"the attack has no setting {unknown[0]!r}; use one of {', '.join(self.attack_params)}")
        before = {name: getattr(self, name) for name in kwargs}
        self.__dict__.update(kwargs)
        try:
            self._check_params()
        except BadInput:
            self.__dict__.update(before)
            raise
        if kwargs.keys() & {"n_clusters", "seed"}:
            self._clusters = None

    def _check_params(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, Real) or not 0 < self.alpha < math.inf:
            raise BadInput(f"alpha={self.alpha!r} must be a finite number above 0, such as 1.0")
        for name, least in (("n_clusters", 1), ("poison_label", 0), ("seed", 0)):
            value = getattr(self, name)
            if not (value is None and name != "seed") and not (_is_whole(value) and value >= least):
                raise BadInput(f"{name}={value!r} must be a whole number of at least {least}{' or None' * (name != 'seed')}")
        if self.sampling not in get_args(Sampling):
            raise BadInput(f"unknown sampling {self.sampling!r}; choose one of {', '.join(get_args(Sampling))}")
        if self.n_clusters is not None and not (_is_whole(self.target) and 0 <= self.target < self.n_clusters):
            raise BadInput(f"target={self.target!r} must be the number of a cluster, from 0 to {self.n_clusters - 1}")

    def _matched(self, groups: Array | None, n: int) -> Bools:
        """(n,) bool, rows whose annotations all equal the target."""
        if groups is None or np.ndim(groups) not in (1, 2) or len(groups) != n:
            shape = "none" if groups is None else f"an array of shape {np.shape(groups)}"
            raise BadInput(
                f"FeatureMatch needs the groups of {n} rows, and got {shape}; give groups, (n,) or (n, k), or n_clusters"
            )
        values = np.asarray(groups).reshape(n, -1)
        wanted = np.atleast_1d(np.asarray(self.target))
        if wanted.shape != values.shape[1:]:
            raise BadInput(f"target={self.target!r} must have one value for each of the {values.shape[1]} columns of groups")
        return np.asarray((values == wanted).all(axis=1))

    def _clustered(self, features: Array) -> Any:
        """Fit k-means to (n, d) features as ClusterMatch does."""
        from sklearn.cluster import KMeans

        if len(features) < (self.n_clusters or 0):
            raise BadInput(f"n_clusters={self.n_clusters} is more than the {len(features)} rows; use fewer clusters or more rows")
        with one_thread():
            return KMeans(self.n_clusters, n_init=N_INIT, max_iter=MAX_ITER, random_state=self.seed).fit(features)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _flat(values: Array, n: int) -> Array:
    """(n, d) finite float64 values."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) != n or not np.isfinite(values).all():
        raise BadInput(
            f"what is clustered must be {n} rows of finite numbers, and has shape {values.shape}; remove or impute NaN"
        )
    return np.ascontiguousarray(values.reshape(n, -1))


def _class_numbers(y: Array, n: int) -> tuple[Array, int]:
    """(n,) class numbers of labels, (n,), (n, 1) or one-hot (n, C), and the number of classes."""
    if y.ndim not in (1, 2) or len(y) != n or not n:
        raise BadInput(
            f"labels of shape {y.shape} for {n} rows; give one label per row, (n,) or one-hot (n, C), and at least one row"
        )
    if y.ndim == 2 and y.shape[1] > 1:
        if not (np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()):
            raise BadInput(f"labels of shape {y.shape} must be one-hot: a single 1 in each row, and 0 elsewhere")
        return y.argmax(axis=1), y.shape[1]
    numbers = y.ravel()
    if not (numbers == np.floor(numbers)).all() or numbers.min() < 0:
        raise BadInput(f"labels must be whole numbers from 0 on, and {numbers.min()} is the smallest; number the classes from 0")
    return numbers.astype(np.int64), max(2, int(numbers.max()) + 1)


def _like(y: Array, labels: Array) -> Array:
    """The m labels in the form of y."""
    if y.ndim == 2 and y.shape[1] > 1:
        return np.eye(y.shape[1], dtype=y.dtype)[labels]
    return labels.astype(y.dtype).reshape(-1, *y.shape[1:])
