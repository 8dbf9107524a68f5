"""Wrong versions of the science, each red by the number that it corrupts on random draws that the reference does not have.

`python tests/mutants.py` (or `tox -e mutants`) copies the package once for each mutant, changes one place, and measures small
cells of generated data with 100 seeds. The unchanged package is the reference. Each block of ten seeds of the mutant is one
repetition: it is compared with the other 90 seeds of the reference, so that no random draw is shared, by a two-sample t test (of
absolute deviations from the median where the spread is what a mutant corrupts). A mutant is caught if the number that was
predicted is significant at LEVEL, in the direction that was predicted, in nine of ten repetitions. A placebo changes random
streams, the order of rows or the path of a solver, and may be significant in one of ten at most.

Mutants with `seen=False` were tried and are not noticed in nine of ten repetitions by these cells; the table says how many seeds
a repetition would need, where the change can be told from 0 at all.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm, ttest_ind
from tabulate import tabulate

ROOT = Path(__file__).parents[1]
N_SEEDS, BLOCK = 100, 10
LEVEL = 1e-3
"""Significance of a repetition."""
ENOUGH = 9
"""Repetitions, of ten, in which a mutant must be red."""
UP, DOWN, ANY = "up", "down", "any"

COMMON = {"stem": "mutants", "tier": "embedded", "n_seeds": N_SEEDS}
LINEAR = {"dataset": "mixture", "victim": "logistic_regression", "partition": "feature_match"}
DISTINCT = {"protocol": "reserve", "sampling": "distinct"}
CELLS: dict[str, dict[str, Any]] = {
    "linear": {**LINEAR, "rate": 1.0},
    "double": {**LINEAR, "rate": 2.0},
    "distinct": {**LINEAR, "rate": 1.0, **DISTINCT},
    "classes": {**LINEAR, "dataset": "mixture_multiclass", "rate": 1.0},
    "clusters": {**LINEAR, "partition": "cluster_match", "rate": 1.0},
    "network": {**LINEAR, "victim": "mlp", "rate": 1.0},
    "moved": {**LINEAR, "attack": "influence", "rate": 0.5},
    **{
        name: {**LINEAR, "rate": 1.0, **DISTINCT, "defense": name}
        for name in ("trim", "sever", "spectral_signatures", "activation_clustering", "perfect_filter", "random_filter")
    },
    "drop_duplicates": {**LINEAR, "rate": 1.0, "defense": "drop_duplicates"},
}
DAMAGE, WORST, COLLATERAL = "target_damage_mean", "target_damage_worst_5", "collateral_damage_max"
RECALL, REMOVED, CLEAN = "poison_recall", "removed_share", "clean_accuracy"


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    spread: whether the deviation over seeds is predicted to change, not the mean; then `effect` is its direction. seen: False for
    a mutant that this cell cannot see with ten seeds; the table says how many it would need.
    """

    name: str
    file: str
    old: str
    new: str
    cell: str
    metric: str = DAMAGE
    effect: str = ANY
    spread: bool = False
    seen: bool = True


DRAWING, FLIP, SEEDS = "attacks/drawing.py", "attacks/label_flip.py", "runtime/seeds.py"
TRIAL, CONTEXT, SUMMARY = "experiments/trial.py", "experiments/context.py", "results/summary"
FILTERS, SEVER, SPECTRAL = "defenses/filters.py", "defenses/sever.py", "defenses/spectral_signatures.py"
CLUSTERING, CONTROLS, LOGISTIC = "defenses/activation_clustering.py", "defenses/controls.py", "victims/logistic.py"
COUNT = "math.floor(rate * base * (1 + 1e-12))"
LOSS = "lambda model: given_label_loss(model.predict_proba(x), train.y)"

