"""Comparison of two sets of numbers: results of runs, stores and folders of baselines.

Numbers are paired by suite, cell, subpopulation and metric. If both sides record what a number was made of (`Provenance`), it is
compared only where the digests of the data, of the draws and of the secret are equal. Baselines and older results have no
digests: their numbers are paired by these names and by the number of seeds alone.

The noise of a number is its stored tolerance. A number without one has the standard error of the difference, but at
least SMALLEST_ATOL. A number has moved if it changed by more than its noise. Numbers of exact victims have hardly any, so that
changes are ranked relative to SMALLEST_ATOL if the noise is smaller. Durations, and ratios of durations, are not compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from subpop.results.metric_registry import find_metric
from subpop.results.references import CHECKED_BY_SUITE, KEY, ROUNDING, SMALLEST_ATOL, References
from subpop.results.results_file import RECORDS, read_results
from subpop.runtime.store import read_records
from subpop.types import BadInput
from subpop.types.metric import Tolerance

KEYS = ["stem", *KEY]
CELL_KEYS = KEYS[:-2]
DIGESTS = ("data", "draws", "secret")
TOLD = {"data": "other data", "draws": "other draws", "secret": "another secret of the store"}
"""Why a number is not paired, by the digest that differs."""
OTHER_SEEDS = "another number of seeds"
NUMBERS = ["value", "std_error", "std", "n_seeds", "atol"]
COLUMNS = [*KEYS, *NUMBERS, *DIGESTS, "code"]
MOVED, WITHIN_NOISE, EQUAL = "moved", "within noise", "equal"
NEW, GONE, NOT_RUN, NOT_PAIRED = "new", "gone", "not run", "not paired"
SideKind = Literal["results", "store", "baselines"]


@dataclass(frozen=True)
class Side:
    """The numbers of one side of a comparison."""

    path: Path
    kind: SideKind
    """What holds the numbers."""
    rows: pd.DataFrame
    """One row per number, with the columns COLUMNS."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """What else distinguishes versions: commit, hardware, libraries."""
    reasons: Mapping[tuple[Any, ...], str] = field(default_factory=dict)
    """Why cells have no numbers, by CELL_KEYS."""
    notes: tuple[str, ...] = ()
    """What a reader must know of this side."""

    @property
    def tiers(self) -> set[str]:
        return set(self.rows["tier"]) | {str(cell[1]) for cell in self.reasons}

    @property
    def has_digests(self) -> bool:
        """Whether any of its numbers records what it was made of."""
        return bool((self.rows["draws"] != "").any())

    def of_tiers(self, tiers: set[str]) -> pd.DataFrame:
        return self.rows.loc[self.rows["tier"].isin(list(tiers))]


@dataclass(frozen=True)
class Comparison:
    """All numbers of two sides."""

    a: Side
    b: Side
    rows: pd.DataFrame
    """One row per number with KEYS, value_a, value_b, change, noise, ratio, status, why (not paired) and another_version; the
    largest change relative to noise first."""

    def count(self, status: str) -> int:
        return int((self.rows["status"] == status).sum())

    def of(self, status: str) -> pd.DataFrame:
        return self.rows[self.rows["status"] == status]

    @property
    def exit_status(self) -> int:
        """1 if a number moved or is gone, otherwise 0."""
        return int(bool(self.count(MOVED) or self.count(GONE)))


# --- reading ----------------------------------------------------------------------------------------------------------


def load_side(path: Path) -> Side:
    """Read a results.json, the folder of a report, a store or a folder of baselines.

    Raises
    ------
    BadInput
        If the path is none of these, or its contents are damaged or of another schema.
    """
    if not path.exists():
        raise BadInput(f"{path} does not exist; name a results.json, a report folder, a store or a folder of baselines")
    if not path.is_dir():
        with path.open("rb") as file:
            is_database = file.read(16) == b"SQLite format 3\0"
        if path.suffix == ".csv":
            raise BadInput(f"{path} is one table; name its folder, {path.parent}, to compare baselines")
        return store_side(path) if is_database else results_side(path)
    if (path / "results.json").exists():
        return results_side(path / "results.json")
    if any(path.glob("*.csv")):
        return baselines_side(path)
    raise BadInput(f"the folder {path} contains neither a results.json nor baselines (*.csv); name a folder that contains one")


def results_side(path: Path) -> Side:
    """The numbers of a results.json."""
    found = read_results(path)
    versions = found.get("versions") or {}
    facts = {name: str(found[name]) for name in ("commit", "hardware", "device") if found.get(name)}
    facts |= {str(name): str(version) for name, version in versions.items()} if isinstance(versions, Mapping) else {}
    unfinished = found["complete"] is False
    notes = (f"its run was not completed: {found['measured']} of {found['planned']} cells were measured",) if unfinished else ()
    return _of_rows(path, "results", found["cells"], facts, notes)


def store_side(path: Path) -> Side:
    """The last numbers of each cell of a store."""
    records = read_records(path, RECORDS)
    if not records:
        raise BadInput(
            f"the store {path} records no numbers of cells: an earlier version wrote it, or no cell was finished; run "
            f"`python -m pytest benchmarks/ --store {path}` once more, which trains nothing that the store contains"
        )
    rows = [{**record["cell"], **number} for record in records.values() for number in record["numbers"]]
    return _of_rows(path, "store", rows)


def baselines_side(folder: Path, stems: Sequence[str] | None = None) -> Side:
    """The values of a folder of baselines, of some suites or all; published numbers are left out."""
    paths = sorted(folder.glob("*.csv")) if stems is None else [folder / f"{stem}.csv" for stem in stems]
    rows = [
        {**row, "stem": path.stem, "rate": float(row["rate"]), **{name: _number(row[name]) for name in NUMBERS if name in row}}
        for path in paths
        for of_cell in References.load(path).rows.values()
        for row in of_cell.values()
        if row["value"]
    ]
    commits = sorted({str(row["commit"]) for row in rows if row.get("commit")})
    return Side(folder, "baselines", _frame(folder, rows), {"commit": ", ".join(commits)} if len(commits) == 1 else {})


def _number(text: str) -> float | None:
    return float(text) if text else None


def _of_rows(
    path: Path,
    kind: SideKind,
    rows: Sequence[Mapping[str, Any]],
    facts: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
) -> Side:
    """A side of rows of results.json; rows without a metric say why a cell has no numbers."""
    for row in rows:
        lacking = [name for name in (*KEYS, "value") if name not in row]
        if lacking:
            raise BadInput(f"{path}: a row of its cells has no {lacking[0]!r}; it is not as a run wrote it: run again")
        wrong = [name for name in ("rate", *NUMBERS) if not isinstance(row.get(name), int | float | None)]
        if wrong:
            raise BadInput(
                f"{path}: {wrong[0]} of {_words(row)} is {row[wrong[0]]!r}, not a number; it is not as a run wrote it: run again"
            )
    reasons = {tuple(row[name] for name in CELL_KEYS): _reason(row) for row in rows if not row["metric"]}
    compared = [row for row in rows if row["metric"] and row.get("reason") != CHECKED_BY_SUITE]
    return Side(path, kind, _frame(path, compared), facts or {}, reasons, notes)


def _reason(row: Mapping[str, Any]) -> str:
    return f"{row.get('verdict', 'error')}: {row['reason']}" if row.get("reason") else str(row.get("verdict", "error"))


def _frame(path: Path, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows with finite values, each key once; BadInput for a key that occurs twice."""
    frame = pd.DataFrame([[row.get(name) for name in COLUMNS] for row in rows], columns=COLUMNS)
    words = [name for name in COLUMNS if name not in ("rate", *NUMBERS)]
    frame[words] = frame[words].fillna("").astype(object)
    frame[["rate", *NUMBERS]] = frame[["rate", *NUMBERS]].astype(float)
    twice = frame[frame.duplicated(KEYS)]
    if len(twice):
        raise BadInput(f"{path} contains {_words(twice.iloc[0])} twice; delete one of the rows, or run again")
    known: pd.DataFrame = frame.loc[np.isfinite(frame["value"])]
    return known


