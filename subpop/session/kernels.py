"""Run the same cells with the kernels of other processors: `python -m subpop.session.kernels [-k ...]`, or `tox -e kernels`.

BLAS, torch, oneDNN and numba choose kernels by processor; environment variables make them choose those of another one. Each
profile runs `subpop run` in a separate process with a separate store. The report lists the kernels that were used, the
failed cells of each profile, and each number that differs from its reference, or between two profiles, by more than half of its
tolerance. Profiles that the processor cannot run are skipped and listed.

`--record` runs the profiles of `RECORDED`, and the first of them once more with twice as many seeds. It then records the mean of
each stochastic number over the profiles, its spread over them, and its value for every seed. Record the cells with
`--rebaseline` before.

Few profiles differ in the arithmetic of a network. `mlp` adds in one fixed order, so that only fused multiplication matters
(NUMBA_CPU_NAME=generic has none); its BLAS only predicts. For `conv_net`, ATEN_CPU_CAPABILITY=default and MKL_CBWR=COMPATIBLE
matter, and not whether torch has AVX2 or AVX-512; oneDNN only predicts. On processors of makers other than Intel, MKL ignores all
other values of MKL_CBWR. Text networks depend on all of these and on the number of threads. The profiles named after an order of
rows therefore add the rows of each batch in another order, as other kernels would (`subpop.session.row_order`). Profiles that
train the same weights of a victim (`subpop.session.trained_weights`) and give the same numbers count as one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from tabulate import tabulate

from subpop.results.evidence import FEWEST_KERNELS
from subpop.results.metric_registry import find_metric
from subpop.results.references import Kernel, record_kernels, text_of
from subpop.runtime.hardware import cpu_flags
from subpop.session import row_order, trained_weights
from subpop.types import BadInput
from subpop.types.metric import Tolerance

NOTHING_SELECTED = 5
"""The exit status of pytest if no test was selected."""
MOVED = 0.5
"""Numbers that move by more than this fraction of their tolerance are reported."""
OLD = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE", "NUMBA_CPU_NAME": "generic"}
AVX = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX", "NUMBA_CPU_NAME": "generic"}
AVX2 = {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
OWN = ("OPENBLAS_L2_SIZE", "NUMBA_CPU_FEATURES")
"""Further variables that no profile inherits, in addition to those that profiles set."""
AVX512 = ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
KEY = ("stem", "tier", "dataset", "victim", "partition", "attack", "rate", "defense", "setting", "subpopulation", "metric")

Key = tuple[str, ...]


@dataclass(frozen=True)
class Profile:
    """The kernels of another processor. variables: select its kernels; needs: CPU flags without which they cannot run.

    found_as: names that OpenBLAS may report for the kernel; 64-bit builds report Prescott under the name of an older one.
    """

    variables: Mapping[str, str]
    needs: tuple[str, ...]
    found_as: tuple[str, ...]
    options: tuple[str, ...] = ()
    """For pytest."""


PROFILES = {
    "Haswell": Profile(AVX2, ("avx2", "fma"), ("Haswell",)),
    "SkylakeX": Profile({"OPENBLAS_CORETYPE": "SkylakeX"}, AVX512, ("SkylakeX",)),
    "Nehalem": Profile({"OPENBLAS_CORETYPE": "Nehalem", **OLD}, ("sse4_2",), ("Nehalem",)),
    "Prescott": Profile({"OPENBLAS_CORETYPE": "Prescott", **OLD}, ("pni",), ("Prescott", "Katmai")),
    "Haswell, one thread": Profile({**AVX2, **ONE_THREAD}, ("avx2", "fma"), ("Haswell",)),
}
"""Kernels under which the cells must pass."""
REVERSED = {
    f"Haswell, rows by {size}": replace(PROFILES["Haswell"], options=("-p", row_order.__name__, f"--reverse-rows-in={size}"))
    for size in (2, 4, 8)
}
RECORDED: dict[str, Profile] = {
    **{name: PROFILES[name] for name in ("Haswell", "Nehalem")},
    "Sandybridge": Profile({"OPENBLAS_CORETYPE": "Sandybridge", **AVX}, ("avx",), ("Sandybridge",)),
    **REVERSED,
}
"""Kernels under which `--record` records: networks train with another arithmetic under at least five of them."""
KNOWN = {**PROFILES, **RECORDED}


@dataclass(frozen=True)
class Outcome:
    """The results of one profile. numbers, hardware: from results.json; skipped: the reason if it did not run."""

    numbers: Mapping[Key, Mapping[str, Any]]
    hardware: str = ""
    status: int = 0
    skipped: str = ""
    weights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Digests of trained weights by victim and training (`subpop.session.trained_weights`)."""

    @property
    def red(self) -> list[str]:
        """Names of the cells with a failing number."""
        bad = [key for key, row in self.numbers.items() if row["verdict"] in ("fail", "error")]
        return list(dict.fromkeys(in_words(key[:9]) for key in bad))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the profiles and write the report; returns 0 if at least one profile ran and all that ran passed."""
    options, for_pytest = _parser().parse_known_args(arguments)
    try:
        if options.print_variables:
            print(shell_lines(profile_of(options.print_variables)))
            return 0
        for name in options.profile:
            profile_of(name)
        names = options.profile or (RECORDED if options.record else PROFILES)
        if options.record and not options.baselines.is_dir():
            raise BadInput(f"there is no folder {options.baselines}; name that of the references to be recorded with --baselines")
        noting = ["-p", trained_weights.__name__] if options.record else []
        outcomes = {name: _outcome(name, options.folder.resolve(), [*noting, *for_pytest]) for name in names}
        recorded = _record(outcomes, options, for_pytest) if options.record else ""
    except BadInput as error:
        print(f"subpop.session.kernels: {error}", file=sys.stderr)
        return 2
    page = report(outcomes) + recorded
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "README.md").write_text(page, encoding="utf-8")
    print(f"\n{page}\nreport: {options.folder.resolve() / 'README.md'}")
    ran = [outcome for outcome in outcomes.values() if not outcome.skipped]
    return 0 if ran and not any(outcome.status for outcome in ran) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m subpop.session.kernels",
        description=__doc__,
        epilog="Everything else goes to pytest: -k, --tier, --data-root.",
    )
    parser.add_argument("--profile", action="append", default=[], help=f"one of {'; '.join(KNOWN)}; repeatable")
    parser.add_argument("--print-variables", metavar="PROFILE", help="print its variables as shell commands, and stop")
    parser.add_argument("--record", action="store_true", help="record stochastic numbers over several profiles in the baselines")
    parser.add_argument("--baselines", type=Path, default=Path("baselines"), help="folder of reference numbers (with --record)")
    parser.add_argument("--folder", type=Path, default=Path("runs/kernels"), help="where stores and reports go")
    return parser


# --- one profile ------------------------------------------------------------------------------------------------------


def profile_of(name: str) -> Profile:
    """The profile of that name."""
    if name not in KNOWN:
        raise BadInput(f"unknown profile {name!r}; use one of {'; '.join(KNOWN)}")
    return KNOWN[name]


def lacking(profile: Profile) -> list[str]:
    """The required instruction sets that the processor lacks; empty if they are unknown."""
    offered = cpu_flags()
    return [flag for flag in profile.needs if offered and flag not in offered]


def not_inherited() -> list[str]:
    """The variables that select kernels, which a profile does not inherit from the environment."""
    return sorted({name for each in KNOWN.values() for name in each.variables} | {*OWN})


def environment_of(profile: Profile) -> dict[str, str]:
    """The environment of this process with the profile's variables in place of all others that select kernels."""
    dropped = not_inherited()
    return {**{name: value for name, value in os.environ.items() if name not in dropped}, **profile.variables}


