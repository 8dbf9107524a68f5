"""Kernels on one thread, and as many as before afterwards; a library that is loaded later is held too."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from subpop.runtime.threads import on_cores, on_threads, one_core_here, one_thread


def numbers_of_threads(user_api=None):
    return {each["num_threads"] for each in threadpool_info() if user_api in (None, each["user_api"])}


def test_one_thread_inside_and_the_old_number_outside():
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(limits=2):
        for user_api in (None, "blas"):
            for _ in range(2):  # the second time with the libraries that the first one found
                with one_thread(user_api):
                    assert numbers_of_threads(user_api) == {1}
                assert numbers_of_threads(user_api) == {2}


def test_a_library_that_is_loaded_later_is_found(as_many_threads_as_cores):
    code = """
from subpop.runtime.threads import on_cores, on_threads, one_core_here, one_thread
with one_thread("blas"):
    pass
import numpy, scipy.linalg, sklearn.cluster
from threadpoolctl import threadpool_info
with one_thread():
    print({each["num_threads"] for each in threadpool_info()}, len(threadpool_info()) > 1)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "{1} True"


def test_one_thread_of_a_map_is_the_calling_one_and_several_are_not():
    own = threading.get_ident()
    with on_threads(1) as mapped:
        assert set(mapped(lambda _: threading.get_ident(), range(4))) == {own}
    with on_threads(2) as mapped:
        assert own not in set(mapped(lambda _: threading.get_ident(), range(4)))


@pytest.mark.parametrize("n_parts", [1, 3])
def test_a_map_on_cores_has_one_thread_of_torch_inside_and_the_old_number_outside(n_parts):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with on_cores(n_parts, threaded=True) as mapped:
            assert set(mapped(lambda _: torch.get_num_threads(), range(n_parts))) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_test_that_clears_the_environment_meanwhile_is_no_error(monkeypatch):
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    with one_core_here():
        del os.environ["LOKY_MAX_CPU_COUNT"]
    assert "LOKY_MAX_CPU_COUNT" not in os.environ
