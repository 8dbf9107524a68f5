"""Settings of every defense for the column "tuned" of the scoreboard, and what tuning changes.

1. A defense declares up to eight configurations (`configurations`), the first of which is the default of its source.
2. Each is measured on development cells: the data sets and the victim of the suite `scoreboard` in the embedded tier, on other
   splits, and only on subpopulations that the suite attacks in none of its splits. The attack is label flipping at alpha 1.
3. The configuration with the smallest sum of mean target damage and clean accuracy given up is chosen, one for both data sets,
   which have equal weight. Sums are rounded to 1e-6, and the first of equal ones wins. A configuration that a development cell
   refuses is excluded.
4. `subpop/defenses/tuned.csv` is written, without defenses that keep their defaults. Only then are all configurations measured
   on the scored cells, for this page: its last column takes the smallest damage there, in hindsight. It is optimistic, and used
   nowhere else.

`python tests/tuning.py --store tuning.sqlite --page docs/tuning.md` runs all steps, and continues where it was stopped. With
`--only NAME`, repeatable, the lines of other defenses stay as they are.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed

from subpop.defenses import DEFENSES
from subpop.defenses.configured import PARAMETERS
from subpop.experiments.attack_sets import FOLDER
from subpop.experiments.experiment import Experiment
from subpop.harness.batching import DefenseError
from subpop.report.markdown import table
from subpop.results.metrics import eligible
from subpop.runtime.store import Store
from subpop.types import BadInput, Cell

ROOT = Path(__file__).parents[1]
TUNED = ROOT / "subpop" / "defenses" / "tuned.csv"
DEVELOPMENT_SPLITS = (2, 3)
N_DRAWS = 2
"""Draws of poison on all of these cells; the suite has more on the scored ones."""


@dataclass(frozen=True)
class Measured:
    """A configuration on one side. score: damage plus clean accuracy given up; None if a cell refused the settings."""

    name: str
    damage: float | None
    score: float | None


def name_of(defense: str, settings: dict[str, object]) -> str:
    """`dpa` or `dpa(k=5)`."""
    return f"{defense}({', '.join(f'{key}={value!r}' for key, value in settings.items())})" if settings else defense


@cache
def suite():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import test_scoreboard

    return test_scoreboard


def undefended_cells() -> list[Cell]:
    """The undefended cells that the suite scores in the embedded tier with a linear victim."""
    return [
        cell
        for cell in suite().CELLS
        if (cell.tier, cell.victim, cell.defense) == ("embedded", "logistic_regression", "none") and cell.rate == 1.0
    ]


def development_cells() -> list[Cell]:
    """Cells of the same data sets on other splits, with all subpopulations."""
    first = {cell.dataset: cell for cell in undefended_cells()}
    found = [cell.with_(split=split, n_attacked=None, n_seeds=N_DRAWS) for cell in first.values() for split in DEVELOPMENT_SPLITS]
    check_splits(found, undefended_cells())
    return found


def check_splits(development: Sequence[Cell], scored: Sequence[Cell]) -> None:
    """Raise AssertionError if a split is used for both."""
    both = {(c.dataset, c.data.split) for c in development} & {(c.dataset, c.data.split) for c in scored}
    assert not both, f"development cells on scored splits: {both}"


def scored_names(experiment: Experiment) -> dict[str, set[str]]:
    """The subpopulations of each data set that a scored cell attacks."""
    names: dict[str, set[str]] = {}
    for cell in undefended_cells():
        names.setdefault(cell.dataset, set()).update(experiment.context.stage(cell).attacked)
    return names


def candidates() -> list[str]:
    """Defenses with configurations that the suite runs on its linear victim."""
    run = {cell.defense.partition("(")[0] for cell in suite().CELLS if cell.victim == "logistic_regression"}
    return [name for name in DEFENSES if name in run and getattr(DEFENSES[name], "configurations", ())]


def choice(scores: Sequence[float | None]) -> int | None:
    """The position of the smallest score; the first of equal ones, None if there is none."""
    known = [(round(score, 6), i) for i, score in enumerate(scores) if score is not None]
    return min(known)[1] if known else None


def measure(experiment: Experiment, cells: Sequence[Cell], name: str, left_out: dict[str, set[str]]) -> Measured:
    """A configuration over cells, without the subpopulations of `left_out`; data sets have equal weight."""
    damages: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    for cell in cells:
        try:
            result = experiment.run(cell.with_(defense=name))
        except (BadInput, DefenseError) as error:
            if isinstance(error, DefenseError) and error.details:
                raise  # with a traceback: a crash, not a refusal
            return Measured(name, None, None)
        own = [
            float(row["target_damage"])
            for row in result.table
            if str(row["subpopulation"]) not in left_out.get(cell.dataset, set()) and eligible(float(row["n_test"]))
        ]
        numbers = {number.metric: number.value for number in result.numbers}
        damages.setdefault(cell.dataset, []).append(float(np.mean(own)))
        costs.setdefault(cell.dataset, []).append(numbers["clean_accuracy"] - numbers["defended_clean_accuracy"])
    damage = float(np.mean([np.mean(values) for values in damages.values()]))
    return Measured(name, damage, damage + float(np.mean([np.mean(values) for values in costs.values()])))


def run(store: Path, defense: str, scored: bool) -> list[Measured]:
    """All configurations of a defense on the development cells, or on the scored ones."""
    experiment = Experiment.on(Store(store), partitions=ROOT / "baselines" / FOLDER)
    left_out = {} if scored else scored_names(experiment)
    cells = [cell.with_(n_seeds=N_DRAWS) for cell in undefended_cells()] if scored else development_cells()
    names = [name_of(defense, settings) for settings in DEFENSES[defense].configurations]
    return [measure(experiment, cells, name, left_out) for name in names]


def default_of(defense: str) -> str:
    """The name under which the suite scores a defense: with its defaults, unless these need more rows."""
    return suite().FEW_ROWS.get(defense, defense)


def settings_are_known(name: str) -> bool:
    """Whether a defense has the settings of a name."""
    from subpop.defenses.configured import settings_of

    plain = name.partition("(")[0]
    known = set(inspect.signature(DEFENSES[plain]).parameters) - set(PARAMETERS)
    return "(" not in name or set(settings_of(name)) <= known


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


HEADERS = [
    "defense", "tuned", "score, default", "score, tuned", "configurations", "damage, default", "damage, tuned",
    "best in hindsight (optimistic)",
]  # fmt: skip


def page_of(rows: Sequence[Sequence[str]]) -> str:
    changes = [round(float(row[6]) - float(row[5]), 1) for row in rows if "–" not in (row[5], row[6])]
    told = (
        "In %. Scores are of development cells; damages are means over two draws of the scored cells. Number of defenses whose "
        f"damage there is lower by more than 5 points when they are tuned: {sum(each < -5 for each in changes)}; higher by more "
        f"than 5 points: {sum(each > 5 for each in changes)}. Not tuned: defenses that declare no configurations."
    )
    return "\n\n".join(["# Tuned settings", (__doc__ or "").split("\n", 2)[2].strip(), told, table(HEADERS, rows)]) + "\n"


def rows_of(page: Path) -> list[list[str]]:
    """The lines of the table of a page, without its headings; none if there is no page."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")] if page.exists() else []
    return [[part.strip().replace("\\", "") for part in line.strip("|").split("|")] for line in lines[2:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path("tuning.sqlite"), help="where trials are kept")
    parser.add_argument("--page", type=Path, required=True, help="the page to write")
    parser.add_argument("--only", action="append", choices=candidates(), help="a defense to measure; repeatable (default: all)")
    options = parser.parse_args()
    with Store(options.store):  # stays open while workers open and close theirs
        tune(options.store, options.page, options.only or candidates())


def tune(store: Path, page: Path, names: Sequence[str]) -> None:
    """Choose settings, write them, and then the page."""
    workers = Parallel(n_jobs=-1, verbose=5)
    found = dict(zip(names, workers(delayed(run)(store, name, False) for name in names), strict=True))
    chosen = {name: own[best] for name, own in found.items() if (best := choice([each.score for each in own])) is not None}
    written = TUNED.read_text(encoding="utf-8").splitlines() if TUNED.exists() else []
    settled = {line["defense"]: line for line in csv.DictReader(written) if line["defense"] not in names}
    for name, best in chosen.items():
        if best.name != default_of(name):
            default = score_of(found[name], default_of(name))
            settled[name] = {
                "defense": name,
                "tuned": best.name,
                "score_default": "" if default is None else f"{default:.6f}",
                "score_tuned": f"{best.score:.6f}",
                "n_configurations": str(sum(each.score is not None for each in found[name])),
            }
    with TUNED.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(settled[name] for name in candidates() if name in settled)
    write_page(page, store, found, chosen, workers)


COLUMNS = ["defense", "tuned", "score_default", "score_tuned", "n_configurations"]


def score_of(measured: Sequence[Measured], name: str) -> float | None:
    return next((each.score for each in measured if each.name == name), None)


def write_page(page: Path, store: Path, found: dict[str, list[Measured]], chosen: dict[str, Measured], workers: Parallel) -> None:
    """Measure all configurations on the scored cells, and write the page."""
    scored = dict(zip(chosen, workers(delayed(run)(store, name, True) for name in chosen), strict=True))
    rows = {row[0]: row for row in rows_of(page) if row[0] not in found}
    for name, best in chosen.items():
        damages = {each.name: each.damage for each in scored[name]}
        known = [damage for damage in damages.values() if damage is not None]
        rows[name] = [
            name, best.name, percent(score_of(found[name], default_of(name))), percent(best.score),
            str(sum(each.score is not None for each in found[name])), percent(damages.get(default_of(name))),
            percent(damages.get(best.name)), percent(min(known, default=None)),
        ]  # fmt: skip
    page.write_text(page_of([rows[name] for name in candidates() if name in rows]), encoding="utf-8")


if __name__ == "__main__":
    import tuning

    tuning.main()  # workers import what they run, and nothing of __main__
