"""Kinds of measurement: all that are named exist, cells name one that exists, and nothing else knows a suite by its name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from seed_table import all_cells
from synthetic_reports import cell_of

from subpop.report.tables.poisoning import Poisoning
from subpop.types import BadInput, CellReport, CellResult, Number
from subpop.types.grid import grid
from subpop.types.kinds import KINDS, Kind, Measurers, by_kind, kind_named, kind_of

ROOT = Path(__file__).parents[2]
COMMON = {"stem": "s", "tier": "embedded", "dataset": "digits", "victim": "mlp", "partition": "feature_match", "rate": 1.0}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_exists_and_says_how_it_is_used(name):
    kind = kind_named(name)
    assert isinstance(kind, Kind)
    assert kind_named(name) is kind
    assert kind.trains_trials == isinstance(kind, Poisoning)
    assert kind.__doc__


def test_every_file_of_tables_is_a_kind():
    files = {path.stem for path in (ROOT / "subpop" / "report" / "tables").glob("*.py")} - {"__init__"}
    assert files == {place.partition(":")[0].rpartition(".")[2] for place in KINDS.values()}


def test_every_kind_has_cells():
    assert {cell.kind for cell in all_cells()} == set(KINDS)


def test_no_module_knows_a_suite_by_its_name():
    """A new kind of table touches one line of `KINDS` beside its own files."""
    stems = {cell.stem for cell in all_cells()} | {"speed_"}
    found = {}
    for path in sorted(set((ROOT / "subpop").rglob("*.py")) - set((ROOT / "subpop" / "report" / "tables").iterdir())):
        texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        if own := {text for text in texts if isinstance(text, str) and text.removeprefix("test_") in stems}:
            found[str(path.relative_to(ROOT))] = own
    names = {"feature_match", "cluster_match", "adaptive"}  # two partitions and an attack too
    assert {path: own - names for path, own in found.items() if own - names} == {}


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(BadInput, match="'target_set'; did you mean target_sets"):
        grid(kind="target_set", **COMMON)
    with pytest.raises(BadInput, match=re.escape(", ".join(KINDS))):
        kind_named("xyz")


def test_a_kind_of_one_s_own_measures_and_shows_its_cells(monkeypatch):
    class Own(Kind):
        """Measures one number."""

        def measurer(self, experiment):
            seen = []

            def measure(cell):
                seen.append(cell)
                return CellResult(cell, (Number("cells_seen", float(len(seen))),))

            return measure

        def figures(self, reports, styles):
            return iter(())

        def tables(self, reports):
            return [f"{len(reports)} cells"]

    monkeypatch.setitem(KINDS, "own", f"{__name__}:Own")
    monkeypatch.setitem(globals(), "Own", Own)
    one, other = (grid(kind="own", **{**COMMON, "rate": rate})[0] for rate in (1.0, 2.0))
    measure = Measurers(None)
    assert [measure(cell)["cells_seen"] for cell in (one, other)] == [1.0, 2.0], "it remembers within a run"
    assert Measurers(None)(one)["cells_seen"] == 1.0
    assert not kind_of(one).trains_trials
    plain = grid(**COMMON)[0]
    grouped = by_kind([CellReport(one, None), CellReport(plain, None), CellReport(other, None)])
    assert [(type(kind).__name__, len(own)) for kind, own in grouped.items()] == [("Poisoning", 1), ("Own", 2)]
    kind_named.cache_clear()


@pytest.mark.parametrize(
    ("changes", "gated"),
    [
        ({}, {"clean_accuracy", "defended_clean_accuracy", "target_damage_mean"}),
        ({"defense": "trim"}, {"defended_clean_accuracy", "target_damage_mean"}),
        ({"defense": "co_teaching"}, set()),
        ({"victim": "conv_net"}, {"defended_clean_accuracy", "target_damage_mean"}),
        ({"victim": "conv_net", "defense": "trim"}, set()),
        ({"tier": "laptop"}, {"defended_clean_accuracy", "target_damage_mean"}),
        ({"tier": "laptop", "defense": "trim"}, set()),
    ],
)
def test_the_scoreboard_compares_what_has_references(changes, gated):
    gates = kind_named("board").gates(cell_of(stem="scoreboard", kind="board", **changes))
    assert {name for name in ("clean_accuracy", "defended_clean_accuracy", "target_damage_mean") if gates(name)} == gated
