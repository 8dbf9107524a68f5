"""Stored results of cells that are measured as a whole, without trials, under a hash of everything that they depend on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from subpop.defenses import DEFENSES
from subpop.experiments.experiment import Experiment
from subpop.types import Array, Cell, CellResult, Number
from subpop.victims import VICTIMS

PLAIN = "plain"
ARRAY = "array:"


def kept_result(cell: Cell, experiment: Experiment, module: str, measure: Callable[[], CellResult]) -> CellResult:
    """The result of `measure` for a cell, from the store if the same code measured it on the same data before.

    module: the one that measures cells of this kind. Nothing is stored for a cell that raises an exception. For a plug-in
    defense, the hash covers its source and everything that it read.
    """
    context = experiment.context
    dataset = context.dataset(cell)
    key = context.memo.key(
        {module, __name__, "subpop.datasets.stage"} | code_without_trials(experiment, cell),
        result=cell.with_(tier=""),
        subpopulations=context.partition_key(cell),
        described={"name": dataset.name, "words": dict(dataset.words), "notes": dataset.notes},
        victim=context.victim_identity(cell) if _is_a_victim(cell) else "",
        entries=experiment.entries(cell.attack, cell.defense),
    )
    if cell.defense in experiment.plugins:
        arrays, stored = _of_plugin(key, experiment, lambda: to_arrays(measure()))
    else:
        arrays, stored = context.memo.arrays(key, lambda: to_arrays(measure()))
    return replace(from_arrays(cell, arrays), from_store=stored)


def _of_plugin(key: str, experiment: Experiment, make: Callable[[], Mapping[str, Array]]) -> tuple[Mapping[str, Array], bool]:
    """Like `Memo.arrays`, but read from the store only if everything that the plug-in read is unchanged."""
    memo, experiment.whole_key = experiment.context.memo, key
    try:
        known = experiment.manifests.key(key)
        if known is not None:
            return memo.arrays(known, make)
        made = make()
        known = experiment.manifests.key(key)
        if known is not None:
            memo.store.put_arrays(known, made, replace=True)
            memo.note(known)
        return made, False
    finally:
        experiment.whole_key = ""


def code_without_trials(experiment: Experiment, cell: Cell) -> frozenset[str]:
    """The modules of the cell's parts; victims and defenses that are not registered belong to the measuring module."""
    context = experiment.context
    own = context.data_code(cell) | context.partition_code(cell) | context.attack_code(cell)
    own |= context.victim_code(cell) if _is_a_victim(cell) else frozenset()
    return own | (
        experiment.defense_code(cell) if cell.defense in DEFENSES or cell.defense in experiment.plugins else frozenset()
    )


def _is_a_victim(cell: Cell) -> bool:
    """Whether `make_victim` makes the cell's victim; otherwise it is a learner of the measuring module."""
    return cell.victim in VICTIMS or ":" in cell.victim


def to_arrays(result: CellResult) -> dict[str, Array]:
    """A result without its cell, as arrays for the store."""
    plain = {name: value for name, value in asdict(replace(result, arrays={})).items() if name not in ("cell", "arrays")}
    text = np.frombuffer(json.dumps(plain).encode(), np.uint8)
    return {PLAIN: text, **{ARRAY + name: array for name, array in result.arrays.items()}}


def from_arrays(cell: Cell, arrays: Mapping[str, Array]) -> CellResult:
    """The inverse of `to_arrays`."""
    plain: dict[str, Any] = json.loads(arrays[PLAIN].tobytes())
    numbers = tuple(Number(**number) for number in plain.pop("numbers"))
    own = {name.removeprefix(ARRAY): array for name, array in arrays.items() if name.startswith(ARRAY)}
    table, notes = tuple(plain.pop("table")), tuple(plain.pop("notes"))
    return CellResult(cell, numbers, table, own, notes=notes, **plain)
