"""Locations of the benchmark's own suites and baselines: in a checkout, or in the data of an installed package."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from subpop.runtime.fingerprint import PACKAGE
from subpop.types import BadInput

PACKAGE_DATA = PACKAGE / "data"
"""Copies of `benchmarks/` and `baselines/` in an installed package; does not exist in a checkout."""


def find(name: str, folder: Path) -> Path:
    """The folder `benchmarks` or `baselines`: the one in `folder`, or else that of the installed package or of the checkout.

    An installed package does not search its parent folder, where other packages may have installed a folder of that name.

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
    """Make Numba cache machine code in the user's cache folder rather than in an installed package."""
    if PACKAGE_DATA.is_dir():
        import pooch

        os.environ.setdefault("NUMBA_CACHE_DIR", str(pooch.os_cache("subpop") / "numba"))


def check_writable(baselines: Path) -> None:
    """Raise BadInput if `--rebaseline` could not write to this folder or would change an installed package."""
    if baselines.is_relative_to(PACKAGE_DATA):
        raise BadInput(f"--rebaseline would change the installed package in {baselines}; name your own folder with --baselines")
    existing = next((place for place in (baselines, *baselines.parents) if place.exists()), baselines)
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise BadInput(
            f"--rebaseline cannot write to {baselines} ({error.strerror}: {existing}); make it a writable folder, or name "
            "another one with --baselines"
        ) from error
