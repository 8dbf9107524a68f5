"""What is checked of a user-supplied attack: two calls with the same arguments, in two child processes, and what these opened.

A child receives nothing of D, D_test, the defense or the cell, and an attack that writes into its arrays or into global random
state changes its own child only. But it could read the data from a file, or draw from an unseeded generator, so that its trials
would not be what the store says.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from subpop.attacks.drawing import draw_poison
from subpop.attacks.label_flip import AttackTask, Poison
from subpop.attacks.user_attacks import poison_of, sample_of
from subpop.datasets.download import data_root
from subpop.experiments.experiment import Experiment
from subpop.experiments.integrity.findings import FLAG, PASSED, Finding, not_run
from subpop.harness.attack_child import Chosen, attack_in_child
from subpop.harness.batching import DefenseError
from subpop.types import Cell
from subpop.types.printable import printable

REPEATED, OPENED = "repeated call", "opened files"
SHOWN = 3
"""Number of opened files that a finding names."""


def probe(experiment: Experiment, cell: Cell) -> list[Finding]:
    """The findings for the attack of a cell, from a secret subpopulation and draw."""
    context, stage = experiment.context, experiment.context.stage(cell)
    spec, calls = context.attacks[cell.attack], list[Chosen]()

    def twice(task: AttackTask[Any]) -> Poison:
        seed = int(task.generator.integers(2**32))
        calls.extend(attack_in_child(spec, sample_of(task), task.count, seed, experiment.timeout) for _ in range(2))
        return poison_of(spec, task, calls[0])

    secret = np.random.default_rng(int.from_bytes(os.urandom(8), "big"))
    name = stage.attacked[int(secret.integers(len(stage.attacked)))]
    try:
        draw_poison(stage, cell, name, int(secret.integers(2**31)), context.label_attacker(cell), attack=twice)
    except DefenseError as error:
        return [Finding(REPEATED, FLAG, error.reason, claim="fails in a repeated call")]
    return [_repeated(*calls), _opened([call.seen for call in calls], context.root)]


def _repeated(first: Chosen, second: Chosen) -> Finding:
    n_other = int(((first.rows != second.rows) | (first.y != second.y)).sum())
    if n_other == 0 and _bytes(first) == _bytes(second):
        return Finding(REPEATED, PASSED, f"{len(first.rows)} rows, the same twice")
    found = f"{n_other} of {len(first.rows)} rows differ" if n_other else "the inputs differ"
    return Finding(REPEATED, FLAG, found, claim="two calls with the same sample and seed differ: draw from default_rng(seed)")


def _bytes(call: Chosen) -> bytes:
    return b"" if call.x is None else call.x.tobytes()


def _opened(seen: list[Mapping[str, Any]], root: Path | None) -> Finding:
    """What the children told of the files that Python opened in them."""
    try:
        files = sorted({str(path) for each in seen for path in each["files"]})
        reasons = sorted({str(reason) for each in seen for reason in each["reasons"]})
    except (KeyError, TypeError):
        return not_run(OPENED, "its process did not say what it opened")
    of_data = [path for path in files if any(Path(path).is_relative_to(folder) for folder in _data_folders(root))]
    if of_data:
        named = ", ".join(printable(Path(path).name) for path in of_data[:SHOWN])
        return Finding(OPENED, FLAG, f"files of data sets: {named}", claim="opens files of data sets, which hold the test rows")
    if reasons:
        return not_run(OPENED, "; ".join(map(printable, reasons[:SHOWN])))
    named = ", ".join(printable(Path(path).name) for path in files[:SHOWN])
    return Finding(OPENED, PASSED, f"{len(files)} files besides its code{': ' * bool(files)}{named}")


def _data_folders(root: Path | None) -> list[Path]:
    found = importlib.util.find_spec("sklearn")
    own = [] if found is None or found.origin is None else [Path(found.origin).parent / "datasets"]
    return [(root or data_root(None)).resolve(), *own]
