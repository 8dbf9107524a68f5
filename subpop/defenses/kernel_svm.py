"""A support vector machine with a Gaussian kernel instead of the victim.

*Source*: scikit-learn's `SVC` with its defaults, C = 1 and gamma = 1 / (number of features); reviewers ask for it beside linear
victims. Inputs are standardised first, so that gamma is also scikit-learn's "scale".
*Deviations*: probabilities are the logistic function of the decision value (a softmax of one value a class for more than two),
not Platt's, which are fitted on random folds. The solver stops at a tolerance of 1e-6 instead of 1e-3. Rows are sorted by
content, so that neither `seed` nor their order matters.
"""

from __future__ import annotations

from typing import Any

from subpop.defenses.own_learner import own_pool
from subpop.types import BadInput, Defended, Fit, Knowledge, TrainingSet
from subpop.types.card import Card, Declared
from subpop.victims.sklearn_adapter import SklearnVictim

TOLERANCE = 1e-6


def kernel_svm(train: TrainingSet, fit: Fit, know: Knowledge, *, seed: int, penalty: float = 1.0, width: float = 1.0) -> Defended:
    """Train a support vector machine on all rows; `fit` and `seed` are not used.

    Parameters
    ----------
    train, fit, know, seed
        See `Defense`.
    penalty
        Weight of the penalty relative to scikit-learn's default: its C is 1 / penalty. Above 0.
    width
        Width of the kernel relative to scikit-learn's default: its gamma is 1 / (number of features * width ** 2). Above 0.

    Returns
    -------
    Defended
        The machine.

    Raises
    ------
    BadInput
        If `penalty` or `width` is not above 0, or inputs are tokens.

    Examples
    --------
    >>> from subpop import DEFENSES, Knowledge
    >>> from subpop.testing import gaussian
    >>> toy = gaussian(240, 2, n_poison=24)
    >>> model = DEFENSES["kernel_svm"](toy.train(), toy.fit, Knowledge(), seed=0).model
    >>> bool((model.predict_proba(toy.test_x).argmax(axis=1) == toy.test_y).mean() > 0.8)
    True
    """
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    for name, value in (("penalty", penalty), ("width", width)):
        if not 0 < value < float("inf"):
            raise BadInput(f"{name}={value} of kernel_svm must be finite and above 0, such as 1")
    pool = own_pool(train, "kernel_svm")
    machine = SVC(C=1 / penalty, gamma=1 / (pool.x.shape[1] * width**2), tol=TOLERANCE)
    victim = SklearnVictim(make_pipeline(StandardScaler(), machine), exact=True, n_jobs=1)
    return Defended(victim.fit_many([pool.clean_job()], [0])[0])


kernel_svm.configurations = (  # type: ignore[attr-defined]
    {},
    {"penalty": 10.0},
    {"penalty": 0.1},
    {"width": 2.0},
    {"width": 0.5},
    {"penalty": 10.0, "width": 2.0},
    {"penalty": 0.1, "width": 2.0},
    {"penalty": 10.0, "width": 0.5},
)
_ONE_NEIGHBOUR: dict[str, Any] = {
    "dataset": "mixture_cells",
    "victim": "sklearn.neighbors:KNeighborsClassifier(n_neighbors=1)",
    "sampling": "distinct",
}
kernel_svm.card = Card(  # type: ignore[attr-defined]
    Declared(
        "a nearest neighbour repeats each poison row; the machine pays C at most for a row, so that two clean rows outvote one",
        rate=0.5,
        **_ONE_NEIGHBOUR,
    ),
    Declared("where poison is the majority of its neighbourhood, a smooth boundary follows it", rate=2.0, **_ONE_NEIGHBOUR),
)
