"""Model-targeted poisoning of convex victims, and a lower bound on the number of rows that reach the same model.

The attacker chooses a target model that misclassifies the subpopulation, and adds one row after another: the one whose loss under
the present model exceeds its loss under the target model most, which trains the victim on D_aux and all rows chosen so far. Rows
are members of the subpopulation in D_aux with another label, as in label flipping. Target models are trained on D_aux and all of
these rows with weights from 1/4 to 32; of those that misclassify at least half of the members, the one of smallest loss on D_aux.

*Lower bound.* The victim minimises F_S(w) = sum of the losses on S + c(|S|) R(w), with R(w) half the squared norm of the
penalised parameters; c(s) is the penalty in the sum form and penalty * s in the mean form, so that c(n + m) = c(n) + m c', with
c' = 0 or the penalty. Let a model a be the optimum of D and m poison rows from a set Z of possible rows. For every model w,

    sum over the poison of (loss(w) - loss(a)) + m c' (R(w) - R(a)) >= F_D(a) - F_D(w),

and each row's difference is at most U(w), its maximum over Z: m (U(w) + c' (R(w) - R(a))) >= F_D(a) - F_D(w). Each w gives a
bound, and the largest of several is a bound. Here Z is finite, so that U(w) is its exact maximum. A solver stops near the
optimum; by convexity F(w) >= F(a) - |gradient at a| |w - a|, which is subtracted. It is a bound on the rows from Z that make the
victim *that model*, and not on other ways to harm the subpopulation.

*Source*: Suya, Mahloujifar, Suri, Evans and Tian 2021 (Model-Targeted Poisoning Attacks with Provable Convergence), from a
summary of its algorithm; the bound is derived above. Target models from label flips as in Rose et al. 2022.
*Deviations*: a finite set of rows instead of a box of inputs, the attacker's sample instead of D. No seed is used. Losses are
compared to 1e-6, and equal ones go to the earlier row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from subpop.attacks.curvature import penalty_of
from subpop.attacks.influence import cycled
from subpop.attacks.label_flip import AttackTask, Poison, poison_labels
from subpop.types import Array, BadInput, FleetJob, Ints, Model, Pool, Victim
from subpop.types.specifications import LabelFlip
from subpop.victims.linear_model import LinearModel

Doubles = NDArray[np.float64]
WEIGHTS = tuple(2.0**k for k in range(-2, 6))
"""Weights of the subpopulation's rows, with their poison labels, in the training sets of target models."""
GRID = 1e-6
ROUNDING = 1e-12
"""Bound of the relative rounding error in a sum of losses."""
STEPS = np.concatenate([np.linspace(0, 1, 33)[:-1], 1 - 2.0 ** -np.arange(6, 14)])
"""Places between the clean and the attained model at which the bound is evaluated."""
_PATHS: WeakKeyDictionary[Pool, WeakKeyDictionary[Victim, dict[tuple[bytes, bytes, str], Pursuit]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class ModelTargeted(LabelFlip):
    """Settings of model-targeted poisoning."""

    asks_model: ClassVar[bool] = True


def pursue_model(task: AttackTask[ModelTargeted]) -> Poison:
    """The attack `model_targeted`. A smaller count has the first rows of a larger one.

    Raises
    ------
    BadInput
        If the victim is not an exact linear one, or too few distinct rows can be drawn.
    """
    pursuit = _pursuit_of(task)
    if task.settings.sampling == "distinct":
        cycled(task.count, len(pursuit.candidates), "distinct")
    advance([pursuit], task.count - len(pursuit.chosen))
    rows, y = pursuit.poison(task.count)
    return Poison(rows, y, int((y != task.pool.y[rows]).sum()))


def _pursuit_of(task: AttackTask[ModelTargeted]) -> Pursuit:
    if task.victim is None or task.model is None:
        raise BadInput("attack model_targeted trains the victim: give draw_poison an attacker and a victim")
    known = _PATHS.setdefault(task.pool, WeakKeyDictionary()).setdefault(task.victim, {})
    labels = poison_labels(task.y, task.target)
    key = (task.members.tobytes(), labels.tobytes(), task.settings.sampling)
    if key not in known:
        known[key] = Pursuit.of(task.victim, task.model, task.pool, task.members, labels, task.settings.sampling == "distinct")
    return known[key]


# --- the attack -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Pursuit:
    """One attack in progress. base: rows of D_aux; candidates, labels: rows that may become poison; path: the model before each
    chosen row."""

    victim: Victim
    pool: Pool
    base: Ints
    candidates: Ints
    labels: Ints
    distinct: bool
    target: Doubles
    model: LinearModel
    chosen: list[int] = field(default_factory=list)
    path: list[Doubles] = field(default_factory=list)

    @classmethod
    def of(cls, victim: Victim, model: Model, pool: Pool, members: Ints, labels: Ints, distinct: bool) -> Pursuit:
        """An attack that has not begun. model: the victim trained on D_aux; members: (a,) with poison labels (a,)."""
        if not (victim.exact and isinstance(model, LinearModel)):
            raise BadInput(
                f"model_targeted needs an exact linear victim, and {type(victim).__name__} is none: use logistic_regression or "
                "last_layer, or attack label_flip"
            )
        base = np.arange(pool.n_train, len(pool))
        first = np.sort(np.unique(members, return_index=True)[1])
        free = first[labels[first] != pool.y[members[first]]]
        if not len(free):
            raise BadInput("all rows of the subpopulation have the target label: no row can be flipped; use another label_rule")
        target = _target_model(victim, pool, base, members[free], labels[free])
        return cls(victim, pool, base, members[free], labels[free], distinct, target, model)

    @cached_property
    def problem(self) -> Problem:
        """The victim's objective on D_aux."""
        rows, candidates = (_with_one(self.model, self.pool.x[each]) for each in (self.base, self.candidates))
        return Problem(self.victim, self.model, rows, self.pool.y[self.base], candidates, self.labels)

    def job(self) -> FleetJob:
        """The training set with all rows chosen so far."""
        rows, y = self.poison(len(self.chosen))
        return FleetJob(self.pool, np.append(self.base, rows), np.append(self.pool.y[self.base], y)).canonical()

    def poison(self, count: int) -> tuple[Ints, Ints]:
        """The first `count` poison rows and their labels."""
        first = np.array(self.chosen[:count], np.int64)
        return self.candidates[first], self.labels[first]

    def choose(self) -> None:
        """Choose the next row: the one whose loss exceeds that under the target model most."""
        gaps = np.rint(self.problem.gaps(self.model.coef, self.target) / GRID)
        if self.distinct:
            gaps[self.chosen] = -np.inf
        self.path.append(self.model.coef)
        self.chosen.append(int(np.lexsort((self.candidates, -gaps))[0]))

    def error(self) -> float:
        """The share of the subpopulation's rows that get their poison label from the present model."""
        proba = self.model.predict_proba(self.pool.x[self.candidates])
        return float((proba.argmax(1) != self.pool.y[self.candidates]).mean())

    def bound(self) -> int:
        """The smallest number of the possible rows that could make the victim the present model; at most `len(chosen)`."""
        return self.problem.bound(self.model.coef, np.array(self.chosen, np.int64), self.path)


def advance(pursuits: Sequence[Pursuit], steps: int) -> None:
    """Choose up to `steps` more rows of each attack, and train all their models in one batch after each row."""
    for _ in range(steps if pursuits else 0):
        for each in pursuits:
            each.choose()
        models = pursuits[0].victim.fit_many([each.job() for each in pursuits], [0] * len(pursuits))
        for each, model in zip(pursuits, models, strict=True):
            assert isinstance(model, LinearModel)
            each.model = model


def _target_model(victim: Victim, pool: Pool, base: Ints, members: Ints, labels: Ints) -> Doubles:
    """Of the models that misclassify half of the members, that of smallest loss on D_aux; otherwise the one of largest weight."""
    rows, y = np.append(base, members), np.append(pool.y[base], labels)
    sets = [np.append(np.ones(len(base)), np.full(len(members), weight)) for weight in WEIGHTS]
    models = victim.fit_many([FleetJob(pool, rows, y, own).canonical() for own in sets], [0] * len(sets))
    for model in models:  # the loss on D_aux grows with the weight
        if (model.predict_proba(pool.x[members]).argmax(1) != pool.y[members]).mean() >= 0.5:
            break
    assert isinstance(model, LinearModel)
    return model.coef


# --- the bound --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Problem:
    """The objective of a linear victim on a clean training set, and the rows that poison may be. Rows end with a one."""

    victim: Victim
    model: Model
    rows: Doubles
    y: Ints
    candidates: Doubles
    labels: Ints

    def penalty(self, n_rows: int) -> Doubles:
        """(d + 1, 1) the penalty of each parameter, c(n_rows), in the objective that is a sum over rows."""
        own = penalty_of(self.victim, self.model, n_rows)
        return n_rows * np.append(np.full(self.rows.shape[1] - 1, own.kernel), own.bias)[:, None]

    def objective(self, w: Doubles) -> float:
        """F_D at the parameters w (d + 1, K')."""
        return float(losses(w, self.rows, self.y).sum() + (self.penalty(len(self.y)) * w**2).sum() / 2)

    def gaps(self, w: Doubles, other: Doubles) -> Doubles:
        """(a,) the loss of each possible row under w less that under another model."""
        return losses(w, self.candidates, self.labels) - losses(other, self.candidates, self.labels)

    def gradient(self, w: Doubles, poison: Ints) -> Doubles:
        """The gradient of the objective on D and the possible rows numbered `poison`, which may repeat."""
        rows, y = np.append(self.rows, self.candidates[poison], axis=0), np.append(self.y, self.labels[poison])
        p = softmax(_scores(w, rows), axis=1)
        p[np.arange(len(y)), y] -= 1
        return np.asarray(rows.T @ p[:, -w.shape[1] :] + self.penalty(len(y)) * w)

    def bound(self, attained: Doubles, poison: Ints, others: Iterable[Doubles]) -> int:
        """The largest lower bound on the number of possible rows that train the victim to `attained`.

        poison: rows that did; others: models at which the bound is evaluated, of which the first is also joined with `attained`.
        """
        others = list(others)
        between = [others[0] + step * (attained - others[0]) for step in STEPS] if others else []
        slack, here = float(np.linalg.norm(self.gradient(attained, poison))), self.objective(attained)
        more = self.penalty(len(self.y) + 1) - self.penalty(len(self.y))
        best, largest = 0.0, float(losses(attained, self.candidates, self.labels).max())
        for w in (*others, *between):
            gain = here - self.objective(w) - slack * float(np.linalg.norm(w - attained)) - ROUNDING * (1 + here)
            each = float(self.gaps(w, attained).max() + (more * (w**2 - attained**2)).sum() / 2) + ROUNDING * (1 + largest)
            if gain > 0:
                best = max(best, gain / each if each > 0 else math.inf)
        return math.ceil(best) if math.isfinite(best) else len(poison) + 1


def losses(w: Doubles, rows: Doubles, y: Ints) -> Doubles:
    """(n,) cross-entropy of each row, (n, d + 1) with a last column of ones."""
    scores = _scores(w, rows)
    return np.asarray(logsumexp(scores, axis=1) - scores[np.arange(len(y)), y])


def _scores(w: Doubles, rows: Doubles) -> Doubles:
    """(n, C); two classes are the scores 0 and s."""
    scores = rows @ w
    return np.asarray(np.append(np.zeros_like(scores), scores, axis=1) if w.shape[1] == 1 else scores)


def _with_one(model: Model, x: Array) -> Doubles:
    features = model.features(x).astype(np.float64)
    return np.append(features, np.ones((len(features), 1)), axis=1)
