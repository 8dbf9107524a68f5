"""User-supplied attacks: functions `(sample, count, *, seed)` of a file, each call of which runs in a child process.

See `subpop.AttackSample` for what they receive and return. With `sampling=distinct` no position may be returned twice, unless
the attack changes the inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from subpop.attacks.label_flip import AttackTask, Poison
from subpop.harness.attack_child import Chosen, attack_in_child
from subpop.harness.batching import DefenseError
from subpop.harness.plugins import AttackSpec
from subpop.runtime.output import Listener
from subpop.types import AttackSample
from subpop.types.specifications import LabelFlip

NOTE = (
    "{} is an attack of your own: each call ran in a child process that received the rows and labels of D_aux, the "
    "subpopulation, the number of poison rows and a seed; the number of rows, their labels and values were checked"
)


def user_attack(
    spec: AttackSpec, timeout: float = 300.0, listener: Listener | None = None
) -> Callable[[AttackTask[LabelFlip]], Poison]:
    """The attack as a function of the harness's own tasks. timeout: seconds of a call."""

    def attack(task: AttackTask[LabelFlip]) -> Poison:
        if not task.count:
            return Poison(np.zeros(0, np.int64), np.zeros(0, np.int64), 0)
        seed = int(task.generator.integers(2**32))
        found = attack_in_child(spec, sample_of(task), task.count, seed, timeout, listener)
        return poison_of(spec, task, found)

    return attack


def sample_of(task: AttackTask[LabelFlip]) -> AttackSample:
    """What an attack receives of a task: copies of the attacker's rows, so that no array of the harness can be reached."""
    pool, n = task.pool, task.pool.n_train
    return AttackSample(np.array(pool.x[n:]), np.array(pool.y[n:]), np.array(task.members - n), pool.n_classes, task.target)


def poison_of(spec: AttackSpec, task: AttackTask[LabelFlip], found: Chosen) -> Poison:
    """The poison of checked answers. Raises DefenseError for a position that came twice where rows must be distinct."""
    pool, origin = task.pool, task.pool.n_train + found.rows
    flipped = int((found.y != pool.y[origin]).sum())
    if found.x is not None:
        return Poison(len(pool) + np.arange(len(origin)), found.y, flipped, found.x, origin)
    if task.settings.sampling == "distinct" and len(np.unique(origin)) < len(origin):
        raise DefenseError(
            None, f"attack {spec.name}: it chose a row twice, and the cell has sampling=distinct; choose each once"
        )
    return Poison(origin, found.y, flipped)
