"""Faults: `python -m pytest tests/test_faults.py -m slow` runs the whole campaign. No wrong number, no finished trial lost.

Two thousand flipped bits, and twenty rounds of ten faults of a real run each: killed, terminated, beside another run, on a full
disk, on a locked store, on one that cannot be written to, on one that was cut short or whose bits were flipped. And twenty such
rounds of the parallel paths (`-k workers`): workers of this machine, of Dask and of Ray are killed, once or again, a scheduler
dies, a disk is full, two runs share a store, shards are merged twice or by merges that die, and a shard is missing.
"""

from __future__ import annotations

import random
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import worker_faults
from chunks import CELL, chunk
from damage import what_flips_do
from faults import Campaign, copy_of, disturb, ended
from small_projects import make_project, run
from worker_faults import Cluster, Truth

from subpop.runtime.feature_cache import cached
from subpop.runtime.store import Corrupt, Store

ENDS = {"unharmed", "missing", "rescued", "refused"}


def test_a_hundred_flipped_bits_change_no_number(tmp_path: Path) -> None:
    """What comes back is the truth or nothing; what is missing is made again, and then the store is whole."""
    ends = what_flips_do(tmp_path, 100, seed=1)
    assert ends.total() == 100
    assert set(ends) <= ENDS
    assert ends["unharmed"] >= 10
    assert ends["missing"] + ends["rescued"] >= 10
    assert ends["refused"] <= 1


@pytest.mark.slow
def test_two_thousand_flipped_bits_change_no_number(tmp_path: Path) -> None:
    ends = what_flips_do(tmp_path, 2000, seed=2)
    print(dict(ends))
    assert ends.total() == 2000
    assert set(ends) <= ENDS
    assert ends["refused"] <= 4  # in the number of the schema


def test_any_flipped_bit_of_a_cached_file_is_found(tmp_path: Path) -> None:
    """Header, padding, content and checksum: the features that come back are those that were computed."""
    features = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    cached(tmp_path, "key", features.shape, lambda: features)
    content = (tmp_path / "key.npy").read_bytes()
    n_again = 0
    in_the_header = (8 * 8 + 6, 21 * 8 + 4)  # its length, and its dtype
    for bit in (*in_the_header, *random.Random(0).sample(range(8 * len(content)), 100)):
        (tmp_path / "key.npy").write_bytes(_flipped_at(content, bit))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", UserWarning)
            found = cached(tmp_path, "key", features.shape, lambda: features)
        assert (found.dtype, found.tobytes()) == (features.dtype, features.tobytes())
        n_again += any("are damaged" in str(warning.message) for warning in told)
    assert n_again > 50


def _flipped_at(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A project that ran to its end, and how long that took once everything was compiled."""
    project = make_project(tmp_path_factory.mktemp("undisturbed"))
    run(project, "--rebaseline")
    started = time.monotonic()
    assert run(project, "--fresh").returncode == 0
    return project, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_ten_faults_of_a_run_change_nothing(undisturbed: tuple[Path, float], tmp_path: Path, seed: int) -> None:
    project, length = undisturbed
    assert disturb(copy_of(project, tmp_path / "project"), project, length, seed) == 10


def test_a_report_that_finds_no_room_is_told(tmp_path: Path) -> None:
    """It used to end in a traceback."""
    project = make_project(tmp_path, (0.5,))
    run(project, "--rebaseline")
    limit = (project / "runs" / "report" / "index.html").stat().st_size * 9 // 10  # the files of the store are smaller
    process = Campaign(project, 0.0, random.Random(0)).start("--report-dir", "elsewhere", limit=limit)
    output = ended(process)
    assert process.poll() == 1
    assert "README.md could not be written (File too large); free some room, or name another folder with --report-dir" in output


def test_the_checks_after_a_fault_see_trials_that_are_wrong_lost_added_or_doubled(tmp_path: Path) -> None:
    def store_of(name: str, **contents: int) -> Path:
        with Store(tmp_path / name / "runs" / "store.sqlite") as store:
            for key, number in contents.items():
                store.put_chunk(key, CELL, chunk(number, 3), "cpu")
        return store.path

    whole = store_of("whole", a=0, b=1)
    truth = Truth(tmp_path / "whole", 0.0)
    assert truth.check(whole).keys() == {"a", "b"}
    assert truth.check(store_of("part", b=1)).keys() == {"b"}
    with pytest.raises(AssertionError):
        truth.check_whole(store_of("lost", b=1), tmp_path)
    with pytest.raises(AssertionError, match="trials that no run asks for"):
        truth.check(store_of("added", a=0, b=1, c=2))
    with pytest.raises(AssertionError, match="metric_0"):
        truth.check(store_of("wrong", a=0, b=2))
    for own, error, told in (("chunk", Corrupt, "6 of 3 trials"), ("99", AssertionError, "belong to no chunk")):
        doubled = store_of(f"doubled {own}", b=1)
        with closing(sqlite3.connect(doubled)) as connection, connection:
            parts = f"id + 9, {own}, position + 9, subpopulation, seed, attacked, seconds, n_fits"
            connection.execute(f"INSERT INTO trials SELECT {parts} FROM trials")
        with pytest.raises(error, match=told):
            truth.check(doubled)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    return worker_faults.undisturbed(tmp_path_factory.mktemp("truth"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with closing(Cluster(tmp_path_factory.mktemp("cluster"))) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_ten_faults_of_a_run_with_workers_change_nothing(truth: Truth, cluster: Cluster, tmp_path: Path, seed: int) -> None:
    project = copy_of(truth.project, tmp_path / "project")
    assert worker_faults.disturb(project, truth, cluster, seed) == 10
