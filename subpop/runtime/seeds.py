"""The random seeds of a cell's trials, each derived from what it is used for.

Draws of poison and holdout rows depend on the cell's data, subpopulations and attack alone, so that all victims and defenses
face the same attacks. (The label rule `common` takes the label from the victim's own model.) The shuffle does not depend on the
seed that the defense gets. `tests/seeds.csv` lists these seeds for every cell, so that no change of the code alters one
unnoticed.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from subpop.types import Cell, Trial


def derived_seed(*purpose: object) -> int:
    """A 63-bit seed for one purpose: equal parts give equal seeds, different parts give unrelated seeds."""
    digest = hashlib.blake2b("\x1f".join(map(str, purpose)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


# --- what seeds derive from -------------------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def draw_identity(cell: Cell) -> tuple[object, ...]:
    """What random draws depend on: the cell's data, subpopulations and attack, but neither its victim nor its defense.

    Which subpopulations are attacked, and how much of D_aux the attacker sees, is ignored. Attacks that move rows, and controls,
    start from the rows that label flipping draws, and their training sets are shuffled in the same way.
    """
    plain = cell.plain()
    ignored = {"n_attacked", "attacked_by", "aux_share", "aux_groups"}
    setting = plain.setting_of(*(each for each in plain.specifications if each.enters_draws))
    return (plain.dataset, plain.partition, plain.attack, *(item for item in setting if item[0] not in ignored))


# --- the seeds of a trial ---------------------------------------------------------------------------------------------


def poison_seed(cell: Cell, subpopulation: str, seed: int) -> int:
    """The seed that draws the poison rows of a trial."""
    return derived_seed("poison", draw_identity(cell), subpopulation, seed)


def holdout_seed(cell: Cell, subpopulation: str, seed: int) -> int:
    """The seed that draws the clean rows that a defense gets."""
    return derived_seed("holdout", draw_identity(cell), subpopulation, seed)


def shuffle_seed(cell: Cell, trial: Trial, secret: str = "") -> int:
    """The seed that shuffles a trial's training set. secret: unknown to plug-ins; empty for built-in defenses."""
    return derived_seed("shuffle", draw_identity(cell), cell.rate, trial.subpopulation, trial.seed, trial.attacked, secret)


def defense_seed(cell: Cell, trial: Trial, secret: str = "") -> int:
    """The seed that a trial's defense gets, below 2**32. secret: as for `shuffle_seed`."""
    return derived_seed("defense", cell.defense, trial.subpopulation, trial.seed, secret) % 2**32


def training_seed(cell: Cell, seed: int) -> int:
    """The seed of a trial's victim, below 2**32. The clean and the poisoned victim share it, so they form a pair."""
    return derived_seed("train", cell.dataset, cell.data.split, seed) % 2**32
