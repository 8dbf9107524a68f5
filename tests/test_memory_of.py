"""The sampler of memory: what is held is found, and what processes share counts once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from memory_of import peak_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
HOLD = "import time; held = bytearray(b'x') * 200_000_000; time.sleep(1.5)"
FORKED = "import os, time; held = bytearray(b'x') * 200_000_000; pid = os.fork(); time.sleep(1.5)"


@pytest.mark.parametrize(("program", "processes"), [(HOLD, 1), (FORKED, 2)])
def test_two_hundred_megabytes_are_found_once(program: str, processes: int) -> None:
    peak, _, parts, status = peak_of([sys.executable, "-S", "-c", program])
    assert status == 0
    assert len(parts) == processes
    assert 0.2e9 < peak < 0.25e9


def test_the_status_is_that_of_the_command() -> None:
    assert peak_of([sys.executable, "-S", "-c", "raise SystemExit(3)"])[3] == 3
