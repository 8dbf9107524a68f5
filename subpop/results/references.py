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

`rebaseline` sets each tolerance. Exact victims, if nothing in any trial is undecided (`subpop.experiments.undecided`) and the
number has no `tolerance` of its own: ROUNDING. Other numbers of exact victims, and those of stochastic ones whose `std` is
absent or 0: the largest of .01, one flipped test row, and the number's own `tolerance`, capped at .1 (for a mean of draws
that another run repeats: its standard error). A run in which something is undecided has at least that tolerance as well. With
`std`: t * s * sqrt(1/n_base + 1/n_run), where n_run = n_base, s is pooled over the rows of the file with the same metric,
victim and tier (separately for single subpopulations and aggregates) and t is the two-sided Student quantile at .05 / number
of such rows in the file. So recording a part of a file again gives it the power of the whole file.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from subpop.results.evidence import (
    FALSE_ALARM,
    FEWEST_KERNELS,
    POWER,
    Spread,
    explain,
    kernel_atol,
    pooled,
    smallest_detectable,
    two_sample_p_value,
)
from subpop.results.metric_registry import find_metric, metric_of
from subpop.results.metrics import MIN_TEST_ROWS
from subpop.runtime.writing import write_atomically
from subpop.types import BadInput, Cell, CellResult, Number, Verdict
from subpop.types.kinds import kind_of
from subpop.types.metric import Tolerance
from subpop.types.results import Status

KEY = ("tier", "dataset", "victim", "partition", "attack", "rate", "defense", "setting", "subpopulation", "metric")
OURS = ("value", "std", "n_seeds", "kernel_std", "n_kernels", "by_seed", "atol", "detects", "hardware", "commit")
COMPARED = ("value", "std", "n_seeds", "atol")
COLUMNS = (*KEY, "published", "certainty", *OURS)
SMALLEST_ATOL, LARGEST_ATOL = 0.01, 0.1
LARGEST_DETECTABLE = 0.05
"""A change of a fraction that a number with power detects, or half of the damage at alpha 1 where that is smaller."""
RESIDUAL_BOUND = 1e-6
ROUNDING = 1e-9
SAME_SETUP = "same set-up"
SEVERITY = ("error", "fail", "pass", "no_power", "published_only", "no_reference", "not_gated", "not_compared")
SCHEMA, SCHEMA_FILE = 2, "SCHEMA"
"""Version of the columns of a baselines folder, a number in a file next to the tables. Without the file it is 2."""
ON_FRESH_SEEDS = 1e-5
"""Level of the two-sample test of each number on fresh seeds: 5,000 numbers together have a false alarm in 1 of 20 runs."""
NO_POWER = "the tolerance is too wide to distinguish a change from noise: use more seeds"
RECORD = "record it with --rebaseline"
AS_MEANT = "if the change is intended, record it with --rebaseline"
CHECKED_BY_SUITE = "checked by the suite's own assertions"

Key = tuple[str, ...]
Row = Mapping[str, str]
Kernel = Mapping[Key, tuple[float, Sequence[float]]]
"""The numbers of a run under one kernel: the value and the values of seeds, by the key of the row."""


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
            key = tuple(text_of(float(row[name])) if name == "rate" else row[name] for name in KEY)
            if lines.setdefault(key, line) != line:
                name = "-".join(filter(None, key))
                raise BadInput(f"{path}: lines {lines[key]} and {line} have the same key ({name}); delete one of them")
            rows[key[:8]][key[8:]] = row
        return cls(path, dict(rows))

    def has_power(self, row: Row) -> bool:
        """Whether a row would notice a change that matters.

        A number of a stochastic victim must detect, in four of five runs, a change of 0.05 and of half of its damage at alpha 1.
        """
        value, _, atol = _held(row)
        scale = _scale(0.0 if value is None else value)
        if not row["std"]:
            return atol is None or atol <= LARGEST_ATOL * scale
        damage = self._at_alpha_1(row)
        limit = min(LARGEST_DETECTABLE * scale, damage / 2) if damage > 0 else LARGEST_DETECTABLE * scale
        return float(row["detects"] or "inf") <= limit

    def _at_alpha_1(self, row: Row) -> float:
        """The reference damage of the same cell at alpha 1; 0 if the number is no damage or there is no such cell."""
        if not row["metric"].startswith("target_damage"):
            return 0.0
        key = tuple("1" if name == "rate" else row[name] for name in KEY)
        at_one = self.rows.get(key[:8], {}).get(key[8:])
        return float(at_one["value"]) if at_one and at_one["value"] else 0.0