def shell_lines(profile: Profile) -> str:
    """Shell commands that set a profile's variables."""
    own = [f"export {name}={value}" for name, value in profile.variables.items()]
    return "\n".join([f"unset {' '.join(not_inherited())}", *own])


def _outcome(name: str, folder: Path, for_pytest: Sequence[str]) -> Outcome:
    profile = profile_of(name)
    if lack := lacking(profile):
        return Outcome({}, skipped=f"the processor has no {', '.join(lack)}")
    own = folder / name.replace(", ", "-").replace(" ", "-")
    print(f"--- {name}: {' '.join(f'{key}={value}' for key, value in profile.variables.items())}", flush=True)
    return run_once(environment_of(profile), own, [*profile.options, *for_pytest])


def run_once(environment: Mapping[str, str], folder: Path, for_pytest: Sequence[str]) -> Outcome:
    """Run the suites in a process with this environment, with a store and a report of their own below the folder."""
    places = ["--store", str(folder / "store.sqlite"), "--report-dir", str(folder / "report")]
    (folder / "report" / "results.json").unlink(missing_ok=True)  # from an earlier run
    command = [sys.executable, "-m", "subpop", "run", "-q", "--tb=line", *places, *for_pytest]
    status = subprocess.run(command, env=environment, check=False).returncode
    return read_outcome(folder / "report" / "results.json", status)


