"""Wrong versions of the science, each red by the number that it corrupts on random draws that the reference does not have.

`python tests/mutants.py` (or `tox -e mutants`) copies the package once for each mutant of `wrong_versions.py`, changes one place,
and measures a small cell of generated data under the kernels of two processors. The unchanged package under the same kernels is
the reference. A cell's seeds are divided into ten blocks, the repetitions. Each block of the mutant is compared with the other
nine blocks of the reference, so that no random draw is shared, by Welch's t test of a number's value for each seed, or of its
absolute deviation from the median where the spread is what a mutant corrupts. A number without any variation is red if it
differs. A mutant is caught if the number that was predicted is significant at LEVEL, in the direction that was predicted, in nine
of ten repetitions under each kernel. A placebo changes random streams, the order of rows, the path of a solver or the kernels,
and may be significant in one of ten at most.

`--page docs/mutants.md` writes the page of the documentation.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from scipy.stats import binomtest, norm, ttest_ind_from_stats
from tabulate import tabulate
from wrong_versions import (
    ANY,
    CELLS,
    DAMAGE,
    EQUIVALENT,
    MUTANTS,
    PLACEBOS,
    REPETITIONS,
    UP,
    Mutant,
    n_seeds,
)

from subpop.session.kernels import ONE_THREAD, PROFILES, environment_of, lacking, profile_of
from subpop.types import BadInput

ROOT = Path(__file__).parents[1]
LEVEL = 1e-3
"""Significance of a repetition."""
ENOUGH = 9
"""Repetitions in which a mutant must be red."""
KERNELS = ("Haswell", "Nehalem")
Values = dict[str, list[float]]
Found = Values | str
"""The numbers of a cell, or the last line of an error."""


# --- measuring --------------------------------------------------------------------------------------------------------


def measured_with(package: Path, cells: Sequence[str], kernels: str) -> dict[str, Found]:
    """The numbers of cells as the package in this folder makes them with these kernels."""
    own = {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1", "LOKY_MAX_CPU_COUNT": "1"}
    environment = {**environment_of(profile_of(kernels)), **ONE_THREAD, **own}
    command = [sys.executable, str(ROOT / "tests" / "wrong_versions.py"), *cells]
    done = subprocess.run(command, env=environment, cwd=package, capture_output=True, text=True, check=False)
    error = (done.stderr.strip().splitlines() or ["no message"])[-1]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return {**dict.fromkeys(cells, error), **dict(lines)}


def changed(mutant: Mutant, folder: Path) -> Path:
    """A copy of the package, with its compiled code, and with the mutant's change."""
    shutil.copytree(ROOT / "subpop", folder / "subpop")
    path = folder / "subpop" / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.name}: {mutant.file} has {text.count(mutant.old)} places that read {mutant.old!r}, not 1")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    return folder