def check_schema(folder: Path) -> None:
    """Raise BadInput for baselines of an unknown schema."""
    path = folder / SCHEMA_FILE
    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else str(SCHEMA)
    if text != str(SCHEMA):
        fix = f"write {SCHEMA} into it, or restore the file"
        if text.isdecimal():
            fix = (
                "upgrade subpop" if int(text) > SCHEMA else "record the cells in another folder with --baselines and --rebaseline"
            )
        raise BadInput(f"{path} declares schema {text[:40]!r} for the baselines; this subpop reads schema {SCHEMA}: {fix}")


def cell_key(cell: Cell) -> Key:
    """Return the key of a cell in a baselines file: the first eight columns."""
    rate = text_of(cell.rate)
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
    for name in ("rate", "published", "value", "std", "n_seeds", "kernel_std", "n_kernels", "atol", "detects"):
        try:
            number = float(text[name] or 1)
        except ValueError as error:
            raise BadInput(f"{where}: {name} is {text[name]!r}, not a number; correct it, or leave it empty") from error
        whole, deviation = number >= 1 and number % 1 == 0, not number < 0
        bounded = {"value": True, "std": deviation, "kernel_std": deviation, "atol": number >= 0, "detects": number >= 0}
        bounded |= {"n_seeds": whole, "n_kernels": whole}
        if not bounded.get(name, math.isfinite(number)):
            raise BadInput(f"{where}: {name} cannot be {text[name]!r}; correct it, or leave it empty")
    _check_seeds(where, text)
    needed = ("rate", "n_seeds", "atol") if text["value"] and not _is_written_by_hand(text["metric"]) else ("rate",)
    if empty := [name for name in needed if not text[name]]:
        raise BadInput(
            f"{where}: {empty[0]} is empty; a row needs its rate, and a value its n_seeds and atol: record it with --rebaseline"
        )


def _check_seeds(where: str, text: Row) -> None:
    """Raise BadInput if the values of seeds are no numbers, or fewer than the seeds of the reference."""
    try:
        values = seeds_of(text)
    except ValueError as error:
        raise BadInput(f"{where}: by_seed is {text['by_seed']!r}; give one number for each seed, separated by spaces") from error
    if values and len(values) < float(text["n_seeds"] or 1):
        raise BadInput(
            f"{where}: by_seed has {len(values)} values for {text['n_seeds']} seeds; record the cell again with --rebaseline"
        )


def seeds_of(row: Row) -> tuple[float, ...]:
    """Return the value of each seed of a row; empty where they are not recorded."""
    return tuple(map(float, row["by_seed"].split()))


def _held(row: Row) -> tuple[float | None, float | None, float | None]:
    """Value, published value and tolerance of a row; None where empty."""
    value, published, atol = (float(row[name]) if row[name] else None for name in ("value", "published", "atol"))
    return value, published, atol


