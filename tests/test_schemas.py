"""Files that outlive a version name their schema: an older one is read or set aside, an unknown one refused by name.

The store's own schema: `test_store.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from subpop.results.references import SCHEMA, References
from subpop.results.results_file import read_results
from subpop.types import BadInput

ROOT = Path(__file__).parents[1]
BEFORE = (
    '{"schema": 1, "tier": "embedded", "seconds": 1.5, "cells": [\n{"stem": "a", "metric": "clean_accuracy", "value": 0.5}\n]}\n'
)
"""A results.json of before runs said what they had planned."""


def test_baselines_name_their_schema() -> None:
    assert (ROOT / "baselines" / "SCHEMA").read_text() == f"{SCHEMA}\n"


def test_baselines_without_a_number_are_of_the_present_schema(tmp_path: Path) -> None:
    table = (ROOT / "baselines" / "table12_fine_pruning.csv").read_bytes()
    (tmp_path / "table12_fine_pruning.csv").write_bytes(table)
    unnumbered = References.load(tmp_path / "table12_fine_pruning.csv")
    assert unnumbered.rows == References.load(ROOT / "baselines" / "table12_fine_pruning.csv").rows
    assert unnumbered.rows


@pytest.mark.parametrize(
    ("schema", "fix"), [("3", "upgrade subpop"), ("1", "record the cells"), ("one", "write 2"), ("", "write 2")]
)
def test_baselines_of_another_schema_are_refused_by_name(tmp_path: Path, schema: str, fix: str) -> None:
    (tmp_path / "SCHEMA").write_text(schema)
    with pytest.raises(BadInput, match=rf"SCHEMA declares schema '{schema}' .*; this subpop reads schema 2: {fix}"):
        References.load(tmp_path / "any.csv")


def test_results_of_an_older_version_have_what_was_added_as_none(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(BEFORE)
    found = read_results(tmp_path / "results.json")
    assert (found["tier"], found["seconds"], found["planned"], found["complete"]) == ("embedded", 1.5, None, None)
    added = dict.fromkeys(("integrity", "undecided", "std", "by_seed", "one_row", "data", "draws", "secret", "code"))
    assert found["cells"] == [{"stem": "a", "metric": "clean_accuracy", "value": 0.5, **added}]
    assert found["left_out"] is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"schema": 7, "cells": []}, "has schema 7; this subpop reads schema 1: upgrade subpop"),
        ({"schema": 0, "cells": []}, "has schema 0; this subpop reads schema 1: run again"),
        ({"schema": True, "cells": []}, "is not a results.json"),
        ({"cells": []}, "is not a results.json"),
        ({"schema": 1}, "is not a results.json"),
        ([], "is not a results.json"),
    ],
)
def test_results_of_another_schema_are_refused_by_name(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=message):
        read_results(tmp_path / "results.json")


def test_unfinished_results_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(BEFORE[:50])
    for name in ("results.json", "nowhere.json"):
        with pytest.raises(BadInput, match=f"{name} cannot be read"):
            read_results(tmp_path / name)
