"""Kernels on one thread, and as many as before afterwards; a library that is loaded later is held too."""

import subprocess
import sys

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from subpop.runtime.threads import one_thread


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


def test_a_library_that_is_loaded_later_is_found():
    code = """
from subpop.runtime.threads import one_thread
with one_thread("blas"):
    pass
import numpy, scipy.linalg, sklearn.cluster
from threadpoolctl import threadpool_info
with one_thread():
    print({each["num_threads"] for each in threadpool_info()}, len(threadpool_info()) > 1)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "{1} True"
