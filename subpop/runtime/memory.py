"""How the memory of long-running processes is managed: by glibc's allocator, and by Python's collector of garbage."""

from __future__ import annotations

import ctypes
import gc
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`, from malloc.h."""
LARGEST_FROM_HEAP = 32 << 20
"""Arrays of up to this many bytes come from the heap; glibc allows no more."""
KEPT = 512 << 20
"""Free bytes at the end of the heap that are not returned to the system."""
ALLOCATIONS = 10_000
"""Number of new containers after which the collector looks at the youngest ones (700 by default)."""


def for_long_runs() -> None:
    """Reuse the memory of arrays instead of returning it, and collect garbage less often.

    By default glibc returns arrays of a few megabytes to the system as soon as they are freed, and the next ones get new pages,
    which the system has to clear: a tenth of the time of a fleet on Adult. Other C libraries are left as they are.
    """
    gc.set_threshold(ALLOCATIONS, *gc.get_threshold()[1:])
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_FROM_HEAP)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT)
