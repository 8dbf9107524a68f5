"""Stored reference numbers: read baselines/<stem>.csv, compare a run with them, rewrite them.

How a metric is compared is determined by its `tolerance` in `subpop.results.metric_registry`:

* `TIMED`: never compared, never recorded.
* `LOWER_BOUND`: fails only below its bound; `value` is that bound, which is edited manually and not changed by `rebaseline`.
  Other numbers of cells of the kind `speed` are checked by the assertions of their suite.
* `UPPER_BOUND`: fails above its `atol`, which is RESIDUAL_BOUND unless it was edited manually; `rebaseline` does not change it.
* all others fail if |run - value| > atol. A value up to 1 has the scale 1, a larger one (a count) its own value: the limits of
  .01 and .1 for a tolerance below are multiplied by the scale. `published` is compared with the same atol if `certainty` says
  `same set-up`, and is only shown otherwise.

A metric that is not gated is shown, but neither compared nor recorded: an unused reference would become outdated unnoticed, and
could fail the cell as soon as the metric is gated. `rebaseline` then records it from stored trials.

`rebaseline` sets each tolerance. Exact victims, and numbers of stochastic ones whose `std` is absent or 0: the largest of .01,
one flipped test row, and the number's own `tolerance`, capped at .1 (for a mean of draws that another run repeats: its standard
error). With `std`: t * s * sqrt(1/n_base + 1/n_run), where n_run = n_base, s is pooled over the rows of the file with the same
metric, victim and tier (separately for single subpopulations and aggregates) and t is the two-sided Student quantile at .05 /
number of such rows in the file. So recording a part of a file again gives it the power of the whole file.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from subpop.results.metric_registry import find_metric, metric_of
from subpop.results.metrics import MIN_TEST_ROWS
from subpop.runtime.writing import write_atomically
from subpop.types import BadInput, Cell, CellResult, Number, Verdict
from subpop.types.kinds import kind_of
from subpop.types.metric import Tolerance

KEY = ("tier", "dataset", "victim", "partition", "attack", "rate", "defense", "setting", "subpopulation", "metric")
OURS = ("value", "std", "n_seeds", "atol", "hardware", "commit")
COLUMNS = (*KEY, "published", "certainty", *OURS)
SMALLEST_ATOL, LARGEST_ATOL = 0.01, 0.1
FALSE_ALARM = 0.05
RESIDUAL_BOUND = 1e-6
ROUNDING = 1e-9
SAME_SETUP = "same set-up"
SEVERITY = ("error", "fail", "pass", "no_power", "published_only", "no_reference")
SCHEMA, SCHEMA_FILE = 1, "SCHEMA"
"""Version of the columns of a baselines folder, a number in a file next to the tables. Without the file it is 1."""
AS_MEANT = "if the change is intended, record it with --rebaseline"
CHECKED_BY_SUITE = "checked by the suite's own assertions"

Key = tuple[str, ...]
Row = Mapping[str, str]


# --- the file ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class References:
    """The rows of one baselines file, unchanged: by cell, then by (subpopulation, metric)."""

    path: Path
    rows: Mapping[Key, Mapping[Key, Row]]

    @classmethod
    def load(cls, path: Path) -> References:
        """Read and check a file; a missing one is empty. BadInput names the file and the line."""
        check_schema(path.parent)
        rows: dict[Key, dict[Key, Row]] = defaultdict(dict)
        lines: dict[Key, int] = {}
        for line, row in _lines(path):
            _check(f"{path}, line {line}", row)
            key = tuple(_text(float(row[name])) if name == "rate" else row[name] for name in KEY)
            if lines.setdefault(key, line) != line:
                name = "-".join(filter(None, key))
                raise BadInput(f"{path}: lines {lines[key]} and {line} have the same key ({name}); delete one of them")
            rows[key[:8]][key[8:]] = row
        return cls(path, dict(rows))


def check_schema(folder: Path) -> None:
    """Raise BadInput for baselines of an unknown schema."""
    path = folder / SCHEMA_FILE
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else str(SCHEMA)
    if text != str(SCHEMA):
        fix = "upgrade subpop" if text.isdecimal() else f"write {SCHEMA} into it, or restore the file"
        raise BadInput(f"{path} declares schema {text[:40]!r} for the baselines; this subpop reads schema {SCHEMA}: {fix}")


def cell_key(cell: Cell) -> Key:
    """Return the key of a cell in a baselines file: the first eight columns."""
    rate = _text(cell.rate)
    return (cell.tier, cell.dataset, cell.victim, cell.partition, cell.attack, rate, cell.defense, cell.setting_text)


def _lines(path: Path) -> Iterable[tuple[int, Row]]:
    try:
        content = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); a baselines file is CSV in UTF-8") from error
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        header = next(reader, [])
        if tuple(header) != COLUMNS:
            wrong = f"unknown columns {sorted({*header} - {*COLUMNS})}, missing {sorted({*COLUMNS} - {*header})}"
            raise BadInput(f"{path}, line 1: {wrong}; the header must be {','.join(COLUMNS)}")
        for fields in filter(None, reader):
            if len(fields) != len(COLUMNS):
                raise BadInput(f"{path}, line {reader.line_num}: {len(fields)} fields, not {len(COLUMNS)}; quote commas")
            yield reader.line_num, dict(zip(COLUMNS, fields, strict=True))
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: not valid CSV ({error}); correct it") from error


def _check(where: str, text: Row) -> None:
    """Raise BadInput for invalid numbers. A value may be nan or infinite, a deviation nan (unknown), a tolerance infinite (no
    power)."""
    for name in ("rate", "published", "value", "std", "n_seeds", "atol"):
        try:
            number = float(text[name] or 1)
        except ValueError as error:
            raise BadInput(f"{where}: {name} is {text[name]!r}, not a number; correct it, or leave it empty") from error
        bounded = {"value": True, "std": not number < 0, "atol": number >= 0, "n_seeds": number >= 1 and number % 1 == 0}
        if not bounded.get(name, math.isfinite(number)):
            raise BadInput(f"{where}: {name} cannot be {text[name]!r}; correct it, or leave it empty")
    needed = ("rate", "n_seeds", "atol") if text["value"] and not _is_written_by_hand(text["metric"]) else ("rate",)
    if empty := [name for name in needed if not text[name]]:
        raise BadInput(
            f"{where}: {empty[0]} is empty; a row needs its rate, and a value its n_seeds and atol: record it with --rebaseline"
        )


def _held(row: Row) -> tuple[float | None, float | None, float | None]:
    """Value, published value and tolerance of a row; None where empty."""
    value, published, atol = (float(row[name]) if row[name] else None for name in ("value", "published", "atol"))
    return value, published, atol


def _text(number: float) -> str:
    """The shortest text that reads back as the same number."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(float(number))


