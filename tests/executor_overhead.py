"""Wall seconds of the same cells with each executor, and what Dask and Ray cost beyond loky: `python tests/executor_overhead.py`.

The cells are those of the suite `defenses_trim_sever` in the embedded tier, each time from an empty store, in turns, on two
workers; `here` trains them in one process. The start and the end of a cluster are included.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from tabulate import tabulate

from subpop.experiments.pools import EXECUTORS, NEEDED_PACKAGE

ROOT = Path(__file__).parents[1]
SUITE = "benchmarks/test_defenses_trim_sever.py"


def measured(executor: str, suite: str) -> tuple[float, int]:
    """Wall seconds of a run from an empty store, and the number of its cells."""
    workers = ["--executor", executor, *(() if executor == "here" else ("-n", "2"))]
    with tempfile.TemporaryDirectory() as folder:
        places = ["--store", f"{folder}/store.sqlite", "--report-dir", f"{folder}/report"]
        command = [sys.executable, "-m", "pytest", suite, "-k", "test_cell", *workers, *places, "-q", "-p", "no:cacheprovider"]
        begun = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "CI": "true"}, check=False, capture_output=True, text=True)
        wall = time.perf_counter() - begun
    cells = re.search(r"planning (\d+) cells", done.stdout)
    if done.returncode or cells is None or "the training processes failed" in done.stdout:
        sys.exit(f"the run with {executor} did not pass:\n{done.stdout}{done.stderr}")
    return wall, int(cells[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("executors", nargs="*", default=list(EXECUTORS), help=f"default: {' '.join(EXECUTORS)}")
    parser.add_argument("--times", type=int, default=3, help="runs with each (default: 3)")
    parser.add_argument("--suite", default=SUITE, help=f"file of a suite (default: {SUITE})")
    args = parser.parse_args()
    there = [each for each in args.executors if each not in NEEDED_PACKAGE or find_spec(NEEDED_PACKAGE[each])]
    found: dict[str, list[float]] = {executor: [] for executor in there}
    n_cells = 0
    for _ in range(args.times):
        for executor in there:
            wall, n_cells = measured(executor, args.suite)
            found[executor].append(wall)
            print(f"{executor}: {wall:.1f} s", flush=True)
    medians = {executor: statistics.median(times) for executor, times in found.items()}
    rows = [[name, median, median - medians["loky"] if "loky" in medians else None] for name, median in medians.items()]
    print(f"\n{n_cells} cells, medians of {args.times}")
    print(tabulate(rows, ["executor", "wall seconds", "beyond loky"], floatfmt=".1f"))


if __name__ == "__main__":
    main()
