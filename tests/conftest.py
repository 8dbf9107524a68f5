"""The whole folder of tests runs in two processes: half of the time is spent waiting for pytest processes that tests start."""

import compileall
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "subpop"
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""One for each process of pytest-xdist and for what it starts: threads that wait for each other's cores made a test of a small
BERT take 110 s in place of 11."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    if "PYTEST_XDIST_WORKER" in os.environ or hasattr(config, "workerinput"):
        return  # a worker must not start workers
    lists = any(
        getattr(config.option, name, False) for name in ("collectonly", "showfixtures", "show_fixtures_per_test", "markers")
    )
    if not lists:
        # The processes that tests start take half as long with it, also where the environment forbids them to write it.
        compileall.compile_dir(PACKAGE, quiet=2)
    if lists or not config.pluginmanager.hasplugin("xdist"):  # which comes with the extra `test`
        return
    whole = [Path(arg).resolve() for arg in config.args] == [Path(__file__).parent]
    if whole and config.option.numprocesses is None:
        config.option.numprocesses = 2
    if config.option.numprocesses:
        os.environ.update({name: os.environ.get(name, "1") for name in THREADS})
        if config.option.dist == "no":
            config.option.dist = "worksteal"  # neighbours stay together, which share what their module prepares; no process idles


@pytest.fixture
def as_many_threads_as_cores(monkeypatch) -> None:
    """For what limits its own threads, or counts them: the environment says nothing of them."""
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: sums are rounded alike whatever the number of cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def reported(monkeypatch) -> list[tuple[int, int]]:
    """What computations of features, tokens and states report of their progress: (done, in all)."""
    told: list[tuple[int, int]] = []

    @contextmanager
    def reporting(what):
        yield lambda done, total: told.append((done, total))

    for module in ("representations", "encoders.tokens", "encoders.states", "encoders.pooled", "encoders.pca"):
        monkeypatch.setattr(f"subpop.features.{module}.reporting", reporting)
    return told
