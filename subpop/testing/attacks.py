"""Checks of a user-supplied attack, in this process, on generated Gaussian classes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from subpop.harness.attack_child import Chosen, checked
from subpop.testing.checks import ContractWarning, require
from subpop.testing.toy import gaussian
from subpop.types import AttackSample

Attack = Callable[..., Any]

SLOW_SECONDS = 2.0
"""Seconds of a call above which an attack is called slow on the few hundred rows of the toy data."""


def _sample(n: int = 240, n_classes: int = 2, seed: int = 0) -> AttackSample:
    """Rows of a toy, of which the subpopulation is one half."""
    pool = gaussian(n, n_classes, seed=seed).pool
    x, y = np.array(pool.x[:n]), np.array(pool.y[:n])
    return AttackSample(x, y, np.flatnonzero(x[:, -1] > np.median(x[:, -1])), n_classes, None if n_classes == 2 else 1)


def _chosen(attack: Attack, sample: AttackSample, count: int, seed: int = 1) -> Chosen:
    found = attack(sample, count, seed=seed)
    require(isinstance(found, tuple) and len(found) in (2, 3), "an attack returns (rows, labels) or (rows, labels, x)")
    arrays = {name: np.asarray(each) for name, each in zip(("rows", "labels", "x"), found, strict=False) if each is not None}
    return checked(sample, count, arrays)


def _same(a: Chosen, b: Chosen) -> bool:
    same_x = (a.x is None) == (b.x is None) and (a.x is None or b.x is None or np.array_equal(a.x, b.x))
    return same_x and np.array_equal(a.rows, b.rows) and np.array_equal(a.y, b.y)


def _returns_poison(attack: Attack) -> None:
    _chosen(attack, _sample(), 24)


def _same_seed_same_answer(attack: Attack) -> None:
    same = _same(_chosen(attack, _sample(), 24), _chosen(attack, _sample(), 24))
    require(same, "two calls with the same sample and seed differ; draw from np.random.default_rng(seed) only")


def _leaves_its_input_alone(attack: Attack) -> None:
    sample, before = _sample(), _sample()
    _chosen(attack, sample, 24)
    same = all(np.array_equal(getattr(sample, name), getattr(before, name)) for name in ("x", "y", "members"))
    require(same, "the attack wrote into the arrays that it was given; work on copies")


def _works_on_few_rows(attack: Attack) -> None:
    _chosen(attack, _sample(12), 1)


def _works_with_three_classes(attack: Attack) -> None:
    _chosen(attack, _sample(240, 3), 24)


def _makes_wrong_labels(attack: Attack) -> None:
    sample = _sample()
    found = _chosen(attack, sample, 24)
    if found.x is None and (found.y == sample.y[found.rows]).all():
        warnings.warn("all rows keep their true labels: this is a control and no attack", ContractWarning, stacklevel=2)


def _is_fast(attack: Attack) -> None:
    started = time.perf_counter()
    _chosen(attack, _sample(480), 48)
    seconds = time.perf_counter() - started
    if seconds > SLOW_SECONDS:
        said = f"a call takes {seconds:.1f} s for 480 rows; a cell has up to 300 trials of thousands of rows"
        warnings.warn(said, ContractWarning, stacklevel=2)


ATTACK_CHECKS: tuple[tuple[str, Callable[[Attack], None]], ...] = (
    ("returns_poison", _returns_poison),
    ("same_seed_same_answer", _same_seed_same_answer),
    ("leaves_its_input_alone", _leaves_its_input_alone),
    ("works_on_few_rows", _works_on_few_rows),
    ("works_with_three_classes", _works_with_three_classes),
    ("makes_wrong_labels", _makes_wrong_labels),
    ("is_fast", _is_fast),
)
