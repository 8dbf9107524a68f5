"""How often one cell is handed on while it is measured and reported: `python tests/trace_cell.py`.

A profiler watches every call of a function of the package while a cell with one subpopulation and one seed is planned,
measured, compared and written to a report. A call counts if any of its arguments, `self` included, is the cell or something
that was built from it, whatever it is called there:

* a *specification*: an instance of one of the classes in `SPECIFICATIONS`,
* a *context*: an instance of one of the classes in `CONTEXTS`,
* a *key*: a tuple or a text that a function whose name says so returned.

A move is such a call from a function of another file. tests/trace.csv holds the counts of named states of the code;
`python tests/trace_cell.py --write STATE` records those of the code as it is.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import subpop
from subpop.types import Cell, specifications
from subpop.types.grid import grid


def _is_specification(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, specifications.Specification)


PACKAGE = Path(subpop.__file__).parent
TABLE = Path(__file__).parent / "trace.csv"
COLUMNS = ("state", "kind", "calls", "moves", "files", "functions")
SPECIFICATIONS = {"Cell", *(each.__name__ for each in vars(specifications).values() if _is_specification(each))}
"""Classes that say what is measured."""
CONTEXTS = {"SplitData", "Stage"}
"""Classes that hold what was set up for a specification."""
KEYS = ("key", "identity")
"""A function whose name ends so returns what names a cell's results in memory or in the store."""


@dataclass
class Trace:
    """Calls that took something of one kind."""

    calls: int = 0
    moves: int = 0
    by_function: Counter[tuple[str, str]] = field(default_factory=Counter)

    def note(self, frame: FrameType) -> None:
        """Count a call."""
        own, caller = _file(frame), frame.f_back and _file(frame.f_back)
        self.calls += 1
        self.moves += caller is not None and own != caller
        self.by_function[own, frame.f_code.co_qualname] += 1

    @property
    def row(self) -> tuple[int, ...]:
        """Its counts, in the order of the columns."""
        return self.calls, self.moves, len({file for file, _ in self.by_function}), len(self.by_function)


class Tracer:
    """Counts calls by what they take. An object that was seen once is kept alive, so that its identity stays its own."""

    def __init__(self) -> None:
        self.traces = {kind: Trace() for kind in ("specification", "context", "key", "any")}
        self._keys: dict[int, object] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """What `sys.setprofile` calls."""
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(str(PACKAGE)) or code.co_name == "__hash__":
            return
        if event == "return":
            if frame.f_code.co_name.rstrip("s").endswith(KEYS) and isinstance(argument, tuple | str):
                self._keys[id(argument)] = argument
            return
        code = frame.f_code
        n_arguments = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
        kinds = {self._kind(frame.f_locals.get(name)) for name in code.co_varnames[:n_arguments]} - {""}
        for kind in kinds | ({"any"} if kinds else set()):
            self.traces[kind].note(frame)

    def _kind(self, value: object) -> str:
        name = type(value).__name__
        if name in SPECIFICATIONS:
            return "specification"
        if name in CONTEXTS:
            return "context"
        return "key" if id(value) in self._keys else ""


@contextmanager
def traced() -> Iterator[Tracer]:
    """Watch what is called inside the block."""
    tracer = Tracer()
    before = sys.getprofile()
    sys.setprofile(tracer)
    try:
        yield tracer
    finally:
        sys.setprofile(before)


def the_cell() -> Cell:
    """One subpopulation, one seed, and a defense that is told how many rows are poison."""
    (cell,) = grid(
        stem="defenses_trim_sever",
        tier="embedded",
        dataset="mixture_2d",
        victim="logistic_regression",
        partition="feature_match",
        rate=1.0,
        defense="trim",
        n_seeds=1,
    )
    return cell


def trace() -> Tracer:
    """Plan, measure, compare and report one cell, as `python -m pytest benchmarks/` does, and count."""
    from subpop.experiments.experiment import Experiment
    from subpop.report import RunInfo
    from subpop.runtime.store import Store
    from subpop.session.run import Run

    cell = the_cell()
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.sqlite") as store:
        experiment = Experiment.on(store)
        run = Run(experiment, store, Path(folder))
        with traced() as tracer:
            run.plan([cell])
            run.measure(cell)
            run.write(Path(folder) / "report", RunInfo("python -m pytest benchmarks/", "embedded", "cpu"))
    return tracer


def rows(tracer: Tracer, state: str) -> list[tuple[str, ...]]:
    """A row for each kind."""
    return [(state, kind, *map(str, found.row)) for kind, found in tracer.traces.items()]


def committed() -> list[tuple[str, ...]]:
    """The rows of tests/trace.csv."""
    if not TABLE.exists():
        return []
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(map(tuple, csv.reader(file)))[1:]


def main(arguments: Sequence[str]) -> None:
    """Print the counts and the functions that take most."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", metavar="STATE", help="record the counts under this name")
    state = parser.parse_args(arguments).write
    tracer = trace()
    for row in [COLUMNS, *committed(), *rows(tracer, "now")]:
        print("".join(f"{word!s:>15}" for word in row))
    for (path, function), count in tracer.traces["any"].by_function.most_common(25):
        print(f"{count:6} {path}:{function}")
    if state:
        others = [row for row in committed() if row[0] != state]
        with TABLE.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *others, *rows(tracer, state)])


def _file(frame: FrameType) -> str:
    return str(Path(frame.f_code.co_filename).relative_to(PACKAGE)) if _is_ours(frame) else frame.f_code.co_filename


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(str(PACKAGE))


if __name__ == "__main__":
    main(sys.argv[1:])
