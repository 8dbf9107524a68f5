"""The trials and numbers of a store as tables, for other programs: parquet, CSV or JSON.

`COLUMNS` documents every column, and is written next to the tables as `columns.csv`. A trial has further columns `metric_NAME`,
one for each metric that any trial of the store has.

All three formats contain the same values, floats to the last bit (before pandas 3, `read_csv` needs
`float_precision="round_trip"` to read them so). In JSON, NaN and infinite values are null; in a CSV file, lists are JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subpop.results.results_file import RECORDS
from subpop.runtime.store import read_chunks, read_records
from subpop.runtime.store_rows import ChunkRows, results_of
from subpop.runtime.writing import write_atomically
from subpop.types import BadInput
from subpop.types.cell import NAMES

FORMATS = ("parquet", "csv", "json")
CELL_COLUMNS = {
    "stem": "the suite",
    "tier": "embedded, laptop or paper",
    "dataset": "name of the data set",
    "victim": "name of the victim",
    "partition": "name of the partition into subpopulations",
    "attack": "name of the attack",
    "rate": "alpha: poison rows for each row of the subpopulation in D_aux",
    "defense": "name of the defense",
    "setting": "other settings of the cell, as name=value;name=value",
}
NUMBER_COLUMNS = {
    **CELL_COLUMNS,
    "subpopulation": "the subpopulation of this number; empty for a number of the whole cell",
    "metric": "what the number measures; subpop/results/metric_registry.py lists all; empty for a cell without numbers",
    "value": "the number, a mean over seeds where there are several; accuracies and damages are fractions",
    "std_error": "its standard error",
    "std": "sample standard deviation over seeds; none for a number without randomness",
    "half_width": "half the width of its 95 % interval; none with fewer than five seeds",
    "varies": "what the interval is about, see docs/intervals.md",
    "by_seed": "the value of each seed, of victims that depend on the seed",
    "one_row": "how much one test row changes the number",
    "published": "the published number, if there is one",
    "certainty": "how comparable the published number is",
    "reference": "the stored reference, if there was one when the cell was measured",
    "atol": "the tolerance of the reference",
    "verdict": "the result of the comparison: pass, fail, no_power, no_reference, published_only, not_gated, skipped or error",
    "reason": "why the number failed or was not compared",
    "knowledge": "what the defense knows beyond its training rows",
    "integrity": "whether a plug-in was seen to cheat",
    "undecided": "trials that the error of an exact solver could change; none without a bound",
    "n_subpopulations": "attacked subpopulations of the cell",
    "n_seeds": "seeds of the cell",
    "n_fits": "victims trained for the cell",
    "seconds": "seconds that its trials took in total",
    "from_store": "whether nothing was trained when the cell was last measured",
    "data": "digest of the rows, split and subpopulations",
    "draws": "digest of the random draws",
    "secret": "digest of the store's secret, by which a plug-in's rows are shuffled; empty for built-in defenses",
    "code": "digest of the code that made the number",
}
TRIAL_COLUMNS = {
    "chunk": "key of the chunk of trials that were run together: the same cell has another key for other code or data",
    "position": "place of the trial in its chunk, from 0",
    "device": "where the trial was run, such as cpu",
    "created": "when the chunk was stored, UTC",
    **CELL_COLUMNS,
    "subpopulation": "the attacked subpopulation",
    "seed": "number of the draw of poison rows, and of the training of a victim that depends on it",
    "attacked": "whether there was poison; false: the defense ran on the clean training set",
    "seconds": "seconds of the trial: those of its chunk, divided by the number of trials",
    "n_fits": "victims that the trial trained",
    "accuracy": "share of all test rows, the subpopulation's included, that the trial's model classifies correctly, if stored",
}
COLUMNS: Mapping[str, Mapping[str, str]] = {"numbers": NUMBER_COLUMNS, "trials": TRIAL_COLUMNS}
"""The meaning of each column of each table."""


def numbers_of(store: Path) -> pd.DataFrame:
    """Return one row for each number of each cell of a store, as last measured, with the columns NUMBER_COLUMNS.

    Examples
    --------
    >>> import tempfile
    >>> from subpop.runtime.store import Store
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Store(Path(folder, "store.sqlite")).close()
    ...     len(numbers_of(Path(folder, "store.sqlite")))
    0
    """
    records = read_records(store, RECORDS).values()
    of_cell = ("half_width", "varies")  # an earlier version kept those of a cell's first number only
    rows = [
        {**{name: value for name, value in record["cell"].items() if name not in of_cell}, **number}
        for record in records
        for number in record["numbers"]
    ]
    frame = pd.DataFrame(rows, columns=list(NUMBER_COLUMNS))
    frame["by_seed"] = [value if isinstance(value, list) else [] for value in frame["by_seed"]]
    text = [*CELL_COLUMNS, "subpopulation", "metric", "varies", "certainty", "verdict", "reason", "knowledge", "integrity"]
    text += ["data", "draws", "secret", "code"]
    return _typed(
        frame, text, ("value", "std_error", "std", "half_width", "one_row", "published", "reference", "atol", "undecided")
    )


def trials_of(store: Path) -> pd.DataFrame:
    """Return one row for each trial of a store, with the columns TRIAL_COLUMNS and one `metric_NAME` for each metric.

    Examples
    --------
    >>> import tempfile
    >>> from subpop.runtime.store import Store
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Store(Path(folder, "store.sqlite")).close()
    ...     list(trials_of(Path(folder, "store.sqlite")).columns) == list(TRIAL_COLUMNS)
    True
    """
    rows = [row for chunk in read_chunks(store) for row in _rows(chunk)]
    metrics = sorted({name for row in rows for name in row} - set(TRIAL_COLUMNS))
    frame = pd.DataFrame(rows, columns=[*TRIAL_COLUMNS, *metrics])
    text = ["chunk", "device", "created", *CELL_COLUMNS, "subpopulation"]
    return _typed(frame, text, ("seconds", "accuracy", *metrics))


def _rows(chunk: ChunkRows) -> Iterator[dict[str, Any]]:
    cell = json.loads(chunk.cell)
    names = {name: cell.pop(name, "") for name in CELL_COLUMNS if name != "setting"}
    settings = ";".join(f"{name}={value}" for name, value in cell.items() if name not in NAMES)
    about = {"device": chunk.device, "created": chunk.created, **names, "setting": settings}
    for position, result in enumerate(results_of(chunk)):
        trial, right = result.trial, result.arrays.get("right")
        yield {
            "chunk": chunk.key,
            "position": position,
            **about,
            "subpopulation": trial.subpopulation,
            "seed": trial.seed,
            "attacked": trial.attacked,
            "seconds": result.seconds,
            "n_fits": result.n_fits,
            "accuracy": math.nan if right is None else float(np.mean(right)),
            **{f"metric_{name}": value for name, value in result.metrics.items()},
        }


def _typed(frame: pd.DataFrame, text: list[str], floats: tuple[str, ...]) -> pd.DataFrame:
    """The frame with "" where a text is missing, and NaN where a number is."""
    text = [name for name in text if name != "rate"]
    words = {name: frame[name].astype(object).where(frame[name].notna(), "").astype(str) for name in text}
    return frame.assign(**words).astype(dict.fromkeys(("rate", *floats), float))


def export(store: Path, folder: Path, form: str = "csv", *, replace: bool = False) -> dict[Path, int]:
    """Write both tables of a store, and `columns.csv`, which says what their columns mean.

    Parameters
    ----------
    store
        A store that a run wrote; it is not changed.
    folder
        Where the files go; created if necessary.
    form
        One of FORMATS.
    replace
        Whether files of these names may be overwritten.

    Returns
    -------
    dict of Path to int
        The tables that were written, and their number of rows.

    Raises
    ------
    BadInput
        If the store is missing, empty or damaged, a file exists, or parquet cannot be written for lack of pyarrow.
    """
    if form not in FORMATS:
        raise BadInput(f"--format {form} is unknown; use one of {', '.join(FORMATS)}")
    if form == "parquet" and find_spec("pyarrow") is None:
        raise BadInput("--format parquet needs pyarrow: python -m pip install 'subpop[parquet]', or use --format csv or json")
    if not store.is_file():
        raise BadInput(f"the store {store} does not exist; name one that a run wrote, such as runs/store.sqlite")
    if folder.exists() and not folder.is_dir():
        raise BadInput(f"--out {folder} is a file; name a folder")
    paths = {name: folder / f"{name}.{form}" for name in COLUMNS}
    described = folder / "columns.csv"
    there = [path for path in (*paths.values(), described) if path.exists()]
    if there and not replace:
        raise BadInput(f"{there[0]} exists already; name another folder with --out, or overwrite it with --force")
    tables = {"numbers": numbers_of(store), "trials": trials_of(store)}
    if not any(map(len, tables.values())):
        raise BadInput(f"the store {store} contains no finished trial and no number; run `subpop run` first")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            write_atomically(path, _WRITERS[form](tables[name]))
        meanings = [(table, name, meaning) for table, columns in COLUMNS.items() for name, meaning in columns.items()]
        write_atomically(described, pd.DataFrame(meanings, columns=["table", "column", "meaning"]).to_csv(index=False))
    except OSError as error:
        raise BadInput(f"--out {folder} cannot be written ({error}); name another folder") from error
    return {path: len(tables[name]) for name, path in paths.items()}


def _as_csv(frame: pd.DataFrame) -> str:
    lists = {name: frame[name].map(json.dumps) for name in ("by_seed",) if name in frame}
    return frame.assign(**lists).to_csv(index=False, lineterminator="\n")


def _as_json(frame: pd.DataFrame) -> str:
    rows = [{name: _finite(value) for name, value in row.items()} for row in frame.to_dict("records")]
    return "[\n" + ",\n".join(json.dumps(row, allow_nan=False) for row in rows) + "\n]\n"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_parquet(frame: pd.DataFrame) -> bytes:
    return frame.to_parquet(None, engine="pyarrow", index=False)


_WRITERS: Mapping[str, Any] = {"parquet": _as_parquet, "csv": _as_csv, "json": _as_json}
