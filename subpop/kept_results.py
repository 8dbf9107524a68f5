"""Cells that are measured as a whole and train no trials: their results stay in the store, under a hash of all that made them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import numpy as np

from subpop.experiment import Experiment
from subpop.fingerprint import source_hash
from subpop.types import Array, Cell, CellResult, Number

PLAIN = "plain"
ARRAY = "array:"

Measure = Callable[[Cell, Experiment], CellResult]


def kept_result(measure: Measure, cell: Cell, experiment: Experiment) -> CellResult:
    """What `measure` finds for a cell, from the store where the same code measured it on the same data before.

    A cell that raises leaves nothing behind and is measured again. Its defense, if a plug-in, counts with its source.
    """
    dataset = experiment.dataset(cell)
    arrays, stored = experiment.kept(
        lambda: to_arrays(measure(cell, experiment)),
        result=repr(cell.with_(tier="")),
        subpopulations=experiment.partition_key(cell),
        told={"name": dataset.name, "words": dict(dataset.words), "notes": dataset.notes},
        measured_by=_source(measure.__module__),
        plugin=experiment.plugins[cell.defense].source if cell.defense in experiment.plugins else "",
    )
    return replace(from_arrays(cell, arrays), from_store=stored)


def to_arrays(result: CellResult) -> dict[str, Array]:
    """A result without its cell, as arrays that a store keeps."""
    plain = {name: value for name, value in asdict(replace(result, arrays={})).items() if name not in ("cell", "arrays")}
    text = np.frombuffer(json.dumps(plain).encode(), np.uint8)
    return {PLAIN: text, **{ARRAY + name: array for name, array in result.arrays.items()}}


def from_arrays(cell: Cell, arrays: Mapping[str, Array]) -> CellResult:
    """The result that `to_arrays` was given."""
    plain: dict[str, Any] = json.loads(arrays[PLAIN].tobytes())
    numbers = tuple(Number(**number) for number in plain.pop("numbers"))
    own = {name.removeprefix(ARRAY): array for name, array in arrays.items() if name.startswith(ARRAY)}
    table, notes = tuple(plain.pop("table")), tuple(plain.pop("notes"))
    return CellResult(cell, numbers, table, own, notes=notes, **plain)


@cache
def _source(module: str) -> str:
    return source_hash([module, __name__])
