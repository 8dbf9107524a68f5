"""Stored reference numbers: read baselines/<stem>.csv, compare a run with them, rewrite them.

What a metric is called decides how it is compared:

* `*seconds`, `*n_fits`: never compared, never recorded.
* `speed_ratio`: fails only downwards; `value` is the bound of its issue, written by hand and kept by `rebaseline`.
* `*residual*`: fails above its `atol`, which is RESIDUAL_BOUND unless written by hand, and then kept by `rebaseline`.
* all others fail where |run - value| > atol. A value up to 1 has the scale 1, a larger one (a count) its own: where .01 and
  .1 bound a tolerance below, they are multiplied by the scale.

`rebaseline` sets each tolerance. Exact victims, and numbers of stochastic ones that come without `std`: the larger of .01 and
one flipped test row. With `std`: t * s * sqrt(1/n_base + 1/n_run), where n_run = n_base, s is pooled over the rows of the file
with the same metric, victim and tier (single subpopulations apart from aggregates) and t is the two-sided Student quantile at
.05 / number of such rows in the file. So a part of a file that is recorded anew keeps the power of the whole file.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from subpop.metrics import MIN_TEST_ROWS
from subpop.types import BadInput, Cell, CellResult, Number, Verdict

KEY = ("tier", "dataset", "victim", "partition", "attack", "rate", "defense", "setting", "subpopulation", "metric")
OURS = ("value", "std", "n_seeds", "atol", "hardware", "commit")
COLUMNS = (*KEY, "published", "certainty", *OURS)
SMALLEST_ATOL = 0.01
LARGEST_ATOL = 0.1
FALSE_ALARM = 0.05
RESIDUAL_BOUND = 1e-6
ROUNDING = 1e-9
SPEED_RATIO = "speed_ratio"
SAME_SETUP = "same set-up"
SEVERITY = ("error", "fail", "no_reference", "no_power", "published_only", "pass")
AS_MEANT = "if this is meant, record it with --rebaseline"

CellKey = tuple[str, ...]
NumberKey = tuple[str, str]
Row = dict[str, str]


def is_timed(metric: str) -> bool:
    """Whether a metric tells of time or effort, which no reference holds."""
    return metric.endswith(("seconds", "n_fits"))


def cell_key(cell: Cell) -> CellKey:
    """What names a cell in a baselines file: the first eight columns."""
    rate = _text(cell.rate)
    return (cell.tier, cell.dataset, cell.victim, cell.partition, cell.attack, rate, cell.defense, cell.setting_text)


# --- the file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """One row: its text as it stands in the file, and the numbers in it (None where empty)."""

    line: int
    text: Mapping[str, str]
    published: float | None
    value: float | None
    std: float | None
    atol: float | None
    n_seeds: int | None

    @property
    def key(self) -> tuple[CellKey, NumberKey]:
        cell = tuple(_text(float(self.text[name])) if name == "rate" else self.text[name] for name in KEY[:8])
        return cell, (self.text["subpopulation"], self.text["metric"])


@dataclass(frozen=True)
class References:
    """The rows of one baselines file, by cell and then by (subpopulation, metric)."""

    path: Path
    rows: Mapping[CellKey, Mapping[NumberKey, Reference]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> References:
        """Read and check a file; a missing one is empty. BadInput names the file and the line."""
        rows: dict[CellKey, dict[NumberKey, Reference]] = defaultdict(dict)
        for line, text in _lines(path):
            reference = _parse(path, line, text)
            cell, number = reference.key
            other = rows[cell].setdefault(number, reference)
            if other is not reference:
                what = "-".join(filter(None, [*cell, *number]))
                raise BadInput(f"{path}: lines {other.line} and {line} have the same key ({what}); delete one of them")
        return cls(path, dict(rows))

    def of(self, cell: Cell) -> Mapping[NumberKey, Reference]:
        """The rows of one cell."""
        return self.rows.get(cell_key(cell), {})


def _lines(path: Path) -> Iterable[tuple[int, Row]]:
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as a UTF-8 file ({error}); baselines are CSV files") from error
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            unknown, missing = sorted(set(header) - set(COLUMNS)), [name for name in COLUMNS if name not in header]
            wrong = f"unknown {unknown}, missing {missing}" if unknown or missing else "in another order, or twice"
            raise BadInput(f"{path}, line 1: columns are {wrong}; the header must be {','.join(COLUMNS)}")
        for fields in reader:
            if fields and len(fields) != len(COLUMNS):
                raise BadInput(
                    f"{path}, line {reader.line_num}: {len(fields)} fields, not {len(COLUMNS)}; quote a field with commas"
                )
            if fields:
                yield reader.line_num, dict(zip(COLUMNS, fields, strict=True))
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: not valid CSV ({error})") from error


def _parse(path: Path, line: int, text: Row) -> Reference:
    where = f"{path}, line {line}"
    found = {name: _number(where, name, text[name]) for name in ("rate", "published", "value", "std", "atol", "n_seeds")}
    if found.pop("rate") is None:
        raise BadInput(f"{where}: rate is empty; write the poisoning rate of the cell, such as 0.5")
    seeds = found.pop("n_seeds")
    if seeds is not None and (seeds < 1 or seeds != int(seeds)):
        raise BadInput(f"{where}: n_seeds is {text['n_seeds']!r}; it must be a whole number of at least 1")
    needed = ("n_seeds", "atol") if text["value"] and text["metric"] != SPEED_RATIO else ()
    for name in needed:
        if not text[name]:
            raise BadInput(f"{where}: {name} is empty beside a value; a value counts with both n_seeds and atol")
    return Reference(line, text, **found, n_seeds=None if seeds is None else int(seeds))


def _number(where: str, name: str, text: str) -> float | None:
    """A number or None. A value may be nan or infinite, a deviation nan, a tolerance infinite: they say so of themselves."""
    if not text:
        return None
    try:
        number = float(text)
    except ValueError as error:
        raise BadInput(f"{where}: {name} is {text!r}, not a number; correct it, or leave it empty") from error
    refused = {"value": False, "std": number < 0, "atol": not number >= 0}.get(name, not math.isfinite(number))
    if refused:
        raise BadInput(f"{where}: {name} cannot be {text!r}; give a number that it can be, or leave it empty")
    return number


def _text(number: float) -> str:
    """The shortest text that reads back as the same number."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(float(number))


