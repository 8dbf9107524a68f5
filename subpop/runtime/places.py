"""Where the benchmark's own suites and baselines are: in a checkout, or in the data of an installed package."""

from __future__ import annotations

import os
from pathlib import Path

from subpop.runtime.fingerprint import PACKAGE
from subpop.types import BadInput

PACKAGE_DATA = PACKAGE / "data"
"""Copies of `benchmarks/` and `baselines/` in an installed package; a checkout has none."""


def find(name: str, folder: Path) -> Path:
    """The folder `benchmarks` or `baselines`: that of the caller's folder, else the installed package's own or the checkout's.

    An installed package does not look beside itself, where other packages may have installed a folder of that name.

    Raises
    ------
    BadInput
        If there is none.
    """
    places = [folder / name, (PACKAGE_DATA if PACKAGE_DATA.is_dir() else PACKAGE.parent) / name]
    for place in places:
        if place.is_dir():
            return place
    raise BadInput(f"there is no folder {name} in {', '.join(str(place.parent) for place in places)}; run the command in a clone")


def keep_machine_code_out_of_the_package() -> None:
    """Have Numba, once it is imported, cache machine code in the user's cache folder instead of an installed package."""
    if PACKAGE_DATA.is_dir():
        import pooch

        os.environ.setdefault("NUMBA_CACHE_DIR", str(pooch.os_cache("subpop") / "numba"))


def check_writable(baselines: Path) -> None:
    """Raise BadInput if baselines are those of an installed package, which must stay as they were installed."""
    if baselines.is_relative_to(PACKAGE_DATA):
        raise BadInput(f"--rebaseline would change the installed package in {baselines}; name your own folder with --baselines")
