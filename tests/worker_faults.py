"""Faults of runs whose trials are trained by workers or on several machines, and what holds after each of them.

No finished trial is lost, none is counted twice, and every trial that is there, and every number of a report, is that of a run
that nothing disturbed.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from faults import Campaign, ended, full_disk, kill, locked, terminate
from small_projects import ROOT, numbers
from warm_runs import PATIENCE, WarmRun

from subpop.runtime.processes import descendants
from subpop.runtime.store import read_chunks
from subpop.runtime.store_rows import ChunkRows

SUITE = '''"""Source: a test. Deviations: none."""
from subpop.types.grid import grid

open_to_defenses = True
CELLS = grid(stem="little", tier="embedded", dataset="digits", victim="logistic_regression", partition="feature_match",
             rate=[0.25, 0.5, 1.0], sampling="distinct", n_seeds=2, defense=["none", "trim", "matched_random_filter:trim"])


def test_cell(cell, measure):
    assert measure(cell)["clean_accuracy"] > 0.8
'''
N_SHARDS = 3
TWO = ("-n", "2")
FORKED = "\n\nimport subpop.session.pytest_plugin\n\nsubpop.session.pytest_plugin.MANY = 1\n"
"""In the conftest of a project: its workers are forked from a process that has imported everything, as those of long runs are."""
Trials = Mapping[str, list[tuple[Any, ...]]]


def make_project(folder: Path) -> Path:
    """A project of nine cells, whose three rates are a shard each."""
    for name in ("benchmarks", "baselines"):
        (folder / name).mkdir()
    (folder / "benchmarks" / "test_little.py").write_text(SUITE)
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def trials(store: Path) -> Trials:
    """All trials of a store by chunk, verified, without how long they took; fails if one of them is there twice."""
    if not store.exists() or not _has_tables(store):
        return {}
    chunks = list(read_chunks(store))
    found = {chunk.key: _without_times(chunk) for chunk in chunks}
    with closing(sqlite3.connect(store, timeout=60)) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("chunks", "trials")]
    assert counts == [len(chunks), sum(map(len, found.values()))], "rows that belong to no chunk"
    assert len(chunks) == len(found)
    return found


def _has_tables(store: Path) -> bool:
    with closing(sqlite3.connect(store, timeout=60)) as connection:
        return bool(connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'records'").fetchone()[0])


def _without_times(chunk: ChunkRows) -> list[tuple[Any, ...]]:
    return [
        (row.subpopulation, row.seed, row.attacked, chunk.cell, row.n_fits, tuple(row.metrics), tuple(row.arrays))
        for row in chunk.trials
    ]


@dataclass
class Truth:
    """What runs that nothing disturbed left: of the whole suite, and of each shard."""

    project: Path
    length: float
    """Seconds of a run with two workers."""

    @cached_property
    def trials(self) -> Trials:
        return trials(self.project / "runs" / "store.sqlite")

    @cached_property
    def numbers(self) -> Mapping[Any, Any]:
        return numbers(self.project)

    @property
    def shards(self) -> list[Path]:
        return [self.project / "runs" / f"{number}.sqlite" for number in range(1, N_SHARDS + 1)]

    def check(self, store: Path) -> Trials:
        """The trials of a store, all of which are right."""
        found = trials(store)
        assert found.keys() <= self.trials.keys(), "trials that no run asks for"
        wrong = [key for key, rows in found.items() if rows != self.trials[key]]
        assert not wrong, [(found[key], self.trials[key]) for key in wrong[:1]]
        return found

    def check_whole(self, store: Path, report: Path) -> None:
        """Every trial is there once, and the report says what it says where nothing was disturbed."""
        assert self.check(store).keys() == self.trials.keys()
        assert numbers(report.parent, report.name) == self.numbers


def undisturbed(folder: Path) -> Truth:
    """A project with references that ran without workers, and its shards."""
    project = make_project(folder)
    campaign = Campaign(project, 0.0, random.Random(0))
    ended(campaign.start("--executor", "here", "--rebaseline", "--store", "recorded.sqlite"))
    output = ended(campaign.start("--executor", "here"))
    assert "9 cells pass" in output, output
    for number in range(1, N_SHARDS + 1):
        store = f"runs/{number}.sqlite"
        ended(campaign.start("--executor", "here", "--store", store, "--report-dir", f"runs/of{number}", *_shard(number)))
    started = time.monotonic()
    ended(campaign.start(*TWO, "--store", "runs/timed.sqlite", "--report-dir", "runs/timed"))
    return Truth(project, time.monotonic() - started)


def _shard(number: int) -> tuple[str, str]:
    return "--shard", f"{number}/{N_SHARDS}"


# --- workers ----------------------------------------------------------------------------------------------------------


def workers_of(process: WarmRun) -> list[int]:
    """Worker processes of a run, once there are any; none if it ends before.

    The run is forked from a server, too. What it starts, such as the head of a Ray cluster, has its command for an instant.
    """
    own = _command_of(process.pid)
    while process.poll() is None:
        commands = {pid: _command_of(pid) for pid in descendants(process.pid)}
        found = [pid for pid, command in commands.items() if command != own and _is_worker(command)]
        if found:
            return found
        time.sleep(0.05)
    return []


def _is_worker(command: bytes) -> bool:
    """Also of the process that workers are forked from, whose command they share."""
    return any(name in command for name in (b"popen_loky", b"multiprocessing.forkserver")) or command.startswith(b"ray::work")


def _command_of(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _kill_one(campaign: Round, process: WarmRun) -> None:
    found = workers_of(process)
    if found:
        campaign.strike(process, campaign.draw.uniform(0, 0.45), campaign.draw.choice(found))


def kill_worker(campaign: Round) -> None:
    """A worker is killed, and the run passes all the same."""
    process = campaign.start()
    _kill_one(campaign, process)
    campaign.passes(process)


def kill_workers_again(campaign: Round) -> None:
    """Workers are killed twice: the run passes, or names the cells that it gave up."""
    process = campaign.start()
    for _ in range(2):
        _kill_one(campaign, process)
    output = ended(process)
    assert process.poll() == 0 or "died twice" in output, output


def kill_ray_worker(campaign: Round) -> None:
    if find_spec("ray") is None:
        return kill_worker(campaign)
    process = campaign.start("--executor", "ray")
    _kill_one(campaign, process)
    return campaign.passes(process)


def kill_harness(campaign: Round) -> None:
    """The process of the tests is killed, and its workers end by themselves."""
    process = campaign.start()
    campaign.wait_a_moment()
    workers = [pid for pid in descendants(process.pid) if _is_worker(_command_of(pid))]
    campaign.strike(process, 0, process.pid)
    process.ended()
    deadline = time.monotonic() + PATIENCE
    while any(_command_of(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive the run"
        time.sleep(0.1)


def end_harness(campaign: Round) -> None:
    """The process of the tests ends early: killed or terminated, with its workers or alone."""
    campaign.draw.choice([kill, terminate, kill_harness])(campaign)


# --- a cluster --------------------------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """A Dask scheduler and two workers, started again where they died."""

    folder: Path
    scheduler: WarmRun | None = None
    workers: list[WarmRun] = field(default_factory=list)
    address: str = ""

    def ready(self) -> str:
        """The address of the scheduler, when everything runs or is starting."""
        if self.scheduler is None or self.scheduler.poll() is not None:
            with closing(socket.create_server(("127.0.0.1", 0))) as free:
                self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
            self.close()
            told = ("--host", self.address, "--no-dashboard", "--no-show")
            self.scheduler = WarmRun("distributed.cli.dask_scheduler:main", self.folder, *told)
        self.workers = [each for each in self.workers if each.poll() is None]
        while len(self.workers) < 2:
            told = (self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0")
            self.workers.append(WarmRun("distributed.cli.dask_worker:main", self.folder, *told))
        return self.address

    def close(self) -> None:
        for each in (*self.workers, *([self.scheduler] if self.scheduler else [])):
            each.signal(signal.SIGKILL)
            each.ended()
        self.workers.clear()


def _on_cluster(campaign: Round) -> WarmRun:
    return campaign.start("--executor", "dask", DASK_SCHEDULER_ADDRESS=campaign.cluster.ready())


def kill_dask_worker(campaign: Round) -> None:
    """One of the two workers of a cluster dies: the other one does its work."""
    if find_spec("distributed") is None:
        return kill_worker(campaign)
    process = _on_cluster(campaign)
    campaign.strike(process, campaign.draw.uniform(0, 0.45), campaign.draw.choice(campaign.cluster.workers).pid)
    return campaign.passes(process)


def dead_scheduler(campaign: Round) -> None:
    """The scheduler of a cluster dies: the run trains what is missing by itself, says so and passes."""
    if find_spec("ray") is not None and campaign.draw.random() < 0.2:
        return _dead_ray(campaign)
    if find_spec("distributed") is None:
        return kill_worker(campaign)
    process = _on_cluster(campaign)
    assert campaign.cluster.scheduler is not None
    campaign.strike(process, campaign.draw.uniform(0, 0.45), campaign.cluster.scheduler.pid)
    return campaign.passes(process)


def _dead_ray(campaign: Round) -> None:
    """Of Ray, the process that keeps its state, or the one that starts the workers, dies."""
    process, name = campaign.start("--executor", "ray"), campaign.draw.choice([b"gcs_server", b"raylet"])
    workers_of(process)
    found = [pid for pid in descendants(process.pid) if name in _command_of(pid).split(b"\0")[0]]
    if found:
        campaign.strike(process, campaign.draw.uniform(0, 0.45), found[0])
    campaign.passes(process)


# --- stores -----------------------------------------------------------------------------------------------------------


def write_fails(campaign: Round) -> None:
    """The disk is full, or the store is locked for a while."""
    campaign.draw.choice([full_disk, full_disk, locked])(campaign)


def two_at_once(campaign: Round) -> None:
    """Two runs with workers on one store, one of which may be killed; the other ends with every number."""
    pair = [campaign.start("--report-dir", f"runs/{name}") for name in ("one", "two")]
    if campaign.draw.random() < 0.5:
        campaign.wait_a_moment()
        pair[0].signal(signal.SIGKILL)
        pair[0].ended()
    else:
        campaign.passes(pair[0], "one")
    campaign.passes(pair[1], "two")


def merged_twice(campaign: Round) -> None:
    """Shards are merged in any order, again and again, after merges that were killed or found a full disk."""
    into = campaign.merging()
    shards = campaign.truth.shards
    orders = [campaign.draw.sample(shards, N_SHARDS), campaign.draw.choices(shards, k=2), [*shards, into]]
    campaign.draw.shuffle(orders)
    for order in orders:
        before = campaign.truth.check(into)
        if campaign.draw.random() < 0.5:
            process = campaign.merge(order, into)
            time.sleep(campaign.draw.uniform(0, 0.5))
            process.signal(signal.SIGKILL)
            process.ended()
        else:
            ended(campaign.merge(order, into, limit=campaign.draw.randrange(1 << 14, 1 << 19)))
        assert campaign.truth.check(into).keys() >= before.keys()
        process = campaign.merge([each for each in order if each.exists()], into)
        output = ended(process)
        assert process.poll() == 0, output
    assert f"all {N_SHARDS} shards are in this store (9 cells)" in output
    campaign.reported(into)
    campaign.truth.check_whole(into, campaign.folder / "runs" / "merged")


def missing_shard(campaign: Round) -> None:
    """A shard did not come, or did not end: the report says so and counts the others; a run of the store adds what is missing."""
    number, into = campaign.draw.randint(1, N_SHARDS), campaign.merging()
    parts, why = [shard for shard in campaign.truth.shards if shard.stem != str(number)], "is not in this store"
    if campaign.draw.random() < 0.5:
        part = campaign.folder / "runs" / "part.sqlite"
        process = campaign.start("--store", str(part), "--report-dir", "runs/part", *_shard(number))
        time.sleep(campaign.draw.uniform(0, 1) * campaign.length)
        process.signal(signal.SIGKILL)
        process.ended()
        if trials(part):
            parts, why = [*parts, part], "did not end"
    process = campaign.merge(parts, into)
    told = ended(process) + campaign.reported(into, red=True)
    there = campaign.truth.check(into)
    found = numbers(campaign.folder, "runs/merged")
    assert found.items() <= campaign.truth.numbers.items()
    if process.poll() == 0 and len(there) < len(campaign.truth.trials):
        assert len(re.findall(rf"shard {number} of {N_SHARDS} {why} \((\d of )?3 cells", told)) == 2, told
        assert len(found) < len(campaign.truth.numbers)
    campaign.passes(campaign.start("--store", str(into)), store=into)
    assert campaign.truth.check(into).keys() >= there.keys()


# --- rounds -----------------------------------------------------------------------------------------------------------


@dataclass
class Round(Campaign):
    """A project whose runs train in two workers."""

    truth: Truth = None  # type: ignore[assignment]
    cluster: Cluster = None  # type: ignore[assignment]
    n_struck: int = 0
    """How many workers and schedulers were killed while their run was going on."""

    def strike(self, run: WarmRun, at: float, pid: int) -> None:
        """Kill a process of a run after some part of the run's usual length."""
        time.sleep(at * self.length)
        self.n_struck += run.poll() is None
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def passes(self, process: WarmRun, report: str = "report", store: Path | None = None) -> None:
        """A run ends with every number."""
        output = ended(process)
        assert process.poll() == 0, output
        assert "CancelledError" not in output, output
        self.truth.check_whole(store or self.store, self.folder / "runs" / report)

    def merging(self) -> Path:
        """The path of a store that shards are merged into; none is there yet."""
        self.store.parent.mkdir(exist_ok=True)
        path = self.store.with_name("merged.sqlite")
        for each in path.parent.glob(path.name + "*"):
            each.unlink()
        return path

    def merge(self, shards: list[Path], into: Path, limit: int | None = None) -> WarmRun:
        return WarmRun("subpop.session.cli:main", self.folder, "merge", *map(str, shards), "--into", str(into), limit=limit)

    def reported(self, store: Path, *, red: bool = False) -> str:
        """What `subpop report` says of a store. red: whether it may be unfinished."""
        told = ("--store", str(store), "--report-dir", "runs/merged")
        process = WarmRun("subpop.session.cli:main", self.folder, "report", *told)
        output = ended(process)
        assert process.poll() in ((0, 1) if red else (0,)), output
        return output


