"""Finding the tests of suites, and the cells of each test. A suite is a module that defines CELLS.

Other tests that pytest collects, such as those of another project, are not affected.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import repeat
from pathlib import Path
from typing import Any

from subpop.runtime.estimate import OTHERS, SECONDS_PER_VALUE
from subpop.runtime.threads import n_cores
from subpop.types import BadInput, Cell
from subpop.types.cell import NAMES
from subpop.types.kinds import kind_of

# --- the cells of one test --------------------------------------------------------------------------------------------


def chosen(cells: Sequence[Cell], everything: Sequence[Cell], fields: Mapping[str, Any], where: str) -> list[Cell]:
    """The cells that a mark `cells(**fields)` selects.

    everything: the suite's cells of all tiers. Raises BadInput if no cell has one of the fields, or if no cell of any tier
    matches, because the test would be deselected silently.
    """
    known = [*NAMES, *sorted({name for cell in everything for name, _ in cell.setting})]
    for name in fields:
        if name not in known and everything:
            near = get_close_matches(name, known, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}"
            raise BadInput(f"{where}: pytest.mark.cells names {name!r}, which is not a field of this suite's cells; {hint}")
    if everything and not any(_matches(cell, fields) for cell in everything):
        named = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        raise BadInput(f"{where}: pytest.mark.cells({named}) matches no cell of this suite in any tier; correct its values")
    return [cell for cell in cells if _matches(cell, fields)]


def _matches(cell: Cell, fields: Mapping[str, Any]) -> bool:
    def one(name: str, allowed: Any) -> bool:
        value = getattr(cell, name) if name in NAMES else cell.option(name)
        return value in allowed if isinstance(allowed, (list, tuple, set, frozenset)) else value == allowed

    return all(one(name, allowed) for name, allowed in fields.items())


# --- the tests of a session -------------------------------------------------------------------------------------------


def cells_of_module(module: Any) -> list[Cell] | None:
    """The CELLS of a suite; None for a module without CELLS, or whose CELLS are not a list of cells."""
    cells = getattr(module, "CELLS", None)
    is_suite = isinstance(cells, list | tuple) and all(map(isinstance, cells, repeat(Cell)))
    return list(cells or ()) if is_suite else None


def is_of_suite(item: Any) -> bool:
    """Whether a test belongs to a suite."""
    return cells_of_module(getattr(item, "module", None)) is not None


def parameters(item: Any) -> Mapping[str, Any]:
    return getattr(getattr(item, "callspec", None), "params", None) or {}


def without_cells(item: Any) -> bool:
    """Whether a suite's test got no cell, because none of its cells is in the selected tier."""
    kinds = {"cell": Cell, "sweep": tuple}
    return is_of_suite(item) and any(not isinstance(value, kinds.get(name, object)) for name, value in parameters(item).items())


def runs_by_default(item: Any) -> bool:
    """Whether a test runs if no suite is named: not if all cells of its suite are of kinds such as `speed`."""
    cells = cells_of_module(getattr(item, "module", None))
    return not cells or any(kind_of(cell).runs_by_default for cell in cells)


def measured_cells(items: Iterable[Any]) -> list[Cell]:
    """The distinct cells that tests will measure, in the order of the tests."""
    own = [item for item in items if is_of_suite(item) and "measure" in getattr(item, "fixturenames", ())]
    return list(dict.fromkeys(cell for item in own for cell in cells_of(item)))


def needed_cells(items: Iterable[Any]) -> list[Cell]:
    """The distinct cells that tests will measure or make claims about, in the order of the tests."""
    return list(dict.fromkeys(cell for item in items if is_of_suite(item) for cell in cells_of(item)))


def smoke_tests(items: Iterable[Any]) -> list[Any]:
    """One test of a cell for each kind of measurement that runs by default: the first one with the fastest victim."""
    fastest: dict[str, tuple[float, Any]] = {}
    for item in items:
        if is_of_suite(item) and "measure" in getattr(item, "fixturenames", ()) and runs_by_default(item):
            for cell in cells_of(item):
                seconds = SECONDS_PER_VALUE.get(cell.victim, OTHERS)
                if cell.kind not in fastest or seconds < fastest[cell.kind][0]:
                    fastest[cell.kind] = seconds, item
    return [item for _, item in fastest.values()]


def cells_of(item: Any) -> list[Cell]:
    """The cells of one test."""
    found = parameters(item)
    of_sweep = found.get("sweep", ())
    candidates = [found.get("cell"), *(of_sweep if isinstance(of_sweep, tuple) else ())]
    return [cell for cell in candidates if isinstance(cell, Cell)]


# --- before anything is imported --------------------------------------------------------------------------------------

_CELLS_LINE = re.compile(rb"^CELLS\b|^from .* import .*\bCELLS\b", re.MULTILINE)
_CELLS_TEST = re.compile(rb"\bdef test\w*\([^)]*\b(cell|sweep)\b")


def names_suites(arguments: Iterable[str], folder: Path, patterns: Sequence[str]) -> bool:
    """Whether any of pytest's arguments selects a suite. Files are parsed, not imported."""
    for argument in arguments:
        path = folder / argument.partition("::")[0]
        files = [path] if path.is_file() else sorted({file for pattern in patterns for file in path.rglob(pattern)})
        if any(declares_cells(file) for file in files if file.suffix == ".py"):
            return True
    return False


def declares_cells(path: Path) -> bool:
    """Whether a module defines CELLS and has a test that takes one; if it has a syntax error, its text is searched."""
    try:
        source = path.read_bytes()
        body = ast.parse(source).body if b"CELLS" in source else []
    except (SyntaxError, ValueError):
        return bool(_CELLS_LINE.search(source) and _CELLS_TEST.search(source))
    except OSError:
        return False
    return any(_binds_cells(each) for each in body) and any(_takes_cells(node) for each in body for node in ast.walk(each))


def _binds_cells(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.ImportFrom):
        return any((alias.asname or alias.name) == "CELLS" for alias in statement.names)
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == "CELLS" for target in targets)


def _takes_cells(node: ast.AST) -> bool:
    if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test"):
        return False
    return not {"cell", "sweep"}.isdisjoint(argument.arg for argument in node.args.args)


def take_over_processes(option: Any) -> None:
    """Use the number of processes of pytest-xdist as ours, and disable xdist. option: pytest's options, modified in place."""
    asked = getattr(option, "numprocesses", None)
    if asked is not None:
        most = getattr(option, "maxprocesses", None)
        count = n_cores() if asked in ("auto", "logical") else _whole(asked)
        option.jobs = option.jobs or (min(count, most) if most else count)
    option.numprocesses, option.dist, option.tx, option.distload = None, "no", [], False


def _whole(asked: Any) -> int:
    try:
        count = int(asked)
    except ValueError:
        count = -1
    if count < 0:
        raise BadInput(f"-n {asked} is not a number of processes; give a whole number such as 2, or auto for one per core")
    return count