def _words(row: Any) -> str:
    """A number by name."""
    return "-".join(str(row[name]) for name in KEYS if str(row[name]))


# --- comparing --------------------------------------------------------------------------------------------------------


def compare_sides(a: Side, b: Side) -> Comparison:
    """Pair the numbers of two sides and compare each with its noise.

    Raises
    ------
    BadInput
        If the sides have no tier in common, or a baseline has fewer seeds than the run that is compared with it.
    """
    tiers = a.tiers & b.tiers
    if not tiers and (a.tiers or b.tiers) and not (a.kind == b.kind == "baselines"):
        raise BadInput(
            f"{a.path} has the tier {_list(a.tiers)}, {b.path} {_list(b.tiers)}: they have no number in common; name two runs of "
            "the same tier"
        )
    if a.kind == b.kind == "baselines":
        tiers = a.tiers | b.tiers
    only_references = "baselines" in (a.kind, b.kind)
    both_references = a.kind == b.kind == "baselines"
    sides = [side.of_tiers(tiers) for side in (a, b)]
    sides = [
        side.loc[[_is_compared(name, only_references, both_references) for name in side["metric"]]] if len(side) else side
        for side in sides
    ]
    rows = sides[0].merge(sides[1], on=KEYS, how="outer", suffixes=("_a", "_b"), indicator=True)
    _check_seeds(a, b, rows)
    return Comparison(a, b, _judged(a, b, rows))


