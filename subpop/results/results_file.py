"""Reading `results.json`, for programs that compare runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from subpop.types import BadInput

RESULTS_SCHEMA = 1
"""Incremented when a field is removed or changes its meaning, but not when a field is added."""
ADDED = ("planned", "measured", "complete", "exit_status", "stopped", "failed_tests", "left_out")
"""Fields of the run that older files of schema 1 may lack."""
ADDED_TO_CELLS = ("integrity", "undecided", "std", "by_seed", "one_row", "data", "draws", "secret", "code")

RECORDS = "numbers"
"""The kind of the records in which a store keeps the last numbers of each cell, as rows of results.json."""
NUMBER_FIELDS = (
    "subpopulation",
    "metric",
    "value",
    "std_error",
    "std",
    "half_width",
    "varies",
    "by_seed",
    "one_row",
    "published",
    "certainty",
    "reference",
    "atol",
    "verdict",
    "reason",
)
"""Fields of a row of results.json that differ within a cell."""


def read_results(path: Path) -> dict[str, Any]:
    """The content of a results.json, with None for fields that were added after it was written.

    Raises BadInput for a file that is incomplete or not a results.json, and for an unknown schema.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as results.json ({error}); name one that a run wrote") from error
    schema = found.get("schema") if isinstance(found, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool) or not _are_rows(found.get("cells")):
        raise BadInput(f"{path} is not a results.json: it has no schema or no cells; name one that a run wrote")
    if schema != RESULTS_SCHEMA:
        fix = "upgrade subpop" if schema > RESULTS_SCHEMA else "run again"
        raise BadInput(f"{path} has schema {schema}; this subpop reads schema {RESULTS_SCHEMA}: {fix}")
    cells = [{**dict.fromkeys(ADDED_TO_CELLS), **row} for row in found["cells"]]
    return {**dict.fromkeys(ADDED), **found, "cells": cells}


def _are_rows(cells: object) -> bool:
    return isinstance(cells, list) and all(isinstance(row, dict) for row in cells)