MUTANTS = (
    # --- the attack ---
    Mutant("alpha x 1.1", FLIP, COUNT, "math.floor(rate * base * 1.1)", "linear", DAMAGE, UP),
    Mutant("alpha x 0.9", FLIP, COUNT, "math.floor(rate * base * 0.9)", "linear", DAMAGE, DOWN),
    Mutant(
        "the answer of another alpha", DRAWING, "poison_count(cell.rate, base", "poison_count(1.0, base", "double", DAMAGE, DOWN
    ),
    Mutant("one poison row a trial", FLIP, COUNT, "min(1, math.floor(rate * base * 2))", "linear", DAMAGE, DOWN),
    Mutant(
        "poison from D instead of D_aux",
        DRAWING,
        "    members = stage.aux_members(name)\n    rule",
        "    members = np.flatnonzero(stage.train_members(name))\n    rule",
        "linear",
        seen=False,
    ),
    Mutant(
        "poison from all of D_aux",
        DRAWING,
        "    members = stage.aux_members(name)\n    rule",
        "    members = np.arange(stage.pool.n_train, len(stage.pool))\n    rule",
        "linear",
        DAMAGE,
        DOWN,
    ),
    Mutant("poison keeps its labels", FLIP, "1 - y if target is None", "y if target is None", "linear", DAMAGE, DOWN),
    Mutant("one label for two classes", DRAWING, '("own" if n_classes == 2 else "common")', '"rarest"', "linear", seen=False),
    Mutant("the rarest label for several classes", DRAWING, 'else "common")', 'else "rarest")', "classes"),
    Mutant("the most likely label", FLIP, "proba.mean(axis=0).argmin()", "proba.mean(axis=0).argmax()", "classes", DAMAGE, DOWN),
    Mutant(
        "with replacement where distinct", FLIP, 'if sampling == "with_replacement"', 'if sampling != ""', "distinct", seen=False
    ),
    Mutant("distinct where with replacement", FLIP, 'if sampling == "with_replacement"', 'if sampling == ""', "linear"),
    Mutant(
        "all seeds share one draw",
        SEEDS,
        'derived_seed("poison", draw_identity(cell), subpopulation, seed)',
        'derived_seed("poison", draw_identity(cell), subpopulation)',
        "linear",
        DAMAGE,
        DOWN,
        spread=True,
    ),
    Mutant(
        "alpha counts rows of D", DRAWING, 'cell.poisoning.alpha_base == "train"', "True", "distinct", DAMAGE, DOWN, seen=False
    ),
    # --- training ---
    Mutant(
        "a tenth of the training rows lost",
        "types/rows.py",
        'self.y, kind="stable")\n',
        'self.y, kind="stable")[len(self.rows) // 10 :]\n',
        "linear",
        seen=False,
    ),
    Mutant("penalty doubled", LOGISTIC, "penalty: float = 1.0", "penalty: float = 2.0", "linear", seen=False),
    Mutant("penalty of the mean form", LOGISTIC, 'penalty_form: str = "sum"', 'penalty_form: str = "mean"', "linear", seen=False),
    Mutant(
        "intercept not penalised",
        LOGISTIC,
        "penalise_intercept: bool = True",
        "penalise_intercept: bool = False",
        "linear",
        seen=False,
    ),
    Mutant(
        "warm start returned",
        LOGISTIC,
        "residual = solve(fleet, w, clean.inverse, MIXED if len(design.dtypes) > 1 else DOUBLE)",
        "residual = np.zeros((len(jobs), 2))",
        "linear",
        DAMAGE,
        DOWN,
    ),
    Mutant(
        "models of two trials swapped", CONTEXT, "[known[key] for key in keys]", "[known[key] for key in keys[::-1]]", "linear"
    ),
    Mutant(
        "the clean victim for every training set",
        CONTEXT,
        "return [known[key] for key in keys]",
        "return [self.clean_model(cell, seed) for seed in seeds]",
        "linear",
        DAMAGE,
        DOWN,
    ),
    Mutant(
        "networks of all seeds alike",
        CONTEXT,
        "training_seed(cell, seeds[i])",
        "training_seed(cell, 0)",
        "network",
        CLEAN,
        seen=False,
    ),
    # --- data and subpopulations ---
    Mutant(
        "D and D_test share rows",
        "datasets/split.py",
        "order[:first], order[first",
        "order[second - first : second], order[first",
        "linear",
        CLEAN,
        UP,
    ),
    Mutant("clusters fitted on D", "datasets/partitions.py", ".fit(space[1])", ".fit(space[0])", "clusters", seen=False),
    Mutant(
        "another seed of k-means",
        "datasets/partitions.py",
        "random_state=seed).fit(space",
        "random_state=seed + 1).fit(space",
        "clusters",
        seen=False,
    ),
    # --- scoring ---
    Mutant(
        "damage against the defended clean model",
        "results/metrics.py",
        "self.clean.astype(np.float64) - self.poisoned",
        "self.defended_clean.astype(np.float64) - self.poisoned",
        "trim",
    ),
    Mutant(
        "worst-k ranked in each seed",
        f"{SUMMARY}/ranked.py",
        "np.stack([self.bits[i].change.mean(axis=1) for i in self.order[:k]]).mean(axis=0)",
        "np.sort(np.stack([each.change.mean(axis=1) for each in self.bits]), axis=0)[-k:].mean(axis=0)",
        "linear",
        WORST,
        UP,
        seen=False,
    ),
    Mutant(
        "target rows inside collateral",
        f"{SUMMARY}/subpopulation.py",
        "accuracy(poisoned, scored & ~members)",
        "accuracy(poisoned, scored)",
        "linear",
        COLLATERAL,
        UP,
    ),
    Mutant(
        "collateral of the target alone",
        f"{SUMMARY}/subpopulation.py",
        "accuracy(poisoned, scored & ~members)",
        "accuracy(poisoned, scored & members)",
        "linear",
        COLLATERAL,
        UP,
    ),
    Mutant(
        "wrong rows count as right",
        TRIAL,
        "predicted[:n_test] == stage.data.test_y}",
        "predicted[:n_test] != stage.data.test_y}",
        "linear",
    ),
    # --- defenses ---
    Mutant(
        "TRIM trains on all rows",
        FILTERS,
        "model = fit(train[keep])\n        scores",
        "model = fit(train)\n        scores",
        "trim",
    ),
    Mutant(
        "TRIM keeps the wrong side",
        FILTERS,
        "scores = score(model)\n        following",
        "scores = -score(model)\n        following",
        "trim",
        RECALL,
        DOWN,
    ),
    Mutant(
        "TRIM ranks by the confidence in its answer",
        "defenses/trim.py",
        LOSS,
        "lambda model: -model.predict_proba(x).max(axis=1)",
        "trim",
        RECALL,
        DOWN,
    ),
    Mutant(
        "TRIM is told half of the poison",
        "defenses/trim.py",
        'told_poison(know, train, "trim")',
        'told_poison(know, train, "trim") // 2',
        "trim",
        REMOVED,
        DOWN,
    ),
    Mutant(
        "n_poison counts half of the rows",
        TRIAL,
        "round(n_poison * TOLD",
        "round(0.5 * n_poison * TOLD",
        "random_filter",
        REMOVED,
        DOWN,
    ),
    Mutant(
        "SEVER not centred", SEVER, "gradients -= gradients.mean(axis=0)\n", "gradients *= 1.0\n", "sever", RECALL, seen=False
    ),
    Mutant(
        "SEVER across classes",
        SEVER,
        "        members = y == label\n        scores[members] = _along",
        "        members = y >= 0\n        scores[members] = _along",
        "sever",
        RECALL,
    ),
    Mutant("SEVER in one round", SEVER, "for round_ in range(N_ROUNDS):", "for round_ in range(1):", "sever", REMOVED, DOWN),
    Mutant(
        "spectral signatures not centred",
        SPECTRAL,
        "centred(features[members])",
        "np.asarray(features[members], np.float64)",
        "spectral_signatures",
        RECALL,
    ),
    Mutant(
        "spectral signatures without the factor 1.5",
        SPECTRAL,
        "(3 * n_poison + 1) // 2",
        "n_poison",
        "spectral_signatures",
        REMOVED,
        DOWN,
    ),
    Mutant(
        "representations shuffled against labels",
        SPECTRAL,
        "signature_scores(model.features(train.x), train.y)",
        "signature_scores(model.features(train.x)[::-1], train.y)",
        "spectral_signatures",
        RECALL,
    ),
    Mutant(
        "clustering drops the larger cluster",
        CLUSTERING,
        "part if goes else ~part",
        "~part if goes else part",
        "activation_clustering",
        REMOVED,
    ),
    Mutant(
        "clustering without the limit of its size",
        CLUSTERING,
        "share < max_share",
        "share < 1.0",
        "activation_clustering",
        REMOVED,
        UP,
    ),
    Mutant(
        "the perfect filter keeps the poison",
        CONTROLS,
        "filtered(train, fit, ~mask)",
        "filtered(train, fit, mask if mask.any() else ~mask)",
        "perfect_filter",
        DAMAGE,
        UP,
    ),
    Mutant(
        "the random filter removes the first rows",
        CONTROLS,
        "permutation(len(train))[:n_drop]] = False",
        "permutation(len(train))[: n_drop // 2]] = False",
        "random_filter",
        REMOVED,
        DOWN,
    ),
)
"""Kinds that are not here: convolutional networks, Fine-Pruning, certificates and texts take minutes with 100 seeds."""

