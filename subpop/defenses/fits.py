"""Training several victims of a defense in one batch, and scoring its rows together with those of other trials."""

from __future__ import annotations

from collections.abc import Sequence

from subpop.types import Fit, Floats, Model, TrainingSet


def fit_all(fit: Fit, trains: Sequence[TrainingSet]) -> list[Model]:
    """Train the victim on each of several training sets, in one batch where the harness provides `fit`.

    An ensemble, or a cross-validation, needs many models at once. Calling `fit` in a loop trains them one after another; this
    function trains them together, which is many times faster for small training sets. The models are the same up to rounding.

    Parameters
    ----------
    fit
        The `fit` that a defense receives, or any function that trains one model.
    trains
        The training sets.

    Returns
    -------
    list of Model
        One for each training set, in the same order.

    Examples
    --------
    >>> from subpop import Defended, fit_all
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2)
    >>> train = toy.train()
    >>> models = fit_all(toy.fit, [train[train.ids % 2 == part] for part in range(2)])
    >>> len(models)
    2
    """
    many = getattr(fit, "many", None)
    return [fit(train) for train in trains] if many is None else list(many(trains))


def probabilities(fit: Fit, model: Model, train: TrainingSet) -> Floats:
    """`model.predict_proba(train.x)`, (n, C), of a model from `fit`; computed for all trials at once where the harness can."""
    together = getattr(fit, "probabilities", None)
    return model.predict_proba(train.x) if together is None else together(model, train)
