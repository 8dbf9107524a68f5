"""Imports inside the package point one way, and a suite, its baselines and its report share a stem."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = """
printable writing
_torchvision types options metric_registry kinds estimate progress
threads hardware fingerprint places
split datasets feature_cache networks representations encoders victims partitions seeds stage attacks
certificates defenses metrics
blobs store_rows store_rescue
store output outcome fit_log batching plugins hiding watch manifest child processes fork_server sandbox
trial summary cells texts
collecting examples attack_sets cell_code memo context experiment
kept_results clusters training_set_attack speed
theory executors
integrity
audit references released
results_file
figures verdict report
tables
contracts plugin_records kernels run debugging session_watch pytest_plugin cli __main__
""".split()  # noqa: SIM905


def part(path: Path) -> str:
    return path.relative_to(ROOT / "subpop").parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("subpop."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.ImportFrom) and node.module == "subpop":
            names |= {alias.name for alias in node.names if (ROOT / "subpop" / f"{alias.name}.py").exists()}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("subpop.")}
    return names


MODULES = sorted(path for path in (ROOT / "subpop").rglob("*.py") if path != ROOT / "subpop" / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = part(path)
    assert own in ORDER, f"{own} has no place in the order; give it one here"
    later = {name for name in imported_parts(path) if name != own and ORDER.index(name) > ORDER.index(own)}
    assert not later, f"{own} imports {later}, which come after it"


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
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert "Source:" in text
    assert "Deviations:" in text


def test_every_baseline_belongs_to_a_cell(monkeypatch):
    import csv
    import runpy

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # a suite may take its cells from another
    for path in sorted((ROOT / "baselines").glob("*.csv")):
        cells = runpy.run_path(str(ROOT / "benchmarks" / f"test_{path.stem}.py"))["CELLS"]
        known = {(c.tier, c.dataset, c.victim, c.partition, c.attack, f"{c.rate:g}", c.defense, c.setting_text) for c in cells}
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                key = tuple(row[name] for name in ("tier", "dataset", "victim", "partition", "attack"))
                key += (f"{float(row['rate']):g}", row["defense"], row["setting"])
                assert key in known or not row["value"], f"{path.name}: no cell {key}"


def test_cells_are_written_down_once(monkeypatch):
    import runpy

    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))  # a suite may take its cells from another

    for path in (ROOT / "benchmarks").glob("test_*.py"):
        cells = runpy.run_path(str(path))["CELLS"]
        assert len(set(cells)) == len(cells), path.name
        assert len({cell.id for cell in cells}) == len(cells), path.name
        assert {cell.stem for cell in cells} == {path.stem.removeprefix("test_")}