SALT = 'hashlib.blake2b("\\x1f".join(map(str, purpose))'
PLACEBOS = (
    Mutant("other random streams", SEEDS, SALT, 'hashlib.blake2b("\\x1e".join(map(str, purpose))', "linear"),
    Mutant("other random streams of networks", SEEDS, SALT, 'hashlib.blake2b("\\x1e".join(map(str, purpose))', "network"),
    Mutant("another order of the training rows", SEEDS, 'derived_seed("shuffle"', 'derived_seed("order"', "trim"),
    Mutant("other seeds of defenses", SEEDS, 'derived_seed("defense"', 'derived_seed("filter"', "random_filter"),
    Mutant(
        "rows sorted from last to first", "types/rows.py", 'self.y, kind="stable")\n', 'self.y, kind="stable")[::-1]\n', "linear"
    ),
    Mutant("every solve starts at zero", LOGISTIC, "if self._blind else np.repeat(clean.w, len(jobs), axis=0)", "", "linear"),
    Mutant("a looser solver", LOGISTIC, "TOLERANCE = 1e-8", "TOLERANCE = 1e-7", "linear"),
    Mutant(
        "equal losses go to other rows",
        FILTERS,
        'np.argsort(ids[ties], kind="stable")',
        'np.argsort(-ids[ties], kind="stable")',
        "trim",
    ),
    Mutant(
        "poison drawn by permutation",
        FLIP,
        "generator.integers(0, max(len(rows), 1), size=count)",
        "generator.choice(max(len(rows), 1), size=count)",
        "linear",
    ),
)


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(name: str) -> dict[str, list[float]]:
    """Every number of a cell that has a value for each seed."""
    from subpop.experiments.experiment import Experiment
    from subpop.runtime.no_store import NoStore
    from subpop.types.grid import grid

    (cell,) = grid(**COMMON, **CELLS[name])
    result = Experiment.on(NoStore()).run(cell)
    return {number.metric: list(number.by_seed) for number in result.numbers if number.by_seed and not number.subpopulation}


