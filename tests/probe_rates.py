"""Runs the probes on a folder of plug-ins: what each one finds, on small cells. Used by tests and by `python tests/probe_rates.py`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from subpop.executors import NoStore
from subpop.experiment import Experiment
from subpop.integrity.findings import FLAG, NOT_RUN, PASSED
from subpop.integrity.inspector import Inspector
from subpop.plugins import parse_defense
from subpop.types import Cell

PLUGINS = Path(__file__).parent / "plugins"
DATA = ("digits", "mixture")


def cell_of(name, dataset="digits", **changes):
    cell = Cell("rates", "embedded", dataset, "logistic_regression", "feature_match", "label_flip", 1.0, name)
    return cell.with_(**{"protocol": "reserve", "sampling": "distinct", "n_seeds": 2, **changes})


def inspected(path, dataset="digits", function=None, **changes):
    """(integrity, findings) of one plug-in on one cell, every probe run whatever it costs."""
    spec = parse_defense(f"{path}:{function or Path(path).stem}", Path("/"))
    experiment = Experiment(NoStore(), plugins={spec.name: spec})
    inspector = Inspector(experiment, share=float("inf"), grace=float("inf"))
    integrity = inspector.inspect(cell_of(spec.name, dataset, **changes))
    return integrity


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=str(PLUGINS / "cheats"), help="plug-ins, one a file, named like the file")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--data", nargs="*", default=list(DATA))
    options = parser.parse_args(arguments)
    flagged, cells, by_probe = Counter(), 0, defaultdict(Counter)
    for path in sorted(Path(options.folder).glob("*.py")):
        for dataset in options.data:
            for _ in range(options.runs):
                started = time.monotonic()
                found = inspected(path.resolve(), dataset)
                cells += 1
                flagged[path.stem] += found.column.startswith("flag")
                for part in found.details.split("; "):
                    probe, _, status = part.partition(": ")
                    by_probe[part.rpartition(": ")[0] if False else probe][status.split(" (")[0]] += 1
                seconds = time.monotonic() - started
                print(f"{path.stem} on {dataset} [{seconds:.1f} s]: {found.column}\n    {found.details}", flush=True)
    print(f"{sum(flagged.values())} of {cells} cells flagged")


if __name__ == "__main__":
    sys.exit(main())
