"""Summaries of cells in the store, so that a run that trains nothing does not compute all numbers again.

A stored summary is used only if the hash that is stored with it agrees: it covers everything that `summarise` reads, value by
value, the code that computes the summary, and the versions of the libraries. A cell has one, its last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import chain
from typing import Any

import numpy as np

from subpop.datasets.stage import Stage
from subpop.harness.manifest import KeepsRecords
from subpop.results.paired import BY_SEED
from subpop.results.shards import name_of
from subpop.results.summary import panels, summarise
from subpop.runtime.fingerprint import data_hash
from subpop.runtime.memo import Memo
from subpop.types import Bools, Cell, CellResult, Ints, Number, TrialResult

KIND = "summary"
"""The kind of these records in the store."""
APART = ("cell", "arrays")
"""Fields of a result that its record does not have: the damages by seed are a list of their own."""


def kept_summary(
    store: KeepsRecords,
    memo: Memo,
    cell: Cell,
    stage: Stage,
    results: Sequence[TrialResult],
    clean: Bools,
    *,
    exact: bool,
    ranked_by: Sequence[TrialResult] | None = None,
    most_wrong: Ints | None = None,
) -> CellResult:
    """`summarise` of the same arguments: from the store if it was computed from the same values by the same code, else stored.

    memo: hashes the code; if it ignores what earlier sessions stored, the summary is computed.
    """
    exact = bool(exact)  # a victim from outside the package may give a NumPy boolean
    name = name_of(cell)
    read = memo.key(
        {__name__},
        cell=(name, cell.n_seeds),
        exact=exact,
        stage=_hash_of_stage(stage),
        trials=_hash_of_trials(results),
        clean=data_hash(clean),
        ranked_by="" if ranked_by is None else _hash_of_trials(ranked_by),
        most_wrong="" if most_wrong is None else data_hash(most_wrong),
    )
    record = None if memo.fresh else store.get_record(name, KIND)
    if record is None or record["read"] != read:
        made = summarise(cell, stage, results, clean, exact=exact, ranked_by=ranked_by, most_wrong=most_wrong)
        store.put_record(name, {"read": read, **_record_of(made)}, KIND)
        return made
    return _result_of(cell, record, results)


def _hash_of_stage(stage: Stage) -> str:
    dataset = stage.dataset
    about = (stage.fingerprint, stage.partition.names, stage.attacked, int(dataset.n_classes), dataset.notes)
    return data_hash(_as_bytes(about))


def _hash_of_trials(results: Sequence[TrialResult]) -> str:
    """Hash of every value of the trials: equal for trials as they were trained and as the store returns them."""
    plain = [
        (
            (each.trial.subpopulation, int(each.trial.seed), bool(each.trial.attacked)),
            (float(each.seconds), int(each.n_fits)),
            {metric: float(value) for metric, value in each.metrics.items()},
            list(each.arrays),
        )
        for each in results
    ]
    return data_hash(_as_bytes(plain), *chain.from_iterable(each.arrays.values() for each in results))


def _as_bytes(plain: object) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(json.dumps(plain).encode(), np.uint8)


def _record_of(result: CellResult) -> dict[str, Any]:
    """What a record has of a summary."""
    plain = {each.name: getattr(result, each.name) for each in fields(result) if each.name not in APART}
    return {**plain, "numbers": [vars(number) for number in result.numbers], BY_SEED: result.arrays[BY_SEED].tolist()}


def _result_of(cell: Cell, record: Mapping[str, Any], results: Sequence[TrialResult]) -> CellResult:
    """The summary in a record, which `_record_of` made of the same trials."""
    plain = {each.name: record[each.name] for each in fields(CellResult) if each.name not in APART}
    plain |= {"numbers": tuple(Number(**number) for number in record["numbers"])}
    plain |= {name: tuple(record[name]) for name in ("table", "notes")}
    return CellResult(cell, arrays={BY_SEED: np.array(record[BY_SEED], float), **panels(results)}, **plain)
