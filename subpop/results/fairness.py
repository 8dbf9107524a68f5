"""How unequally a classifier treats groups of rows: demographic parity and equalised odds differences.

A group's *selection rate* is the share of its rows that are predicted as the positive class; its *true* and *false positive
rate* are the same share among its rows whose label is, and is not, that class. Both measures are the largest difference of such
rates between two groups, as in the package fairlearn (`method="between_groups"`); 0 is equal, 1 the most unequal.

*Deviation*: a group without rows of a class has no true (or no false) positive rate and does not take part in its comparison,
whereas fairlearn counts that rate as 0.

With three or more classes there is no positive one: it must be named, and is then compared with all others.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from subpop.types import Array, BadInput, Bools


def demographic_parity_difference(
    y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike, *, positive: int | str | None = None
) -> float:
    """Return the largest difference between two groups' selection rates.

    Parameters
    ----------
    y_true
        (n,) labels: the rates do not depend on them, but they say which classes there are.
    y_pred
        (n,) predicted labels.
    groups
        (n,) the group of each row: strings or integers, without missing values.
    positive
        The class that counts as selected; None for the larger one of two, such as 1 of 0 and 1.

    Returns
    -------
    float
        The difference, from 0 to 1; 0 with a single group.

    Raises
    ------
    BadInput
        If the arrays differ in length, are empty or have missing values, or `positive` is not a class or is needed.

    Examples
    --------
    >>> demographic_parity_difference([1, 0, 1, 0], [1, 1, 1, 0], ["a", "a", "b", "b"])
    0.5
    """
    _, selected, of_group = _checked(y_true, y_pred, groups, positive)
    return _spread(selected, of_group, np.ones(len(selected), dtype=bool))


def equalised_odds_difference(
    y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike, *, positive: int | str | None = None
) -> float:
    """Return the larger one of the differences between two groups' true positive rates and between their false positive rates.

    Parameters
    ----------
    y_true
        (n,) labels.
    y_pred
        (n,) predicted labels.
    groups
        (n,) the group of each row: strings or integers, without missing values.
    positive
        The class whose rates are compared; None for the larger one of two, such as 1 of 0 and 1.

    Returns
    -------
    float
        The difference, from 0 to 1. Groups without rows of a class are left out of the comparison of that class.

    Raises
    ------
    BadInput
        If the arrays differ in length, are empty or have missing values, or `positive` is not a class or is needed.

    Examples
    --------
    >>> equalised_odds_difference([1, 1, 0, 1, 1, 0], [1, 0, 0, 1, 1, 1], ["a", "a", "a", "b", "b", "b"])
    1.0
    """
    is_positive, selected, of_group = _checked(y_true, y_pred, groups, positive)
    return max(_spread(selected, of_group, is_positive), _spread(selected, of_group, ~is_positive))


def _spread(selected: Bools, of_group: Array, counted: Bools) -> float:
    """The largest difference of selection rates among the counted rows, over groups that have some."""
    sizes = np.bincount(of_group[counted])
    chosen = np.bincount(of_group[counted], selected[counted])
    rates = chosen[sizes > 0] / sizes[sizes > 0]
    return float(rates.max() - rates.min()) if len(rates) else 0.0


def _checked(y_true: ArrayLike, y_pred: ArrayLike, groups: ArrayLike, positive: int | str | None) -> tuple[Bools, Bools, Array]:
    """Whether each row is of the positive class, whether it is predicted as that, and the number of its group."""
    named = {"y_true": np.asarray(y_true), "y_pred": np.asarray(y_pred), "groups": np.asarray(groups)}
    shapes = {name: values.shape for name, values in named.items()}
    n_rows = len(named["y_true"]) if named["y_true"].ndim else 0
    if not n_rows or set(shapes.values()) != {(n_rows,)}:
        shapes_shown = ", ".join(f"{name} has shape {shape}" for name, shape in shapes.items())
        raise BadInput(f"{shapes_shown}; give one label, one prediction and one group for each row, and at least one row")
    for name, values in named.items():
        missing = np.flatnonzero(pd.isna(values))
        if len(missing):
            raise BadInput(f"{name} has no value in row {missing[0]}; drop the row or name its value, such as 'unknown'")
    label, predicted, group = named.values()
    classes = list(set(label.tolist()) | set(predicted.tolist()))
    if len({isinstance(each, str) for each in classes}) > 1:
        raise BadInput("some labels are text and some are numbers; convert y_true and y_pred to the same type")
    classes.sort()
    if positive is None:
        if len(classes) > 2:
            raise BadInput(
                f"there are {len(classes)} classes ({', '.join(map(str, classes[:5]))}{', ...' if len(classes) > 5 else ''}), of "
                "which none is the positive one; name it with positive="
            )
        positive = classes[-1]
    elif positive not in classes:
        raise BadInput(f"positive={positive!r} is none of the classes {', '.join(map(str, classes))}; name one of them")
    return label == positive, predicted == positive, np.asarray(pd.factorize(group)[0])
