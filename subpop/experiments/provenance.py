"""What the numbers of a cell were made of, as digests that `subpop compare` pairs numbers by.

The digest of the draws covers the trials and their seeds, not the rows that were drawn: an edit of the code that draws rows moves
numbers, and these are to be compared. Digests do not cover versions of libraries, which a results.json names.
"""

from __future__ import annotations

import sys

from subpop.defenses import MATCHED, filter_of
from subpop.experiments.experiment import Experiment
from subpop.experiments.kept_results import code_without_trials
from subpop.runtime.cell_code import TRIALS, code_key
from subpop.runtime.fingerprint import data_hash, key_of
from subpop.runtime.seeds import defense_seed, holdout_seed, poison_seed, shuffle_seed, training_seed
from subpop.types import Cell, Provenance, Trial
from subpop.types.kinds import kind_of

DIGITS = 16
"""Hexadecimal digits of a digest."""


def provenance(experiment: Experiment, cell: Cell) -> Provenance:
    """The digests of a cell that was measured with this experiment."""
    return Provenance(_data(experiment, cell), _draws(experiment, cell), _secret(experiment, cell), _code(experiment, cell))


def _data(experiment: Experiment, cell: Cell) -> str:
    """Digest of the rows as they are in the data set, whatever a network makes of them, of the split and the subpopulations."""
    context = experiment.context

    def rows() -> str:
        loaded, splits = context.loaded(cell.dataset), context.data(cell).splits
        texts = key_of({"texts": loaded.texts or (), "names": list(loaded.annotations)})
        arrays = (loaded.x, loaded.y, splits.train, splits.aux, splits.test, *loaded.annotations.values())
        return key_of({"texts": texts, "arrays": data_hash(*arrays)})

    found = context.memo.once(("rows of provenance", cell.data), rows)
    if not kind_of(cell).trains_trials:
        return key_of({"rows": found, "subpopulations": cell.subpopulations})[:DIGITS]
    stage = context.stage(cell)
    return key_of({"rows": found, "attacked": stage.attacked, "subpopulations": data_hash(*stage.partition_arrays)})[:DIGITS]


def _draws(experiment: Experiment, cell: Cell) -> str:
    """Digest of the list of trials and of the seeds of the last one: those of all others are derived in the same way."""
    if kind_of(cell).trains_trials:
        trials = experiment.list_trials(cell)
    else:
        trials = [Trial("", seed) for seed in range(cell.n_seeds)]
    last = trials[-1]
    seeds = (
        poison_seed(cell, last.subpopulation, last.seed),
        holdout_seed(cell, last.subpopulation, last.seed),
        shuffle_seed(cell, last),
        defense_seed(cell, last),
        training_seed(cell, last.seed),
    )
    return key_of({"trials": [(t.subpopulation, t.seed, t.attacked) for t in trials], "seeds": seeds})[:DIGITS]


def _secret(experiment: Experiment, cell: Cell) -> str:
    """Digest of the secret of the store; '' for built-in defenses, of which only a control matched to a plug-in depends on it."""
    secret = experiment.store.get_arrays("secret") if filter_of(cell.defense) in experiment.plugins else None
    return "" if secret is None else data_hash(secret["secret"])[:DIGITS]


def _code(experiment: Experiment, cell: Cell) -> str:
    """Digest of the code of the cell's own parts, of the filter that a matched control reads, and of what summarises trials."""
    kind, own = kind_of(cell), {"subpop.results.summary", *TRIALS}
    parts = {cell}
    if cell.defense.startswith(MATCHED):
        parts.add(cell.with_(defense=filter_of(cell.defense)))
    if kind.trains_trials:
        own = own.union(*(experiment.code(each) for each in parts))
    else:
        used = vars(sys.modules[type(kind).__module__]).values()
        modules = {getattr(each, "__module__", None) or "" for each in used}
        own |= code_without_trials(experiment, cell) | {name for name in modules if name.startswith("subpop.experiments.")}
    entries = sorted(str(experiment.entries(each.attack, each.defense)) for each in parts)
    return key_of({"code": code_key(frozenset(own)), "entries": entries})[:DIGITS]
