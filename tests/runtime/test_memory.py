"""Memory of long runs: arrays that are freed are reused, as the page faults of another process show."""

import gc
import subprocess
import sys

import pytest

from subpop.runtime.memory import ALLOCATIONS

FAULTS = """
import resource, sys
import numpy as np
from subpop.runtime.memory import for_long_runs
if sys.argv[1] == "long":
    for_long_runs()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def arrays():
    return [np.ones(1 << 18) for _ in range(8)]  # 2 MB each
arrays()
before = faults()
for _ in range(10):
    arrays()
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries are left as they are")
def test_freed_arrays_are_reused_without_new_pages():
    usual, long = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("usual", "long")
    )
    assert usual > 10 * 8 * 256, "512 pages of 4 kB an array; without the call most are given back each time"
    assert long < usual / 20


def test_garbage_is_collected_less_often():
    code = "import gc; from subpop.runtime.memory import for_long_runs; for_long_runs(); print(*gc.get_threshold())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert told == [str(ALLOCATIONS), *map(str, gc.get_threshold()[1:])]
