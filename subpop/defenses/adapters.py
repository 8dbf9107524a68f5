"""Detectors of other packages as defenses, to be compared with ours or used by `--defense my_file.py:name`.

`outlier_filter(detector)` makes a filter of any scikit-learn outlier detector. `cleanlab_filter` removes the label issues that
the package cleanlab (extra `cleanlab`) finds in the out-of-fold predictions of `confident_learning`; both keep the same rows.
`art_filter("ActivationDefence")` makes a filter of a poisoning detector of the Adversarial Robustness Toolbox (extra `art`,
tested with its version 1.20.1); docs/adapters.md compares its detectors with ours.

*Source*: the packages.
*Deviations*: an outlier detector sees the rows of one label at a time, in the features of the victim trained on all rows, since a
row with a flipped label is only unusual among the rows of its new label. Every `random_state` is set from the seed, and rows are
in the order of their content. The toolbox draws from numpy's global generator: it is seeded, and restored afterwards. Its
detectors see labels that occur only, since they fail on a label without rows, and inputs as vectors.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from subpop.defenses.confident_learning import FOLDS, check_folds, out_of_fold
from subpop.defenses.filters import filtered, finite, refitted, told_poison
from subpop.defenses.holdouts import holdout_of_every_class
from subpop.runtime.threads import one_thread
from subpop.types import Array, BadInput, Defended, Defense, Fit, Ints, Knowledge, Model, TrainingSet, content_order
from subpop.types.base import nearest

ART_NEEDS = {
    "ActivationDefence": frozenset[str](),
    "SpectralSignatureDefense": frozenset({"n_poison"}),
    "RONIDefense": frozenset({"clean_holdout"}),
}
"""The toolbox's detectors, and what each must be told. Its `ProvenanceDefense` needs the source of each row, which nobody has."""
NOT_SETTINGS = {"self", "classifier", "x_train", "y_train", "x_val", "y_val", "generator", "ex_re_threshold"}
"""Arguments of detectors that the adapter gives, or that do not change which rows are removed."""
FAULTY = {
    "relative-size": "fails with numpy 2.4 where a label has no small cluster",
    "silhouette-scores": "does not set the rows of a suspicious label's larger cluster, so that memory decides about them",
}
"""Analyses of clusters that do not work in version 1.20.1 of the toolbox."""