def _record(outcomes: Mapping[str, Outcome], options: argparse.Namespace, for_pytest: Sequence[str]) -> str:
    """Record the stochastic numbers of the profiles that ran; returns what was recorded, in words."""
    ran = {name: outcome for name, outcome in outcomes.items() if not outcome.skipped}
    if len(ran) < FEWEST_KERNELS:
        raise BadInput(f"--record needs at least {FEWEST_KERNELS} profiles, and {len(ran)} ran; name more with --profile")
    first = next(iter(ran))
    more = _outcome(first, options.folder.resolve() / "more-seeds", [*for_pytest, "--seeds-times", "2"])
    kernels, lines = without_repeats([*ran.values()]), []
    noisy = {_group(key) for key, row in ran[first].numbers.items() if row["by_seed"]}
    counts = Counter(chain.from_iterable({*map(_group, kernel)} & noisy for kernel in kernels))
    for (tier, victim), n in sorted(counts.items()):
        enough = "" if n >= FEWEST_KERNELS else "; too few, so that its numbers are recorded under one"
        lines.append(f"- {tier}, {victim}: {n} of {len(ran)} profiles differ{enough}")
    n_noisy = sum(bool(row["by_seed"]) and row["reference"] is not None for row in ran[first].numbers.values())
    for stem in sorted({key[0] for kernel in kernels for key in kernel}):
        path = options.baselines / f"{stem}.csv"
        *runs, of_more = (
            {key[1:]: value for key, value in kernel.items() if key[0] == stem} for kernel in (*kernels, _of_rows(more))
        )
        n_recorded = record_kernels(path, runs, of_more, n_noisy, _least(ran[first], stem))
        lines.append(f"- {path}: {n_recorded} numbers recorded over several kernels")
    return "\n".join(["", *lines, ""])


def _least(outcome: Outcome, stem: str) -> dict[Key, float]:
    """How much one test row of one seed changes each number of a suite."""
    rows = {key: row for key, row in outcome.numbers.items() if key[0] == stem and row["one_row"]}
    return {_row_key(key)[1:]: row["one_row"] / row["n_seeds"] for key, row in rows.items()}


def without_repeats(outcomes: Sequence[Outcome]) -> list[Kernel]:
    """The numbers of each run, without those of victims of which an earlier run has the same weights and numbers."""
    kernels = [_of_rows(outcome) for outcome in outcomes]
    everywhere = sorted(set.intersection(*(set(kernel) for kernel in kernels)))
    kept, seen = list[Kernel](), set[Any]()
    for kernel, outcome in zip(kernels, outcomes, strict=True):
        found = defaultdict(list)
        for key in everywhere:
            found[_group(key)].append((kernel[key][0], *kernel[key][1]))
        known = {group: (group, tuple(own), _weights(group[1], outcome, outcomes)) for group, own in found.items()}
        kept.append({key: value for key, value in kernel.items() if known.get(_group(key)) not in seen})
        seen |= {*known.values()}
    return kept


def _weights(victim: str, own: Outcome, outcomes: Sequence[Outcome]) -> tuple[str, ...]:
    """The digests of the trainings of a victim that all runs have noted."""
    noted = set.intersection(*(set(outcome.weights.get(victim, ())) for outcome in outcomes))
    return tuple(own.weights[victim][training] for training in sorted(noted))


def _group(key: Key) -> Key:
    """The tier and the victim of a number."""
    return key[1], key[3]


def _of_rows(outcome: Outcome) -> Kernel:
    """The numbers of a profile by suite and key of their rows in its baselines."""
    there = {key: row for key, row in outcome.numbers.items() if row["value"] is not None and not _is_timed(key[-1])}
    return {_row_key(key): (row["value"], row["by_seed"]) for key, row in there.items()}


