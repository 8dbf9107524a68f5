"""Rates and settings of cells that can be refused by themselves, before any data is read: a mistake in a suite, not in a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import get_args

from subpop.attacks.attacker import Objective
from subpop.attacks.label_flip import Sampling
from subpop.stage import ALPHA_BASES, LABEL_RULES, epsilon, whole
from subpop.texts import max_length_of
from subpop.trial import TOLD, holdout_share
from subpop.types import BadInput, Cell

LARGEST_RATE = 100.0
CHOICES: Mapping[str, Iterable[str]] = {
    "label_rule": LABEL_RULES,
    "sampling": get_args(Sampling),
    "alpha_base": ALPHA_BASES,
    "objective": get_args(Objective),
    "n_poison_told": TOLD,
    "panels": ("yes", "no"),
    "attacked_by": ("least_confident", "low_middle_high"),
}
WHOLE_NUMBERS = ("split", "partition_seed", "n_attacked")
OTHERS = ("protocol", "clusters_on", "encoder", "max_length", "ranked_by", "holdout", "epsilon")
KNOWN = (*CHOICES, *WHOLE_NUMBERS, *OTHERS)


def check_settings(cell: Cell) -> None:
    """BadInput that names the value, what is allowed and the cell."""
    if not 0 <= cell.rate <= LARGEST_RATE:
        raise BadInput(
            f"rate {cell.rate:g} of {cell.id} must be finite, at least 0 and at most {LARGEST_RATE:g}: it is the number "
            "of poison rows for each row of the subpopulation in D_aux"
        )
    if not isinstance(cell.n_seeds, int) or cell.n_seeds < 1:
        raise BadInput(f"n_seeds={cell.n_seeds} of {cell.id} must be a whole number of at least 1")
    for name, value in cell.setting:
        _check_setting(cell, name, value)


def _check_setting(cell: Cell, name: str, value: str) -> None:
    if name not in KNOWN:
        near = get_close_matches(name, KNOWN, 1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(KNOWN))}"
        raise BadInput(f"{name}={value} of {cell.id} is no setting that a cell has; {meant}")
    if name in CHOICES and value not in CHOICES[name]:
        raise BadInput(f"{name}={value} of {cell.id} is unknown; use one of {', '.join(CHOICES[name])}")
    if name in WHOLE_NUMBERS:
        whole(cell, name, "0")
    if name == "max_length":
        max_length_of(cell)
    if name == "holdout":
        holdout_share(cell)
    if name == "epsilon":
        epsilon(cell)
