"""The random seeds of a cell's trials, each derived from what it is used for.

Draws of poison and holdout rows derive from the cell's data, subpopulations and attack alone, so that all victims and
defenses meet the same attacks. (The label rule `common` asks the victim's own model for the label.) The shuffle does not derive
from the seed that a defense is given. `tests/seeds.csv` lists these seeds for every cell, so that no change of the code moves
one unnoticed.
"""

from __future__ import annotations

import hashlib

from subpop.types import Cell, Trial


def derived_seed(*purpose: object) -> int:
    """A 63-bit seed that belongs to one purpose: equal parts give equal seeds, anything else an unrelated one."""
    digest = hashlib.blake2b("\x1f".join(map(str, purpose)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


# --- what seeds derive from -------------------------------------------------------------------------------------------


def draw_identity(cell: Cell) -> tuple[object, ...]:
    """What random draws derive from: the cell's data, subpopulations and attack, whoever the victim and the defender are.

    Which subpopulations are attacked does not count, and rows that an attack moves begin as those that label flipping draws,
    shuffled in the same way.
    """
    plain = cell.plain()
    chosen = {"n_attacked", "attacked_by"}
    setting = plain.setting_of(*(each for each in plain.specifications if each.enters_draws))
    return (plain.dataset, plain.partition, plain.attack, *(item for item in setting if item[0] not in chosen))


# --- the seeds of a trial ---------------------------------------------------------------------------------------------


def poison_seed(cell: Cell, subpopulation: str, seed: int) -> int:
    """The seed that draws the poison rows of a trial."""
    return derived_seed("poison", draw_identity(cell), subpopulation, seed)


def holdout_seed(cell: Cell, subpopulation: str, seed: int) -> int:
    """The seed that draws the clean rows which a defender is handed."""
    return derived_seed("holdout", draw_identity(cell), subpopulation, seed)


def shuffle_seed(cell: Cell, trial: Trial, secret: str = "") -> int:
    """The seed that shuffles a trial's training set. secret: unknown to plug-ins; empty for built-in defenses."""
    return derived_seed("shuffle", draw_identity(cell), cell.rate, trial.subpopulation, trial.seed, trial.attacked, secret)


def defense_seed(cell: Cell, trial: Trial, secret: str = "") -> int:
    """The seed that a trial's defense is given, below 2**32. secret: as for `shuffle_seed`."""
    return derived_seed("defense", cell.defense, trial.subpopulation, trial.seed, secret) % 2**32


def training_seed(cell: Cell, seed: int) -> int:
    """The seed of a trial's victim, below 2**32: the same for the clean and the poisoned one, so that they are paired."""
    return derived_seed("train", cell.dataset, cell.data.split, seed) % 2**32
