"""Peak memory of a command and everything that it starts: `python tests/memory_of.py python -m pytest benchmarks/ -n 2`.

The proportional set sizes (PSS) of all processes are added, in which each page that n processes share counts an n-th in each, so
that nothing counts twice. Linux only. Prints the peak, when it was, and by which processes; exits with the command's status.
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from subpop.runtime.processes import adopt_orphans, descendants

EVERY = 0.5
"""Seconds between two samples."""


def pss(pid: int) -> int:
    """Bytes of a process; 0 if it has ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def peak_of(command: list[str]) -> tuple[int, float, list[int], int]:
    """The largest sum of a sample in bytes, its second, the bytes of each process in it, and the exit status."""
    started, peak, when, parts = time.monotonic(), 0, 0.0, list[int]()
    process = subprocess.Popen(command)
    while process.poll() is None:
        found = [pss(pid) for pid in (process.pid, *descendants(process.pid))]
        if sum(found) > peak:
            peak, when, parts = sum(found), time.monotonic() - started, sorted(filter(None, found), reverse=True)
        time.sleep(EVERY)
    return peak, when, parts, process.returncode


def main() -> None:
    """Run the command of the command line."""
    if len(sys.argv) < 2:
        sys.exit("give the command whose memory is measured")
    adopt_orphans()
    peak, when, parts, status = peak_of(sys.argv[1:])
    told = ", ".join(f"{each / 1e9:.2f}" for each in parts)
    print(f"peak {peak / 1e9:.2f} GB in all after {when:.0f} s, by {len(parts)} processes: {told} GB")
    sys.exit(status)


if __name__ == "__main__":
    main()
