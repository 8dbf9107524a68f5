"""Tracks failed tests, interrupts and the exit status of a pytest session that runs suites, for the report's pages.

From the start of the session, the pages in the report folder say "Unfinished" and count the finished cells. So however the
session ends, even by kill -9, no page of an earlier run is left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from subpop.report.verdict import EXIT, INTERRUPT, NO_STORE, SIGTERM, FailedTest, Standing, failed_suite, headline, is_compared
from subpop.types import BadInput
from subpop.types.printable import printable

if TYPE_CHECKING:
    from subpop.report import RunInfo
    from subpop.results.drift import Drift
    from subpop.session.run import Run
    from subpop.types import Cell, CellReport

PAUSE, SHARE = 1.0, 0.02
"""Minimum seconds between updates of the pages of a running session, and the maximum fraction of time spent on them."""
AT_ONCE = b"\nsubpop: ended before the report was written; the finished trials are stored\n"


class SessionWatch:
    """A pytest plug-in that collects failures. It writes pages only after `begin`, so not in sessions without suites."""

    def __init__(self) -> None:
        self.has_begun = False
        self.reports: dict[Cell, CellReport] = {}
        self.headline = ""
        """The headline of the page, once the session has ended."""
        self.numbers: Sequence[str] = ()
        """What was measured, in words, once a session has ended that compared nothing."""
        self.about_own: Sequence[str] = ()
        """What was measured of plug-ins and user-supplied attacks, in words, once a session has ended that left nothing out."""
        self.has_rebaselined = False
        """Whether the session rewrote references."""
        self.left = ""
        """What the session left because of `--budget`."""
        self.unwritten = ""
        """Why the report could not be written."""
        self._failed: list[FailedTest] = []
        self._stopped = ""
        self._planned: Sequence[Cell] = ()
        self._claims: set[str] = set()
        self._held: set[str] = set()
        self._cells: dict[str, Cell] = {}
        self._cells_of: dict[str, list[Cell]] = {}
        self._run: Run | None = None
        self._directory = Path()
        self._info: RunInfo | None = None
        self._next_page = 0.0
        self._handlers_before: dict[int, Any] = {}

    # --- the session --------------------------------------------------------------------------------------------------

    def begin(self, items: Iterable[Any], directory: Path, info: RunInfo, run: Run | None) -> None:
        """Start a session with suites: write the first page, and make SIGTERM end the session like Ctrl-C. run: None without
        cells."""
        from subpop.session.collecting import cells_of, is_of_suite, measured_cells, parameters

        own = [item for item in items if is_of_suite(item)]
        self._planned = measured_cells(own)
        measuring = [item for item in own if "measure" in getattr(item, "fixturenames", ())]
        self._cells = {item.nodeid: parameters(item)["cell"] for item in measuring if "cell" in parameters(item)}
        self._claims = {item.nodeid for item in own} - {item.nodeid for item in measuring}
        self._run, self._cells_of = run, {item.nodeid: cells_of(item) for item in own}
        self._directory, self._info, self.reports = directory, info, {} if run is None else run.reports
        self.has_begun = True
        self._handle(signal.SIGTERM, self._terminate)
        self.write_unfinished()

    def standing(self, exit_status: int | None, *, rebaselined: bool = False) -> Standing:
        return Standing(
            len(self._planned),
            exit_status,
            tuple(self._failed),
            self._stopped,
            rebaselined,
            len(self._held),
            Counter(cell.stem for cell in self._planned),
            self.left,
        )

    @property
    def unmeasured(self) -> list[Cell]:
        """Planned cells without a report."""
        return [cell for cell in self._planned if cell not in self.reports]

    def measured_anything(self) -> bool:
        """Whether a cell was measured or a claim passed, and no cell failed to run."""
        statuses = {report.status for report in self.reports.values()}
        return "error" not in statuses and (statuses != {"skipped"} if statuses else bool(self._held))

    def stop_without_store(self, error: BaseException) -> NoReturn:
        """End the session with a sentence, since each further cell would be trained for nothing."""
        self._stopped = NO_STORE
        pytest.exit(f"{error}. What was measured before is stored: run the same command again to continue", returncode=2)

    @property
    def was_interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM ended the session."""
        return self._stopped in (INTERRUPT, SIGTERM)

    @property
    def is_complete(self) -> bool:
        """Whether every planned cell was measured, skipped or reported as an error."""
        return not self._stopped and len(self.reports) >= len(self._planned)

    def write_unfinished(self) -> None:
        """Write the progress of the session, unless the last page was written too recently."""
        from subpop.report import write_unfinished

        started = time.monotonic()
        if self._info is None or started < self._next_page:
            return
        with contextlib.suppress(OSError):  # reported at the end, when it matters
            write_unfinished(list(self.reports.values()), self._directory, self._information(self.standing(None)))
        now = time.monotonic()
        self._next_page = now + max(PAUSE, (now - started) / SHARE)

    @property
    def drifted(self) -> list[str]:
        """The reasons of the suites whose numbers deviate from their references together."""
        return [each.reason for each in self._failed if each.kind == "drift"]

    def add_drift(self, drift: Drift) -> None:
        """Count a suite whose numbers deviate from their references together as a failure."""
        self._failed.append(failed_suite(drift))

    def finish(
        self,
        exit_status: int,
        *,
        rebaselined: bool,
        suites: Callable[[Iterable[str]], dict[str, str]],
        drifts: Sequence[Drift] = (),
        defenses: Collection[str] = (),
        attacks: Collection[str] = (),
    ) -> None:
        """Write the report of a session that ended; suites: docstrings by stem; defenses, attacks: names of the user's own."""
        from subpop.report import append_summary, write_report
        from subpop.report.sentences import about_own, in_words

        self.has_rebaselined = rebaselined
        standing, reports = self.standing(exit_status, rebaselined=rebaselined), list(self.reports.values())
        self.headline, info = headline(reports, standing), self._information(standing)
        info = replace(info, suites=suites(sorted({cell.stem for cell in self.reports})), drifts=drifts)
        write_report(reports, self._directory, info)
        reports.sort(key=lambda report: report.cell)
        if not exit_status and not is_compared(reports):
            self.numbers = in_words(reports)
        if (defenses or attacks) and self.is_complete:
            self.about_own = [line for line in about_own(reports, defenses, attacks) if line not in self.numbers]
        append_summary((self._directory / "README.md").read_text(encoding="utf-8"))

    def _information(self, standing: Standing) -> RunInfo:
        assert self._info is not None
        return replace(self._info, seconds=time.time() - float(self._info.started), standing=standing)

    def _terminate(self, *_: object) -> None:
        self._stopped = SIGTERM
        raise KeyboardInterrupt(SIGTERM)

    def _handle(self, number: int, handler: Any) -> None:
        before = signal.getsignal(number)
        if threading.current_thread() is threading.main_thread() and before not in (signal.SIG_IGN, None):
            self._handlers_before.setdefault(number, before)
            signal.signal(number, handler)

    def _end_at_signals(self) -> None:
        """From here on Ctrl-C and SIGTERM end the process at once, without a traceback, and the page stays unfinished."""
        for number in (signal.SIGINT, signal.SIGTERM) if self.has_begun else ():
            self._handle(number, _end_at_once)

    # --- pytest hooks -------------------------------------------------------------------------------------------------

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            failed = FailedTest(self._kind(report), report.nodeid, reason_of(report))
            self._failed.append(failed)
            self._next_page = 0.0
            self._store(failed)
        elif report.passed and report.when == "call":
            self._held |= {report.nodeid} & self._claims
            self._store(FailedTest("", report.nodeid))
        if report.when == "teardown" and self.has_begun:
            self.write_unfinished()

    def _store(self, test: FailedTest) -> None:
        """Note in the store how a test of a suite ended. A report judges the numbers of cells itself."""
        if self._run is not None and test.test in self._cells_of:
            with contextlib.suppress(BadInput):  # a full disk: the run says so
                self._run.store_outcome(test, self._cells_of[test.test], is_claim=test.test in self._claims)

    def _kind(self, report: pytest.TestReport) -> str:
        if report.when in ("setup", "teardown"):
            return str(report.when)
        if report.nodeid in self._claims:
            return "claim"
        if report.nodeid not in self._cells:
            return "test"
        found = self.reports.get(self._cells[report.nodeid])
        if found is None:  # it failed before it measured anything
            return "test"
        return "cell" if found.status in ("fail", "error") else "assertion"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failed.append(FailedTest("collection", report.nodeid, reason_of(report)))

    def pytest_internalerror(self, excrepr: Any) -> None:
        self._failed.append(FailedTest("internal", "pytest", last_line(str(excrepr))))

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self._end_at_signals()
        excinfo.traceback = excinfo.traceback.filter(_has_line)  # pytest's report of an interrupt needs lines
        if excinfo.errisinstance(pytest.Session.Interrupted) and any(each.kind == "collection" for each in self._failed):
            return  # this is how pytest stops after collection errors
        self._stopped = self._stopped or (EXIT if excinfo.errisinstance(pytest.exit.Exception) else INTERRUPT)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        self._end_at_signals()

    def pytest_unconfigure(self) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before.clear()

    def broken_files(self) -> list[str]:
        """Files that could not be collected."""
        return [each.test.partition("::")[0] for each in self._failed if each.kind == "collection"]


def _end_at_once(number: int, _frame: object) -> None:
    with contextlib.suppress(OSError):
        os.write(2, AT_ONCE)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _has_line(entry: Any) -> bool:
    """Whether a traceback entry has a line number. If a signal arrives between two lines, it is None and pytest would fail."""
    try:
        return int(entry.lineno) >= -1
    except TypeError:
        return False


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The first line of the error message of a failed test or collector."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return printable(crash.message).partition("\n")[0] if crash is not None else last_line(str(report.longrepr))


def last_line(text: str) -> str:
    lines = [line.removeprefix("E ").strip() for line in printable(text).splitlines() if line.strip()]
    return lines[-1] if lines else ""
