"""The notebook of the examples runs from its first cell to its last, in a folder of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_notebook_runs(tmp_path):
    cells = json.loads((ROOT / "examples" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == 3
    assert not any(cell["outputs"] for cell in cells if cell["cell_type"] == "code"), "outputs are not committed"
    shown = 'assert found.to_frame().query("metric == \'target_damage_mean\'")["rate"].tolist() == [0.5, 0.5, 1.0, 1.0]'
    script = tmp_path / "tour.py"
    script.write_text("\n".join([*code, shown, "assert len(audited.groups)"]), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("How bad is it? ")