# --- the test ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """What the repetitions say of one number.

    p_values: 1 where the change has the other direction than predicted; needed: seeds of a repetition that would be enough, for a
    mutant that is not seen.
    """

    change: float
    p_values: tuple[float, ...] = ()
    needed: float = 0.0
    error: str = ""

    @property
    def red(self) -> int:
        return sum(p < LEVEL for p in self.p_values)

    def __str__(self) -> str:
        if self.error:
            return f"fails: {self.error}"
        return f"{self.change:+.4f}, {self.red}/{len(self.p_values)}, p {np.median(self.p_values):.1g}"


def compared(mutant: Mutant, values: Sequence[float], reference: Sequence[float]) -> Finding:
    """Compare each block of seeds with the other blocks of the reference."""
    ours, theirs = np.array(values, float), np.array(reference, float)
    if mutant.spread:
        ours, theirs = (np.abs(side - np.median(side)) for side in (ours, theirs))
    block = len(ours) // REPETITIONS
    places = [slice(start, start + block) for start in range(0, len(ours), block)]
    found = [_p_value(ours[own], np.delete(theirs, own), mutant.effect) for own in places]
    return Finding(float(ours.mean() - theirs.mean()), tuple(found), 0.0 if mutant.seen else _needed(ours, theirs))


def _p_value(own: np.ndarray, others: np.ndarray, effect: str) -> float:
    change = own.mean() - others.mean()
    if effect != ANY and (change > 0) != (effect == UP):
        return 1.0
    if own.std() < 1e-12 and others.std() < 1e-12:
        return float(abs(change) <= 1e-9)
    parts = [part for side in (own, others) for part in (side.mean(), side.std(ddof=1), len(side))]
    return float(ttest_ind_from_stats(*parts, equal_var=False).pvalue)


def _needed(ours: np.ndarray, theirs: np.ndarray) -> float:
    """How many seeds a repetition would need to be red in nine of ten; infinite where the change cannot be told from 0."""
    change, deviation = abs(ours.mean() - theirs.mean()), float(np.hypot(ours.std(ddof=1), theirs.std(ddof=1)))
    if change < 2 * deviation / np.sqrt(len(ours)) or change < 1e-9:
        return float("inf")
    return float(np.ceil(((norm.ppf(1 - LEVEL / 2) + norm.ppf(0.9)) * deviation / change) ** 2))


def verdict(mutant: Mutant, findings: Sequence[Finding]) -> str:
    """In words whether a mutant was caught, or a placebo was green, under every kernel; capital letters: not as predicted."""
    if any(finding.error for finding in findings):
        return "FAILS"
    if mutant in PLACEBOS:
        return "green" if all(finding.red <= REPETITIONS - ENOUGH for finding in findings) else "FALSE ALARM"
    caught = all(finding.red >= ENOUGH for finding in findings)
    if mutant.seen:
        return "caught" if caught else "MISSED"
    return "SEEN AFTER ALL" if caught else "not seen"


# --- all of them ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Results:
    """The findings of each change under each kernel, and of the unchanged package under the second kernel against the first."""

    kernels: tuple[str, ...]
    changes: dict[Mutant, list[Finding]]
    other_kernels: dict[str, Finding]

    @property
    def wrong(self) -> int:
        """How many changes were not as predicted."""
        found = sum(verdict(*each).isupper() for each in self.changes.items())
        return found + sum(finding.red > REPETITIONS - ENOUGH for finding in self.other_kernels.values())


def run(chosen: Sequence[Mutant], kernels: Sequence[str], jobs: int) -> Results:
    """Measure the references and the changes; mutants with the same change share a copy of the package."""
    cells = sorted({mutant.cell for mutant in chosen})
    copies: dict[tuple[str, str, str], list[Mutant]] = {}
    for mutant in chosen:
        copies.setdefault((mutant.file, mutant.old, mutant.new), []).append(mutant)
    with ThreadPoolExecutor(jobs) as pool, TemporaryDirectory() as folder:
        references = dict(zip(kernels, pool.map(lambda each: measured_with(ROOT, cells, each), kernels), strict=True))

        def findings(alike: list[Mutant]) -> dict[Mutant, list[Finding]]:
            package = changed(alike[0], Path(folder) / str(chosen.index(alike[0])))
            own = sorted({mutant.cell for mutant in alike})
            found = {each: measured_with(package, own, each) for each in kernels}
            return {
                mutant: [_finding(mutant, found[each][mutant.cell], references[each][mutant.cell]) for each in kernels]
                for mutant in alike
            }

        changes: dict[Mutant, list[Finding]] = {}
        for found in pool.map(findings, copies.values()):
            changes |= found
            for mutant in found:
                print(f"{mutant.name}: {'; '.join(map(str, found[mutant]))}", file=sys.stderr, flush=True)
    first, *others = references.values()
    other = {cell: _finding(number_of(cell), each[cell], first[cell]) for each in others for cell in cells}
    return Results(tuple(kernels), {mutant: changes[mutant] for mutant in chosen}, other)


def number_of(cell: str) -> Mutant:
    """The unchanged package as a mutant of this cell: its number is that of the cell's first mutant."""
    metric = next((mutant.metric for mutant in MUTANTS if mutant.cell == cell), DAMAGE)
    return Mutant("other kernels", "", "", "", cell, metric)


def _finding(mutant: Mutant, values: Found, reference: Found) -> Finding:
    if isinstance(reference, str):
        raise SystemExit(f"the unchanged package fails in cell {mutant.cell}: {reference}")
    if isinstance(values, str) or mutant.metric not in values:
        return Finding(0.0, error=values[:80] if isinstance(values, str) else f"no {mutant.metric}")
    return compared(mutant, values[mutant.metric], reference[mutant.metric])


# --- printing ---------------------------------------------------------------------------------------------------------


