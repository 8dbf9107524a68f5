"""A progress bar with the time that is left, on a real terminal only; logs get pytest's own lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Progress:
    """Counts the fits of a run. Shown while a cell trains and gone when it ends, so that it does not mix with pytest's lines."""

    def __init__(self, bar: Any = None, total_fits: int = 0) -> None:
        self._bar = bar
        self._task = None if bar is None else bar.add_task("", total=total_fits)

    @classmethod
    def on_terminal(cls, total_fits: int) -> Progress:
        """A bar on standard error if that is a terminal; call it while output is not captured."""
        if not sys.stderr.isatty() or total_fits == 0:
            return cls()
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        terminal = os.dup(sys.stderr.fileno())  # stays the terminal when pytest redirects descriptor 2
        stream = os.fdopen(terminal, "w", encoding=sys.stderr.encoding, errors="backslashreplace")
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} fits"),
            TimeRemainingColumn(),
        )
        return cls(Bar(*columns, console=Console(file=stream), transient=True), total_fits)

    @contextmanager
    def showing(self, what: str) -> Iterator[None]:
        """The bar is on the screen inside this block."""
        if self._bar is None:
            yield
            return
        self._bar.update(self._task, description=what)
        self._bar.start()
        try:
            yield
        finally:
            self._bar.stop()

    def advance(self, fits: int) -> None:
        """That many more fits are done."""
        if self._bar is not None:
            self._bar.advance(self._task, fits)
