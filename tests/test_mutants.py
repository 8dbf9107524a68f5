"""Each mutant still finds the place that it changes, its page is up to date, and some mutants are caught on every run."""

import re
import subprocess
import sys

import pytest
from mutants import CELLS, KERNELS, MUTANTS, PLACEBOS, REPETITIONS, ROOT, Finding, compared, described, n_seeds, verdict

from subpop.attacks.drawing import base_size
from subpop.experiments.context import Context
from subpop.runtime.no_store import NoStore
from subpop.types.grid import grid

SOME = (
    "alpha x 0.9",
    "warm start returned",
    "TRIM keeps the wrong side",
    "spectral signatures without the factor 1.5",
    "poison lost with the last batch",
    "other random streams of trees",
)
COMPILED_INTO_OTHERS = ("victims/compiled.py", "victims/lanes.py", "victims/mlp_recipe.py")
"""A copy would use machine code that was made of them before the change."""


def named(name):
    return next(each for each in (*MUTANTS, *PLACEBOS) if each.name == name)


@pytest.mark.parametrize("mutant", [*MUTANTS, *PLACEBOS], ids=lambda mutant: mutant.name)
def test_a_mutant_finds_its_place(mutant):
    text = (ROOT / "subpop" / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1
    assert mutant.old != mutant.new
    assert mutant.cell in CELLS
    assert mutant.file not in COMPILED_INTO_OTHERS


def test_names_and_repetitions():
    names = [each.name for each in (*MUTANTS, *PLACEBOS)]
    assert len(set(names)) == len(names)
    assert {each.cell for each in (*MUTANTS, *PLACEBOS)} == set(CELLS)
    assert all(n_seeds(cell) % REPETITIONS == 0 and n_seeds(cell) >= 2 * REPETITIONS for cell in CELLS)


def test_blocks_are_compared_with_other_seeds():
    reference = [0.1, 0.3] * 50
    higher = named("alpha x 1.1")
    assert compared(higher, [value + 0.5 for value in reference], reference).red == 10
    assert compared(higher, reference, reference).red == 0
    assert compared(higher, [value - 0.5 for value in reference], reference).red == 0  # it is predicted to be higher
    only_first = [*(value + 0.5 for value in reference[:10]), *reference[10:]]
    assert compared(higher, only_first, reference).red == 1  # the shifted block alone, and no other through its reference


def test_a_number_without_variation_is_red_where_it_differs():
    mutant = named("clean twin of another split")
    assert compared(mutant, [0.01] * 100, [0.0] * 100).p_values == (0.0,) * 10
    assert compared(mutant, [0.0] * 100, [0.0] * 100).p_values == (1.0,) * 10


def test_a_spread_is_compared_by_deviations_from_the_median():
    mutant = named("clean twin of another seed")
    assert compared(mutant, [-0.2, 0.2] * 100, [-0.1, 0.1] * 100).red == 10
    assert compared(mutant, [0.4, 0.6] * 100, [-0.1, 0.1] * 100).red == 0  # the mean has moved, the deviation has not


def test_a_mutant_must_be_caught_under_every_kernel():
    red, green = Finding(0.1, (1e-9,) * 10), Finding(0.1, (1e-9,) * 8 + (0.5, 0.5))
    mutant, placebo = named("alpha x 1.1"), PLACEBOS[0]
    assert [verdict(mutant, each) for each in ((red, red), (red, green))] == ["caught", "MISSED"]
    quiet, loud = Finding(0.0, (0.5,) * 9 + (1e-9,)), Finding(0.0, (0.5,) * 8 + (1e-9,) * 2)
    assert [verdict(placebo, each) for each in ((quiet, quiet), (quiet, loud))] == ["green", "FALSE ALARM"]
    unseen = named("SEVER not centred")
    assert [verdict(unseen, each) for each in ((green, red), (red, red))] == ["not seen", "SEEN AFTER ALL"]
    assert verdict(mutant, (red, Finding(0.0, error="KeyError"))) == "FAILS"


@pytest.mark.parametrize("name", ["linear", "double", "classes", "tree", "network"])
def test_floor_and_ceil_are_equivalent_at_whole_counts(name):
    (cell,) = grid(stem="mutants", tier="embedded", **CELLS[name])
    stage = Context(NoStore()).stage(cell)
    counts = [cell.rate * base_size(stage, cell, each) for each in stage.attacked]
    assert counts
    assert all(count > 0 and count == int(count) for count in counts)


def test_the_page_shows_the_mutants_of_the_file():
    page = (ROOT / "docs" / "mutants.md").read_text(encoding="utf-8")
    rows = [tuple(part.strip() for part in line.strip("|").split("|")) for line in page.splitlines() if line.startswith("| ")]
    shown = {row[0]: row for row in rows}
    for mutant in (*MUTANTS, *PLACEBOS):
        assert shown[mutant.name][:5] == described(mutant)
    measured = [row for row in rows if len(row) >= 7 and row[0] != "change"]
    assert len(measured) == len(MUTANTS) + len(PLACEBOS)
    assert set(CELLS) <= set(shown)
    assert f"{len(measured)} changes: " in page
    assert all(row[5 + KERNELS.index(name)].count(",") == 2 for row in measured for name in KERNELS)
    assert not re.search("MISSED|FALSE ALARM|SEEN AFTER ALL|FAILS", page)


def test_some_are_caught_and_a_placebo_is_green():
    words = [part for name in SOME for part in ("-k", name)]
    done = subprocess.run(
        [sys.executable, "tests/mutants.py", "--profile", "Haswell", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 changes: 5 caught, 1 green; 0 not as predicted" in done.stdout
