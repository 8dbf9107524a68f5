"""The seeds of every cell of every suite, as a table: `python tests/seed_table.py` rewrites tests/seeds.csv.

Each row holds the seeds of one trial that stands for all of its cell: subpopulation `*`, seed 0, attacked. Names of
subpopulations and seeds enter every derivation in the same way, so no data set has to be read.
"""

from __future__ import annotations

import csv
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

from subpop.runtime.seeds import defense_seed, holdout_seed, poison_seed, shuffle_seed, training_seed
from subpop.types import Cell, Trial

HERE = Path(__file__).parent
TABLE = HERE / "seeds.csv"
COLUMNS = ("suite", "cell", "poison", "holdout", "shuffle", "defense", "training")
ANY = Trial("*", 0)


def all_cells() -> Iterator[Cell]:
    """The cells of all suites and tiers, in the order of the suites."""
    folder = HERE.parent / "benchmarks"
    sys.path.insert(0, str(folder))  # suites import one another by name
    try:
        for path in sorted(folder.glob("test_*.py")):  # by path, since tests/ has modules of the same names
            yield from runpy.run_path(str(path)).get("CELLS", ())
    finally:
        sys.path.remove(str(folder))


def seeds_of(cell: Cell) -> tuple[int, ...]:
    """The seeds of a cell, in the order of the columns."""
    drawn = poison_seed(cell, "*", 0), holdout_seed(cell, "*", 0)
    return (*drawn, shuffle_seed(cell, ANY), defense_seed(cell, ANY), training_seed(cell, 0))


def computed() -> list[tuple[str, ...]]:
    """The rows of the table as the code gives them."""
    return [(cell.stem, cell.id, *map(str, seeds_of(cell))) for cell in all_cells()]


def committed() -> list[tuple[str, ...]]:
    """The rows of tests/seeds.csv."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        header, *rows = map(tuple, csv.reader(file))
    assert header == COLUMNS
    return rows


if __name__ == "__main__":
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *computed()])
