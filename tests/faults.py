"""Faults of a real run of a small suite, and what holds after each: no finished trial lost, and the same numbers in the end."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from small_projects import command, numbers, run
from warm_runs import WarmRun


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

    def start(self, *options: str, limit: int | None = None, **environment: str) -> WarmRun:
        """A run in a process group of its own; limit: bytes that no file may grow beyond."""
        asked = command(*self.options, *options)[3:]
        return WarmRun("pytest:main", self.folder, *asked, limit=limit, **environment)

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


def ended(process: WarmRun) -> str:
    """What a run printed that nobody killed: it ended by itself and told what was wrong, without a traceback."""
    output = process.ended()
    assert "INTERNALERROR" not in output, output
    assert "Traceback (most recent call last)" not in output, output
    return output


def kill(campaign: Campaign) -> None:
    process = campaign.start()
    campaign.wait_a_moment()
    process.signal(signal.SIGKILL)
    process.ended()


def terminate(campaign: Campaign) -> None:
    process = campaign.start()
    campaign.wait_a_moment()
    process.signal(signal.SIGTERM)
    process.ended()


def two_at_once(campaign: Campaign) -> None:
    """Two runs on one store, one of which is killed; the other ends with every number."""
    pair = [campaign.start("--report-dir", f"runs/{name}") for name in ("one", "two")]
    campaign.wait_a_moment()
    pair[0].signal(signal.SIGKILL)
    pair[0].ended()
    ended(pair[1])


def full_disk(campaign: Campaign) -> None:
    size = campaign.store.stat().st_size if campaign.store.exists() else 0
    ended(campaign.start(limit=size + campaign.draw.randrange(1 << 14, 1 << 19)))


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


Fault = Callable[[Campaign], None]
FAULTS: Sequence[Fault] = (kill, kill, kill, terminate, two_at_once, full_disk, locked, no_log, truncate, flip)
DESTROY = (truncate, flip)
TO_THE_END = (two_at_once, locked)
"""After the former trials may be gone, which a run that goes to its end notices; after all others none is."""


def disturb(project: Path, undisturbed: Path, length: float, seed: int) -> int:
    """Ten faults in a random order, then a run to the end: returns how many faults there were."""
    draw = random.Random(seed)
    campaign, damaged = Campaign(project, length, draw), False
    for fault in draw.sample(FAULTS, len(FAULTS)):
        before = campaign.chunks() if not damaged and fault not in DESTROY else set()
        fault(campaign)
        if not damaged and fault not in DESTROY:
            assert campaign.chunks() >= before, fault.__name__
        damaged = fault in DESTROY or (damaged and fault not in TO_THE_END)
    done = run(project)
    assert "Traceback (most recent call last)" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert numbers(project) == numbers(undisturbed)
    return len(FAULTS)


def copy_of(project: Path, to: Path) -> Path:
    """The same suite and references, without what any run left behind."""
    return Path(shutil.copytree(project, to, ignore=shutil.ignore_patterns("runs")))
