"""One run: cells are measured, compared with their references, and reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from subpop.datasets import DATASETS
from subpop.datasets.download import MissingData
from subpop.datasets.partitions import in_words
from subpop.defenses import MATCHED, filter_of
from subpop.experiments.executors import Ahead, in_order
from subpop.experiments.experiment import Experiment
from subpop.experiments.integrity import UNCHECKED, Inspector
from subpop.experiments.provenance import provenance
from subpop.experiments.tasks import tasks_of
from subpop.experiments.trial import REMOVED
from subpop.features.networks.frozen import is_frozen
from subpop.harness.batching import DefenseError
from subpop.harness.plugins import DefenseSpec
from subpop.report import RunInfo, append_summary, record_of_numbers, write_report
from subpop.report.figures.setups import CONTROLS
from subpop.report.verdict import FailedTest, Standing, failed_suite, n_cells
from subpop.results.drift import Drift, drifts
from subpop.results.metric_registry import check_registered, metric_of
from subpop.results.outcomes import KIND as TEST
from subpop.results.outcomes import outdated, record_of_test
from subpop.results.plugin_records import KIND, cell_of, cells_of_other_versions, kept_reports, record_of
from subpop.results.references import References, cell_status, compare, not_compared, rebaseline
from subpop.results.results_file import RECORDS
from subpop.results.shards import KIND as SHARD
from subpop.results.shards import divisions, name_of, unfinished
from subpop.runtime.estimate import SUMMARY_SECONDS, Forecast, Rates, readable_seconds
from subpop.runtime.store import Store, Unusable
from subpop.types import BadInput, Cell, CellReport, CellResult, LeftOut, Verdict
from subpop.types.kinds import Measurers, kind_of
from subpop.types.printable import described, in_one_line, printable

OUTCOME = "outcome"
"""The kind of the records in which a store keeps how each cell was compared, and why it has no numbers."""
TIERS = ("embedded", "laptop", "paper")
SHOWN_AS_MEASURED = "of plug-ins shown with numbers by another version of subpop"
UNKNOWN_NAMES = "left out: written by another version, with names that this one does not know"
CODE_IS_NOT_RUN = "left out: measured on another device or by an earlier version, with a victim whose code a report does not run"
CANNOT_BE_BUILT = "left out: data, weights or a plug-in are not available here"
OTHER_VERSION = "left out: made by another version of the code"
NOT_RUN_AGAIN = "not run again since the cells changed"
TRIALS_MISSING = "left out: not finished, or made with other data, libraries or another device"
"""What a report says of cells of its store that it does not show as they are."""


class NoFilter(Exception):
    """A plug-in has no matched random filter."""


@dataclass(frozen=True)
class Plan:
    """The planned work of a run; `seconds` is a rough estimate for two cores."""

    n_cells: int
    n_trials: int
    n_stored: int
    n_fits: int
    seconds: float
    skipped: Mapping[str, str]
    refused: Mapping[str, str] = field(default_factory=dict)
    untimed: Sequence[str] = ()
    """Names of user-supplied code for which no times are recorded; `seconds` is without its cells."""

    def __str__(self) -> str:
        to_do = f"about {self.n_fits:,} fits to do" if self.n_fits else "nothing to train"
        lines = [
            f"subpop plan: {n_cells(self.n_cells)}, {self.n_trials:,} trials, {self.n_stored:,} of them in the store; "
            f"{to_do}{self._time}"
        ]
        reasons = sorted(set(self.skipped.values()))
        lines += [f"  {n_cells(list(self.skipped.values()).count(r))} will be skipped: {r}" for r in reasons]
        refused: dict[str, list[str]] = {}
        for name, reason in self.refused.items():
            refused.setdefault(reason, []).append(name)
        for reason, names in refused.items():  # many cells may have the same problem
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            named = not more and names[0] in reason
            lines.append(f"  cannot run: {reason}" if named else f"  {names[0]}{more} cannot run: {reason}")
        return "\n".join(lines)

    @property
    def _time(self) -> str:
        """`, roughly 40 s`; for user-supplied code, that its time is not known."""
        known, names = f", roughly {readable_seconds(self.seconds)}", ", ".join(self.untimed)
        if not self.untimed:
            return known
        return (
            f"{known} and the time of {names}, which is not known yet"
            if self.seconds
            else f"; the time of {names} is not known yet"
        )


@dataclass
class Run:
    """Measures cells against one experiment and the baselines folder."""

    experiment: Experiment
    store: Store
    baselines: Path
    results: dict[Cell, CellResult] = field(default_factory=dict)
    reports: dict[Cell, CellReport] = field(default_factory=dict)
    recorded: list[str] = field(default_factory=list)
    """Messages of `rebaseline` about recorded attack sets."""
    moved: str = ""
    """The comparison of the old and the new baselines that `rebaseline` makes, as markdown."""
    left_out: list[LeftOut] = field(default_factory=list)
    """Cells that `measure_stored` does not show, or shows with numbers of another version."""
    n_kept: int = 0
    """Number of reports of plug-ins' cells that `measure_stored` read from the store unchanged."""
    failed: dict[Cell, Exception] = field(default_factory=dict)
    ahead: Ahead | None = None
    forecast: Forecast = field(default_factory=Forecast)
    inspector: Inspector | None = None
    """Probes plug-in defenses; None to skip the probes."""
    fresh_seeds: bool = False
    """Whether the cells have more seeds than their references."""
    only_looks: bool = False
    """Whether nothing is compared with a reference, so that nothing fails for lack of one."""
    user_supplied: frozenset[str] = frozenset()
    """Names of a user-supplied victim and data set, whose cells have no references."""
    _references: dict[str, References] = field(default_factory=dict, repr=False)
    _rates: Rates | None = field(default=None, repr=False)
    _kept: dict[Cell, CellResult] = field(default_factory=dict, repr=False)
    """Stored results that were read while looking for work."""
    _outcomes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    """How each cell of the store was compared last, and why it has no numbers, read by `measure_stored`."""
    _failed_tests: list[FailedTest] = field(default_factory=list, repr=False)
    _n_held: int = 0
    """Number of claims of the store that passed."""

    def __post_init__(self) -> None:
        self._measure = Measurers(self.experiment)

    def result(self, cell: Cell) -> CellResult:
        """The numbers of a cell, computed once per run. A cell that failed raises the same error again without training."""
        if cell in self.failed:
            raise self.failed[cell]
        if cell not in self.results:
            self._check_matched(cell)
            self.experiment.context.progress.begin(cell)
            self.wait_for(cell)
            try:
                if self.ahead is not None:
                    self.ahead.check(cell)
                result = self._kept.pop(cell, None) or self._measure(cell)
                check_registered({number.metric for number in result.numbers})
                self.results[cell] = self._in_words(self._inspected(result))
            except Exception as error:
                self.failed[cell] = error
                raise
            finally:
                if cell in self.results or cell in self.failed:  # it was not interrupted
                    self.experiment.context.progress.end(cell)
        return self.results[cell]

    def _in_words(self, result: CellResult) -> CellResult:
        """The result, with subpopulations of user-supplied data named by the words of the data: its codes are made by us."""
        cell = result.cell
        if cell.partition != "feature_match" or cell.dataset in DATASETS:
            return result
        data = self.experiment.context.loaded(cell.dataset)
        rows = [dict(row) for row in result.table]
        for row in rows:
            if "subpopulation" in row:
                row["subpopulation"] = in_words(data, cell.subpopulations.grouped_by, str(row["subpopulation"]))
        return replace(result, table=tuple(rows))

    def _is_of_plugin(self, cell: Cell) -> bool:
        """Whether a row is a plug-in or a random filter matched to one, or has a user-supplied attack, victim or data set."""
        is_mine = filter_of(cell.defense) in self.experiment.plugins or cell.attack in self.experiment.context.attacks
        return is_mine or not self.user_supplied.isdisjoint((cell.dataset, cell.victim))

    def _check_matched(self, cell: Cell) -> None:
        """Raise NoFilter for a control that is matched to a plug-in which failed or is no filter, or is not reusable."""
        name = filter_of(cell.defense)
        if name == cell.defense or name not in self.experiment.plugins:
            return
        own = cell.with_(defense=name)
        try:
            self.result(own)
        except (BadInput, DefenseError) as error:
            raise NoFilter(f"{name} failed, so that no random filter is matched to it") from error
        chunks = [self.experiment.stored(own, chunk) for chunk in self.experiment.chunks(own)]
        if not all(chunk and all(REMOVED in each.arrays for each in chunk) for chunk in chunks):
            raise NoFilter(f"{name} is not a filter, or not reusable, so that no random filter is matched to it")

    def train_ahead(
        self, cells: Iterable[Cell], executor: str, jobs: int, *, worth: float = 0.0, room: Callable[[], float] | None = None
    ) -> None:
        """Start workers that train these cells while the tests run.

        worth: seconds of work below which no worker is started, because that takes some seconds itself. room: as of `Ahead`; then
        the first cells are trained first, instead of those that take long.
        """
        tasks = tasks_of(self.experiment, cells, self._training_seconds, self._kept.__setitem__)
        if not tasks or (worth and (len(tasks) == 1 or sum(task.seconds for task in tasks) < worth)):
            return
        jobs = min(jobs, len(tasks))
        self.ahead = Ahead(self.experiment, tasks if room else in_order(tasks, jobs), executor, jobs, room)
        self.experiment.await_chunk = self.ahead.wait
        self.ahead.start()

    def wait_for(self, cell: Cell) -> bool:
        """Wait until workers have sent their results for a cell; returns whether they made any of it."""
        if self.ahead is not None:
            with suppress(Exception):  # it cannot run; its test will report why
                return self.ahead.has_made(cell)
        return False

    def _inspected(self, result: CellResult) -> CellResult:
        """The result, with the integrity of its defense if that is a plug-in, otherwise of a user-supplied attack."""
        cell = result.cell
        is_attacked = cell.attack in self.experiment.context.attacks and cell.rate > 0
        if not kind_of(cell).trains_trials or not (is_attacked or cell.defense in self.experiment.plugins):
            return result
        if cell.defense not in self.experiment.plugins:
            if self.inspector is None:
                return replace(result, integrity=UNCHECKED)
            found = self.inspector.inspect_attack(cell)
            return replace(result, integrity=found.column, probes=found.details)
        if self.inspector is None or self.experiment.plugins[cell.defense].pickled:  # probes move and rerun a file
            return replace(result, integrity=UNCHECKED)
        found = self.inspector.inspect(cell)
        return replace(result, integrity=found.column, probes=found.details)

    def measure(self, cell: Cell) -> CellReport:
        """Run a cell and compare it with its references. A cell that cannot run is reported as well."""
        try:
            result = self.result(cell)
        except (NoFilter, MissingData) as reason:
            return self._kept_report(CellReport(cell, None, status="skipped", reason=str(reason)))
        except Unusable:
            raise
        except (BadInput, DefenseError) as error:
            return self._kept_report(CellReport(cell, None, status="error", reason=str(error)))
        except Exception as error:
            self._kept_report(CellReport(cell, None, status="error", reason=described(error)))
            raise
        verdicts = self._verdicts(result)
        made_of = provenance(self.experiment, cell)
        return self._kept_report(CellReport(cell, result, verdicts, cell_status(verdicts), made_of=made_of))

    def _kept_report(self, report: CellReport) -> CellReport:
        """The report, once the store has what a later `measure_stored` needs of it."""
        cell, name = report.cell, name_of(report.cell)
        how = {"fresh_seeds": self._has_fresh_seeds(cell), "only_looks": self._only_looks_at(cell)}
        why = {"status": report.status, "reason": report.reason, "code": self._code(cell) if report.status == "error" else ""}
        records = {"cell": cell.record(), OUTCOME: how | why}
        if report.result is not None:
            records[RECORDS] = record_of_numbers(report)
        if (self._is_of_plugin(cell) or ":" in cell.victim) and report.status != "skipped":
            records[KIND] = record_of(report, self.experiment.context.device)
        with nullcontext() if report.result else suppress(BadInput):  # a full disk may be what the report is about
            self.store.put_records(name, records)
        self.reports[cell] = report
        return report

    def _code(self, cell: Cell) -> str:
        """The digest of a cell's code; "" if the cell cannot be built."""
        try:
            return provenance(self.experiment, cell).code
        except Exception:
            return ""

    def _verdicts(self, result: CellResult, *, plugin: bool = False) -> tuple[Verdict, ...]:
        cell = result.cell
        if self._only_looks_at(cell):
            return not_compared(result)
        plugin, fresh_seeds = plugin or self._is_of_plugin(cell), self._has_fresh_seeds(cell)
        return compare(result, self.references(cell.stem), plugin=plugin, fresh_seeds=fresh_seeds)

    def _has_fresh_seeds(self, cell: Cell) -> bool:
        return self.fresh_seeds or bool(self._outcomes.get(name_of(cell), {}).get("fresh_seeds"))

    def _only_looks_at(self, cell: Cell) -> bool:
        return self.only_looks or bool(self._outcomes.get(name_of(cell), {}).get("only_looks"))

    def measure_stored(self) -> int:
        """Measure every cell in the store whose trials are complete; returns the number of the others, which `left_out` lists.

        A cell is compared as in the run that measured it last: on fresh seeds only, or not at all if that run only looked.
        Cells of plug-ins and of user-supplied victims are shown as last measured: a store names their code, which is never run.
        """
        kept, self._outcomes = self.store.records(KIND), self.store.records(OUTCOME)
        of_others = cells_of_other_versions(kept)
        for report in kept_reports(kept, self.experiment.context.device):
            cell = report.cell
            if not self._is_of_plugin(cell):
                self.n_kept += 1
                self.reports[cell] = self._compared(report)
                if cell in of_others:
                    self.left_out.append(LeftOut(cell.stem, cell.id, SHOWN_AS_MEASURED))
        n_left_out, numbers = 0, self.store.records(RECORDS)
        for key, record in self.store.records().items():
            found = cell_of(record)
            if found in self.reports:
                continue
            if found is not None and ":" not in found.victim and self._can_be_shown(found):
                self.measure(found)
            elif found is not None and (last := self._last_reason(key, found)) is not None:
                self.reports[found] = last
            else:
                n_left_out += 1
                self.left_out.append(self._left_out(key, found, numbers.get(key)))
        self._read_tests()
        return n_left_out

    def _last_reason(self, key: str, cell: Cell) -> CellReport | None:
        """Why the last run skipped a cell, or failed to measure it with the code that is here; None if it did neither."""
        last = self._outcomes.get(key, {})
        status, is_known = last.get("status"), ":" not in cell.victim  # otherwise `_code` would run code that the store names
        if status != "skipped" and not (status == "error" and is_known and last.get("code") == self._code(cell)):
            return None
        return CellReport(cell, None, status=status, reason=str(last.get("reason", "")))

    def standing(self, found: Sequence[Drift] = ()) -> Standing:
        """After `measure_stored`: the state of the runs that filled the store, as far as it has records of them."""
        shown = {name_of(cell): cell.stem for cell in self.reports}
        stored = divisions(self.store.records(SHARD))
        planned = {name: name.split(" ")[0] for each in stored for name in each.cells} | shown
        failed = (*self._failed_tests, *(failed_suite(drift) for drift in found if drift.is_red))
        left = "; ".join(unfinished(stored, shown))
        return Standing(len(planned), 0, failed, claims=self._n_held, planned_of=Counter(planned.values()), left=left)

    def store_outcome(self, test: FailedTest, cells: Iterable[Cell], *, is_claim: bool) -> None:
        """Note in the store how a test of a suite ended: a failure of its cell is none of its own, and "" stands for none."""
        results = [self.results[cell] for cell in cells if cell in self.results]
        failure, device = "" if test.kind == "cell" else test.kind, self.experiment.context.device
        key, record = record_of_test(test.test, failure, test.reason, results, is_claim=is_claim, device=device)
        self.store.put_record(key, record, TEST)

    def _read_tests(self) -> None:
        """Read which tests failed when they were run last; claims that passed on other numbers are added to `left_out`."""
        device, records = self.experiment.context.device, self.store.records(TEST)
        records = {key: record for key, record in records.items() if record["device"] == device}
        gone = {printable(f"{each.stem} {each.cell}") for each in self.left_out}
        others = outdated(records, [report.result for report in self.reports.values() if report.result], gone)
        for key, record in records.items():
            if record["failure"]:
                note = f" ({record['when']}; {NOT_RUN_AGAIN})" if key in others else ""
                self._failed_tests.append(FailedTest(record["failure"], record["test"], record["reason"] + note))
            elif record["is_claim"] and key in others:
                stem, _, name = key.removeprefix("test_").partition(".py::")
                self.left_out.append(LeftOut(stem, name, NOT_RUN_AGAIN, "claim"))
            else:
                self._n_held += record["is_claim"]

    def _left_out(self, key: str, cell: Cell | None, record: Mapping[str, Any] | None) -> LeftOut:
        """Why a cell that was once measured is not shown."""
        if cell is None:
            stem, _, name = key.partition(" ")
            return LeftOut(stem, name, UNKNOWN_NAMES)
        if ":" in cell.victim:
            return LeftOut(cell.stem, cell.id, CODE_IS_NOT_RUN)
        try:
            now = provenance(self.experiment, cell)
        except BadInput:
            return LeftOut(cell.stem, cell.id, CANNOT_BE_BUILT)
        before = {} if record is None else record["cell"]
        other = before.get("code", now.code) != now.code
        return LeftOut(cell.stem, cell.id, OTHER_VERSION if other else TRIALS_MISSING)

    def _can_be_shown(self, cell: Cell) -> bool:
        """Whether the cell can be shown without training."""
        try:
            kind = kind_of(cell)
            return self._is_finished(cell) if kind.trains_trials else kind.is_stored
        except BadInput:  # its data or its plug-in is not available
            return False

    def _compared(self, report: CellReport) -> CellReport:
        """A plug-in's report with its verdicts."""
        if report.result is None:
            return report
        verdicts = self._verdicts(report.result, plugin=True)
        return replace(report, verdicts=verdicts, status=cell_status(verdicts))

    def _is_finished(self, cell: Cell) -> bool:
        """Whether all trials are stored, of this cell and of those that it is ranked by or compared with."""
        beside = (cell.with_(defense=cell.ranked_by), cell.plain())
        return not any(self.experiment.missing_chunks(each) for each in (cell, *beside))

    def drifts(self) -> list[Drift]:
        """Whether the numbers of each suite and victim deviate from their references together."""
        compared = [report for report in self.reports.values() if report.status != "not_compared"]
        results = [r.result for r in compared if r.result and not self._is_of_plugin(r.cell)]
        return drifts(results, {stem: self.references(stem) for stem in sorted({result.cell.stem for result in results})})

    def references(self, stem: str) -> References:
        if stem not in self._references:
            self._references[stem] = References.load(self.baselines / f"{stem}.csv")
        return self._references[stem]

    def plan(self, cells: Iterable[Cell], jobs: int = 1) -> Plan:
        """Count the work of a run of these cells. This sets up their data and trains at most the attackers' own models.

        jobs: number of training processes. The expected work of each cell is stored in `forecast`.
        """
        cells, skipped, refused, probed = list(cells), {}, {}, set[str]()
        n_trials = n_missing = 0
        self.forecast = Forecast(jobs=max(1, jobs), probes=0.0 if self.inspector is None else self.inspector.share)
        self._rates = None
        for cell in cells:
            try:
                trials, missing = self._count(cell) if kind_of(cell).trains_trials else (0, 0)
            except MissingData as error:
                skipped[cell.id] = str(error)
                continue
            except Exception as error:  # reported again when the cell is measured, with a traceback unless BadInput
                refused[cell.id] = str(error) if isinstance(error, BadInput) else in_one_line(error)
                continue
            n_trials, n_missing = n_trials + trials, n_missing + missing
            self.forecast.trials[cell] = missing
            self.forecast.fits[cell] = missing * self.rates.fits(cell) if missing else 0.0
            training = self._training_seconds(cell, missing)
            self.forecast.seconds[cell] = SUMMARY_SECONDS + training / max(1, jobs)
            if missing and (group := self._group_untimed(cell)):
                self.forecast.guessed[cell] = group
            if missing and self.inspector is not None and cell.defense in self.experiment.plugins:
                grace = self.inspector.grace if cell.defense not in probed else 0.0  # time of its probes beyond the share
                self.forecast.seconds[cell] += self.inspector.share * training + grace
                probed.add(cell.defense)
                self.forecast.once[cell] = grace
        guessed, n_fits = self.forecast.guessed, round(sum(self.forecast.fits.values()))
        seconds = sum(own for cell, own in self.forecast.seconds.items() if cell not in guessed)
        untimed = sorted({name for name, _ in guessed.values()})
        return Plan(len(cells), n_trials, n_trials - n_missing, n_fits, seconds, skipped, refused, untimed)

    def _group_untimed(self, cell: Cell) -> tuple[str, str] | None:
        """What takes the same time in a fit as the user-supplied attack, plug-in or victim in a cell; None if it has none,
        or if its time is recorded."""
        if cell.attack in self.experiment.context.attacks:
            return cell.attack, cell.victim
        if self.rates.knows_defense(cell):
            return None
        if cell.defense in self.experiment.plugins:
            return cell.defense, cell.victim
        return (cell.victim, cell.dataset) if cell.victim in self.user_supplied else None

    def _count(self, cell: Cell) -> tuple[int, int]:
        """Numbers of trials of a cell in total and to be run."""
        missing = self.experiment.missing_chunks(cell)
        return sum(map(len, self.experiment.chunks(cell))), sum(len(chunk) for _, chunk in missing)

    def _training_seconds(self, cell: Cell, missing: int) -> float:
        kind = kind_of(cell)
        if not kind.trains_trials:
            return kind.expected_seconds(cell)
        if not missing:
            return 0.0
        pool, victim = self.experiment.context.data(cell).pool, "last_layer" if is_frozen(cell.victim) else cell.victim
        return missing * self.rates.seconds(cell, victim, pool.n_train * int(pool.x[0].size))

    @property
    def rates(self) -> Rates:
        """Rates from the costs recorded in the store when a plan first needed them."""
        if self._rates is None:
            self._rates = Rates()
            with suppress(BadInput, TypeError, ValueError):
                self._rates = Rates.recorded(self.store.costs())
        return self._rates

    def rebaseline(self, hardware: str, commit: str) -> list[Path]:
        """Rewrite our columns of the baselines of every cell that ran, and record attack sets that have no record yet."""
        from subpop.report.comparison import comparison_page
        from subpop.results.comparison import baselines_side, compare_sides

        written, left = self.experiment.context.attack_sets.record()
        self.recorded += [f"attack set recorded: {path}" for path in written]
        self.recorded += [f"{path} belongs to other data and was left; delete it to have it recorded anew" for path in left]
        results = [r.result for r in self.reports.values() if r.result and not self._is_of_plugin(r.cell)]
        stems = sorted({result.cell.stem for result in results})
        noisy = (number for result in results if not result.exact for number in result.numbers if number.std is not None)
        n_noisy = sum(metric_of(number.metric).is_recorded for number in noisy)
        before = baselines_side(self.baselines, stems)
        for stem in stems:
            own = [result for result in results if result.cell.stem == stem]
            rebaseline(self.baselines / f"{stem}.csv", own, hardware=hardware, commit=commit, n_noisy=n_noisy)
        self.moved = comparison_page(compare_sides(before, baselines_side(self.baselines, stems)))
        return [self.baselines / f"{stem}.csv" for stem in stems]

    def write(self, directory: Path, info: RunInfo) -> None:
        """Write the report and, in a CI job, its summary."""
        write_report(list(self.reports.values()), directory, info)
        append_summary((directory / "README.md").read_text(encoding="utf-8"))


