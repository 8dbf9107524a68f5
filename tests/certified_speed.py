"""Processor time of Tables 13 and 14, a commit against this one, in one session.

    python tests/certified_speed.py --before COMMIT [--tier laptop] [--chunks 3]

Two processes, one on each version of the package, take turns on some chunks of every cell; each has one thread. The numbers are
medians over the chunks of `time.process_time` for a trial, and their sums over all trials: Table 14 reads those of Table 13. What
trials share is computed in the first turn, which counts. Compiled code is loaded before that.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def serve() -> None:
    """Answer each line `cell turn turns` with seconds per trial and the number of trials of the cell."""
    import time

    sys.path.insert(0, "benchmarks")
    import test_table13_certified_by_defended as table13

    from subpop.experiments.experiment import Experiment
    from subpop.runtime.store import Store

    tier = sys.argv[2]
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment.on(Store(Path(folder) / "store.sqlite"))
        for cell in (cell for cell in table13.CELLS if cell.tier == "embedded"):
            experiment.run_chunk(cell, experiment.list_trials(cell)[:2])
        cells = [cell for cell in table13.CELLS if cell.tier == tier]
        for cell in cells:
            experiment.context.clean_right(cell, 0)
        print(len(cells), flush=True)
        for line in sys.stdin:
            number, turn, turns = map(int, line.split())
            cell = cells[number]
            trials, chunks = experiment.list_trials(cell), experiment.chunks(cell)
            chunk = chunks[turn * len(chunks) // turns]
            started = time.process_time()
            experiment.run_chunk(cell, chunk)
            seconds = (time.process_time() - started) / len(chunk)
            print(seconds, len(trials), cell.defense, f"{cell.rate:g}", flush=True)


def worker(folder: Path, tier: str) -> subprocess.Popen[str]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": str(folder)}
    command = [sys.executable, str(Path(__file__).resolve()), "--serve", tier]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=1
    )


def compare(before: Path, tier: str, turns: int) -> None:
    workers = [worker(folder, tier) for folder in (before, ROOT)]
    try:
        n_cells = {int(each.stdout.readline()) for each in workers}
        assert len(n_cells) == 1, "the two versions have different cells"
        total = {"none": [0.0, 0.0], "label_flip_smoothing": [0.0, 0.0]}
        for cell in range(n_cells.pop()):
            seconds: tuple[list[float], list[float]] = ([], [])
            for turn in range(turns):
                for own, each in zip(seconds, workers, strict=True):
                    each.stdin.write(f"{cell} {turn} {turns}\n")
                    own_seconds, n_trials, defense, rate = each.stdout.readline().split()
                    own.append(float(own_seconds))
            old, new = map(statistics.median, seconds)
            print(f"alpha {rate:4} {defense:21} {1e3 * old:7.2f} -> {1e3 * new:7.2f} ms a trial, {old / new:.2f} times less")
            total[defense][0] += old * int(n_trials)
            total[defense][1] += new * int(n_trials)
        total["both tables"] = [sum(own) for own in zip(*total.values(), strict=True)]
        for name, (old, new) in total.items():
            print(f"{name:32} {old:7.1f} -> {new:7.1f} s, {old / new:.2f} times less")
    finally:
        for each in workers:
            each.stdin.close()
            each.wait()


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="the commit to compare with")
    parser.add_argument("--tier", default="laptop")
    parser.add_argument("--chunks", type=int, default=3, help="how many chunks of each cell are run")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(before), asked.before], check=True)
        try:
            compare(before, asked.tier, asked.chunks)
        finally:
            subprocess.run([*git, "remove", "--force", str(before)], check=True)


if __name__ == "__main__":
    main()
