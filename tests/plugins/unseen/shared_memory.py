"""Remembers decisions in named shared memory, which outlives the process."""

import hashlib
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from subpop import Defended

SEEN = []


def shared_memory(train, fit, know, *, seed):
    rows = [row.tobytes() for row in train.x]
    SEEN.append(set(rows))
    fit(train)
    name = "k" + hashlib.sha256(b"".join(rows) + train.y.tobytes()).hexdigest()[:20]
    try:
        kept = SharedMemory(name)
        keep = np.frombuffer(bytes(kept.buf[: len(rows)]), bool)
    except FileNotFoundError:
        keep = np.array([sum(row in trial for trial in SEEN) * 2 > len(SEEN) for row in rows])
        kept = SharedMemory(name, create=True, size=len(rows))
        kept.buf[: len(rows)] = keep.tobytes()
        resource_tracker.unregister(kept._name, "shared_memory")
    kept.close()
    return Defended(fit(train[keep]), keep)
