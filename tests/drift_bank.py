"""False alarms and power of all stochastic references together, from a bank of 60 seeds under several CPU kernels.

1. `python -m subpop.session.kernels --folder bank/PROFILE/x12 --profile PROFILE --seeds-times 12 -k "feature_match and mlp"`
   trains a part of the bank under one kernel: 12 times the 5 seeds of these cells; suites of 3 seeds need 20 times as many.
   Profiles whose numbers are all equal count once.
2. `python tests/drift_bank.py bank --page docs/drift.md` draws synthetic runs from it.

A synthetic run takes one kernel and, for each suite and victim, as many whole seeds as a run has (with replacement; the same ones
for all numbers, so that their correlation is kept). Its reference is the mean of the other kernels on the same seeds, as a run on
an unknown machine has the random draws of its reference. It is red if a number is off by more than its recorded tolerance, or if
a suite exceeds the limit of `subpop.results.drift`. In runs with a shift, all numbers of one suite and victim are moved by half
of their tolerance, in the direction that is worse for the victim or in the other one.

The values of a worst-k for single seeds are those of the subpopulations that are worst in the mean over all seeds of the bank.
Where two kernels rank others first, their values are not comparable seed by seed, and the number is left out.

The kernels are `Haswell` and `Haswell, rows by 4`. The text network was trained under `Nehalem` instead of the latter, where
its 60 seeds take hours; its results are in the same folder. Groups of few numbers are in the table, although a run does not test
them as a whole.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import beta

from subpop.results.drift import LIMIT, deviations, is_headline
from subpop.results.metrics import MIN_TEST_ROWS
from subpop.results.references import KEY, References, text_of
from subpop.results.summary.ranked import WORST

ROOT = Path(__file__).parents[1]
N_RUNS = 10_000
SHIFT = 0.5
"""Tolerances by which all numbers of a suite and victim are moved together."""


@dataclass(frozen=True)
class Group:
    """The numbers of a suite and victim. values: (n_kernels, n_numbers, n_seeds) in tolerances, positive where worse."""

    name: str
    values: np.ndarray
    n_seeds: int
    n_left_out: int = 0

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise SystemExit(f"{self.name}: the profiles of this bank give the same numbers; train one under another kernel")


@dataclass(frozen=True)
class Outcome:
    """Synthetic runs of one group: for each, its largest single deviation and its common one, in tolerances."""

    largest: np.ndarray
    common: np.ndarray

    @property
    def is_red(self) -> np.ndarray:
        """(n_runs,) whether a number or the suite as a whole is red."""
        return (self.largest > 1) | (np.abs(self.common) > LIMIT)


def read_bank(folder: Path, baselines: Path) -> tuple[list[Group], list[str]]:
    """The groups of a bank, and names of groups of which all kernels give the same numbers.

    folder: a folder for each profile, with a results.json anywhere below it for each part of the suites.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    kernels = [_by_row(sorted(profile.rglob("results.json"))) for profile in folders]
    tables = [sorted(p for p in profile.rglob("report/*.csv") if p.read_text(encoding="utf-8").strip()) for profile in folders]
    worst = [_worst(own) for own in tables]  # a suite without subpopulations has an empty table
    left_out: dict[str, int] = defaultdict(int)
    references: dict[str, References] = {}
    rows: dict[tuple[str, int], list[list[np.ndarray]]] = defaultdict(list)
    for key in sorted(set.intersection(*(set(each) for each in kernels))):
        stem = key[0]
        if stem not in references:
            references[stem] = References.load(baselines / f"{stem}.csv")
        row = references[stem].rows.get(key[1:9], {}).get(key[9:], {})
        name = f"{stem}, {row.get('victim')}"
        if is_headline(row) and len({ranked.get(key) for ranked in worst}) > 1:
            left_out[name] += 1
        elif is_headline(row):
            scaled = [_in_tolerances(kernel[key], row) for kernel in kernels]
            rows[name, int(row["n_seeds"])].append(scaled)
    distinct = {key: _distinct(np.array(own).swapaxes(0, 1)) for key, own in rows.items()}
    groups = [Group(name, own, n, left_out[name]) for (name, n), own in distinct.items() if len(own) > 1]
    return groups, [f"{name} ({own.shape[1]} numbers)" for (name, _), own in distinct.items() if len(own) == 1]


def _in_tolerances(values: tuple[float, ...], row: Mapping[str, str]) -> np.ndarray:
    return deviations(values, {**row, "by_seed": " ".join("0" for _ in values)})


def _distinct(values: np.ndarray) -> np.ndarray:
    """The kernels whose numbers are not those of an earlier one."""
    return np.array(list({kernel.tobytes(): kernel for kernel in values}.values()))


