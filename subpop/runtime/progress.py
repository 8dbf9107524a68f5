"""How far a run is: a bar with the time that is left on a terminal, else a line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread, current_thread, main_thread
from typing import Any, TextIO

from subpop.runtime.estimate import Forecast, readable_seconds
from subpop.types import Cell

LINE_SECONDS, LINE_SHARE = 10.0, 0.1
"""Without a terminal a line comes after so many seconds, and after this share of the cells if that is not within a second."""
SILENT_SECONDS = 15.0
"""Without a terminal a line comes after so many seconds even where no cell ends and nothing is trained."""
WHAT_WIDTH = 14


Report = Callable[[int, int], None]
"""Called with what is done and with all there is to do."""


class Progress:
    """Counts the fits and cells of a run. The bar is gone between cells, so that it does not mix with pytest's lines."""

    def __init__(self, forecast: Forecast | None = None, say: Callable[[str], None] | None = None, bar: Any = None) -> None:
        self.forecast, self._say, self._bar = forecast or Forecast(), say, bar
        self._task = None if bar is None else bar.add_task("", total=1.0, cells="", fits="", left="")
        self._started = self._said = time.monotonic()
        self._said_cells = 0
        self._what = ""
        self._over = Event()

    @classmethod
    def of_run(cls, forecast: Forecast, say: Callable[[str], None] | None) -> Progress:
        """A bar on standard error if that is a terminal, else lines through `say`; call it while output is not captured."""
        if not sys.stderr.isatty():
            progress = cls(forecast, say)
            with suppress(OSError, ValueError):  # standard output may be no file
                if say is not None:
                    progress.say_from_time_to_time(os.dup(sys.stdout.fileno()))
            return progress
        from rich.progress import BarColumn, TextColumn

        terminal = os.dup(sys.stderr.fileno())  # stays the terminal when pytest redirects descriptor 2
        stream = os.fdopen(terminal, "w", encoding=sys.stderr.encoding, errors="backslashreplace")
        names = ("{task.fields[cells]}", "{task.fields[fits]}", "{task.fields[left]}", "{task.description}")
        texts = [TextColumn(name) for name in names]
        columns = (texts[0], BarColumn(bar_width=12), *texts[1:])  # fits into 80 columns
        return cls(forecast, None, _bar(stream, *columns))

    @contextmanager
    def showing(self, what: str) -> Iterator[None]:
        """The bar is on the screen inside this block. what: a cell's id or words for what is done."""
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
        """Write a line to a file descriptor whenever nothing was said for SILENT_SECONDS, until `close`."""
        Thread(target=self._break_silence, args=(descriptor,), name="tells that the run goes on", daemon=True).start()

    def _break_silence(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as stream:
            while not self._over.wait(min(1.0, SILENT_SECONDS / 4)):
                if self.forecast.seconds and time.monotonic() - self._said >= SILENT_SECONDS:
                    self._said = time.monotonic()
                    with suppress(Exception):  # a display must not cost a run
                        stream.write(f"\nsubpop: {self.line()}{self._what and f'; now {self._what}'}\n")
                        stream.flush()

    def close(self) -> None:
        """Say no more."""
        self._over.set()

    def advance(self, fits: int) -> None:
        """That many more fits are done."""
        self.forecast.advance(fits)
        self.tick()

    def begin(self, cell: Cell) -> None:
        """A cell is measured from now on."""
        self._what = cell.id

    def end(self, cell: Cell) -> None:
        """A cell has ended."""
        self._what = ""
        self.forecast.end(cell)
        self.tick()

    def tick(self) -> None:
        """Show how far things are, where it is time for it."""
        if self._bar is not None:
            self._update()
            return
        now, done, planned = time.monotonic(), self.forecast.n_ended, len(self.forecast.seconds)
        if self._say is None or not planned or current_thread() is not main_thread():
            return
        many = done - self._said_cells >= LINE_SHARE * planned and now - self._said >= 1
        if now - self._said >= LINE_SECONDS or many:
            self._said, self._said_cells = now, done
            self._say(f"subpop: {self.line()}")

    def line(self) -> str:
        """`12 of 66 cells, 5,320 of about 41,249 fits, 34 s so far, about 2 min left`."""
        cells, fits, left = self._facts()
        return f"{cells} cells, {fits} fits, {readable_seconds(time.monotonic() - self._started)} so far, {left} left"

    def _facts(self) -> tuple[str, str, str]:
        now = self.forecast
        left = readable_seconds(now.seconds_left(time.monotonic() - self._started))
        cells = f"{now.n_ended:,} of {len(now.seconds):,}"
        return cells, f"{now.fits_done:,} of about {now.total_fits:,}", f"about {left}"

    def _update(self, what: str | None = None) -> None:
        now = self.forecast
        left = readable_seconds(now.seconds_left(time.monotonic() - self._started))
        total = sum(now.seconds.values()) or 1.0
        share = sum(now.seconds[cell] for cell in now.done if cell in now.seconds) / total
        shown = {} if what is None else {"description": shortened(what)}
        facts = {"cells": f"{now.n_ended}/{len(now.seconds)} cells", "fits": f"{now.fits_done}/{now.total_fits} fits"}
        with suppress(Exception):  # a display must not cost a run
            self._bar.update(self._task, completed=share, **shown, **facts, left=f"{left} left")


def shortened(what: str) -> str:
    """The victim and what follows, of a cell's id; cut to WHAT_WIDTH."""
    words = what.split("-", 2)[-1]
    return words if len(words) <= WHAT_WIDTH else words[: WHAT_WIDTH - 1] + "…"


def _bar(stream: TextIO, *columns: Any) -> Any:
    """A bar that is gone once it is over."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    return Bar(*columns, console=Console(file=stream), transient=True)


@contextmanager
def reporting(what: str) -> Iterator[Report]:
    """Shows how far the block is, which reports it: a bar with the time that is left on a terminal, else one line."""
    if not sys.stderr.isatty():
        print(f"subpop: {what}", file=sys.stderr, flush=True)
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _bar(sys.stderr, *columns) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
