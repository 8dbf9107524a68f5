"""JTT ("just train twice"): train, and train again with a larger weight on the rows that the first model got wrong.

*Source*: Liu et al. 2021, "Just Train Twice": a first model is trained for T epochs; the rows that it gets wrong, its error set,
are weighted by lambda in a second training. Their lambda is 50 for CelebA, 50 or 100 for Waterbirds, 4 for MultiNLI and 6 for
CivilComments (read in the released code); the other values of `configurations` are from memory of their search.
*Deviations*: the first model is trained with the victim's whole recipe, as `fit` does, not stopped after T epochs: exact victims
have no epochs. A weight is a whole number of copies of the row. JTT is a method for rare groups whose labels are right. Wrong
labels are errors too, so it is expected to amplify poison as long as poison is the minority of its neighbourhood: the first
model then errs on the poison rows. Where poison is the majority, the first model errs on the clean rows instead, and the same
rule repairs the damage. Where classes overlap, the errors are mostly clean: on mixture, logistic regression loses half of its
clean accuracy, because the weight inverts it.
"""

from __future__ import annotations

import numpy as np

from subpop.types import BadInput, Defended, Fit, Knowledge, TrainingSet
from subpop.types.card import Card, Declared

WEIGHT = 50


def jtt(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, weight: int = WEIGHT) -> Defended:
    """Train the victim, then train it again with `weight` copies of each row that the first model predicts wrongly.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    weight
        Weight of the rows in the error set, a whole number of at least 1; all other rows have weight 1.

    Returns
    -------
    Defended
        The second model, with the first one as the stage `first` and the diagnostic `errors`, the number of rows in the error
        set.

    Raises
    ------
    BadInput
        If `weight` is not a whole number of at least 1.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> defended = DEFENSES["jtt"](toy.train(), toy.fit, Knowledge(), seed=0)
    >>> defended.diagnostics["errors"] >= 24
    True
    """
    if isinstance(weight, bool) or not isinstance(weight, int) or weight < 1:
        raise BadInput(
            f"weight={weight!r} of jtt must be a whole number of at least 1, such as {WEIGHT}: it counts copies of a row"
        )
    first = fit(train)
    wrong = first.predict_proba(train.x).argmax(axis=1) != train.y
    copies = np.where(wrong, weight, 1)
    model = first if (copies == 1).all() else fit(train[np.repeat(train.ids, copies)])
    return Defended(model, stages={"first": first}, diagnostics={"errors": float(wrong.sum())})


jtt.configurations = (  # type: ignore[attr-defined]
    {},
    *({"weight": weight} for weight in (2, 4, 6, 10, 20, 100, 200)),
)
NEIGHBOURS = "sklearn.neighbors:KNeighborsClassifier(n_neighbors=31)"
"""Predicts the majority of the rows of a place. Two cases were declared before and missed the criterion: a tree with leaves of 30
rows, which are not the places, and 15 neighbours at rate 1.5, among which poison is in the minority by chance too often: 75 %
of the damage was gone."""
jtt.card = Card(  # type: ignore[attr-defined]
    succeeds=Declared(
        "poison is the majority of its place, so that the clean rows are the errors, and their weight gives them the majority",
        dataset="mixture_cells",
        victim=NEIGHBOURS,
        rate=2.0,
        sampling="distinct",
        alpha_base="train",
    ),
    fails=Declared(
        "poison is the minority of its place, so that the poison rows are the errors, and their weight gives them the majority",
        dataset="mixture_cells",
        victim=NEIGHBOURS,
        rate=0.5,
        sampling="distinct",
        alpha_base="train",
    ),
)