def measured_with(package: Path, cell: str) -> dict[str, list[float]] | str:
    """The numbers of a cell as the package in this folder makes them; the last line of the error if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", cell]
    done = subprocess.run(command, env=environment, cwd=package, capture_output=True, text=True, check=False, timeout=900)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def changed(mutant: Mutant, folder: Path) -> Path:
    """A copy of the package with the mutant's change."""
    shutil.copytree(ROOT / "subpop", folder / "subpop", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "subpop" / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.file} has {text.count(mutant.old)} places that read {mutant.old!r}, not 1")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    return folder


# --- the test ---------------------------------------------------------------------------------------------------------


def repetitions(mutant: Mutant, values: Sequence[float], reference: Sequence[float]) -> tuple[int, float]:
    """How many blocks of seeds are red, and the change of what the mutant corrupts."""
    ours, theirs = np.array(values, float), np.array(reference, float)
    if mutant.spread:
        ours, theirs = (np.abs(side - np.median(side)) for side in (ours, theirs))
    red = 0
    for start in range(0, N_SEEDS, BLOCK):
        own, others = ours[start : start + BLOCK], np.delete(theirs, np.arange(start, start + BLOCK))
        red += _is_red(own, others, mutant.effect)
    return red, float(ours.mean() - theirs.mean())


