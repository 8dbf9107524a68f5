"""`-m smoke` selects one cell of each kind of measurement."""

import re
import subprocess
import sys
from pathlib import Path

from subpop.types.kinds import KINDS, kind_named

ROOT = Path(__file__).parents[2]
COLLECT = [sys.executable, "-m", "pytest", "benchmarks/", "-q", "-m", "smoke", "--collect-only", "-p", "no:cacheprovider"]


def collected():
    done = subprocess.run(COLLECT, cwd=ROOT, capture_output=True, text=True, check=True, timeout=240)
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_there_is_one_test_of_each_kind_of_the_default_run():
    found = collected()
    assert len(found) == sum(kind_named(name).runs_by_default for name in KINDS)
    assert all("::test_cell[embedded-" in line for line in found)
    stems = {re.search(r"test_(\w+)\.py", line)[1] for line in found}
    assert {"table12_fine_pruning", "table16_influence", "impossibility", "scoreboard", "susceptibility"} <= stems
