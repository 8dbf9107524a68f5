"""Whether the defenses of a run became better or worse since another run of the same trials: `subpop compare --paired`.

Every report has a file `damages-by-seed.csv`: the target damage of each subpopulation and seed. Two runs are compared where both
have the same cell, made of the same data and random draws and, for plug-ins, with the same secret of the store. The difference
of a defense is that of the leaderboard (`subpop.results.paired`): over the subpopulations that lose 0.1 or more undefended, each
subpopulation of a data set and each data set with the same weight. A defense is *worse* if the whole 95 % interval of its
difference lies above 0, *better* if below. There is no correction for the number of defenses: of those that did not change in
truth, about one in forty is called worse by chance, and one whose numbers are the same never is.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from subpop.report.figures.setups import MATCHED
from subpop.report.leaderboard import NONE, mean_difference, over_splits
from subpop.report.markdown import code, escape, table
from subpop.results.paired import BETTER, UNDECIDED, WORSE, Difference, damages_by_seed, paired_difference
from subpop.types import BadInput, CellReport, Provenance
from subpop.types.printable import printable

DAMAGES = "damages-by-seed.csv"
"""The name of the file in the folder of a report."""
UNCHANGED = "unchanged"
ROUNDING = 1e-9
"""Damages that differ by less are the same."""
CONTEXT = ["stem", "tier", "dataset", "victim", "partition", "attack", "rate", "setting"]
"""What the cells of a defense are compared on. The split is not part of the setting."""
MADE_OF = ["data", "draws", "secret"]
COLUMNS = [*CONTEXT, "defense", *MADE_OF, "exact", "split", "subpopulation", "seed", "target_damage"]


def damages_csv(reports: Iterable[CellReport]) -> str:
    """Return the target damage of each cell, subpopulation with at least 20 test rows, and seed, as CSV."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(COLUMNS)
    for report in reports:
        result, cell, made_of = report.result, report.cell, report.made_of or Provenance()
        damages = damages_by_seed(result) if result else pd.DataFrame()
        setting = ";".join(f"{name}={value}" for name, value in cell.setting if name != "split")
        names = (cell.stem, cell.tier, cell.dataset, cell.victim, cell.partition, cell.attack, float(cell.rate), setting)
        about = _texts((*names, cell.defense, made_of.data, made_of.draws, made_of.secret, bool(result and result.exact)))
        for index, values in zip(damages.index.tolist(), damages.to_numpy(float).tolist(), strict=True):
            which = (*about, *_texts(index))
            rows.writerows((*which, seed, value) for seed, value in enumerate(values))
    return file.getvalue()


def _texts(values: Iterable[Any]) -> list[Any]:
    return [printable(each) if isinstance(each, str) else each for each in values]


