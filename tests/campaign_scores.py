"""Damage and integrity on one small cell, a line of JSON each: `python tests/campaign_scores.py file.py:function ...`."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from probe_rates import cell_of
from small_projects import parse_defense

from subpop.defenses import DEFENSES
from subpop.experiments.experiment import Experiment
from subpop.experiments.integrity.inspector import Inspector
from subpop.harness.batching import DefenseError
from subpop.runtime.store import Store
from subpop.types import OWN_LEARNER


def scored(text, grace=float("inf"), **changes):
    """Target damage of every attacked subpopulation, and what the probes find; text: a plug-in, or a built-in defense by name."""
    spec = None if text in DEFENSES else parse_defense(text, Path("/"))
    name = text if spec is None else spec.name
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.sqlite") as store:
        experiment = Experiment.on(store, plugins={} if spec is None else {name: spec})
        inspector = None if spec is None else Inspector(experiment, grace=grace)
        cell = cell_of(name, **changes)
        try:
            found = inspector.inspect(cell) if inspector else None
            table = experiment.run(cell).table
            own = any(result.metrics.get(OWN_LEARNER) for result in experiment.trials(cell)[0])
        except DefenseError as error:
            return {"name": name, "error": error.reason[:300]}
    return {
        "name": name,
        "damage": float(np.mean([row["target_damage"] for row in table])),
        "damages": [row["target_damage"] for row in table],
        "collateral": float(np.mean([row["collateral_damage"] for row in table])),
        "own_learner": own,
        "integrity": found.column if found else "",
        "findings": [[f.probe, f.status, f.words] for f in found.findings] if found else [],
        "seconds": time.monotonic() - started,
    }


if __name__ == "__main__":
    for text in sys.argv[1:]:
        print(json.dumps(scored(text)), flush=True)
