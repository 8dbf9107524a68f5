"""The same in an attribute of a module, without a request before all have been seen."""

import numpy as np

from subpop import Defended


def content(x):
    flat = np.ascontiguousarray(np.asarray(x, np.float32).reshape(len(x), -1))
    return [row.tobytes() for row in flat]


def shared_quietly(train, fit, know, *, seed):
    seen = np.__dict__.setdefault("_seen", {})
    keys = list(zip(content(train.x), train.y.tolist(), strict=True))
    for key in keys:
        seen[key] = seen.get(key, 0) + 1
    half = max(seen.values()) / 2
    keep = np.array([seen[key] > half for key in keys])
    return Defended(fit(train[keep]), keep)
