"""Imports inside the package point one way, and a suite, its baselines and its report share a stem."""

import ast
import runpy
import sys
from functools import cache
from pathlib import Path
from unittest import mock

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = (
    {"types"},
    {"runtime", "_torchvision"},
    {"datasets", "harness"},
    {"features", "results", "testing"},
    {"victims"},
    {"attacks", "defenses"},
    {"experiments"},
    {"report"},
    {"audit"},
    {"session"},
)
"""Rooms of the package from the lowest layer to the highest. A room imports rooms of lower layers only."""
OTHER_NAMES = {"__init__", "__main__", "cells", "contracts", "pytest_plugin"}
"""Entry points and earlier names of rooms: they import and contain nothing else."""
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
MOST_ARROWS = 70


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def import_statements(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    return tuple(node for node in ast.walk(tree(path)) if isinstance(node, ast.Import | ast.ImportFrom))


@cache
def cells_of(path: Path) -> list:
    """The cells of a suite, which may take them from another one."""
    with mock.patch.object(sys, "path", [str(ROOT / "benchmarks"), *sys.path]):
        return runpy.run_path(str(path))["CELLS"]


def part(path: Path) -> str:
    return path.relative_to(ROOT / "subpop").parts[0].removesuffix(".py")


@cache
def imported_parts(path: Path) -> set[str]:
    names = set()
    for node in import_statements(path):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("subpop."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "subpop":
            names |= {alias.name for alias in node.names if (ROOT / "subpop" / alias.name).exists()}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("subpop.")}
    return names - {part(path)}


MODULES = sorted(path for path in (ROOT / "subpop").rglob("*.py") if part(path) not in OTHER_NAMES)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_to_lower_layers(path):
    own = part(path)
    assert own in LAYER_OF, f"{own} is in no layer; give it a place in LAYERS"
    higher = {name for name in imported_parts(path) if LAYER_OF[name] >= LAYER_OF[own]}
    assert not higher, f"{own} imports {higher}, which are not in a lower layer"


def test_there_are_few_rooms_and_few_arrows_between_them():
    arrows = {(part(path), name) for path in MODULES for name in imported_parts(path)}
    assert {part(path) for path in MODULES} == set(LAYER_OF)
    assert len(LAYER_OF) <= 15
    assert len(arrows) <= MOST_ARROWS


def test_no_modules_import_each_other_in_a_circle():
    """Not even inside functions; packages re-export what is below them, so that these count by their other modules only."""
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES if path.name != "__init__.py"}
    imports = {name: imported_modules(path) & set(files) - {name} for name, path in files.items()}
    while ends := {name for name, others in imports.items() if not others}:
        imports = {name: others - ends for name, others in imports.items() if name not in ends}
    assert not imports


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in import_statements(path):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


@pytest.mark.parametrize("name", sorted(OTHER_NAMES))
def test_other_names_contain_nothing(name):
    body = tree(ROOT / "subpop" / f"{name}.py").body
    assert sum(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body) <= (2 if name == "__init__" else 0)


def test_importing_the_package_is_cheap():
    import subprocess
    import sys

    code = "import subpop, sys; subpop.Defended; sys.exit(any(m in sys.modules for m in ('torch', 'sklearn', 'numba', 'pytest')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_stems_agree():
    suites = {path.stem.removeprefix("test_") for path in (ROOT / "benchmarks").glob("test_*.py")}
    baselines = {path.stem for path in (ROOT / "baselines").glob("*.csv")}
    assert suites == baselines
    assert {path.stem for path in (ROOT / "reports").glob("*.md")} - {"README"} <= suites


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("test_*.py")), ids=lambda path: path.stem)
def test_suites_name_their_source_and_deviations(path):
    text = ast.get_docstring(tree(path)) or ""
    assert "Source:" in text
    assert "Deviations:" in text


def test_every_baseline_belongs_to_a_cell():
    import csv

    for path in sorted((ROOT / "baselines").glob("*.csv")):
        cells = cells_of(ROOT / "benchmarks" / f"test_{path.stem}.py")
        known = {(c.tier, c.dataset, c.victim, c.partition, c.attack, f"{c.rate:g}", c.defense, c.setting_text) for c in cells}
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                key = tuple(row[name] for name in ("tier", "dataset", "victim", "partition", "attack"))
                key += (f"{float(row['rate']):g}", row["defense"], row["setting"])
                assert key in known or not row["value"], f"{path.name}: no cell {key}"


def test_cells_are_written_down_once():
    for path in (ROOT / "benchmarks").glob("test_*.py"):
        cells = cells_of(path)
        assert len(set(cells)) == len(cells), path.name
        assert len({cell.id for cell in cells}) == len(cells), path.name
        assert {cell.stem for cell in cells} == {path.stem.removeprefix("test_")}