def _is_red(own: np.ndarray, others: np.ndarray, effect: str) -> bool:
    change = own.mean() - others.mean()
    if effect != ANY and (change > 0) != (effect == UP):
        return False
    if own.std() < 1e-12 and others.std() < 1e-12:
        return bool(abs(change) > 1e-9)
    return bool(ttest_ind(own, others, equal_var=False).pvalue < LEVEL)


def _verdict(mutant: Mutant, fine: bool, is_placebo: bool) -> str:
    if is_placebo:
        return "green" if fine else "FALSE ALARM"
    if not mutant.seen:
        return "not seen here" if fine else "SEEN AFTER ALL"
    return "caught" if fine else "MISSED"


def seeds_needed(mutant: Mutant, values: Sequence[float], reference: Sequence[float]) -> str:
    """How many seeds a repetition would need to be red in nine of ten; '' where the change cannot be told from 0."""
    ours, theirs = np.array(values, float), np.array(reference, float)
    change, deviation = abs(ours.mean() - theirs.mean()), float(np.hypot(ours.std(ddof=1), theirs.std(ddof=1)))
    if mutant.seen or change < 2 * deviation / np.sqrt(N_SEEDS):
        return ""
    return f"{int(np.ceil(((norm.ppf(1 - LEVEL / 2) + norm.ppf(0.9)) * deviation / change) ** 2))}"


def main() -> int:
    """Print the table; 0 if every mutant is caught that is said to be seen, and no other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", choices=CELLS, help=argparse.SUPPRESS)
    parser.add_argument("-k", dest="words", action="append", default=[], help="only changes whose name contains this; repeatable")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return 0
    chosen = [
        mutant for mutant in (*MUTANTS, *PLACEBOS) if not options.words or any(words in mutant.name for words in options.words)
    ]
    with ThreadPoolExecutor(options.jobs) as pool, tempfile.TemporaryDirectory() as folder:
        names = sorted({mutant.cell for mutant in chosen})
        references = dict(zip(names, pool.map(lambda name: measured_with(ROOT, name), names), strict=True))
        packages = [changed(mutant, Path(folder) / str(i)) for i, mutant in enumerate(chosen)]
        found = list(pool.map(lambda pair: measured_with(pair[0], pair[1].cell), zip(packages, chosen, strict=True)))
    rows, wrong = [], 0
    for mutant, values in zip(chosen, found, strict=True):
        reference = references[mutant.cell]
        assert isinstance(reference, dict), (mutant.cell, reference)
        is_placebo = mutant in PLACEBOS
        if isinstance(values, str):
            rows.append((mutant.name, mutant.cell, mutant.metric, mutant.effect, "", "", f"fails: {values[:60]}", ""))
            wrong += 1
            continue
        red, change = repetitions(mutant, values[mutant.metric], reference[mutant.metric])
        fine = red <= 1 if is_placebo else (red >= ENOUGH) == mutant.seen
        verdict = _verdict(mutant, fine, is_placebo)
        needed = seeds_needed(mutant, values[mutant.metric], reference[mutant.metric])
        wrong += not fine
        what = f"deviation of {mutant.metric}" if mutant.spread else mutant.metric
        rows.append(
            (
                mutant.name,
                mutant.cell,
                what,
                "placebo" if is_placebo else mutant.effect,
                f"{change:+.4f}",
                f"{red}/10",
                verdict,
                needed,
            )
        )
    print(
        tabulate(
            rows,
            ("change", "cell", "number", "predicted", "change of its mean", "red", "verdict", "seeds needed"),
            tablefmt="github",
        )
    )
    print(f"\n{len(rows)} changes, {wrong} not as predicted")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
