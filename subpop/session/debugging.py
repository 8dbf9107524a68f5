"""Running one trial of a plug-in in this process, so that breakpoints, pdb and print work in the terminal.

The trial is one of the embedded suites. The defense is not isolated from the harness here, and nothing is stored.
"""

from __future__ import annotations

import runpy
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from subpop.experiments.attack_sets import FOLDER
from subpop.experiments.experiment import Experiment
from subpop.experiments.trial import Prepared, score
from subpop.experiments.undecided import Undecided
from subpop.harness.batching import checked_request
from subpop.harness.fit_log import kept_key, rows_key
from subpop.harness.outcome import check_defended, seal
from subpop.harness.plugins import DefenseSpec, load
from subpop.runtime.no_store import NoStore
from subpop.runtime.places import find
from subpop.runtime.threads import one_thread
from subpop.session.run import select
from subpop.types import KEEP_UNCHECKED, OWN_LEARNER, BadInput, Cell, Model, TrainingSet, TrialResult
from subpop.types.kinds import kind_of

DEFAULT_WORDS = "defenses"
HOLDOUT = "0.05"
"""The fraction of test rows in the clean holdout if the defense needs one and its cell grants none."""


def debug(spec: DefenseSpec, words: str = DEFAULT_WORDS, data_root: Path | None = None) -> list[str]:
    """Run the first attacked trial of the first cell whose name contains all words; returns lines that describe the result.

    Exceptions of the defense are not caught.
    """
    partitions = find("baselines", Path.cwd()) / FOLDER
    experiment = Experiment.on(NoStore(), data_root, plugins={spec.name: spec}, partitions=partitions)
    cell = _chosen(spec, words)
    trial = next(trial for chunk in experiment.chunks(cell) for trial in chunk if trial.attacked)
    prepared = experiment.prepare(cell, trial)
    n_rows = len(prepared.task.train)
    print(f"{cell.stem}: {cell.id}, {prepared.task.name}: {n_rows} rows, {prepared.n_poison} of them poison", flush=True)
    return list(_lines(prepared, _run(experiment, cell, prepared, spec)))


def _chosen(spec: DefenseSpec, words: str) -> Cell:
    cells = [cell for cell in _open_cells(spec.name) if kind_of(cell).trains_trials]
    own = [cell for cell in cells if all(word in f"{cell.stem} {cell.id}" for word in words.split())]
    if not own:
        some = ", ".join(f"{cell.stem} {cell.id}" for cell in cells[:3])
        raise BadInput(f"no cell of the embedded tier that is open to plug-ins matches {words!r}; there are {some}, ...")
    needs_holdout = "clean_holdout" in spec.needs and own[0].defender.holdout is None
    return own[0].with_(holdout=HOLDOUT) if needs_holdout else own[0]


def _open_cells(name: str) -> list[Cell]:
    """The undefended cells of the suites that are open to plug-ins, with this plug-in as their defense."""
    folder = find("benchmarks", Path.cwd())
    sys.path.insert(0, str(folder))  # a suite may import its cells from another
    try:
        suites = [runpy.run_path(str(path)) for path in sorted(folder.glob("test_*.py"))]
    finally:
        sys.path.remove(str(folder))
    found = [select(suite.get("CELLS", []), "embedded", [name], suite.get("open_to_defenses", False)) for suite in suites]
    return [cell for cells in found for cell in cells if cell.defense == name]


def _run(experiment: Experiment, cell: Cell, prepared: Prepared, spec: DefenseSpec) -> TrialResult:
    task, stage = prepared.task, experiment.context.stage(cell)
    n_classes = stage.dataset.n_classes
    fit_many = experiment.fleet_of(cell, [prepared.trial.seed])
    made: list[tuple[Model, bytes | None]] = []

    def fit(train: TrainingSet) -> Model:
        asked = checked_request(train, task.train, task.know.clean_holdout, n_classes)
        [model] = fit_many([(0, asked)])
        made.append((model, rows_key(asked, task.train)))
        return model

    defense, sealed, started = load(spec), seal(task.train), time.perf_counter()
    with one_thread("blas"):
        defended = defense(task.train, fit, task.know, seed=task.seed)
    seconds, certify = time.perf_counter() - started, task.certify
    outcome = check_defended(defended, task.train, sealed, stage.data.test_x, n_classes, certify, task.reference_y)
    own = [key for model, key in made if model is defended.model]
    checked = outcome.keep is not None and kept_key(outcome.keep, task.train) in own
    outcome = replace(outcome, n_fits=len(made), seconds=seconds, made_by_fit=bool(own), keep_checked=checked)
    return score(stage, prepared, outcome, Undecided(stage.data), np.full(2, np.nan), False)


def _lines(prepared: Prepared, result: TrialResult) -> Iterator[str]:
    metrics = result.metrics
    yield f"fits: {result.n_fits}, in {result.seconds:.2f} s, including time spent in the debugger"
    yield f"accuracy on all test rows: {np.mean(result.arrays['right']):.1%}"
    if "removed" in metrics:
        yield f"removed: {metrics['removed']:.0f} of {len(prepared.task.train)} rows"
        yield f"recall: {metrics['removed_flipped']:.0f} of {metrics['n_flipped']:.0f} wrongly labelled poison rows"
    elif KEEP_UNCHECKED in metrics:
        yield "removed: keep not checked, because fit did not train the returned model on exactly the rows in keep"
    else:
        yield "removed: no mask was returned"
    if OWN_LEARNER in metrics:
        yield "the returned model was not trained by fit"
    yield from (f"{name.partition(':')[2]}: {value:g}" for name, value in metrics.items() if name.startswith("diagnostic:"))
