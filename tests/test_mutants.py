"""Each mutant still finds the place that it changes, and some of them are caught on every run."""

import subprocess
import sys

import pytest
from mutants import CELLS, MUTANTS, PLACEBOS, ROOT, repetitions

SOME = (
    "alpha x 1.1",
    "warm start returned",
    "TRIM keeps the wrong side",
    "spectral signatures without the factor 1.5",
    "other random streams",
)


@pytest.mark.parametrize("mutant", [*MUTANTS, *PLACEBOS], ids=lambda mutant: mutant.name)
def test_a_mutant_finds_its_place(mutant):
    text = (ROOT / "subpop" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.old != mutant.new
    assert mutant.cell in CELLS


def test_blocks_are_compared_with_other_seeds():
    reference = [0.1, 0.3] * 50
    assert repetitions(MUTANTS[0], [value + 0.5 for value in reference], reference)[0] == 10
    assert repetitions(MUTANTS[0], reference, reference)[0] == 0
    assert repetitions(MUTANTS[0], [value - 0.5 for value in reference], reference)[0] == 0  # it is predicted to be higher


def test_some_are_caught_and_a_placebo_is_green():
    words = [part for name in SOME for part in ("-k", name)]
    done = subprocess.run(
        [sys.executable, "tests/mutants.py", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=550
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| caught") == 4
    assert "0 not as predicted" in done.stdout
