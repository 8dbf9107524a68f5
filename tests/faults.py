"""Faults of a real run of a small suite, and what holds after each: no finished trial lost, and the same numbers in the end.

A run trains in its own process, or in workers, which are killed alone as well.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from small_projects import ROOT, command, numbers, run

from subpop.runtime.processes import descendants

PATIENCE = 300


@dataclass
class Campaign:
    """One project, disturbed again and again. length: seconds of an undisturbed run; options: of every run."""

    folder: Path
    length: float
    draw: random.Random
    options: tuple[str, ...] = ()

    @property
    def store(self) -> Path:
        return self.folder / "runs" / "store.sqlite"

    @property
    def log(self) -> Path:
        return self.store.with_name("store.sqlite-wal")

    def start(self, *options: str, limit: int | None = None, **environment: str) -> subprocess.Popen[str]:
        """A run in a process group of its own; limit: bytes that no file may grow beyond."""
        env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
        before = None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return subprocess.Popen(
            command(*self.options, *options),
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=before,
        )

    def wait_a_moment(self) -> None:
        """Some time in which a run has begun and not ended, mostly."""
        time.sleep(self.draw.uniform(0.3, 1.0) * self.length)

    def chunks(self) -> set[str]:
        """Keys of the finished chunks, read without changing the file."""
        if not self.store.exists():
            return set()
        with closing(sqlite3.connect(self.store, timeout=60)) as connection:
            there = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'chunks'").fetchone()[0]
            return {key for (key,) in connection.execute("SELECT key FROM chunks")} if there else set()


def ended(process: subprocess.Popen[str]) -> str:
    """What a run printed that nobody killed: it ended by itself and told what was wrong, without a traceback."""
    output = process.communicate(timeout=PATIENCE)[0]
    assert "INTERNALERROR" not in output, output
    assert "Traceback (most recent call last)" not in output, output
    return output


def kill(campaign: Campaign) -> None:
    process = campaign.start()
    campaign.wait_a_moment()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def terminate(campaign: Campaign) -> None:
    process = campaign.start()
    campaign.wait_a_moment()
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=PATIENCE)


def two_at_once(campaign: Campaign) -> None:
    """Two runs on one store, one of which is killed; the other ends with every number."""
    pair = [campaign.start("--report-dir", f"runs/{name}") for name in ("one", "two")]
    campaign.wait_a_moment()
    os.killpg(pair[0].pid, signal.SIGKILL)
    pair[0].communicate()
    ended(pair[1])


def full_disk(campaign: Campaign) -> None:
    size = campaign.store.stat().st_size if campaign.store.exists() else 0
    ended(campaign.start(limit=size + campaign.draw.randrange(1 << 12, 1 << 19)))


def locked(campaign: Campaign) -> None:
    """Somebody holds the write lock while a run is going on."""
    campaign.store.parent.mkdir(exist_ok=True)
    process = campaign.start()
    campaign.wait_a_moment()
    if campaign.store.exists():
        with closing(sqlite3.connect(campaign.store, timeout=60, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            time.sleep(campaign.draw.uniform(0, 2))
            connection.execute("ROLLBACK")
    ended(process)


def no_log(campaign: Campaign) -> None:
    """The store cannot be written to: where its log belongs, something else stands."""
    campaign.store.parent.mkdir(exist_ok=True)
    if campaign.log.exists():
        campaign.chunks()  # opening and closing the file empties the log
    if not campaign.log.exists():
        campaign.log.mkdir()
        output = ended(campaign.start())
        campaign.log.rmdir()
        assert "--store" in output


def truncate(campaign: Campaign) -> None:
    """A run is killed, and then its file or its log loses its end: what was there is trained again."""
    kill(campaign)
    for path in campaign.draw.sample([campaign.store, campaign.log], 2):
        if path.exists() and path.stat().st_size:
            os.truncate(path, campaign.draw.randrange(path.stat().st_size))
            return


def flip(campaign: Campaign) -> None:
    """A run is killed, and then ten bits of its file are flipped."""
    kill(campaign)
    if campaign.store.exists() and (content := bytearray(campaign.store.read_bytes())):
        for _ in range(10):
            place = campaign.draw.randrange(100, max(101, len(content)))
            content[min(place, len(content) - 1)] ^= 1 << campaign.draw.randrange(8)
        campaign.store.write_bytes(bytes(content))


# --- of workers -------------------------------------------------------------------------------------------------------


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Worker processes of a run, once there are any; none if it ends before."""
    while process.poll() is None:
        found = [pid for pid in descendants(process.pid) if b"popen_loky" in _command_of(pid)]
        if found:
            return found
        time.sleep(0.05)
    return []