# --- a run against it -------------------------------------------------------------------------------------------------


def compare(result: CellResult, references: References, *, plugin: bool = False) -> tuple[Verdict, ...]:
    """One verdict for each number of the run or of its references (an outer join).

    A number without a reference is `no_reference` and fails its cell, except for plug-ins and metrics that are not gated.
    """
    kind = kind_of(result.cell)
    run, stored = _by_key(result), references.rows.get(cell_key(result.cell), {})
    verdicts = []
    for key, number in run.items():
        metric = metric_of(number.metric)
        if metric.tolerance is Tolerance.TIMED:
            verdicts.append(Verdict(number, "pass", "times and efforts are not compared"))
        elif not kind.is_compared(number.metric):
            verdicts.append(Verdict(number, "pass", CHECKED_BY_SUITE))
        elif not metric.gated:
            verdicts.append(_shown(number, stored.get(key)))
        elif key in stored:
            verdicts.append(_verdict(result, number, stored[key], *_judge(number, stored[key], result.cell.n_seeds)))
        else:
            fix = "add its bound to the file" if _is_written_by_hand(number.metric) else AS_MEANT
            reason = (
                f"{_name(result, number)}: the value {number.value:.6g} of this run has no reference in {references.path}; {fix}"
            )
            verdicts.append(Verdict(number, "no_reference", "" if plugin else reason))
    for key in sorted(stored.keys() - run.keys()):
        verdicts += _missing(result, Number(key[1], math.nan, subpopulation=key[0]), stored[key])
    return tuple(verdicts)


def _missing(result: CellResult, number: Number, row: Row) -> list[Verdict]:
    """The verdict on a reference without a number in the run: it fails if it was recorded, and is shown if it was published."""
    metric = find_metric(number.metric)
    if metric is not None and not metric.is_recorded:
        return [_shown(number, row)] if row["published"] else []
    kind, why = ("fail", f"this run has no such metric; {AS_MEANT}") if row["value"] else ("published_only", "")
    return [_verdict(result, number, row, kind, why)]