FAULTS: tuple[Callable[[Round], None], ...] = (
    kill_worker, kill_workers_again, kill_dask_worker, kill_ray_worker, dead_scheduler, end_harness, write_fails, two_at_once,
    merged_twice, missing_shard,
)  # fmt: skip
NEED_WORK = (kill_worker, kill_workers_again, kill_dask_worker, kill_ray_worker, dead_scheduler)


def disturb(project: Path, truth: Truth, cluster: Cluster, seed: int) -> int:
    """Ten faults in a random order, each followed by the checks, then a run to the end: returns how many faults there were.

    Workers of this machine are forked in every other round. Where the store has everything, or a fault needs busy workers, the
    store is deleted before.
    """
    draw = random.Random(seed)
    if seed % 2:
        with (project / "conftest.py").open("a") as file:
            file.write(FORKED)
    campaign = Round(project, truth.length, draw, TWO, truth, cluster)
    for number, fault in enumerate(draw.sample(FAULTS, len(FAULTS))):
        if fault in NEED_WORK or campaign.chunks() == truth.trials.keys():
            shutil.rmtree(campaign.store.parent, ignore_errors=True)
        before, started = campaign.chunks(), time.monotonic()
        fault(campaign)
        assert truth.check(campaign.store).keys() >= before, fault.__name__
        print(json.dumps([seed, number, fault.__name__, round(time.monotonic() - started, 1)]))
    campaign.passes(campaign.start())
    print(f"{campaign.n_struck} processes were killed at work")
    return len(FAULTS)