def failures(report: CellReport) -> str:
    """The message of a failed cell: for each failed number, the run's value, the reference and the tolerance."""
    bad = [v for v in report.verdicts if v.verdict in ("fail", "no_reference") and v.reason]
    if bad and all(v.verdict in ("no_reference", "not_gated") for v in report.verdicts):
        advice = "record them with --rebaseline, or name the folder that contains them with --baselines"
        return f"{report.cell.id}\nnone of its gated metrics has a reference; {advice}"
    return "\n".join([report.cell.id, *(v.reason for v in bad)])


def select(
    cells: Sequence[Cell],
    tier: str,
    plugins: Iterable[str] = (),
    open_to_defenses: bool = False,
    only_plugins: bool = False,
    attacks: Iterable[str] = (),
) -> list[Cell]:
    """The cells of a tier; in suites open to plug-ins, also each undefended cell with every plug-in.

    plugins: names of plug-ins and of random filters matched to them. only_plugins: of the tier's own cells, only the controls
    that plug-ins are compared with. attacks: names of user-supplied attacks, each of which replaces label flipping in the
    undefended cells and in those of plug-ins.
    """
    own = [cell for cell in cells if cell.tier == tier]
    if only_plugins:
        own = [cell for cell in own if open_to_defenses and cell.defense in CONTROLS]
    if not open_to_defenses:
        return own
    undefended = [cell for cell in own if cell.defense == "none"]
    added = [cell.with_(defense=name) for name in plugins for cell in undefended]
    added = [cell for cell in added if kind_of(cell).trains_trials or not cell.defense.startswith(MATCHED)]
    flipped = [cell for cell in undefended + added if cell.attack == "label_flip" and kind_of(cell).trains_trials]
    return own + added + [cell.with_(attack=name) for name in attacks for cell in flipped]


def rows_of_plugins(plugins: Mapping[str, DefenseSpec]) -> list[str]:
    """The names of plug-ins, each followed by the random filter that is matched to it if it may be a filter."""
    return [row for name, spec in plugins.items() for row in ([name, MATCHED + name] if spec.may_filter else [name])]


def check_tier(tier: str) -> str:
    """Return the tier; raises BadInput if it is unknown."""
    if tier not in TIERS:
        raise BadInput(f"--tier {tier} is unknown; use one of {', '.join(TIERS)}")
    return tier
