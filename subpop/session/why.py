"""`subpop why CELL`: three comparisons that tell why a cell is red.

The same cell runs twice on this machine, which shows whether its numbers repeat at all; then with the kernels of other types of
processor, among them those on which the references were recorded. A number that fails with all kernels was changed by the code;
one that fails here and passes with other kernels is moved by the processor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabulate import tabulate

from subpop.report.verdict import COMPARED
from subpop.session.kernels import PROFILES, Key, Outcome, environment_of, in_words, lacking, run_once
from subpop.types import BadInput

ASKED = ("Haswell", "SkylakeX", "Nehalem")
"""The profiles that are tried; references are means over them and others."""
RED = ("fail", "error", "no_reference")
NOISE = "noise: two runs on this machine differ, so its tolerance or its seeds are wrong"
CODE = "the code: it fails with the kernels of every processor that was tried"
MACHINE = "the machine: it fails here and passes with the kernels of {}"


def why(words: str, folder: Path, for_pytest: Sequence[str]) -> tuple[str, int]:
    """Run a cell in several ways and say why it is red.

    Parameters
    ----------
    words
        A selection of cells, as for `pytest -k`.
    folder
        Where stores and reports are written.
    for_pytest
        Further options, such as `--tier`.

    Returns
    -------
    tuple
        The explanation in markdown, and the exit status: 0 if no number of the cells is red here.

    Raises
    ------
    BadInput
        If the selection matches no cell.
    """
    selection = ["-k", words, "--fresh", *for_pytest]
    first = run_once(dict(os.environ), folder / "first", selection)
    if not first.numbers:
        raise BadInput(f"no cell matches -k {words!r}; `subpop run --collect-only -q` lists the cells")
    if not any(map(_is_red, first.numbers.values())):
        return page(first, first, {})
    again = run_once(dict(os.environ), folder / "again", selection)
    others = {name: PROFILES[name] for name in ASKED if not lacking(PROFILES[name])}
    return page(first, again, {name: run_once(environment_of(each), folder / name, selection) for name, each in others.items()})


def page(first: Outcome, again: Outcome, elsewhere: Mapping[str, Outcome]) -> tuple[str, int]:
    """Return the explanation of the red numbers of the first run, and the exit status."""
    red = [key for key, row in first.numbers.items() if _is_red(row)]
    if not red:
        n = sum(row["verdict"] in COMPARED for row in first.numbers.values())
        counted = f"{n:,} numbers are compared with references and pass" if n else "No number is compared with a reference"
        counted = "1 number is compared with a reference and passes" if n == 1 else counted
        return f"{counted} here ({first.hardware}), so there is nothing to explain.\n", 0
    rows = [
        (in_words(key), first.numbers[key]["value"], first.numbers[key]["reference"], cause(key, first, again, elsewhere))
        for key in red
    ]
    table = tabulate(rows, ("number", "here", "reference", "what made it red"), tablefmt="github", floatfmt=".6g")
    found = "\n".join(f"- {name}: {outcome.hardware}" for name, outcome in {"here": first, **elsewhere}.items())
    reasons = "\n".join(dict.fromkeys(f"- {in_words(key[:9])}: {first.numbers[key]['reason']}" for key in red))
    return f"{table}\n\nKernels:\n\n{found}\n\nMessages of this machine's run:\n\n{reasons}\n", 1


def cause(key: Key, first: Outcome, again: Outcome, elsewhere: Mapping[str, Outcome]) -> str:
    """Say in words what made a number of the first run red."""
    if again.numbers.get(key, {}).get("value") != first.numbers[key]["value"]:
        return NOISE
    passing = [name for name, outcome in elsewhere.items() if key in outcome.numbers and not _is_red(outcome.numbers[key])]
    if passing:
        return MACHINE.format(" and ".join(passing))
    return CODE if elsewhere else "unknown: this processor can run none of the other kernels"


def _is_red(row: Mapping[str, object]) -> bool:
    return row["verdict"] in RED and bool(row["reason"])
