"""Settings of defenses that were chosen on development data, for the column "tuned" of a leaderboard.

`tuned.csv` is written by `python tests/tuning.py`, which says how they were chosen: on splits and subpopulations that the suite
`scoreboard` does not score.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from importlib.resources import files


@cache
def tuned() -> Mapping[str, str]:
    """The name of each tuned defense with its settings, such as `dpa(k=5)`, by its name without settings."""
    text = files("subpop.defenses").joinpath("tuned.csv").read_text(encoding="utf-8")
    return {row["defense"]: row["tuned"] for row in csv.DictReader(text.splitlines())}


def is_tuned(name: str) -> bool:
    """Whether a name is that of a tuned defense with settings; defaults that tuning left as they were are none."""
    return "(" in name and tuned().get(name.partition("(")[0]) == name
