"""What a report says of the machine: enough to tell which kernels made its numbers, and nothing is loaded to tell it."""

import json
import os
import subprocess
import sys

import pytest
from threadpoolctl import threadpool_info

from subpop.runtime.hardware import blas_kernels, cpu_flags, cpu_model, hardware
from subpop.session.run_info import environment

TELL = """
import json, sys
from subpop.session.run_info import environment
print(json.dumps([environment()["hardware"], "torch" in sys.modules]))
"""


def test_a_report_names_processor_kernels_and_threads():
    import numba  # noqa: F401
    import torch

    told = environment()["hardware"]
    assert told == hardware()
    blas = next(info for info in threadpool_info() if info["user_api"] == "blas")
    for word in (cpu_model(), f"{os.cpu_count()} cores", blas["internal_api"], f"{blas['num_threads']} thread", "numba "):
        assert word in told
    assert blas.get("architecture", "") in told
    assert f"ATen {torch.backends.cpu.get_cpu_capability()}" in told


def fresh(**variables):
    done = subprocess.run(
        [sys.executable, "-c", TELL], env={**os.environ, **variables}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_nothing_is_loaded_to_tell_and_threads_are_told():
    told, torch_loaded = fresh(OPENBLAS_NUM_THREADS="1")
    assert not torch_loaded
    assert "ATen" not in told
    assert "1 thread" in told


@pytest.mark.skipif("openblas" not in " ".join(blas_kernels()), reason="BLAS is not OpenBLAS, whose kernels can be chosen")
@pytest.mark.skipif("sse4_2" not in cpu_flags(), reason="the processor does not run Nehalem's kernels")
def test_the_kernel_is_the_one_that_was_really_taken():
    assert "Nehalem" in fresh(OPENBLAS_CORETYPE="Nehalem")[0]


def test_a_system_that_tells_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr("subpop.runtime.hardware.CPUINFO", tmp_path / "none")
    assert cpu_flags() == frozenset()
    assert cpu_model()