def _command_of(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def kill_worker(campaign: Campaign) -> None:
    """A worker is killed, and the run passes all the same."""
    process = campaign.start()
    _kill_one(campaign, process)
    output = ended(process)
    assert process.returncode == 0, output


def kill_workers_again(campaign: Campaign) -> None:
    """Workers are killed several times: the run passes, or names the cells that it gave up."""
    process = campaign.start()
    for _ in range(4):
        _kill_one(campaign, process)
    output = ended(process)
    assert process.returncode == 0 or "died twice" in output, output


def _kill_one(campaign: Campaign, process: subprocess.Popen[str]) -> None:
    time.sleep(campaign.draw.uniform(0, 0.5) * campaign.length)
    for pid in workers_of(process)[:1]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_harness(campaign: Campaign) -> None:
    """The process of the tests is killed, and its workers end by themselves."""
    process = campaign.start()
    campaign.wait_a_moment()
    workers = workers_of(process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while any(_command_of(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers outlive the run"
        time.sleep(0.1)


def dead_scheduler(campaign: Campaign) -> None:
    """The scheduler of a Dask cluster dies: the run trains what is missing by itself, says so and passes."""
    if find_spec("distributed") is None:
        return kill_worker(campaign)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    place = campaign.folder / f"scheduler-{campaign.draw.random()}.json"
    told = ("--scheduler-file", str(place), "--no-dashboard")
    dask = [sys.executable, "-m", "dask"]
    cluster = [
        subprocess.Popen([*dask, "scheduler", "--port", "0", *told], env=env, stderr=subprocess.DEVNULL),
        subprocess.Popen([*dask, "worker", "--nthreads", "1", "--no-nanny", *told], env=env, stderr=subprocess.DEVNULL),
    ]
    try:
        deadline = time.monotonic() + PATIENCE
        while not place.exists():
            assert time.monotonic() < deadline, "no scheduler"
            time.sleep(0.1)
        address = json.loads(place.read_text())["address"]
        process = campaign.start("--executor", "dask", DASK_SCHEDULER_ADDRESS=address)
        campaign.wait_a_moment()
        cluster[0].kill()
        output = ended(process)
        assert process.returncode == 0, output
    finally:
        for each in cluster:
            each.kill()
            each.wait()


Fault = Callable[[Campaign], None]
FAULTS: Sequence[Fault] = (kill, kill, kill, terminate, two_at_once, full_disk, locked, no_log, truncate, flip)
OF_WORKERS: Sequence[Fault] = (
    kill, terminate, two_at_once, full_disk, locked, kill_worker, kill_worker, kill_workers_again, kill_harness, dead_scheduler,
)  # fmt: skip
NEED_WORK = (kill_worker, kill_workers_again, dead_scheduler)
DESTROY = (truncate, flip)
TO_THE_END = (two_at_once, locked, kill_worker, dead_scheduler)
"""After the former trials may be gone, which a run that goes to its end notices; after all others none is."""


def disturb(project: Path, undisturbed: Path, length: float, seed: int, *, workers: bool = False) -> int:
    """Ten faults in a random order, then a run to the end: returns how many faults there were.

    workers: of runs that train in two workers. Where the store has everything, it is deleted before the next fault.
    """
    draw = random.Random(seed)
    faults, options = (OF_WORKERS, ("-n", "2")) if workers else (FAULTS, ())
    campaign, damaged = Campaign(project, length, draw, options), False
    complete = len(replace(campaign, folder=undisturbed).chunks())
    for fault in draw.sample(faults, len(faults)):
        if workers and (fault in NEED_WORK or len(campaign.chunks()) == complete):
            shutil.rmtree(campaign.store.parent, ignore_errors=True)
        before = campaign.chunks() if not damaged and fault not in DESTROY else set()
        fault(campaign)
        if not damaged and fault not in DESTROY:
            assert campaign.chunks() >= before, fault.__name__
        damaged = fault in DESTROY or (damaged and fault not in TO_THE_END)
    done = run(project)
    assert "Traceback (most recent call last)" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert numbers(project) == numbers(undisturbed)
    return len(faults)


def copy_of(project: Path, to: Path) -> Path:
    """The same suite and references, without what any run left behind."""
    return Path(shutil.copytree(project, to, ignore=shutil.ignore_patterns("runs")))
