"""Remove the rows that, to first order, raise the loss of a clean holdout most.

With L the mean training loss of the model's last layer, H its Hessian and L_V the mean loss of the clean rows, removing row i
changes L_V by about s . g_i / n, where g_i is the row's gradient and s = H^-1 grad L_V. The rows with the most negative products
are removed: as many as there are poison rows. The model is trained again; more rounds measure influence with the new model.

*Source*: Koh and Liang 2017 for the formula; filtering by the influence on a trusted set is what attribution methods such as TRAK
(Park et al. 2023, released code) are used for. They project gradients at random and average over models; for a linear model the
formula is exact to first order.
*Deviations*: features of the last layer are standardised, and the Hessian has a multiple of the unit matrix added (`damping`),
because a defense does not know the victim's penalty. Scores are rounded to nine digits of the largest, and ties go by row id.
The gap that is reported takes s as given. It succeeds if the clean rows include rows of the attacked subpopulation, which the
cells `told=target` of the suite `impossibility` show, and fails otherwise. The harness's holdout contains none of them, so that
it has no card: where clean reviews of other topics suffer from the poison too, which was declared as a success, a third of the
damage was gone.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from subpop.defenses.filters import ROUNDING, finite, keep_lowest, told_poison
from subpop.defenses.holdouts import holdout_of_every_class
from subpop.types import Array, BadInput, Defended, Fit, Ints, Knowledge, Model, TrainingSet

Doubles = NDArray[np.float64]

DAMPING = 0.01
DIGITS = 9
ACCURACY, STEPS = 1e-12, 5000


def holdout_influence(
    train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, damping: float = DAMPING, rounds: int = 1
) -> Defended:
    """Remove the n_poison rows whose removal lowers the loss of the clean holdout most, and train again.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    damping
        What is added to the Hessian of the mean loss in standardised features; above 0.
    rounds
        How often influence is measured, each time with the model of the rows that are left, and n_poison rows of all are removed.

    Returns
    -------
    Defended
        With the diagnostics of `trim`.

    Raises
    ------
    BadInput
        If `know.n_poison` is missing or not below the number of rows, there is no clean holdout or it lacks a class of the
        training set, or a setting is out of range.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge, TrainingSet
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> know = Knowledge(n_poison=24, clean_holdout=TrainingSet.of(toy.test_x, toy.test_y))
    >>> defended = DEFENSES["holdout_influence"](toy.train(), toy.fit, know, seed=0)
    >>> bool((~defended.keep & toy.poison).sum() > 12)
    True
    """
    if not 0 < damping < float("inf"):
        raise BadInput(f"damping={damping} of holdout_influence must be finite and above 0, such as {DAMPING}")
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise BadInput(f"rounds={rounds!r} of holdout_influence must be a whole number of at least 1, such as 1")
    n_drop = told_poison(know, train, "holdout_influence")
    holdout = holdout_of_every_class(know, train, "holdout_influence")
    steepest = [1.0]

    def score(model: Model) -> Array:
        harm, along = harm_of_rows(model, train, holdout, damping)
        steepest.append(max(float(np.abs(along).max()), np.finfo(np.float64).tiny))
        largest = np.abs(harm).max(initial=0.0)
        return np.asarray(np.round(harm / largest, DIGITS) * largest if largest > 0 else harm)

    return keep_lowest(train, fit, n_drop, score, rounds + 1, lambda scores: 2 * scores / steepest[-1])


holdout_influence.needs = {"n_poison", "clean_holdout"}  # type: ignore[attr-defined]


def harm_of_rows(model: Model, train: TrainingSet, holdout: TrainingSet, damping: float) -> tuple[Doubles, Doubles]:
    """Return (n,) n times what each row's removal takes from the holdout's mean loss, and (n, C) the products (f, 1) s.

    f: (n, d) standardised features.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    own, clean = standardised(finite(model.features(train.x)), finite(model.features(holdout.x)))
    p = np.asarray(model.predict_proba(train.x), dtype=np.float64)
    slope = clean.T @ residuals(model.predict_proba(holdout.x), holdout.y) / len(holdout)

    def times(v: Doubles) -> Doubles:
        along = own @ v.reshape(slope.shape)
        curved = own.T @ (p * (along - (p * along).sum(axis=1, keepdims=True))) / len(own)
        return np.asarray(curved.ravel() + damping * v)

    hessian = LinearOperator((slope.size, slope.size), matvec=times, dtype=np.float64)
    s, unsolved = cg(hessian, slope.ravel(), rtol=ACCURACY, maxiter=STEPS)
    if unsolved:
        raise BadInput(f"holdout_influence did not solve for the influence within {STEPS} steps; raise damping={damping}")
    along = own @ s.reshape(slope.shape)
    return np.asarray(-(residuals(p, train.y) * along).sum(axis=1)), np.asarray(along)


def residuals(proba: Array, y: Ints) -> Doubles:
    """Return (n, C) p - e_y, the gradient of each row's log loss in its scores."""
    residual = np.array(proba, dtype=np.float64)
    residual[np.arange(len(y)), y] -= 1
    return residual


def standardised(features: Array, others: Array) -> tuple[Doubles, Doubles]:
    """Return both sets of features, (n, d + 1) and (m, d + 1), with the means and deviations of the first, and a column of ones.

    Columns that are constant up to rounding become 0.
    """
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    constant = deviation <= ROUNDING * np.abs(features).max(axis=0)
    factor = np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))
    first, second = (np.column_stack([(each - mean) * factor, np.ones(len(each))]) for each in (features, others))
    return first, second


holdout_influence.configurations = (  # type: ignore[attr-defined]
    {},
    *({"damping": damping} for damping in (0.0001, 0.001, 0.1, 1.0)),
    *({"rounds": rounds} for rounds in (2, 5)),
    {"damping": 0.1, "rounds": 5},
)
