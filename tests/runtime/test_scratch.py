"""Temporary folders: what a killed process leaves is deleted by the next one, and nothing else."""

import os
import signal
import subprocess
import sys
from pathlib import Path

HOLDS = "from subpop.runtime.scratch import Scratch; own = Scratch('test'); print(own.name, flush=True); input()"


def holder(folder):
    """A process that holds a temporary folder, and the folder."""
    command = [sys.executable, "-c", HOLDS]
    process = subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(folder)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, Path(process.stdout.readline().strip())


def test_a_killed_process_leaves_a_folder_until_the_next_one(tmp_path):
    (tmp_path / "subpop-somebody-else").mkdir()
    (tmp_path / "subpop-somebody-else" / "file").write_text("kept")
    killed, left = holder(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    (left / "arrays.npz").write_bytes(b"0" * 1000)
    assert left.parent == tmp_path
    first, own = holder(tmp_path)
    assert not left.exists()
    second, other = holder(tmp_path)
    assert own.is_dir(), "a process that runs keeps its folder"
    for process in (first, second):
        process.communicate("\n", timeout=30)
        assert process.returncode == 0
    assert not own.exists()
    assert not other.exists()
    assert (tmp_path / "subpop-somebody-else" / "file").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["subpop-somebody-else"]
