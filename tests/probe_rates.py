"""What the probes find in a folder of plug-ins, on small cells: `python tests/probe_rates.py tests/plugins/cheats`."""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

from small_projects import parse_defense

from subpop.defenses import DEFENSES
from subpop.experiments.experiment import Experiment
from subpop.experiments.integrity.findings import FLAG, NOT_RUN, VARIES
from subpop.experiments.integrity.inspector import Inspector
from subpop.runtime.no_store import NoStore
from subpop.types import Cell

PLUGINS = Path(__file__).parent / "plugins"


def cell_of(name, dataset="digits", **changes):
    cell = Cell.of("rates", "embedded", dataset, "logistic_regression", "feature_match", "label_flip", 1.0, name)
    return cell.with_(**{"protocol": "reserve", "sampling": "distinct", "n_seeds": 2, **changes})


def inspector_of(texts):
    """An inspector that takes whatever time its probes take; what it sets up is shared by all of its plug-ins."""
    specs = [parse_defense(text, Path("/")) for text in texts]
    return Inspector(Experiment.on(NoStore(), plugins={spec.name: spec for spec in specs}), grace=float("inf"))


def plugins_of(folder):
    """`file.py:function` of every plug-in of a folder; `built-in`: of every built-in defense that these cells can have."""
    if folder != "built-in":
        return [f"{path.resolve()}:{path.stem}" for path in sorted(Path(folder).glob("*.py"))]
    told = {name: function for name, function in DEFENSES.items() if "poison_mask" not in getattr(function, "needs", ())}
    functions = [f for name, f in told.items() if inspect.isfunction(f) and not name.startswith("fine_pruning")]  # networks only
    return list(dict.fromkeys(f"{f.__module__}:{f.__name__}" for f in functions))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", default=str(PLUGINS / "cheats"), help="of plug-ins; `built-in` for our own")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--data", nargs="*", default=["digits", "mixture"])
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--brief", action="store_true", help="print flags and counts only")
    options = parser.parse_args(arguments)
    n_cells = n_flagged = 0
    by_probe, p_values = defaultdict(Counter), defaultdict(list)
    for run in range(options.runs):
        inspector = inspector_of(plugins_of(options.folder))
        for name, spec in inspector.experiment.plugins.items():
            for dataset in options.data:
                started = time.monotonic()
                found = inspector.inspect(cell_of(name, dataset, rate=options.rate))
                n_cells, n_flagged = n_cells + 1, n_flagged + found.column.startswith(FLAG)
                for finding in found.findings:
                    by_probe[finding.probe][finding.status] += 1
                    p_values[finding.probe] += [] if finding.p_value is None else [finding.p_value]
                if not options.brief or found.column.startswith(FLAG):
                    seconds = time.monotonic() - started
                    print(f"{spec.function}, {dataset}, run {run}, {seconds:.0f} s: {found.column}", flush=True)
                    print(f"    {found.details}", flush=True)
        print(f"after {run + 1} runs: {n_flagged} of {n_cells} cells flagged", flush=True)
        for probe, counts in by_probe.items():
            ran = sum(counts.values()) - counts[NOT_RUN]
            least = f"; smallest p of {len(p_values[probe])} tests {min(p_values[probe]):.2g}" if p_values[probe] else ""
            words = f"{counts[FLAG]} flags and {counts[VARIES]} that vary in {ran} runs; {counts[NOT_RUN]} not run{least}"
            print(f"    {probe}: {words}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
