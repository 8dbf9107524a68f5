"""Results of plug-ins' cells in the store, so that a report can show them without the plug-in's file.

Trials of a plug-in are looked up by the hash of its code, which `subpop report` does not have. So each time a cell is measured,
its result is stored as well, with the damages by seed as its only array. If the plug-in fails, its error replaces the previous
result.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from subpop.results.metric_registry import find_metric
from subpop.results.paired import BY_SEED
from subpop.runtime.cell_code import TRIALS, code_key
from subpop.types import BadInput, Cell, CellReport, CellResult, Number, Provenance
from subpop.types.cell import NAMES

KIND = "plug-in"
"""The kind of these records in the store."""


def record_of(report: CellReport, device: str) -> dict[str, Any]:
    """A plug-in's cell as plain JSON data."""
    kept = {} if report.result is None else {name: each for name, each in report.result.arrays.items() if name == BY_SEED}
    result = None if report.result is None else _plain(asdict(replace(report.result, arrays=kept)))
    when = datetime.now(UTC).isoformat(timespec="minutes")
    about = {"cell": report.cell.record(), "device": device, "measured": when, "source": code_key(frozenset(TRIALS))}
    made_of = None if report.made_of is None else asdict(report.made_of)
    return {**about, "result": result, "reason": report.reason, "made_of": made_of}


def kept_reports(records: Mapping[str, Mapping[str, Any]], device: str) -> Iterator[CellReport]:
    """The reports in the records of this device, without verdicts."""
    for record in records.values():
        cell = cell_of(record["cell"])
        if record["device"] != device or cell is None:
            continue
        if record["result"] is None:
            yield CellReport(cell, None, status="error", reason=record["reason"])
        else:
            made_of = Provenance(**_known(Provenance, record["made_of"])) if record.get("made_of") else None
            yield CellReport(cell, _result_of(cell, record["result"], _note(cell, record)), made_of=made_of)


def cell_of(record: Mapping[str, Any]) -> Cell | None:
    """The cell of a record; None if another version wrote it with names that are unknown now."""
    try:
        return Cell.of(**record) if set(NAMES) <= set(record) else None
    except (BadInput, TypeError):
        return None


def cells_of_other_versions(records: Mapping[str, Mapping[str, Any]]) -> set[Cell]:
    """The cells whose records another version of subpop made."""
    return {cell for record in records.values() if _is_of_another_version(record) and (cell := cell_of(record["cell"]))}


def _is_of_another_version(record: Mapping[str, Any]) -> bool:
    return bool(record["source"] != code_key(frozenset(TRIALS)))


def _note(cell: Cell, record: Mapping[str, Any]) -> str:
    other = ", by another version of subpop" if _is_of_another_version(record) else ""
    source = f"their numbers are those of {record['measured']}{other}, and were not measured again"
    return f"cells of {cell.victim if ':' in cell.victim else cell.defense} contain user-supplied code: {source}"


def _result_of(cell: Cell, record: Mapping[str, Any], note: str) -> CellResult:
    fields = _known(CellResult, record)
    numbers = tuple(Number(**_known(Number, number)) for number in record["numbers"] if find_metric(number["metric"]))
    arrays = {name: np.array(each, dtype=np.float64) for name, each in record["arrays"].items()}
    fields |= {"cell": cell, "arrays": arrays, "numbers": numbers, "table": tuple(record["table"]), "from_store": True}
    return CellResult(**{**fields, "notes": (*record["notes"], note)})


def _known(kind: type[Any], record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that exist in this version."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in record.items() if name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
