"""Wall seconds of `pytest benchmarks/` on a fixed list of cells, from an empty store: `python tests/cold_time.py 2 1`.

The cells, in `early_cells_embedded.txt` and `early_cells_laptop.txt`, are those that the tiers had at commit 385e135, so that
cells which were added since do not count. Two of the 455 of the embedded tier are left out: they are measured on other mixtures
today.
Each argument is a number of processes; runs with different numbers alternate, and the median of each is printed with the ratio of
the last to the first. `1` alone means one process, which trains on the threads of all cores; `one-core` confines it to one core.
`--full` repeats each run with the store that it filled.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
ONE_CORE = "one-core"


def seconds(tier: str, jobs: str, folder: Path) -> tuple[float, bool]:
    """Wall seconds of one run whose store and report are in the folder, and whether it passed; what a red run says is printed."""
    cells = Path(__file__).with_name(f"early_cells_{tier}.txt")
    options = ["--store", str(folder / "store.sqlite"), "--report-dir", str(folder / "report"), "-q", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", f"@{cells}", "--tier", tier, "-n", "1" if jobs == ONE_CORE else jobs, *options]
    if jobs == ONE_CORE:
        command = ["taskset", "-c", "0", *command]
    begun = time.perf_counter()
    run = subprocess.run(command, cwd=ROOT, env={**os.environ, "CI": "true"}, stdout=subprocess.PIPE, text=True, check=False)
    taken = time.perf_counter() - begun
    if run.returncode != 0:
        print(run.stdout[-20_000:])
    return taken, run.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="+", help=f"numbers of processes, such as 2 1, or {ONE_CORE}")
    parser.add_argument("--tier", choices=("embedded", "laptop"), default="embedded", help="default: embedded")
    parser.add_argument("--times", type=int, default=3, help="runs of each number (default: 3)")
    parser.add_argument("--full", action="store_true", help="repeat each run with its full store")
    args = parser.parse_args()
    cold: dict[str, list[float]] = {jobs: [] for jobs in args.jobs}
    full: dict[str, list[float]] = {jobs: [] for jobs in args.jobs}
    n_red = 0
    for _ in range(args.times):
        for jobs in args.jobs:
            with tempfile.TemporaryDirectory() as folder:
                for times, store in ((cold, ""), (full, ", full store"))[: 2 if args.full else 1]:
                    taken, passed = seconds(args.tier, jobs, Path(folder))
                    times[jobs].append(taken)
                    n_red += not passed
                    print(f"{jobs} processes{store}: {taken:.1f} s{'' if passed else ', NOT passed'}", flush=True)
    medians = {jobs: statistics.median(times) for jobs, times in cold.items()}
    for jobs, median in medians.items():
        again = f", {statistics.median(full[jobs]):.1f} s with a full store" if args.full else ""
        print(f"median with {jobs} processes: {median:.1f} s{again}")
    if len(medians) > 1:
        print(f"ratio of {args.jobs[-1]} to {args.jobs[0]} processes: {medians[args.jobs[-1]] / medians[args.jobs[0]]:.2f}")
    if n_red:
        sys.exit(f"{n_red} of the runs did not pass: their output stands above.")


if __name__ == "__main__":
    main()
