"""Checks of a defense, in this process, with scikit-learn's logistic regression as the victim."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from subpop.harness.batching import DefenseTask, TrialBatch, job_of
from subpop.harness.outcome import Outcome
from subpop.testing.checks import ContractWarning, require
from subpop.testing.toy import Toy, ToyModel, gaussian
from subpop.types import Array, ArrayRows, BadInput, Defense, Floats, Knowledge, Model, TrainingSet

DefenseCheck = Callable[[Defense], None]

SLOW_SECONDS = 2.0
"""Seconds, without `fit`, above which a defense is called slow on the few hundred rows of the toy data."""
CLEAN_LOSS = 0.02
"""Loss of accuracy on clean data, or fraction of clean rows removed, above which a defense gets a warning."""


def _returns_defended(defense: Defense) -> None:
    _defend(defense, gaussian(240, 2, n_poison=24))


def _same_seed_same_answer(defense: Defense) -> None:
    toy = gaussian(240, 2, n_poison=24)
    same = _same(_defend(defense, toy), _defend(defense, toy))
    require(same, "two calls with the same data and seed differ; draw from np.random.default_rng(seed) only")


def _keeps_no_state(defense: Defense) -> None:
    toy = gaussian(240, 2, n_poison=24)
    first = _defend(defense, toy)
    _defend(defense, gaussian(180, 2, n_poison=9, seed=5), seed=2)
    require(
        _same(first, _defend(defense, toy)), "the result depends on an earlier call with other data; keep no state between calls"
    )


def _leaves_its_input_alone(defense: Defense) -> None:
    toy = gaussian(240, 2, n_poison=24)
    rows = ArrayRows(np.array(toy.pool.x[toy.rows]))
    train = TrainingSet(rows, np.arange(len(toy.y)), toy.y)
    before = rows.array.copy()
    _defend(defense, toy, train)
    same = np.array_equal(rows.array, before) and np.array_equal(train.y, toy.y)
    require(same, "the defense wrote into the rows or labels that it was given; work on copies")


def _works_on_few_rows(defense: Defense) -> None:
    _defend(defense, gaussian(12, 2, n_poison=2))


def _works_with_a_missing_class(defense: Defense) -> None:
    _defend(defense, gaussian(90, 3, n_poison=6, n_labels=2))


def _works_with_three_classes(defense: Defense) -> None:
    _defend(defense, gaussian(240, 3, n_poison=24))


def _works_on_duplicated_rows(defense: Defense) -> None:
    toy = gaussian(160, 2, n_poison=16)
    _defend(defense, toy.reordered(np.concatenate([np.arange(len(toy.rows)), np.arange(60)])))


def _ignores_the_order_of_rows(defense: Defense) -> None:
    toy = gaussian(240, 2, n_poison=24)
    order = np.random.default_rng(3).permutation(len(toy.rows))
    a, b = _defend(defense, toy), _defend(defense, toy.reordered(order))
    same = (
        np.array_equal(a.predictions[""], b.predictions[""])
        if a.keep is None or b.keep is None
        else np.array_equal(a.keep[order], b.keep)
    )
    if not same:
        warnings.warn(
            "the result depends on the order of the rows; this is correct only for a defense that draws random numbers",
            ContractWarning,
            stacklevel=2,
        )


def _is_idle_on_clean_data(defense: Defense) -> None:
    toy = gaussian(240, 2)
    outcome = _defend(defense, toy)
    undefended = ToyModel(toy.pool.x, toy.pool.y, 2).predict_proba(toy.test_x).argmax(1)
    lost = float((undefended == toy.test_y).mean() - (outcome.predictions[""] == toy.test_y).mean())
    removed = 0.0 if outcome.keep is None else float(1 - outcome.keep.mean())
    if max(lost, removed) > CLEAN_LOSS:
        change = f"{'loses' if lost >= 0 else 'gains'} {100 * abs(lost):.1f} points of accuracy"
        said = f"on data without poison (n_poison=0), it removes {removed:.0%} of the rows and {change}"
        warnings.warn(said, ContractWarning, stacklevel=2)


def _is_fast(defense: Defense) -> None:
    outcome = _defend(defense, gaussian(480, 2, n_poison=48))
    if outcome.seconds > SLOW_SECONDS:
        said = (
            f"the defense's own code takes {outcome.seconds:.1f} s for 528 rows; a cell has up to 300 trials of thousands of rows"
        )
        warnings.warn(said, ContractWarning, stacklevel=2)


DEFENSE_CHECKS: tuple[tuple[str, DefenseCheck], ...] = (
    ("returns_defended", _returns_defended),
    ("same_seed_same_answer", _same_seed_same_answer),
    ("keeps_no_state", _keeps_no_state),
    ("leaves_its_input_alone", _leaves_its_input_alone),
    ("works_on_few_rows", _works_on_few_rows),
    ("works_with_a_missing_class", _works_with_a_missing_class),
    ("works_with_three_classes", _works_with_three_classes),
    ("works_on_duplicated_rows", _works_on_duplicated_rows),
    ("ignores_the_order_of_rows", _ignores_the_order_of_rows),
    ("is_idle_on_clean_data", _is_idle_on_clean_data),
    ("is_fast", _is_fast),
)


# --- running one ------------------------------------------------------------------------------------------------------


def _knowledge(defense: Defense, toy: Toy) -> Knowledge:
    needs = frozenset(getattr(defense, "needs", ()))
    fields = sorted(Knowledge.__dataclass_fields__)
    unknown = sorted(needs - set(fields))
    require(not unknown, f"needs contains {', '.join(unknown)}; the fields of Knowledge are {', '.join(fields)}")
    return Knowledge(
        n_poison=int(toy.poison.sum()) if "n_poison" in needs else None,
        clean_holdout=TrainingSet.of(toy.test_x[:20], toy.test_y[:20]) if "clean_holdout" in needs else None,
        representation=_Flat() if "representation" in needs else None,
        poison_mask=toy.poison if "poison_mask" in needs else None,
        groups=(toy.pool.x[toy.rows, -1] > 0).astype(np.int64) if "groups" in needs else None,
    )


class _Flat:
    """A representation that needs no labels: the inputs themselves."""

    def predict_proba(self, x: Array) -> Floats:
        raise BadInput("a representation has no predict_proba(x); use features(x)")

    def features(self, x: Array) -> Floats:
        return np.asarray(x, np.float32)


def _defend(defense: Defense, toy: Toy, train: TrainingSet | None = None, seed: int = 1) -> Outcome:
    def fit_many(requests: list[tuple[int, TrainingSet]]) -> list[Model]:
        jobs = [job_of(toy.pool, asked).canonical() for _, asked in requests]
        return [ToyModel(job.x, job.y, toy.pool.n_classes) for job in jobs]

    require(callable(defense), f"a defense is a function (train, fit, know, *, seed), not {type(defense).__name__}")
    task = DefenseTask(train or toy.train(), _knowledge(defense, toy), seed)
    [outcome] = TrialBatch([task], fit_many, toy.test_x, toy.pool.n_classes).run(defense)
    return outcome


def _same(a: Outcome, b: Outcome) -> bool:
    pairs: list[tuple[Array | None, Array | None]] = [(a.keep, b.keep)]
    for one, other in ((a.predictions, b.predictions), (a.certified_radii, b.certified_radii)):
        pairs += [(one.get(name), other.get(name)) for name in {*one, *other}]
    return all((p is None) == (q is None) and (p is None or q is None or np.array_equal(p, q)) for p, q in pairs)
