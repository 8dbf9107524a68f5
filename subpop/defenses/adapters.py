"""Detectors of other packages as defenses, to be compared with ours or used by `--defense my_file.py:name`.

`outlier_filter(detector)` makes a filter of any scikit-learn outlier detector. `cleanlab_filter` removes the label issues that
the package cleanlab (extra `cleanlab`) finds in the out-of-fold predictions of `confident_learning`; both keep the same rows.

*Source*: the packages.
*Deviations*: an outlier detector sees the rows of one label at a time, in the features of the victim trained on all rows, since a
row with a flipped label is only unusual among the rows of its new label. Every `random_state` is set from the seed, and rows are
in the order of their content.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from subpop.defenses.confident_learning import FOLDS, check_folds, out_of_fold
from subpop.defenses.filters import filtered, finite, refitted
from subpop.runtime.threads import one_thread
from subpop.types import BadInput, Defended, Defense, Fit, Knowledge, TrainingSet, content_order


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
        raise BadInput(f"{name} is no outlier detector with fit_predict; give an instance of one, such as IsolationForest()")

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
