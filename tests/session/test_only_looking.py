"""`--no-references`: a run that only looks, compares nothing and is red for no lack of a reference."""

import json
import re

from tests.small_projects import make_project, run

SUITE = '''"""Source: a test. Deviations: none."""
from subpop import grid

CELLS = grid(stem="little", tier="embedded", dataset="mixture", victim="logistic_regression", partition="feature_match",
             rate=1.0, n_seeds=1)


def test_cell(cell, measure):
    measure(cell)
'''


def test_nothing_is_compared_and_nothing_is_red(tmp_path):
    project = make_project(tmp_path)
    (project / "benchmarks" / "test_little.py").write_text(SUITE)
    red = run(project)
    assert red.returncode == 1
    assert "none of its gated metrics has a reference" in red.stdout
    assert "\n1 cell fails only for lack of references\n" in red.stdout
    green = run(project, "--no-references")
    assert green.returncode == 0, green.stdout
    assert "1 cell was measured and not compared" in green.stdout
    assert re.search(r"logistic_regression, alpha 1: mean target damage [0-9.]+ %, ", " ".join(green.stdout.split())), (
        green.stdout
    )
    assert "**Not compared: numbers were measured" in (project / "runs" / "report" / "README.md").read_text()
    found = json.loads((project / "runs" / "report" / "results.json").read_text())
    assert {row["verdict"] for row in found["cells"]} == {"not_compared"}
    both = run(project, "--no-references", "--rebaseline")
    assert both.returncode != 0
    assert "use one of the two options" in both.stderr
