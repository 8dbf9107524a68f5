"""How the tests of suites ended, in the store, for reports: what they assert beyond the numbers of their cells.

A record is replaced when its test is run again. It has digests of the numbers that its cells had: if they have others now, or
cannot be shown, the test was not run again on what a report shows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from subpop.results.metric_registry import metric_of
from subpop.results.shards import name_of
from subpop.runtime.fingerprint import key_of
from subpop.types import CellResult
from subpop.types.metric import Tolerance
from subpop.types.printable import printable

KIND = "test"
"""The kind of these records in the store."""


def record_of_test(
    test: str, failure: str, reason: str, results: Iterable[CellResult], *, is_claim: bool, device: str
) -> tuple[str, dict[str, Any]]:
    """The key and the record of a test that was run.

    Parameters
    ----------
    test
        Its node id.
    failure
        The kind of its failure; "" if it passed, or if its cell failed.
    reason
        The first line of the error message.
    results
        What its cells have measured.
    is_claim
        Whether it measures no cell.
    device
        cpu or cuda.
    """
    path, _, name = printable(test).partition("::")
    about = {"test": printable(test), "failure": failure, "reason": printable(reason), "is_claim": is_claim, "device": device}
    when, cells = datetime.now(UTC).isoformat(timespec="minutes"), {name_of(each.cell): _digest(each) for each in results}
    return f"{path.rpartition('/')[2]}::{name}", {**about, "when": when, "cells": cells}


def outdated(records: Mapping[str, Mapping[str, Any]], results: Iterable[CellResult], left_out: Collection[str]) -> set[str]:
    """The keys of tests that were not run again since their cells changed.

    Parameters
    ----------
    records
        The records of tests in a store, by key.
    results
        The cells that a report shows.
    left_out
        The names of those that it does not show.
    """
    wanted = {name for record in records.values() for name in record["cells"]}
    now = {name: _digest(each) for each in results if (name := name_of(each.cell)) in wanted}
    return {
        key
        for key, record in records.items()
        if any(name in left_out or now.get(name, digest) != digest for name, digest in record["cells"].items())
    }


def _digest(result: CellResult) -> str:
    """The same for equal numbers; times are left out."""
    timed = {each.metric for each in result.numbers if metric_of(each.metric).tolerance is Tolerance.TIMED}
    numbers = [(each.metric, each.subpopulation, repr(float(each.value))) for each in result.numbers if each.metric not in timed]
    return key_of({"numbers": sorted(numbers)})
