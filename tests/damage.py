"""Single flipped bits in the files of a small store, and what must come back from it: the truth or nothing."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from chunks import CELL, assert_same, chunk

from subpop.runtime.store import Store
from subpop.types import BadInput

EACH, TRIALS = 4, 6
Files = Mapping[str, bytes]


def arrays(number: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(40 + number), "right": np.arange(300 + number) % 3 == 0, "words": np.array(["é" * number, "b"])}


def record(number: int) -> dict[str, object]:
    return {"value": number / 3, "text": "é" * number}


def fill(store: Store) -> None:
    """Put what is not there, as a run does."""
    for number in range(EACH):
        store.put_chunk(f"k{number}", CELL, chunk(number, TRIALS), "cpu")
        store.put_arrays(f"a{number}", arrays(number))
        store.put_record(f"r{number}", record(number))


def n_true(store: Store) -> int:
    """How much of the content is there; fails where anything of it is not what was put."""
    found = 0
    for number in range(EACH):
        trials, kept = store.get_chunk(f"k{number}"), store.get_arrays(f"a{number}")
        assert store.has_chunk(f"k{number}") == (trials is not None)
        if trials is not None:
            assert_same(trials, chunk(number, TRIALS))
        if kept is not None:
            assert list(kept) == list(arrays(number))
            for name, array in arrays(number).items():
                assert (kept[name].dtype, kept[name].shape) == (array.dtype, array.shape)
                assert kept[name].tobytes() == array.tobytes()
        found += (trials is not None) + (kept is not None)
    for key, value in store.records().items():
        assert value == record(int(key[1:]))
        found += 1
    return found


def pristine(folder: Path) -> tuple[Files, Files]:
    """The files of a store that was closed, and of one that a kill left with its log."""
    with Store(folder / "closed" / "s.sqlite") as store:
        fill(store)
    with Store(folder / "open" / "s.sqlite") as store:
        fill(store)
        killed = {path.name: path.read_bytes() for path in (folder / "open").iterdir() if not path.name.endswith("-shm")}
    return {"s.sqlite": (folder / "closed" / "s.sqlite").read_bytes()}, killed


def flipped(files: Files, draw: random.Random) -> Files:
    """The same files with one bit changed, each bit as likely as any other."""
    place = draw.randrange(8 * sum(map(len, files.values())))
    changed = {name: bytearray(content) for name, content in files.items()}
    for content in changed.values():
        if place < 8 * len(content):
            content[place // 8] ^= 1 << place % 8
            break
        place -= 8 * len(content)
    return {name: bytes(content) for name, content in changed.items()}


def what_flips_do(folder: Path, n_flips: int, seed: int) -> Counter[str]:
    """Flip a bit, open, read everything, make again what is missing, open again: how each flip ended."""
    closed, killed = pristine(folder)
    draw = random.Random(seed)
    return Counter(_after(folder / "case", flipped(killed if number % 4 == 0 else closed, draw)) for number in range(n_flips))


def _after(folder: Path, files: Files) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        with Store(folder / "s.sqlite") as store:
            before = n_true(store)
            fill(store)
            assert n_true(store) == 3 * EACH, store.notes
            notes = list(store.notes)
    except BadInput as refusal:
        return "refused" if "written by a newer subpop" in str(refusal) else str(refusal)
    with Store(folder / "s.sqlite") as store:
        assert n_true(store) == 3 * EACH, store.notes
        assert not store.notes
    if any("renamed to" in note for note in notes):
        return "rescued"
    return "unharmed" if before == 3 * EACH else "missing"
