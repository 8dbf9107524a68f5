"""Progress of a run: a bar with the remaining time on a terminal, otherwise an occasional line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from html import escape
from threading import Event, Thread, current_thread, main_thread
from typing import Any, TextIO

from subpop.runtime.estimate import Forecast, readable_seconds
from subpop.types import Cell

LINE_SECONDS, LINE_SHARE = 10.0, 0.1
"""Without a terminal, a line is printed after this many seconds or after this share of the cells, at most one per second."""
SILENT_SECONDS = 15.0
"""Without a terminal, a line is printed after this many seconds even if no cell finishes and nothing is trained."""
LONGEST_PAUSE = 120.0
"""As long as nothing changes, the time between two lines doubles up to this many seconds."""
LITTLE = 3.0
"""Shorter estimates are hidden while the duration of other cells is unknown."""
WHAT_WIDTH = 14


Report = Callable[[int, int], None]
"""Called with the amounts of finished and of total work."""


class Progress:
    """Counts the fits and cells of a run. The bar is hidden between cells, so that it does not mix with pytest's output."""

    def __init__(self, forecast: Forecast | None = None, say: Callable[[str], None] | None = None, bar: Any = None) -> None:
        self.forecast, self._say, self._bar = forecast or Forecast(), say, bar
        self._task = None if bar is None else bar.add_task("", total=1.0, cells="", fits="", left="")
        self._started = self._said = self._began = time.monotonic()
        self._said_cells = 0
        self._said_counts, self._pause = (0, 0), 0.0
        self._what = ""
        self._over = Event()
        self._stream: TextIO | None = None

    @classmethod
    def of_run(cls, forecast: Forecast, say: Callable[[str], None] | None, *, will_be_captured: bool = False) -> Progress:
        """A bar on standard error if that is a terminal, else lines through `say`. Call it while output is not captured.

        Printed text is shown above the bar, unless it will be captured: whoever keeps the standard output that the bar replaces,
        as numba does by way of colorama, would use it at the exit, when the captured one is closed.
        """
        if in_notebook():
            return cls(forecast, None, NotebookBar())
        if not sys.stderr.isatty():
            progress = cls(forecast, say)
            with suppress(OSError, ValueError):  # standard output may have no file descriptor
                if say is not None:
                    progress.say_from_time_to_time(os.dup(sys.stdout.fileno()))
            return progress
        from rich.progress import BarColumn, TextColumn

        terminal = os.dup(sys.stderr.fileno())  # stays the terminal when pytest redirects descriptor 2
        stream = os.fdopen(terminal, "w", encoding=sys.stderr.encoding, errors="backslashreplace")
        names = ("{task.fields[cells]}", "{task.fields[fits]}", "{task.fields[left]}", "{task.description}")
        texts = [TextColumn(name) for name in names]
        columns = (texts[0], BarColumn(bar_width=12), *texts[1:])  # fits into 80 columns
        progress = cls(forecast, None, _bar(stream, *columns, shows_prints=not will_be_captured))
        progress._stream = stream
        return progress

    @contextmanager
    def showing(self, what: str) -> Iterator[None]:
        """Show the bar inside this block. what: a cell's id, or a description of the work."""
        if current_thread() is not main_thread():
            yield
            return
        if self._bar is None:
            before, self._what = self._what, what
            try:
                yield
            finally:
                self._what = before
            return
        self._update(what)
        self._bar.start()
        try:
            yield
        finally:
            self._bar.stop()

    def say_from_time_to_time(self, descriptor: int) -> None:
        """Until `close`, write a line to a file descriptor whenever none was printed for SILENT_SECONDS."""
        Thread(target=self._break_silence, args=(descriptor,), name="tells that the run goes on", daemon=True).start()

    def _break_silence(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            while not self._over.wait(min(1.0, SILENT_SECONDS / 4)):
                if self.forecast.seconds and time.monotonic() - self._said >= self._wait(SILENT_SECONDS):
                    self._note()
                    with suppress(Exception):  # a display must not cost a run
                        stream.write(f"\nsubpop: {self.line()}{self._what and f'; now {self._what}'}\n")
                        stream.flush()

    def close(self) -> None:
        """Stop printing. The bar must not be shown afterwards."""
        self._over.set()
        if self._stream is not None:
            self._bar.stop()
            self._bar = None
            self._stream.close()

    def advance(self, fits: int) -> None:
        """Count finished fits."""
        self.forecast.advance(fits)
        self.tick()

    def begin(self, cell: Cell) -> None:
        """Start measuring a cell."""
        self._what, self._began = cell.id, time.monotonic()

    def end(self, cell: Cell) -> None:
        """Mark a cell as finished."""
        self._what = ""
        self.forecast.end(cell, time.monotonic() - self._began)
        self.tick()

    def tick(self) -> None:
        """Show the progress if it is due."""
        if self._bar is not None:
            self._update()
            return
        now, done, planned = time.monotonic(), self.forecast.n_ended, len(self.forecast.seconds)
        if self._say is None or not planned or current_thread() is not main_thread():
            return
        many = done - self._said_cells >= LINE_SHARE * planned and now - self._said >= 1
        if now - self._said >= self._wait(LINE_SECONDS) or many:
            self._note()
            self._say(f"subpop: {self.line()}")

    @property
    def _counts(self) -> tuple[int, int]:
        return self.forecast.n_ended, self.forecast.fits_done

    def _wait(self, seconds: float) -> float:
        """Seconds between two lines; longer if the next one would say nothing new."""
        return max(seconds, self._pause) if self._counts == self._said_counts else seconds

    def _note(self) -> None:
        """Remember what the line that is printed now says."""
        is_new = self._counts != self._said_counts
        self._pause = min(2 * (SILENT_SECONDS if is_new else max(self._pause, SILENT_SECONDS)), LONGEST_PAUSE)
        self._said, self._said_cells, self._said_counts = time.monotonic(), self.forecast.n_ended, self._counts

    def line(self) -> str:
        """`12 of 66 cells, 5,320 of about 41,249 fits, 34 s so far, about 2 min left`."""
        now, passed = self.forecast, time.monotonic() - self._started
        seconds, untimed = now.seconds_left(passed), len(now.untimed)
        more = f" plus {untimed:,} cell{'s' * (untimed > 1)} whose time is not known" if untimed else ""
        left = f"about {readable_seconds(seconds)} left{more}"
        if not now.has_begun or (untimed and seconds < LITTLE):
            left = "time left not yet known"
        fits = f"{now.fits_done:,} of about {now.total_fits:,} fits, " if now.total_fits else ""
        return f"{now.n_ended:,} of {len(now.seconds):,} cells, {fits}{readable_seconds(passed)} so far, {left}"

    def _update(self, what: str | None = None) -> None:
        now = self.forecast
        seconds = now.seconds_left(time.monotonic() - self._started)
        left = readable_seconds(seconds) if now.has_begun and not now.untimed else "?"
        total = sum(now.seconds.values()) or 1.0
        share = sum(now.seconds[cell] for cell in now.done if cell in now.seconds) / total
        shown = {} if what is None else {"description": shortened(what)}
        fits = f"{now.fits_done}/{now.total_fits} fits" if now.total_fits else ""
        facts = {"cells": f"{now.n_ended}/{len(now.seconds)} cells", "fits": fits}
        with suppress(Exception):  # a display must not cost a run
            self._bar.update(self._task, completed=share, **shown, **facts, left=f"{left} left")


def in_notebook() -> bool:
    """Whether this process shows rich output, as the kernel of a notebook does."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class NotebookBar:
    """The bar of a notebook, below its cell; it has the methods of rich's bar that `Progress` calls, and needs no widgets."""

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {}
        self._handle: Any = None

    def add_task(self, description: str, **facts: Any) -> int:
        """Remember what is shown first."""
        self._facts = {"description": description, "completed": 0.0, **facts}
        return 0

    def start(self) -> None:
        """Show the bar, once."""
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(self.html()), display_id=True)

    def stop(self) -> None:
        """Leave the bar as it is."""

    def update(self, task: int, **facts: Any) -> None:
        """Show new values of some facts."""
        self._facts |= facts
        if self._handle is not None:
            from IPython.display import HTML

            self._handle.update(HTML(self.html()))

    def html(self) -> str:
        """A progress element and the facts beside it."""
        words = [self._facts[name] for name in ("cells", "fits", "left", "description") if self._facts.get(name)]
        return f'<progress max="1" value="{self._facts["completed"]:.3f}"></progress> {escape(", ".join(words))}'


