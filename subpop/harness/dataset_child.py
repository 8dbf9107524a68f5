"""The harness's side of loaders of other people's data, each of which runs in a child process.

The child makes plain arrays and texts of what the loader returns, with a function of ours that is sent along; what comes back is
data that nobody vouches for. It runs in the folder of the user, whose files it reads, with a clean environment.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from subpop.harness.calls import Call
from subpop.harness.child import Message, Packer
from subpop.harness.fork_server import search_path
from subpop.harness.plugins import DatasetSpec
from subpop.harness.sandbox import PATIENCE
from subpop.runtime.output import Listener


def load_in_child(spec: DatasetSpec, pack: Packer, timeout: float = 300.0, listener: Listener | None = None) -> Message:
    """The values and arrays that `pack` makes of what a loader returns. timeout: seconds, without the import of its file.

    Raises
    ------
    DefenseError
        If the loader fails, takes too long, or returns what is no data.
    """
    call = Call(spec, listener)
    with contextlib.closing(call):
        call.send((spec, pack, str(Path.cwd()), search_path()))
        call.receive("ready", max(PATIENCE, timeout), "importing its file")
        return call.receive("data", timeout, "loading it", {"x", "y"})