def _shown(number: Number, row: Row | None) -> Verdict:
    """Return the verdict on a number that is not compared, with the published number if there is one."""
    published, certainty = (_held(row)[1], row["certainty"]) if row else (None, "")
    kind = "no_reference" if published is None else "published_only"
    return Verdict(number, kind, published=published, certainty=certainty)


def cell_status(verdicts: Sequence[Verdict]) -> str:
    """Derive the status of a cell from its verdicts: `fail` if one fails or lacks a required reference, otherwise `pass` if one
    has enough power to pass; `error` without verdicts."""
    found = {"fail" if v.verdict == "no_reference" and v.reason else v.verdict for v in verdicts}
    return min(found, key=SEVERITY.index, default="error")


def _is_written_by_hand(name: str) -> bool:
    metric = find_metric(name)
    return metric is not None and metric.tolerance is Tolerance.LOWER_BOUND


def _judge(number: Number, row: Row, n_seeds: int) -> tuple[str, str]:
    """The verdict on a number with a reference row, and the reason if it is not `pass`."""
    run, value, published, atol = number.value, *_held(row)
    limit = math.inf if atol is None else atol
    if published is not None and SAME_SETUP in row["certainty"] and not _near(run, published, limit):
        return "fail", f"published as {published:g} for the same set-up"
    if value is None:
        return ("no_reference", AS_MEANT) if published is None else ("published_only", "")
    rule = metric_of(number.metric).tolerance
    if rule is Tolerance.LOWER_BOUND:
        return ("pass", "") if run >= value else ("fail", "it is below its bound")
    if rule is Tolerance.UPPER_BOUND:
        return ("pass", "") if run <= limit else ("fail", "it is above its bound")
    if n_seeds != float(row["n_seeds"]):
        return "fail", f"the run has {n_seeds} seeds, its reference {row['n_seeds']}: run the same, or {AS_MEANT}"
    if not _near(run, value, limit):
        return "fail", AS_MEANT
    wide = limit > LARGEST_ATOL * _scale(value)
    return ("no_power", "the tolerance is too wide to distinguish a change from noise: use more seeds") if wide else ("pass", "")


def _verdict(result: CellResult, number: Number, row: Row, kind: str, why: str) -> Verdict:
    value, published, atol = _held(row)
    held, width = math.nan if value is None else value, math.nan if atol is None else atol
    gap = f"run {number.value:.6g}, reference {held:.6g}, tolerance {width:.3g}, gap {number.value - held:+.3g}"
    reason = f"{_name(result, number)}: {gap}; {why}" if why else ""
    return Verdict(number, kind, reason, value, atol, published, row["certainty"])


def _by_key(result: CellResult) -> dict[Key, Number]:
    found: dict[Key, Number] = {(number.subpopulation, number.metric): number for number in result.numbers}
    if len(found) < len(result.numbers):
        raise BadInput(f"{result.cell.id} has {len(result.numbers)} numbers of {len(found)} names; give each number once")
    return found


def _name(result: CellResult, number: Number) -> str:
    return f"{result.cell.id}: {number.metric}" + (f" of {number.subpopulation}" if number.subpopulation else "")


def _near(run: float, value: float, atol: float) -> bool:
    # One flipped row may be exactly at the tolerance: rounding must not decide. NaN is near NaN.
    unknown = math.isnan(run) and math.isnan(value)
    return unknown or run == value or abs(run - value) <= atol + ROUNDING * _scale(value)


def _scale(value: float) -> float:
    return max(1.0, abs(value)) if math.isfinite(value) else 1.0


# --- recording --------------------------------------------------------------------------------------------------------


def one_row(result: CellResult, number: Number) -> float:
    """How much one flipped test row changes a number, from the columns `subpopulation` and `n_test` of the result's table.

    A worst-k changes by 1/k of a row of the smallest ranked subpopulation; other numbers of a whole cell hardly change.
    """
    sizes = {str(row["subpopulation"]): float(row["n_test"]) for row in result.table if "n_test" in row}
    if number.subpopulation:
        return 1 / max(1.0, sizes.get(number.subpopulation, math.inf))
    metric = metric_of(number.metric)
    smallest = {Tolerance.WORST_ROW: MIN_TEST_ROWS, Tolerance.WORST_ROW_OF_ALL: 1}.get(metric.tolerance, math.inf)
    ranked = [n for n in sizes.values() if n >= smallest]
    return 1 / (min(ranked) * metric.k) if ranked else 0.0