def shortened(what: str) -> str:
    """The part of a cell's id from the victim on, cut to WHAT_WIDTH."""
    words = what.split("-", 2)[-1]
    return words if len(words) <= WHAT_WIDTH else words[: WHAT_WIDTH - 1] + "…"


def _bar(stream: TextIO, *columns: Any, shows_prints: bool = True) -> Any:
    """A bar that disappears once it is stopped. shows_prints: whether it replaces standard output to show it above itself."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(file=stream)
    return Bar(*columns, console=console, transient=True, redirect_stdout=shows_prints, redirect_stderr=shows_prints)


@contextmanager
def saying_that(what: str, seconds: float) -> Iterator[None]:
    """Print a line with the time so far on standard error, again and again after so many seconds, until the block ends."""
    over, started = Event(), time.monotonic()

    def tell() -> None:
        while not over.wait(seconds):
            print(f"subpop: {what}, {readable_seconds(time.monotonic() - started)} so far", file=sys.stderr, flush=True)

    Thread(target=tell, name=what, daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextmanager
def reporting(what: str) -> Iterator[Report]:
    """Show the progress that the block reports: a bar with the remaining time on a terminal, otherwise a single line."""
    if not sys.stderr.isatty():
        print(f"subpop: {what}", file=sys.stderr, flush=True)
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _bar(sys.stderr, *columns) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