def outlier_filter(detector: Any) -> Defense:
    """Make a filter that removes the rows that an outlier detector finds among the rows of each label.

    Parameters
    ----------
    detector
        A scikit-learn outlier detector, such as `IsolationForest()`; it is cloned, not fitted.

    Returns
    -------
    Defense
        A defense, which needs no side information. Labels with a single row are left alone.

    Raises
    ------
    BadInput
        If it is no outlier detector with `fit_predict`.

    Examples
    --------
    >>> from sklearn.ensemble import IsolationForest
    >>> from subpop import Knowledge
    >>> from subpop.defenses.adapters import outlier_filter
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = outlier_filter(IsolationForest(contamination=0.1))(toy.train(), toy.fit, Knowledge(), seed=0)
    >>> int((~defended.keep).sum())
    27
    """
    from sklearn.base import BaseEstimator, clone, is_outlier_detector

    if not (isinstance(detector, BaseEstimator) and is_outlier_detector(detector) and hasattr(detector, "fit_predict")):
        name = getattr(detector, "__name__", type(detector).__name__)
        raise BadInput(f"{name} is not an outlier detector with fit_predict; give an instance of one, such as IsolationForest()")

    def outliers(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
        model, x = fit(train), train.x
        features, order = finite(model.features(x)), content_order(x)
        keep = np.ones(len(train), dtype=np.bool_)
        for label in np.unique(train.y):
            rows = order[train.y[order] == label]
            own = clone(detector)
            own.set_params(**{name: seed for name in own.get_params() if name.split("__")[-1] == "random_state"})
            if len(rows) > 1:
                with one_thread():
                    keep[rows] = own.fit_predict(features[rows]) != -1
        return refitted(train, fit, model, keep, {})

    return outliers


def cleanlab_filter(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
    """Remove the label issues that cleanlab finds with its defaults in the out-of-fold predictions of `confident_learning`.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.

    Returns
    -------
    Defended
        The model and the rows that it was trained on.

    Raises
    ------
    BadInput
        If cleanlab is not installed, or a label has fewer rows than there are folds.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise BadInput("cleanlab_filter needs the package cleanlab: pip install 'subpop[cleanlab]'") from error
    check_folds(train, FOLDS)
    order = content_order(train.x, train.y)
    proba = out_of_fold(train[train.ids[order]], fit, FOLDS, seed)
    keep = np.ones(len(train), dtype=np.bool_)
    keep[order] = ~find_label_issues(train.y[order], proba, n_jobs=1)
    return filtered(train, fit, keep)


def art_filter(detector: str, **settings: Any) -> Defense:
    """Make a filter of a poisoning detector of the Adversarial Robustness Toolbox, which keeps the rows that it calls clean.

    Parameters
    ----------
    detector
        The name of its class: `ActivationDefence`, `SpectralSignatureDefense` or `RONIDefense`.
    **settings
        Its settings, such as `reduce="FastICA", nb_dims=15`; what is not given has the toolbox's default.

    Returns
    -------
    Defense
        A defense. `SpectralSignatureDefense` is told the number of poison rows, unless `expected_pp_poison` is given;
        `RONIDefense` is told a clean holdout.

    Raises
    ------
    BadInput
        If the toolbox is not installed, has no such detector or setting, or does not do what the setting says; when the defense
        is used, if the toolbox refuses a value or the training set, or finds every row poisonous.
    """
    try:
        from art.defences.detector import poison
    except ImportError as error:
        raise BadInput("art_filter needs the Adversarial Robustness Toolbox: pip install 'subpop[art]'") from error
    if detector not in ART_NEEDS:
        raise BadInput(f"art_filter has no detector {detector!r}; {nearest(str(detector), ART_NEEDS)}")
    make: Any = getattr(poison, detector)
    first, later = (set(names) - NOT_SETTINGS for names in (inspect.signature(make.__init__).parameters, make.defence_params))
    for name in settings.keys() - first - later:
        raise BadInput(f"{detector} of the toolbox has no setting {name!r}; {nearest(name, sorted(first | later))}")
    if (fault := FAULTY.get(str(settings.get("cluster_analysis")))) is not None:
        found = f"cluster_analysis={settings['cluster_analysis']}"
        raise BadInput(f"{found} of the toolbox's version 1.20.1 {fault}; use smaller or distance")

    def detected(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int) -> Defended:
        x, labels, given = train.x, np.unique(train.y), {name: settings[name] for name in settings.keys() & first}
        if len(labels) < 2:
            raise BadInput(f"{detector} of the toolbox needs rows of two labels; all {len(train)} have one: give rows of another")
        if "n_poison" in needs:
            given["expected_pp_poison"] = told_poison(know, train, detector) / len(train)
        draws, order = _Draws(seed), content_order(x, train.y)

        def pausing(rows: TrainingSet) -> Model:
            with draws.paused():
                return fit(rows)

        wrapped = ArtClassifier(pausing, labels, x.shape[1:])
        if "clean_holdout" in needs:
            holdout = holdout_of_every_class(know, train, detector)
            given |= {"x_val": wrapped.flat(holdout.x), "y_val": wrapped.one_hot(holdout.y)}
        with _refusals(detector, len(train)), draws:
            found = make(wrapped, wrapped.flat(x[order]), wrapped.one_hot(train.y[order]), **given)
            found.set_params(**{name: settings[name] for name in settings.keys() - first})
        wrapped.model = model = fit(train)
        keep = np.ones(len(train), dtype=np.bool_)
        with _refusals(detector, len(train)), draws:
            keep[order] = np.asarray(found.detect_poison()[1]) == 1
        if not keep.any():
            raise BadInput(f"{detector} of the toolbox finds all {len(train)} training rows poisonous; use other settings")
        return refitted(train, fit, model, keep, {})

    needs = ART_NEEDS[detector] - ({"n_poison"} if "expected_pp_poison" in settings else set())
    detected.needs = needs  # type: ignore[attr-defined]
    return detected


class ArtClassifier:
    """A victim in the interface of the toolbox's classifiers, as far as its poisoning detectors use it.

    labels: (C,) the labels that occur, which the toolbox knows as 0 to C - 1; shape: that of one input.
    """

    layer_names = ("features",)

    def __init__(self, fit: Fit, labels: Ints, shape: tuple[int, ...]) -> None:
        self._fit, self._labels, self._shape = fit, labels, shape
        self.nb_classes = len(labels)
        self.model: Model | None = None

    def __deepcopy__(self, memo: object) -> ArtClassifier:
        """The toolbox copies a classifier to train it again. A model never changes, and the victim's own code is not copied."""
        other = ArtClassifier(self._fit, self._labels, self._shape)
        other.model = self.model
        return other

    def flat(self, x: Array) -> Array:
        """(n, d) inputs: the toolbox joins rows as vectors."""
        return x.reshape(len(x), -1)

    def one_hot(self, y: Array) -> Array:
        """(n, C) labels as the toolbox writes them."""
        return np.asarray(y[:, None] == self._labels, dtype=np.float32)

    def fit(self, x: Array, y: Array, **kwargs: object) -> None:
        """Train the victim on these rows, (n, d), and labels, (n, C)."""
        self.model = self._fit(TrainingSet.of(x.reshape(len(x), *self._shape), self._labels[y.argmax(axis=1)]))

    def predict(self, x: Array, **kwargs: object) -> Array:
        """(n, C) the predicted label of each row as ones and zeros: the toolbox's accuracy takes nothing else."""
        proba = self._trained.predict_proba(x.reshape(len(x), *self._shape))
        return self.one_hot(self._labels[proba[:, self._labels].argmax(axis=1)])

    def get_activations(self, x: Array, layer: int = 0, batch_size: int = 128, framework: bool = False) -> Array:
        """(n, d) float32 features; there is one layer."""
        return finite(self._trained.features(x.reshape(len(x), *self._shape)))

    @property
    def _trained(self) -> Model:
        if self.model is None:
            raise BadInput("this classifier is not trained; call fit(x, y) first")
        return self.model


class _Draws:
    """Runs a detector on one thread with numpy's global generator seeded; both are as before while the victim trains and later.

    The harness runs other trials while `fit` is called, which draw numbers of their own.
    """

    def __init__(self, seed: int) -> None:
        self._own = np.random.RandomState(seed % 2**32).get_state()

    def __enter__(self) -> None:
        self._limit, self._outside = one_thread(), np.random.get_state()
        self._limit.__enter__()
        np.random.set_state(self._own)

    def __exit__(self, *error: object) -> None:
        self._own = np.random.get_state()
        np.random.set_state(self._outside)
        self._limit.__exit__(None, None, None)

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


@contextmanager
def _refusals(detector: str, n: int) -> Iterator[None]:
    """Turn the toolbox's errors into ours."""
    try:
        yield
    except BadInput:
        raise
    except (ValueError, IndexError) as error:
        raise BadInput(
            f"{detector} of the toolbox refuses its settings or the {n} training rows: {error}; use other settings or more rows"
        ) from error
