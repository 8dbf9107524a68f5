"""What decides the last bits of a number: the processor, and the kernels that numerical libraries chose for it."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")


def hardware() -> str:
    """One line: processor, cores, BLAS libraries with their kernels and threads, and the kernels of what else is loaded.

    Nothing is imported for it: a report of a full store must not have to load torch or numba.
    """
    parts = [f"{cpu_model()} ({platform.machine()}, {os.cpu_count()} cores)", *blas_kernels(), *_numba(), *_torch()]
    return "; ".join(parts)


def cpu_model() -> str:
    """The processor's name as it calls itself; the machine type where it does not tell."""
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), platform.processor() or platform.machine())


def cpu_flags() -> frozenset[str]:
    """The instruction sets that the processor offers, in Linux's words; empty where the system does not tell."""
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))


def blas_kernels() -> list[str]:
    """`openblas 0.3.29 Haswell, 2 threads` for each distinct BLAS library in the process."""
    from threadpoolctl import threadpool_info

    found = [info for info in threadpool_info() if info["user_api"] == "blas"]
    return sorted({_library(info) for info in found})  # not in the order in which they were loaded


def _library(info: dict[str, Any]) -> str:
    words = [info["internal_api"], info.get("version") or "", info.get("architecture") or ""]
    return f"{' '.join(filter(None, words))}, {_counted(info['num_threads'])}"


def _numba() -> list[str]:
    """The processor that compiled code is made for, where numba is loaded."""
    if "numba" not in sys.modules:
        return []
    from llvmlite.binding import get_host_cpu_name
    from numba import config

    return [f"numba {getattr(config, 'CPU_NAME', None) or get_host_cpu_name()}"]


def _torch() -> list[str]:
    """ATen's instruction set and threads, where torch is loaded."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return []
    return [f"ATen {torch.backends.cpu.get_cpu_capability()}, {_counted(torch.get_num_threads())}"]


def _counted(threads: int) -> str:
    return f"{threads} thread{'' if threads == 1 else 's'}"