def described(mutant: Mutant) -> tuple[str, ...]:
    """What is known of a change before it is measured: its name, cell, seeds of a repetition, number and direction."""
    number = f"deviation of {mutant.metric}" if mutant.spread else mutant.metric
    effect = "no change" if mutant in PLACEBOS else mutant.effect
    return mutant.name, mutant.cell, str(n_seeds(mutant.cell) // REPETITIONS), number, effect


def table(results: Results, wanted: Callable[[Mutant], bool]) -> str:
    """The changes with what was found, in markdown."""
    rows = [
        (*described(mutant), *map(str, findings), verdict(mutant, findings), _seeds(findings))
        for mutant, findings in results.changes.items()
        if wanted(mutant)
    ]
    headers = ("change", "cell", "seeds", "number", "predicted", *results.kernels, "verdict", "seeds needed")
    return _markdown(rows if any(row[-1] for row in rows) else [row[:-1] for row in rows], headers)


def _seeds(findings: Sequence[Finding]) -> str:
    needed = max(finding.needed for finding in findings)
    return "unknown" if np.isinf(needed) else f"{needed:.0f}" if needed else ""


def _markdown(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    return tabulate(rows, headers[: len(rows[0])] if rows else headers, tablefmt="github", disable_numparse=True)


def summary(results: Results) -> str:
    """Counts of verdicts, and the share of red repetitions of placebos."""
    verdicts = [verdict(*each) for each in results.changes.items()]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(sorted(verdicts)))
    placebos = [finding for mutant in results.changes if mutant in PLACEBOS for finding in results.changes[mutant]]
    blank = [*placebos, *results.other_kernels.values()]
    red, total = sum(finding.red for finding in blank), sum(len(finding.p_values) for finding in blank)
    lines = [f"{len(verdicts)} changes: {counts}; {results.wrong} not as predicted."]
    if total:
        bound = binomtest(red, total, alternative="less").proportion_ci(0.95).high
        lines.append(
            f"{red} of {total} repetitions of placebos are red: at most {bound:.1%} at 95 % confidence, if they were independent."
        )
    return "\n".join(lines)


def page(results: Results) -> str:
    """The page of the documentation."""
    kernels = [
        (cell, number_of(cell).metric, str(finding), "green" if finding.red <= REPETITIONS - ENOUGH else "FALSE ALARM")
        for cell, finding in results.other_kernels.items()
    ]
    unseen = [f"- *{mutant.name}*: {mutant.why}." for mutant in results.changes if mutant.why]
    cells = [(name, n_seeds(name), "; ".join(f"{key}={value}" for key, value in CELLS[name].items())) for name in CELLS]
    blocks = [
        "# Mutants of science",
        f"Written by `python tests/mutants.py --page docs/mutants.md`, which measures everything again.\n\n{INTRODUCTION}",
        summary(results),
        "## Wrong versions",
        table(results, lambda mutant: mutant not in PLACEBOS),
        "What kept a mutant from being seen, or a prediction from coming true:" if unseen else "",
        "\n".join(unseen),
        "## Placebos",
        table(results, lambda mutant: mutant in PLACEBOS),
        f"The unchanged package with the kernels of {results.kernels[-1]}, against the reference of {results.kernels[0]} "
        "(the last bits of weights differ, and an answer only where it is close):",
        _markdown(kernels, ("cell", "number", "found", "verdict")),
        "## Equivalent changes",
        "These change no number, and are therefore no mutants:",
        "\n".join(f"- *{name}*: {proof}" for name, proof in EQUIVALENT.items()),
        "## Cells",
        "A cell's seeds are those of all ten repetitions together. The settings are arguments of `subpop.grid`.",
        _markdown(cells, ("cell", "seeds", "settings")),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


INTRODUCTION = """\
Each mutant is a copy of the package with one change that makes it wrong. Its number, in a small cell of generated data, is
compared with that of the unchanged package on random draws that the two do not share: an exact number differs for any other
draw, which would prove nothing. The seeds of a cell are divided into ten repetitions, of as many seeds as the table says.
Each repetition is compared with the other nine of the reference by Welch's t test of the values of single seeds, or of their
absolute deviations from the median (*deviation of*); a number without any variation is red if it differs. The columns of the
kernels give the change of the mean, the red repetitions (p < .001 in the direction that was predicted), and the median p. A
mutant is *caught* if nine of ten repetitions are red under each kernel, and a placebo is *green* if at most one is. Numbers
and directions were written down before the mutants were measured; where a direction came true with too few seeds, the mutant
got more seeds or another cell. *Seeds needed* is what a repetition would need to be red in nine of ten; *unknown*: all seeds
together do not tell the change from 0."""


# --- the command ------------------------------------------------------------------------------------------------------


def main() -> int:
    """Print the table; 0 if every mutant is caught that is said to be seen, no other is, and no placebo is red."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-k", dest="words", action="append", default=[], help="only changes whose name contains this; repeatable")
    parser.add_argument(
        "--profile", action="append", default=[], help=f"kernels, one of {', '.join(PROFILES)}; repeatable (default: {KERNELS})"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--page", type=Path, help="write the page of the documentation to this file")
    options = parser.parse_args()
    kernels = options.profile or KERNELS
    if options.page and (options.words or len(kernels) != 2):
        parser.error("the page shows all changes under two kernels; leave out -k, and give no or two --profile")
    try:
        lack = {name: lacking(profile_of(name)) for name in kernels}
    except BadInput as error:
        parser.error(str(error))
    if any(lack.values()):
        parser.error(f"this processor lacks the instructions of {', '.join(name for name in lack if lack[name])}; use --profile")
    every = (*MUTANTS, *PLACEBOS)
    chosen = [mutant for mutant in every if not options.words or any(words in mutant.name for words in options.words)]
    results = run(chosen, kernels, options.jobs)
    print(table(results, lambda mutant: True))
    for cell, finding in results.other_kernels.items():
        print(f"other kernels, {cell}, {number_of(cell).metric}: {finding}")
    print(f"\n{summary(results)}")
    if options.page:
        options.page.write_text(page(results), encoding="utf-8")
    return int(results.wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