def noisy_atol(deviations: Iterable[tuple[float, int]], n_seeds: int, n_numbers: int) -> float:
    """The tolerance of one of n_numbers, from pooled (sample deviation, degrees of freedom); inf if none is known."""
    from scipy.stats import t

    known = [(s, dof) for s, dof in deviations if dof > 0 and math.isfinite(s)]
    dof = sum(d for _, d in known)
    if not dof:
        return math.inf
    pooled = math.sqrt(sum(s * s * d for s, d in known) / dof)
    return max(ROUNDING, float(t.ppf(1 - FALSE_ALARM / n_numbers / 2, dof)) * pooled * math.sqrt(2 / n_seeds))


def rebaseline(path: Path, results: Sequence[CellResult], *, hardware: str = "", commit: str = "", n_noisy: int = 0) -> None:
    """Rewrite our columns of the cells that ran; other cells and published numbers are not changed.

    n_noisy: numbers with a `std` in the whole run, if more than in this file. The file is replaced atomically, and a row whose
    numbers have not changed keeps its hardware and commit.
    """
    cells = {cell_key(result.cell): result for result in results}
    if len(cells) < len(results):
        raise BadInput(f"{len(results)} results for {len(cells)} cells of {path}; record each cell once")
    old = {(*cell, *key): row for cell, of_cell in References.load(path).rows.items() for key, row in of_cell.items()}
    rows = {key: dict(row) for key, row in old.items() if key[:8] not in cells or _is_written_by_hand(key[-1])}
    rows |= {key: {**row, **dict.fromkeys(OURS, "")} for key, row in old.items() if key not in rows and row["published"]}
    for cell, result in cells.items():
        kind = kind_of(result.cell)
        for number_key, number in _by_key(result).items():
            elsewhere = not kind.is_compared(number.metric) or _is_written_by_hand(number.metric)
            if metric_of(number.metric).is_recorded and not elsewhere:
                key = (*cell, *number_key)
                rows[key] = _recorded(result, number, {**dict(zip(KEY, key, strict=True)), **old.get(key, {})})
    _set_tolerances(rows, cells, n_noisy)
    for key, row in rows.items():
        if key[:8] in cells and row["value"] and any(row[name] != old.get(key, {}).get(name) for name in OURS[:4]):
            row |= {"hardware": hardware, "commit": commit}
    _write(path, rows)


def _recorded(result: CellResult, number: Number, before: Row) -> dict[str, str]:
    """Return a row with new values in our columns; `std` is empty without noise, nan if a single seed cannot determine it."""
    scale, own = _scale(number.value), number.tolerance or 0.0
    std, atol = "", _text(max(SMALLEST_ATOL * scale, one_row(result, number), min(own, LARGEST_ATOL * scale)))
    if metric_of(number.metric).tolerance is Tolerance.UPPER_BOUND:
        atol = before.get("atol") or _text(RESIDUAL_BOUND)
    elif not result.exact and (number.std != 0 if number.std is not None else result.cell.n_seeds < 2):
        std = "nan" if number.std is None else _text(number.std)
    ours = {"value": _text(number.value), "std": std, "n_seeds": str(result.cell.n_seeds), "atol": atol}
    same = {name: before[name] for name, text in ours.items() if _is_rounding(before.get(name, ""), text)}
    return {**dict.fromkeys(COLUMNS, ""), **before, **ours, **same}


def _is_rounding(one: str, other: str) -> bool:
    """Whether two recorded numbers differ in their last digits only, for which a row is not rewritten."""
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-12, abs_tol=1e-15)
    except ValueError:
        return False


def _set_tolerances(rows: Mapping[Key, dict[str, str]], cells: Mapping[Key, CellResult], n_noisy: int) -> None:
    def pool(key: Key) -> Key:
        return (key[0], key[2], key[-1], str(bool(key[-2])))

    noisy = {key: row for key, row in rows.items() if row["std"]}
    pools = defaultdict(list)
    for key, row in noisy.items():
        pools[pool(key)].append((float(row["std"]), int(row["n_seeds"]) - 1))
    for key, row in noisy.items():
        if key[:8] in cells:
            found = _text(noisy_atol(pools[pool(key)], int(row["n_seeds"]), max(len(noisy), n_noisy)))
            row["atol"] = row["atol"] if _is_rounding(row["atol"], found) else found


def _write(path: Path, rows: Mapping[Key, Row]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[key] for key in sorted(rows, key=lambda key: (*key[:5], float(key[5]), *key[6:])))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    write_atomically(path.parent / SCHEMA_FILE, f"{SCHEMA}\n")
