"""The example of a suite outside the repository: it runs from its own folder, first to look, then against its references."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_example_looks_records_and_passes(tmp_path):
    folder = tmp_path / "own suite"
    shutil.copytree(ROOT / "examples" / "own_suite", folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def run(*words):
        done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    assert run("make_data.py")[0] == 0
    suite = ("-m", "pytest", "benchmarks", "-q", "-p", "no:cacheprovider", "--data-root", ".")
    status, text = run(*suite, "--no-references")
    assert status == 0, text
    results = json.loads((folder / "runs" / "report" / "results.json").read_text())
    assert {row["rate"] for row in results["cells"]} == {0.5, 1.0}
    assert run(*suite)[0] == 1, "without references a run that compares is red"
    assert run(*suite, "--rebaseline")[0] == 1
    assert (folder / "baselines" / "mine.csv").exists()
    status, text = run(*suite)
    assert status == 0, text
    assert "2 cells pass" in text
