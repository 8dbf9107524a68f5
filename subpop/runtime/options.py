"""Checks of command-line options before anything runs: devices, time limits and paths."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

from subpop.types import BadInput

LONGEST_TIMEOUT = 7 * 24 * 3600.0
"""One week, in seconds. Timeouts of many years overflow in system calls."""
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
"""Seconds of the units of a budget, in the order in which they are written."""


def check_timeout(seconds: float) -> float:
    """The time limit of a trial. Raises BadInput unless it is positive and at most LONGEST_TIMEOUT."""
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise BadInput(
            f"--defense-timeout {seconds:g} must be a number of seconds above 0 and at most {LONGEST_TIMEOUT:,.0f} (a week), "
            "such as 300"
        )
    return seconds


def budget_seconds(budget: str | float | None, name: str = "budget=") -> float:
    """Seconds of a budget, a text such as "1h30m" or a number of seconds; infinite for None. Raises BadInput for anything else.

    name: how the error names the budget, which stands behind it.
    """
    if budget is None:
        return math.inf
    text = budget if isinstance(budget, str) else f"{budget:f}s"
    parts = r"\s*".join(rf"(?:(\d+(?:\.\d*)?)\s*{unit})?" for unit in UNITS)
    match = re.fullmatch(rf"\s*{parts}\s*", text, re.IGNORECASE)
    seconds = (
        sum(float(number or 0) * unit for number, unit in zip(match.groups(), UNITS.values(), strict=True)) if match else 0.0
    )
    if not seconds > 0:
        raise BadInput(f"{name}{budget} is not a duration; write one above 0 with h, m or s, such as 90s, 5m or 1h30m")
    return seconds


def check_device(name: str) -> None:
    """Raise BadInput if a device is unknown or not available. torch is imported only if a GPU is named."""
    check_device_name(name)
    if name == "cpu":
        return
    import torch

    found = n_gpus()
    if int(name.partition(":")[2] or "0") >= found:
        there = f"finds {found} of them" if found else "finds no GPU that it can use"
        raise BadInput(
            f"--device {name} needs an NVIDIA GPU, and torch {torch.__version__} {there}; use --device cpu, or install the GPU's "
            "driver and a CUDA build of torch"
        )


def n_gpus() -> int:
    """Number of this machine's GPUs that torch can use."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def check_device_name(name: str) -> None:
    """Raise BadInput if this is not the name of a device."""
    if name != "cpu" and not re.fullmatch(r"cuda(:[0-9]{1,3})?", name):
        raise BadInput(f"--device {name} is unknown; use cpu, cuda, or cuda:N for one GPU of several")


def place(text: str, folder: Path) -> Path:
    """The absolute path that an option names: `~` is the user's home, and relative paths start from `folder`."""
    try:
        return Path(os.path.abspath(folder / Path(text).expanduser()))
    except RuntimeError as error:  # ~nobody
        raise BadInput(f"the path {text} cannot be found ({error}); write it without ~") from error