# --- a run against it -------------------------------------------------------------------------------------------------


def compare(result: CellResult, references: References, *, plugin: bool = False) -> tuple[Verdict, ...]:
    """One verdict for each number of the run or of its references: outer join.

    A number without a reference is `no_reference` and fails its cell; a plug-in's is too, without a reason, and does not fail.
    """
    run, stored = _by_key(result), references.of(result.cell)
    verdicts = []
    for key, number in run.items():
        if key in stored and not is_timed(number.metric):
            verdicts.append(_verdict(result, number, stored[key]))
        elif is_timed(number.metric):
            verdicts.append(Verdict(number, "pass", "times and efforts are not compared"))
        else:
            fix = f"write its bound into {references.path}" if number.metric == SPEED_RATIO else AS_MEANT
            reason = f"{_name(result, number)}: run {number.value:.6g} has no reference in {references.path}; {fix}"
            verdicts.append(Verdict(number, "no_reference", "" if plugin else reason))
    gone = sorted(key for key in stored if key not in run and not is_timed(key[1]))
    return (*verdicts, *(_missing(result, stored[key]) for key in gone))


def cell_status(verdicts: Sequence[Verdict]) -> str:
    """The worst verdict of a cell; `fail` where a number should have a reference and has none, `error` without any verdict."""
    found = {"fail" if v.verdict == "no_reference" and v.reason else v.verdict for v in verdicts}
    return min(found, key=SEVERITY.index, default="error")


def _verdict(result: CellResult, number: Number, reference: Reference) -> Verdict:
    def verdict(kind: str, why: str = "") -> Verdict:
        certainty = reference.text["certainty"]
        reason = f"{_name(result, number)}: {_gap(number, reference)}{why}" if why else ""
        return Verdict(number, kind, reason, reference.value, reference.atol, reference.published, certainty)

    if reference.value is None:
        ...
    return verdict("pass")
