"""Removal of an earlier report's files, which are recognised by their content, so that no other file is removed."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

FRONT_TITLE = "# Scoreboard"
LAST_LINE = "[Scoreboard](README.md)"
FIRST_COLUMNS = "tier,dataset,victim,partition,attack,rate,defense,setting"
DRAWN_BY = (b"Software\0subpop", b"<dc:title>subpop</dc:title>")
"""Metadata at the beginning of a PNG or SVG that `figures.save` wrote."""
HEAD = 4096


def remove_pages(directory: Path, kept: Set[str]) -> None:
    """Remove pages and tables of suites that a report wrote, except those with the given stems."""
    for path in [*directory.glob("*.md"), *directory.glob("*.csv")]:
        if path.stem not in kept and _is_page(path):
            path.unlink()


def is_front_page(path: Path) -> bool:
    """Whether a README.md was written by a report."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline() in (f"{FRONT_TITLE}\n", "")


def _is_page(path: Path) -> bool:
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix == ".md":
        return text.endswith(f"\n{LAST_LINE}\n")
    return text.startswith(FIRST_COLUMNS) or text == "\n"  # a suite without subpopulations


def remove_figures(directory: Path, kept: Set[str]) -> None:
    """Remove figures that a report drew, except those with the given names; an empty folder is removed too."""
    for path in [*directory.glob("*.png"), *directory.glob("*.svg"), *directory.glob("*.svg.part")]:
        with path.open("rb") as file:
            head = file.read(HEAD)
        if path.name.removesuffix(".part").rpartition(".")[0] not in kept and any(mark in head for mark in DRAWN_BY):
            path.unlink()
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
