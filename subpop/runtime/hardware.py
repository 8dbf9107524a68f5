"""The processor and the kernels of numerical libraries, on which the last bits of a number depend."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")


def hardware() -> str:
    """One line: processor, cores, BLAS libraries with kernels and threads, and the kernels of numba and torch if loaded.

    It imports neither, so that a report from a complete store need not load them.
    """
    parts = [f"{cpu_model()} ({platform.machine()}, {os.cpu_count()} cores)", *blas_kernels(), *_numba(), *_torch()]
    return "; ".join(parts)


def cpu_model() -> str:
    """The processor's model name; the machine type if that is unknown."""
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), platform.processor() or platform.machine())


def cpu_flags() -> frozenset[str]:
    """The processor's instruction sets, under their Linux names; empty on systems without /proc/cpuinfo."""
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def blas_kernels() -> list[str]:
    """`openblas 0.3.29 Haswell, 2 threads` for each distinct BLAS library in the process."""
    from threadpoolctl import threadpool_info

    found = [info for info in threadpool_info() if info["user_api"] == "blas"]
    return sorted({_library(info) for info in found})  # independent of the order in which they were loaded


def _library(info: dict[str, Any]) -> str:
    words = [info["internal_api"], info.get("version") or "", info.get("architecture") or ""]
    return f"{' '.join(filter(None, words))}, {_counted(info['num_threads'])}"


def _numba() -> list[str]:
    """The processor for which numba compiles, if numba is loaded."""
    if "numba" not in sys.modules:
        return []
    from llvmlite.binding import get_host_cpu_name
    from numba import config

    return [f"numba {getattr(config, 'CPU_NAME', None) or get_host_cpu_name()}"]


def _torch() -> list[str]:
    """ATen's instruction set and threads, if torch is loaded."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return []
    return [f"ATen {torch.backends.cpu.get_cpu_capability()}, {_counted(torch.get_num_threads())}"]


def _counted(threads: int) -> str:
    return f"{threads} thread{'' if threads == 1 else 's'}"