def text_of(number: float) -> str:
    """The shortest text that reads back as the same number."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(float(number))


# --- a run against it -------------------------------------------------------------------------------------------------


def compare(
    result: CellResult, references: References, *, plugin: bool = False, fresh_seeds: bool = False
) -> tuple[Verdict, ...]:
    """One verdict for each number of the run or of its references (an outer join).

    A gated number without a reference is `no_reference` and fails its cell, except for plug-ins; other numbers are `not_gated`.
    With `fresh_seeds` the run has more seeds than its references: stochastic numbers are compared on the seeds that their
    references do not have, and other numbers are only shown.
    """
    kind = kind_of(result.cell)
    is_gated = kind.gates(result.cell)
    run, stored = _by_key(result), references.rows.get(cell_key(result.cell), {})
    verdicts = []
    for key, number in run.items():
        metric = metric_of(number.metric)
        if metric.tolerance is Tolerance.TIMED:
            verdicts.append(Verdict(number, "not_gated", "times and efforts are not compared"))
        elif not kind.is_compared(number.metric):
            verdicts.append(Verdict(number, "pass", CHECKED_BY_SUITE))
        elif not (metric.gated and is_gated(number.metric)) or (fresh_seeds and not (key in stored and stored[key]["by_seed"])):
            verdicts.append(_shown(number, stored.get(key)))
        elif key in stored:
            row = stored[key] if fresh_seeds else {**stored[key], "atol": _atol_here(result, number, stored[key])}
            judged = _on_fresh_seeds(number, row) if fresh_seeds else _judge(number, row, result.cell, references)
            verdicts.append(_verdict(number, row, *judged))
        else:
            fix = "add its bound to the file" if _is_written_by_hand(number.metric) else RECORD
            reason = f"{_name(number)}: the value {number.value:.6g} of this run has no reference in {references.path}; {fix}"
            verdicts.append(Verdict(number, "no_reference", "" if plugin else reason))
    for key in sorted(stored.keys() - run.keys()):
        verdicts += _missing(Number(key[1], math.nan, subpopulation=key[0]), stored[key])
    return tuple(verdicts)


def not_compared(result: CellResult) -> tuple[Verdict, ...]:
    """One verdict for each number of a run that only looks: none is compared, so that none can fail."""
    return tuple(Verdict(number, "not_compared") for number in result.numbers)


def _missing(number: Number, row: Row) -> list[Verdict]:
    """The verdict on a reference without a number in the run: it fails if it was recorded, and is shown if it was published."""
    metric = find_metric(number.metric)
    if metric is not None and not metric.is_recorded:
        return [_shown(number, row)] if row["published"] else []
    if not row["value"]:
        return [_verdict(number, row, "published_only", "")]
    return [_verdict(number, row, "fail", f"this run has no such metric; {AS_MEANT}")]


def _shown(number: Number, row: Row | None) -> Verdict:
    """Return the verdict on a number that is not compared, with the published number if there is one."""
    published, certainty = (_held(row)[1], row["certainty"]) if row else (None, "")
    return Verdict(number, "not_gated" if published is None else "published_only", published=published, certainty=certainty)


def cell_status(verdicts: Sequence[Verdict]) -> Status:
    """Derive the status of a cell from its verdicts: `fail` if one fails or lacks a required reference, otherwise `pass` if one
    has enough power to pass; `error` without verdicts."""
    found: set[Status] = {"fail" if v.verdict == "no_reference" and v.reason else v.verdict for v in verdicts}
    return min(found, key=SEVERITY.index, default="error")


def _is_written_by_hand(name: str) -> bool:
    metric = find_metric(name)
    return metric is not None and metric.tolerance is Tolerance.LOWER_BOUND


def _judge(number: Number, row: Row, cell: Cell, references: References) -> tuple[Status, str]:
    """The verdict on a number with a reference row, and the reason if it is not `pass`."""
    run, value, published, atol = number.value, *_held(row)
    limit = math.inf if atol is None else atol
    if published is not None and SAME_SETUP in row["certainty"] and not _near(run, published, limit):
        return "fail", f"published as {published:g} for the same set-up"
    if value is None:
        return ("no_reference", RECORD) if published is None else ("published_only", "")
    rule = metric_of(number.metric).tolerance
    if rule is Tolerance.LOWER_BOUND:
        return ("pass", "") if run >= value else ("fail", "it is below its bound")
    if rule is Tolerance.UPPER_BOUND:
        return ("pass", "") if run <= limit else ("fail", "it is above its bound")
    if cell.n_seeds != float(row["n_seeds"]):
        return "fail", f"the run has {cell.n_seeds} seeds, its reference {row['n_seeds']}: run the same, or {AS_MEANT}"
    if not _near(run, value, limit):
        why = explain(number.by_seed, seeds_of(row)) if row["std"] else ""
        return "fail", f"{why}; {AS_MEANT}" if why else AS_MEANT
    return ("pass", "") if references.has_power(row) else ("no_power", NO_POWER)


def _atol_here(result: CellResult, number: Number, row: Row) -> str:
    """The tolerance of a row; a run of an exact victim in which something is undecided has at least that of one test row."""
    rule = metric_of(number.metric).tolerance
    if not result.n_undecided or row["std"] or not row["atol"] or rule in (Tolerance.LOWER_BOUND, Tolerance.UPPER_BOUND):
        return row["atol"]
    return max(row["atol"], text_of(_one_row_atol(result, number)), key=float)


def _on_fresh_seeds(number: Number, row: Row) -> tuple[Status, str]:
    """The verdict on a number by the seeds that its reference does not have."""
    known = seeds_of(row)
    p_value = two_sample_p_value(number.by_seed[len(known) :], known)
    if p_value is None:
        return "no_power", "there are fewer than three seeds that its reference does not have: use a larger --seeds-times"
    if p_value >= ON_FRESH_SEEDS:
        return "pass", ""
    return "fail", f"on seeds that its reference does not have it differs (two-sample t test: p = {p_value:.2g}); {AS_MEANT}"


def _verdict(number: Number, row: Row, kind: Status, why: str) -> Verdict:
    value, published, atol = _held(row)
    held, width = math.nan if value is None else value, math.nan if atol is None else atol
    gap = f"run {number.value:.6g}, reference {held:.6g}, tolerance {width:.3g}, gap {number.value - held:+.3g}"
    reason = f"{_name(number)}: {gap}; {why}" if why else ""
    return Verdict(number, kind, reason, value, atol, published, row["certainty"])


def _by_key(result: CellResult) -> dict[Key, Number]:
    found: dict[Key, Number] = {(number.subpopulation, number.metric): number for number in result.numbers}
    if len(found) < len(result.numbers):
        raise BadInput(f"{result.cell.id} has {len(result.numbers)} numbers of {len(found)} names; give each number once")
    return found


def _name(number: Number) -> str:
    return number.metric + (f" of {number.subpopulation}" if number.subpopulation else "")


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


def _one_row_atol(result: CellResult, number: Number) -> float:
    """The tolerance of a number of an exact victim of which one test row may flip."""
    scale, own = _scale(number.value), number.tolerance or 0.0
    return max(SMALLEST_ATOL * scale, one_row(result, number), min(own, LARGEST_ATOL * scale))


def noisy_atol(deviations: Iterable[tuple[float, int]], n_seeds: int, n_numbers: int) -> tuple[float, float]:
    """Return the tolerance of one of n_numbers and the change that it detects in four of five runs.

    deviations: (sample deviation over seeds, degrees of freedom) of numbers that are pooled; both are inf if none is known.
    """
    from scipy.stats import norm, t

    known = [(s, dof) for s, dof in deviations if dof > 0 and math.isfinite(s)]
    dof = sum(d for _, d in known)
    if not dof:
        return math.inf, math.inf
    error = math.sqrt(sum(s * s * d for s, d in known) / dof) * math.sqrt(2 / n_seeds)
    atol = max(ROUNDING, float(t.ppf(1 - FALSE_ALARM / n_numbers / 2, dof)) * error)
    return atol, atol + float(norm.ppf(POWER)) * error


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
    least = {}
    for cell, result in cells.items():
        kind = kind_of(result.cell)
        is_gated = kind.gates(result.cell)
        for number_key, number in _by_key(result).items():
            gated = kind.is_compared(number.metric) and is_gated(number.metric)
            elsewhere = not gated or _is_written_by_hand(number.metric)
            if metric_of(number.metric).is_recorded and not elsewhere:
                key = (*cell, *number_key)
                least[key] = one_row(result, number) / result.cell.n_seeds
                rows[key] = _recorded(result, number, {**dict(zip(KEY, key, strict=True)), **old.get(key, {})})
    _set_tolerances(rows, cells, n_noisy, least)
    for key, row in rows.items():
        if key[:8] in cells and row["value"] and any(row[name] != old.get(key, {}).get(name) for name in COMPARED):
            row |= {"hardware": hardware, "commit": commit}
    _write(path, rows)


def _recorded(result: CellResult, number: Number, before: Row) -> dict[str, str]:
    """Return a row with new values in our columns; `std` is empty without noise, nan if a single seed cannot determine it."""
    agrees = result.exact and result.n_undecided == 0 and not number.tolerance
    std, atol = "", text_of(ROUNDING if agrees else _one_row_atol(result, number))
    if metric_of(number.metric).tolerance is Tolerance.UPPER_BOUND:
        atol = before.get("atol") or text_of(RESIDUAL_BOUND)
    elif not result.exact and (number.std != 0 if number.std is not None else result.cell.n_seeds < 2):
        std = "nan" if number.std is None else text_of(number.std)
    by_seed = " ".join(f"{value:.6g}" for value in number.by_seed) if std else ""
    ours = {"value": text_of(number.value), "std": std, "n_seeds": str(result.cell.n_seeds), "atol": atol}
    ours |= {"kernel_std": "", "n_kernels": "1" if std else "", "by_seed": by_seed, "detects": ""}
    same = {name: before[name] for name, text in ours.items() if _is_rounding(before.get(name, ""), text)}
    return {**dict.fromkeys(COLUMNS, ""), **before, **ours, **same}


def _is_rounding(one: str, other: str) -> bool:
    """Whether two recorded numbers differ in their last digits only, for which a row is not rewritten."""
    try:
        return math.isclose(float(one), float(other), rel_tol=1e-12, abs_tol=1e-15)
    except ValueError:
        return False


def _set_tolerances(rows: Mapping[Key, dict[str, str]], cells: Collection[Key], n_noisy: int, least: Mapping[Key, float]) -> None:
    """Set the tolerances of the stochastic numbers of these cells. least: the smallest deviation of a number, if known."""

    def pool(key: Key) -> Key:
        return (key[0], key[2], key[-1], str(bool(key[-2])))

    noisy = {key: row for key, row in rows.items() if row["std"]}
    over_seeds, over_kernels, count = defaultdict(list), defaultdict(list), max(len(noisy), n_noisy)
    for key, row in noisy.items():
        over_seeds[pool(key)].append((float(row["std"]), int(row["n_seeds"]) - 1))
        over_kernels[pool(key)].append(_spread(row))
    for key, row in noisy.items():
        if key[:8] not in cells:
            continue
        together = pooled(each for each in over_kernels[pool(key)] if each)
        if together is None:
            atol, detects = noisy_atol(over_seeds[pool(key)], int(row["n_seeds"]), count)
        else:
            own, one = _spread(row), least.get(key, 0.0)
            atol = max(SMALLEST_ATOL * _scale(float(row["value"])), kernel_atol(own, together, count, one))
            detects = smallest_detectable(atol, own, together, one)
        for name, found in (("atol", text_of(atol)), ("detects", f"{detects:.3g}")):
            row[name] = row[name] if _is_rounding(row[name], found) else found


def _spread(row: Row) -> Spread | None:
    """The spread of a row over kernels; None if it was recorded on a single one."""
    return Spread(float(row["kernel_std"]), int(row["n_kernels"])) if row["kernel_std"] else None


def _write(path: Path, rows: Mapping[Key, Row]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[key] for key in sorted(rows, key=lambda key: (*key[:5], float(key[5]), *key[6:])))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, buffer.getvalue())
    write_atomically(path.parent / SCHEMA_FILE, f"{SCHEMA}\n")


# --- recording over kernels -------------------------------------------------------------------------------------------


def record_kernels(
    path: Path, runs: Sequence[Kernel], more: Kernel, n_noisy: int = 0, least: Mapping[Key, float] = MappingProxyType({})
) -> int:
    """Replace the numbers of stochastic victims by their means over runs under several kernels, and set their tolerances.

    Parameters
    ----------
    path
        A baselines file that has these numbers, recorded by `rebaseline` under one kernel.
    runs
        For each kernel, the value and the values of seeds of each number, by the key of its row. A number of which fewer than
        three kernels are given is recorded under the first of them. A number of a stochastic victim that is equal for all seeds
        counts as stochastic if it differs between kernels.
    more
        The same under one of the kernels with more seeds; those that the runs do not have are appended.
    n_noisy
        Number of stochastic numbers that are compared together, if more than in this file.
    least
        For each number, the smallest deviation that its tolerance assumes: the effect of one test row of one seed.

    Returns
    -------
    int
        The number of rows that were recorded over at least three kernels.
    """
    rows = {(*cell, *key): dict(row) for cell, of_cell in References.load(path).rows.items() for key, row in of_cell.items()}
    recorded, n_spreads = set(), 0
    for key, row in rows.items():
        found = [run[key] for run in runs if key in run and math.isfinite(run[key][0])]
        moves = len({value for value, _ in found}) > 1 and any(seeds for _, seeds in found)
        if not (row["std"] or moves) or not found:
            continue
        row["std"] = row["std"] or "0"  # equal for all seeds here, but not on other kernels
        found = found if len(found) >= FEWEST_KERNELS else found[:1]
        values, by_seed = np.array([value for value, _ in found]), [seeds for _, seeds in found if seeds]
        same = np.ptp(values) == 0  # whose mean and deviation would be off by rounding
        spread = "" if len(found) < 2 else "0" if same else f"{values.std(ddof=1):.6g}"
        value = text_of(float(values[0] if same else values.mean()))
        row |= {"value": value, "kernel_std": spread, "n_kernels": str(len(found))}
        if len(by_seed) == len(found):
            seeds = [*np.mean(by_seed, axis=0), *more.get(key, (0.0, ()))[1][len(by_seed[0]) :]]
            row["by_seed"] = " ".join(f"{value:.6g}" for value in seeds)
        recorded.add(key)
        n_spreads += bool(spread)
    _set_tolerances(rows, dict.fromkeys(key[:8] for key in recorded), n_noisy, least)
    _write(path, rows)
    return n_spreads