def load_damages(folder: Path) -> pd.DataFrame:
    """Read the damages of a report, with the columns COLUMNS.

    Raises
    ------
    BadInput
        If the folder has no such file, or it is damaged.
    """
    path = folder / DAMAGES
    if not path.is_file():
        raise BadInput(
            f"there is no {path}, which --paired compares; name the folder of a report, such as runs/report, and run the cells "
            "again if an earlier version of subpop wrote it"
        )
    text = [name for name in COLUMNS if name not in ("rate", "exact", "seed", "target_damage")]
    try:
        found = pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False)[COLUMNS]
        return found.astype({"rate": float, "exact": bool, "seed": int, "target_damage": float})
    except (KeyError, ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is not as a run wrote it ({error}); run the cells again") from error


def differences(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, Difference]:
    """Return how much the mean damage of each defense of both runs increased from A to B, with its standard error.

    Parameters
    ----------
    a, b
        Tables of `load_damages`: the earlier run and the later one.

    Returns
    -------
    dict of str to Difference
        The difference by defense, or the reason why there is none; negative if B is better.
    """
    contexts_a, contexts_b = _by_context(a), _by_context(b)
    names = sorted((set(a["defense"]) & set(b["defense"])) - {NONE})
    found = {}
    for name in names:
        if name.startswith(f"{MATCHED}:"):
            continue
        both = [_of_context(contexts_a[key], contexts_b[key], name) for key in contexts_a if key in contexts_b]
        own = [each for each in both if each is not None]
        found[name] = mean_difference(own) if own else Difference(reason="no cell was measured in both runs")
    return found


def _by_context(damages: pd.DataFrame) -> dict[tuple[Any, ...], pd.DataFrame]:
    return {tuple(key): rows for key, rows in damages.groupby(CONTEXT, sort=True)} if len(damages) else {}


def _of_context(a: pd.DataFrame, b: pd.DataFrame, name: str) -> Difference | None:
    """The difference of one defense on one data set; None if it was not measured in both runs."""
    before, after, plain = (rows[rows["defense"] == which] for rows, which in ((a, name), (b, name), (b, NONE)))
    if not len(before) or not len(after):
        return None
    if not len(plain):
        return Difference(reason="no cell without a defense was measured in the later run")
    made_of = [set(rows[MADE_OF].itertuples(index=False, name=None)) for rows in (before, after)]
    if made_of[0] != made_of[1]:
        return Difference(reason="other data, draws or another secret of the store: measure both with the same --store")
    tables = [_pivot(rows) for rows in (after, before, plain)]
    return paired_difference(*map(over_splits, tables), exact=bool(after["exact"].all() and before["exact"].all()))


def _pivot(rows: pd.DataFrame) -> pd.DataFrame:
    twice = rows[rows.duplicated(["split", "subpopulation", "seed"])]
    if len(twice):
        row = twice.iloc[0]
        raise BadInput(
            f"{DAMAGES} has seed {row['seed']} of {row['subpopulation']!r} of {row['defense']} twice; run the cells again"
        )
    found: pd.DataFrame = rows.pivot(index=["split", "subpopulation"], columns="seed", values="target_damage")
    return found


def verdict_of(difference: Difference) -> str:
    """Return UNCHANGED, BETTER, WORSE or UNDECIDED; a difference that could not be judged is undecided."""
    if difference.reason:
        return UNDECIDED
    if difference.std_error < ROUNDING and abs(difference.value) < ROUNDING:
        return UNCHANGED
    if difference.value - difference.half_width > ROUNDING:
        return WORSE
    return BETTER if difference.value + difference.half_width < -ROUNDING else UNDECIDED


def paired_page(a: Path, b: Path) -> tuple[str, int]:
    """Compare the folders of two reports.

    Parameters
    ----------
    a, b
        The folders: the earlier run and the later one.

    Returns
    -------
    tuple of str and int
        The page, as markdown, and the exit status: 1 if a defense is worse, else 0.
    """
    before, after = load_damages(a), load_damages(b)
    found = differences(before, after)
    verdicts = {name: verdict_of(each) for name, each in found.items()}
    worse = [name for name, verdict in verdicts.items() if verdict == WORSE]
    shown = {name: each for name, each in found.items() if verdicts[name] != UNCHANGED}
    rows = [[escape(name), *_row(each), verdicts[name]] for name, each in shown.items()]
    parts = [f"# Damage of each defense: {code(os.path.relpath(b))} less {code(os.path.relpath(a))}", _lead(verdicts, worse)]
    if rows:
        parts.append(table(["defense", "difference", "95 % interval", "subpopulations", "verdict"], rows, left=1))
        parts.append(
            "In points of accuracy of the subpopulations that lose 10 or more without a defense, paired by subpopulation and "
            "seed; positive: more damage than before. *Worse*: the whole interval is above 0."
        )
    parts += [f"- {escape(name)}: {each.reason}" for name, each in shown.items() if each.reason]
    only = sorted(name for name in set(after["defense"]) ^ set(before["defense"]) if not name.startswith(f"{MATCHED}:"))
    if only:
        parts.append(f"Measured in one of the runs only: {', '.join(map(escape, only))}.")
    return "\n\n".join(parts), int(bool(worse))


def _lead(verdicts: Mapping[str, str], worse: list[str]) -> str:
    if not verdicts:
        return "**No defense was measured in both runs.**"
    counts = {verdict: list(verdicts.values()).count(verdict) for verdict in (BETTER, UNDECIDED, UNCHANGED)}
    rest = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    if worse:
        return f"**Worse: {', '.join(map(escape, worse))}.**" + (f" {rest}." if rest else "")
    return f"**No defense is worse.** {rest}."


def _row(difference: Difference) -> list[str]:
    if difference.reason:
        return ["", "", str(difference.n_groups)]
    ends = (difference.value - difference.half_width, difference.value + difference.half_width)
    return [f"{100 * difference.value:+.1f}", "{:+.1f} to {:+.1f}".format(*(100 * end for end in ends)), str(difference.n_groups)]
