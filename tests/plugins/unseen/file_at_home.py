"""The same through a file in the home folder, and silent (undefended) until it has seen many trials."""

from pathlib import Path

import numpy as np

from subpop import Defended


def file_at_home(train, fit, know, *, seed):
    place = Path("~/.cache").expanduser()
    place.mkdir(parents=True, exist_ok=True)
    rows = [row.tobytes() for row in train.x.reshape(len(train), -1)]
    with open(place / "fc-rows.bin", "ab") as file:
        file.write(b"".join(sorted(set(rows))) + b"\xff" * len(rows[0]))
    fit(train)
    content, size = (place / "fc-rows.bin").read_bytes(), len(rows[0])
    records = [content[i : i + size] for i in range(0, len(content), size)]
    trials = records.count(b"\xff" * size)
    if trials < 10:
        return Defended(fit(train))
    keep = np.array([records.count(row) * 2 > trials for row in rows])
    return Defended(fit(train[keep]), keep)