def _by_row(paths: Sequence[Path]) -> dict[tuple[str, ...], tuple[float, ...]]:
    cells = [cell for path in paths for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    found = {}
    for cell in cells:
        if cell["by_seed"] and None not in cell["by_seed"]:
            key = tuple(text_of(cell["rate"]) if name == "rate" else str(cell[name]) for name in KEY)
            found[(cell["stem"], *key)] = tuple(cell["by_seed"])
    return found


def _worst(paths: Sequence[Path]) -> dict[tuple[str, ...], frozenset[str]]:
    """The subpopulations that a number averages, for numbers of the worst ones, from the tables of all subpopulations."""
    found = {}
    for path in paths:
        rows = pd.read_csv(path, keep_default_na=False, dtype={"setting": str})
        for _, own in rows.groupby(list(KEY[:8]), sort=False) if "target_damage" in rows else ():
            cell = tuple(text_of(own.iloc[0][name]) if name == "rate" else str(own.iloc[0][name]) for name in KEY[:8])
            large = own[own["n_test"] >= MIN_TEST_ROWS]
            for metric, column, k, table in [
                *((f"target_damage_worst_{k}", "target_damage", k, large) for k in WORST),
                ("collateral_damage_max", "collateral_damage", 1, own),
            ]:
                names = table.sort_values(column, ascending=False, kind="stable")["subpopulation"].head(k)
                found[(path.stem, *cell, "", metric)] = frozenset(names)
    return found


def synthetic(group: Group, n_runs: int, generator: np.random.Generator, shift: float = 0.0) -> Outcome:
    """Draw runs of one group; shift: what is added to each of its numbers, in tolerances."""
    n_kernels, _, n_seeds = group.values.shape
    largest, common = np.empty(n_runs), np.empty(n_runs)
    for i in range(n_runs):
        kernel = generator.integers(n_kernels)
        seeds = generator.integers(n_seeds, size=group.n_seeds)
        others = np.delete(group.values, kernel, axis=0)[:, :, seeds].mean(axis=0)
        off = group.values[kernel][:, seeds] - others + shift
        largest[i], common[i] = np.abs(off.mean(axis=1)).max(), off.mean()
    return Outcome(largest, common)


def upper_bound(n_red: int, n_runs: int) -> float:
    """The upper end of the one-sided 95 % interval of a probability (Clopper and Pearson)."""
    return float(beta.ppf(0.95, n_red + 1, n_runs - n_red)) if n_red < n_runs else 1.0


def table(groups: Sequence[Group], n_runs: int = N_RUNS, seed: int = 0) -> tuple[pd.DataFrame, int]:
    """A row for each group, and the number of runs of the whole tier that are red without any change."""
    generator = np.random.default_rng(seed)
    red = np.zeros(n_runs, bool)
    lines = []
    for group in groups:
        null = synthetic(group, n_runs, generator)
        red |= null.is_red
        caught = [synthetic(group, n_runs, generator, sign * SHIFT).is_red.mean() for sign in (1, -1)]
        n_kernels, n_numbers, n_seeds = group.values.shape
        lines.append(
            {
                "suite, victim": group.name,
                "numbers": f"{n_numbers}" + (f" ({group.n_left_out} left out)" if group.n_left_out else ""),
                "kernels that differ": n_kernels,
                "seeds": f"{group.n_seeds} of {n_seeds}",
                "largest of one number": f"{null.largest.max():.2f}",
                "largest in common": f"{np.abs(null.common).max():.3f}",
                "red without a change": f"{null.is_red.mean():.1%}",
                "shift of half a tolerance caught": f"{min(caught):.1%}",
            }
        )
    return pd.DataFrame(lines), int(red.sum())


def page(folder: Path) -> str:
    """The page with the table, its command and the red rate of the whole tier."""
    groups, alike = read_bank(folder, ROOT / "baselines")
    found, n_red = table(groups)
    told = "".join(f"{line}\n" for line in (__doc__ or "").splitlines()[2:])
    return (
        "# How often a run without a change is red, and how small a common change is noticed\n\n"
        f"{told}\n"
        f"Of {N_RUNS:,} synthetic runs of all suites below together, {n_red} were red without a change: at most "
        f"{upper_bound(n_red, N_RUNS):.2%} of runs (upper end of the one-sided 95 % interval). Deviations are in tolerances; the "
        f"limit in common is {LIMIT:g}.\n\n"
        f"{found.to_markdown(index=False, disable_numparse=True)}\n"
        + (f"\nEqual under all kernels of the bank, and therefore never red in it: {'; '.join(alike)}.\n" if alike else "")
    )


def main() -> None:
    """Print the page, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bank", type=Path, help="folder with a folder for each profile")
    parser.add_argument("--page", type=Path, help="where to write the page")
    options = parser.parse_args()
    text = page(options.bank)
    print(text)
    if options.page:
        options.page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
