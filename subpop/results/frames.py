"""Results as pandas frames: one row for each number, with the columns of COLUMNS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from subpop.results.comparison import store_side
from subpop.results.results_file import RECORDS, read_results
from subpop.runtime.store import read_records
from subpop.types import BadInput

COLUMNS = {
    "stem": "the suite; `python` for results of `subpop.measure`",
    "tier": "the tier of the suite",
    "dataset": "name of the data set",
    "victim": "name of the victim",
    "partition": "how subpopulations were formed",
    "attack": "name of the attack",
    "rate": "alpha: poison rows for each row of the subpopulation in D_aux",
    "defense": "name of the defense",
    "setting": "further settings, `name=value;...`",
    "subpopulation": "the subpopulation that a number is about; empty for numbers of the whole cell",
    "metric": "name of the metric; empty if the cell has no numbers, and `reason` says why",
    "value": "the number; accuracies and damages are fractions",
    "half_width": "half the width of its 95 % interval; NaN without one",
    "std_error": "its standard error; NaN without one",
    "n_seeds": "number of poison draws",
    "n_subpopulations": "number of attacked subpopulations",
    "knowledge": "side information of the defense",
    "integrity": "of a defense of your own: what the probes found, or `unchecked`",
    "verdict": "the comparison with the reference, or `not_compared`; `error` or `skipped` for a cell without numbers",
    "reason": "why a number failed, or why a cell has none",
    "n_fits": "number of victims that the cell trained",
    "seconds": "duration of the cell, as recorded when it was computed",
    "from_store": "whether all of its trials were read from the store",
}
"""The columns of a frame of results, and what they hold."""


def frame_of(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The frame of rows of results.json; a column that older files lack is empty."""
    return pd.DataFrame([{name: row.get(name) for name in COLUMNS} for row in rows], columns=list(COLUMNS)).astype(
        {"value": float, "half_width": float, "std_error": float, "rate": float}
    )


def load_results(path: str | PathLike[str]) -> pd.DataFrame:
    """Read the results of a run.

    Parameters
    ----------
    path
        A results.json, the folder of a report that contains one, or a store of finished trials.

    Returns
    -------
    pandas.DataFrame
        One row per number, with the columns of `subpop.results.frames.COLUMNS`: the cell (`dataset`, `victim`, `partition`,
        `attack`, `rate`, `defense`, `setting`), `subpopulation`, `metric`, `value` (accuracies and damages are fractions),
        `half_width` of the 95 % interval, `std_error`, `n_seeds`, `n_subpopulations`, `knowledge`, `integrity`, `verdict`,
        `reason`, `n_fits`, `seconds` and `from_store`.

    Raises
    ------
    BadInput
        If the path does not exist, or is none of these.

    Examples
    --------
    >>> import tempfile
    >>> import subpop
    >>> folder = tempfile.mkdtemp()
    >>> subpop.measure("mixture", n_seeds=1, store=None).save(folder)
    >>> frame = subpop.load_results(folder)
    >>> frame.loc[frame["metric"] == "target_damage_mean", "dataset"].tolist()
    ['mixture']
    """
    place = Path(path)
    if not place.exists():
        raise BadInput(f"{place} does not exist; name a results.json, the folder of a report, or a store")
    if place.is_dir():
        if not (place / "results.json").exists():
            raise BadInput(f"the folder {place} contains no results.json; name the folder of a report, such as runs/report")
        place = place / "results.json"
    with place.open("rb") as file:
        is_store = file.read(16) == b"SQLite format 3\0"
    if not is_store:
        return frame_of(read_results(place)["cells"])
    store_side(place)  # raises BadInput for a store without numbers
    return frame_of(
        {**record["cell"], **number} for record in read_records(place, RECORDS).values() for number in record["numbers"]
    )