def _list(names: Iterable[str]) -> str:
    return " and ".join(sorted(names)) or "none"


def _is_compared(name: str, only_references: bool, both_references: bool) -> bool:
    metric = find_metric(name)
    if metric is None:
        return True
    if metric.tolerance is Tolerance.LOWER_BOUND:
        return both_references
    return metric.is_recorded if only_references else metric.tolerance is not Tolerance.TIMED


def _check_seeds(a: Side, b: Side, rows: pd.DataFrame) -> None:
    """Raise BadInput for a baseline with fewer seeds than the run."""
    if (a.kind == "baselines") == (b.kind == "baselines"):
        return
    stored, run, sides = ("n_seeds_a", "n_seeds_b", (a, b)) if a.kind == "baselines" else ("n_seeds_b", "n_seeds_a", (b, a))
    fewer = rows[(rows["_merge"] == "both") & (rows[stored] < rows[run])]
    if len(fewer):
        row = fewer.iloc[0]
        raise BadInput(
            f"{sides[0].path / (row['stem'] + '.csv')}: the row of {_words(row)} has {row[stored]:g} seeds, fewer than the "
            f"{row[run]:g} of {sides[1].path} ({len(fewer):,} such rows); record the cell again with --rebaseline, or "
            "compare a run with as many seeds"
        )


def _judged(a: Side, b: Side, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of a `Comparison`."""
    rows["change"] = rows["value_b"] - rows["value_a"]
    scale = rows[["value_a", "value_b"]].abs().max(axis=1).clip(lower=1.0)
    rows["noise"] = _noise(rows, scale)
    rows["ratio"] = rows["change"].abs() / rows["noise"].clip(lower=SMALLEST_ATOL * scale)
    rows["why"] = _unpaired(rows)
    rows["another_version"] = (rows["code_a"] != rows["code_b"]) & _both_have(rows, "code")
    is_paired = (rows["_merge"] == "both") & (rows["why"] == "")
    size = rows["change"].abs()
    rows["status"] = np.select(
        [
            rows["_merge"] == "right_only",
            (rows["_merge"] == "left_only") & _not_run(a, b, rows),
            rows["_merge"] == "left_only",
            ~is_paired,
            size <= ROUNDING * scale,
            size <= rows["noise"] + ROUNDING * scale,
        ],
        [NEW, NOT_RUN, GONE, NOT_PAIRED, EQUAL, WITHIN_NOISE],
        MOVED,
    )
    columns = [*KEYS, "value_a", "value_b", "change", "noise", "ratio", "status", "why", "another_version"]
    return rows[columns].sort_values(["ratio", *KEYS], ascending=[False, *[True] * len(KEYS)]).reset_index(drop=True)


def _noise(rows: pd.DataFrame, scale: pd.Series[float]) -> pd.Series[float]:
    tolerance = rows[["atol_a", "atol_b"]].replace(np.inf, np.nan).max(axis=1)
    errors = [rows[f"std_error_{s}"].fillna(rows[f"std_{s}"] / rows[f"n_seeds_{s}"] ** 0.5) for s in "ab"]
    error = (errors[0].fillna(errors[1]) ** 2 + errors[1].fillna(errors[0]) ** 2) ** 0.5
    return tolerance.fillna(error.fillna(0.0).clip(lower=SMALLEST_ATOL * scale)).clip(lower=ROUNDING * scale)


def _both_have(rows: pd.DataFrame, name: str) -> pd.Series[bool]:
    return ~rows[f"{name}_a"].fillna("").eq("") & ~rows[f"{name}_b"].fillna("").eq("")


def _unpaired(rows: pd.DataFrame) -> pd.Series[str]:
    """Why numbers of both sides must not be compared; '' where they may."""
    both = _both_have(rows, "draws")
    differ = [both & (rows[f"{name}_a"] != rows[f"{name}_b"]) for name in DIGESTS]
    differ.append(rows["n_seeds_a"].notna() & rows["n_seeds_b"].notna() & (rows["n_seeds_a"] != rows["n_seeds_b"]))
    # Another number of seeds also changes the digest of the draws; it is the better explanation.
    order = [differ[-1], *differ[:-1]]
    return pd.Series(np.select(order, [OTHER_SEEDS, *(TOLD[name] for name in DIGESTS)], ""), index=rows.index)


def _not_run(a: Side, b: Side, rows: pd.DataFrame) -> pd.Series[bool]:
    """Whether a baseline's whole cell is missing from the run: a run measures the cells that were selected."""
    if a.kind != "baselines" or b.kind == "baselines":
        return pd.Series(False, index=rows.index)
    measured = {*b.rows[CELL_KEYS].itertuples(index=False, name=None), *b.reasons}
    return pd.Series([cell not in measured for cell in rows[CELL_KEYS].itertuples(index=False, name=None)], index=rows.index)
