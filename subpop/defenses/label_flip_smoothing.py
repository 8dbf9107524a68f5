"""Label-flip smoothing: ridge regression on features that do not depend on labels, with certified radii of its predictions.

*Source*: Rosenfeld et al. 2020, "Certified Robustness to Label-Flipping Attacks via Randomized Smoothing": a linear smoother on
frozen features; the vote over labels flipped at random with probability q, bounded by Chernoff.
*Deviations*: the prediction is that of the ridge regression itself, with which the vote agrees wherever its bound is below 1/2.
In addition to the source's radius (`kl_q...`) there are the tightest one from the same bound (`neyman_pearson_q...`), both for
the vote, and the radius of the ridge regression's own prediction (`exact`). Features are standardised and reduced by PCA to one
component for every `ROWS_EACH` rows; the penalty is `C_RIDGE` times the mean square of a component, fixed in advance and not
tuned. More than two classes are compared pairwise, as presumably in the source. A certificate counts flipped labels of existing
rows, not inserted rows. A penalty chosen on the training labels invalidates it: then there is none, and the diagnostic
`certified` is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from subpop.defenses.remembered import Remembered
from subpop.types import Array, BadInput, Certificate, Defended, Fit, Ints, Knowledge, TrainingSet

if TYPE_CHECKING:  # compiled code, loaded at the first call
    from subpop.defenses.certificates.smoother import RidgeModel

C_RIDGE = 1e-2
CHOSEN = "chosen on labels"
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""The candidates for `ridge=CHOSEN`."""
ROWS_EACH = 50
NOISE = (0.1, 0.2, 0.3, 0.4, 0.45)
CERTIFICATES = ("exact", *(f"{kind}_q{q:g}" for kind in ("kl", "neyman_pearson") for q in NOISE))
_BLOCK = 1 << 22
"""Weights in memory at a time (32 MB); the exact radius needs the same amount again."""


def label_flip_smoothing(
    train: TrainingSet,
    fit: Fit,
    know: Knowledge,
    *,
    seed: int,
    ridge: float | str = C_RIDGE,
) -> Defended:
    """Fit a ridge regression to the granted representation, or to the inputs; `fit` and `seed` are not used.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    ridge
        Penalty relative to the mean square of a component, above 0, or `CHOSEN` to choose it on the training labels.

    Returns
    -------
    Defended
        With certificates by name and the diagnostics n_components, penalty and certified (1 or 0).

    Raises
    ------
    BadInput
        If `ridge` is neither a number above 0 nor `CHOSEN`.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["label_flip_smoothing"](toy.train(), toy.fit, Knowledge(), seed=0)
    >>> radius = defended.certified_radius["exact"](toy.test_x)
    >>> radius.shape
    (100,)
    """
    from subpop.defenses.certificates.shared_rows import shared_learner
    from subpop.defenses.certificates.smoother import Learner, Solved, fit_projection

    if isinstance(ridge, str) and ridge != CHOSEN:
        raise BadInput(f"ridge={ridge!r} must be a number above 0 or {CHOSEN!r}")
    classes = train.n_classes
    representation = know.representation
    shared = shared_learner(train, ROWS_EACH, ridge) if representation is None and not isinstance(ridge, str) else None
    if shared is None:
        projection, rows = fit_projection(train.x, representation, ROWS_EACH)
        learners = [Learner(projection, rows, each) for each in (RIDGES if isinstance(ridge, str) else [ridge])]
        direct = learners[0] if ridge != CHOSEN else min(learners, key=lambda one: one.leave_one_out_error(train.y, classes))
    learner: Solved = direct if shared is None else shared
    model = learner.model(train.y, classes)
    diagnostics = {
        "n_components": float(learner.n_components),
        "penalty": learner.penalty,
        "certified": float(ridge != CHOSEN),
    }
    return Defended(model, certified_radius=None if ridge == CHOSEN else certificates(model), diagnostics=diagnostics)


label_flip_smoothing.needs = {"representation"}  # type: ignore[attr-defined]


def certificates(model: RidgeModel) -> Mapping[str, Certificate]:
    """Return a certificate for each name of `CERTIFICATES`; called in turn on the same array, they compute once."""
    radii = Remembered(lambda x: all_radii(model, x))

    def certificate(name: str) -> Callable[[Array], Ints]:
        return lambda x: radii(x)[name]

    return {name: certificate(name) for name in CERTIFICATES}


def all_radii(model: RidgeModel, x: Array) -> dict[str, Ints]:
    """Return (T,) certified radii for each name of `CERTIFICATES`, from one factorisation, in blocks of test rows."""
    from subpop.defenses.certificates.chernoff import pairwise_log_bounds
    from subpop.defenses.certificates.exact import pairwise_exact_radius
    from subpop.defenses.certificates.noise import kl_radius, neyman_pearson_radius
    from subpop.defenses.certificates.smoother import blocks

    inputs = model.learner.inputs(x)
    winner = model.scores_of(inputs).argmax(axis=1)
    bounds, exact = np.empty((len(NOISE), len(inputs))), np.empty(len(inputs), np.int64)
    for block in blocks(len(inputs), len(model.y), _BLOCK):
        alpha = model.learner.weights(inputs[block])
        bounds[:, block] = pairwise_log_bounds(alpha, model.y, winner[block], NOISE, model.n_classes)
        exact[block] = pairwise_exact_radius(alpha, model.y, winner[block], model.n_classes)
    radii = {"exact": exact}
    for q, bound in zip(NOISE, bounds, strict=True):
        radii[f"kl_q{q:g}"] = kl_radius(bound, q, model.n_classes)
        radii[f"neyman_pearson_q{q:g}"] = neyman_pearson_radius(bound, q, model.n_classes)
    return radii