def _row_key(key: Key) -> Key:
    """The suite and the key of a number's row in its baselines."""
    return (*key[:6], text_of(float(key[6])), *key[7:])


def _is_timed(name: str) -> bool:
    metric = find_metric(name)
    return metric is not None and metric.tolerance is Tolerance.TIMED


def read_outcome(path: Path, status: int = 0) -> Outcome:
    """The numbers in a run's results.json. Raises BadInput if the file does not exist."""
    if not path.is_file() and status == NOTHING_SELECTED:
        raise BadInput("no cell matches the selection; `subpop run --collect-only -q` lists the cells")
    if not path.is_file():
        raise BadInput(f"the run left no {path} (its exit status is {status}); see above for what stopped it")
    found = json.loads(path.read_text(encoding="utf-8"))
    numbers = {tuple(str(row[name]) for name in KEY): row for row in found["cells"]}
    return Outcome(numbers, found["hardware"], status, weights=trained_weights.read_weights(path.with_name(trained_weights.FILE)))


# --- the report -------------------------------------------------------------------------------------------------------


def report(outcomes: Mapping[str, Outcome]) -> str:
    """The report page: kernels of each profile, failed cells, and numbers that moved."""
    rows = [(name, _kernels(name, outcome), len(outcome.numbers), len(outcome.red)) for name, outcome in outcomes.items()]
    lines = ["# The same numbers under other kernels", "", _table(rows, ("profile", "kernels found", "numbers", "red cells"))]
    for name, outcome in outcomes.items():
        lines += ["", f"Red under {name}:", *(f"- {cell}" for cell in outcome.red)] if outcome.red else []
    found = moved(outcomes)
    compared = len({key for outcome in outcomes.values() for key in outcome.numbers})
    lines += ["", f"{len(found)} of {compared} numbers moved by more than {MOVED:g} of their tolerance."]
    names = [name for name, outcome in outcomes.items() if not outcome.skipped]
    if found:
        lines += ["", _table(found, ("number", "moved, in tolerances", "tolerance", "reference", *names))]
    return "\n".join(lines) + "\n"


def _kernels(name: str, outcome: Outcome) -> str:
    if outcome.skipped:
        return f"skipped: {outcome.skipped}"
    asked = KNOWN[name].found_as if name in KNOWN else ()
    if "openblas" not in outcome.hardware or not any(word in outcome.hardware for word in asked):
        return f"{outcome.hardware} (not the kernels that were asked for)"
    return outcome.hardware


def moved(outcomes: Mapping[str, Outcome]) -> list[tuple[Any, ...]]:
    """The numbers that differ too much from their reference or between profiles, the largest difference first.

    Each is (name, largest difference in tolerances, tolerance, reference, the number under each profile that ran).
    """
    ran = [outcome for outcome in outcomes.values() if not outcome.skipped]
    found = []
    for key in dict.fromkeys(key for outcome in ran for key in outcome.numbers):
        rows = [outcome.numbers.get(key) for outcome in ran]
        distance, tolerance, reference = _distance([row for row in rows if row is not None])
        if distance > MOVED:
            values = ["" if row is None else row["value"] for row in rows]
            found.append((in_words(key), distance, tolerance, reference, *values))
    return sorted(found, key=lambda row: (-row[1], row[0]))


def _distance(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float | None, float | None]:
    """The range of a number over its reference and all profiles, in tolerances; its tolerance and its reference."""
    tolerance = next((row["atol"] for row in rows if row["atol"]), None)
    reference = next((row["reference"] for row in rows if row["reference"] is not None), None)
    if tolerance is None:
        return 0.0, None, reference
    values = [row["value"] for row in rows] + ([] if reference is None else [reference])
    if any(value is None for value in values):  # unknown in one profile and known in another
        return (float("inf") if any(value is not None for value in values) else 0.0), tolerance, reference
    return (max(values) - min(values)) / tolerance, tolerance, reference


def in_words(key: Key) -> str:
    return " ".join(filter(None, key))


def _table(rows: Sequence[tuple[Any, ...]], headers: Sequence[str]) -> str:
    return str(tabulate(rows, headers, tablefmt="github", floatfmt=".4g"))


if __name__ == "__main__":
    sys.exit(main())
