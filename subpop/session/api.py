"""Measuring from Python: `subpop.measure` and its results."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subpop.datasets.download import MissingData, data_root
from subpop.experiments.attack_sets import FOLDER
from subpop.experiments.experiment import Experiment
from subpop.experiments.integrity import Inspector
from subpop.report import RunInfo, result_rows, write_report
from subpop.results.frames import frame_of
from subpop.runtime.options import place
from subpop.runtime.output import to_terminal
from subpop.runtime.places import find
from subpop.runtime.progress import Progress
from subpop.runtime.scratch import Scratch
from subpop.runtime.store import Store
from subpop.session.given import Given
from subpop.session.run import Run
from subpop.session.run_info import environment
from subpop.types import Cell, CellReport
from subpop.types.grid import grid

if TYPE_CHECKING:
    import pandas as pd

NAME = "python"
"""The suite and the tier of cells that are measured from Python."""
STORE = "runs/store.sqlite"
SHOWN = ("dataset", "victim", "rate", "defense")


def measure(
    dataset: Any,
    victim: Any = "logistic_regression",
    *,
    rate: Any = 1.0,
    defense: Any = "none",
    attack: Any = "label_flip",
    store: str | PathLike[str] | None = STORE,
    integrity: bool = True,
    **settings: Any,
) -> Results:
    """Measure how much an attack damages the subpopulations of a data set, and how much a defense helps.

    A list for any argument gives a sweep: one cell for each combination, as with `grid`. A terminal or a notebook shows a
    progress bar. Nothing is compared with references.

    A defense that is defined in a file by name runs in a child process, and finished trials are read from the store. A closure,
    a lambda or a function of a notebook or of the running script is sent to the child by value: nothing shows whether it is the
    same as before, so its trials are not reused by the next call, and its integrity is `unchecked`. The same is true of an
    estimator that contains such a class or function: it is trained again by the next call.

    Parameters
    ----------
    dataset
        The name of a data set, such as `digits`; a `Dataset`; a tuple (x, y) or (x, y, groups) of rows of numbers (n, d) or a
        frame, labels (n,) or the name of their column, and groups (n,), several by name or names of columns; or
        `path.py:function` of a loader that returns one of these, which runs in a child process.
    victim
        The name of a victim, such as `mlp`; a scikit-learn estimator, its class, or a function that returns one, also as
        `path.py:name` or `package.module:name`; or a `Victim`.
    rate
        alpha: poison rows for each row of the attacked subpopulation in D_aux.
    defense
        The name of a defense, such as `trim`; `none`; `path.py:function`; or a function (train, fit, know, *, seed).
    attack
        The name of an attack, such as `label_flip`; `path.py:function`; or a function (sample, count, *, seed), which receives
        an `AttackSample` and runs in a child process.
    store
        File of finished trials; None to keep nothing.
    integrity
        Whether defenses of your own are probed for known ways to cheat, for about as long as their trials take.
    **settings
        Further names and settings of `Cell.of`: `partition` (by default `feature_match` where the data has
        annotations, otherwise `cluster_match`), `n_seeds` (5), `split`, `sampling` and so on.

    Returns
    -------
    Results
        The numbers of all cells. A cell that failed, or whose data is missing, has a row with its reason instead; if all
        failed, the first error is raised.

    Raises
    ------
    BadInput
        If a name is unknown or an object cannot be used; the message says what is allowed.

    Examples
    --------
    >>> import subpop
    >>> results = subpop.measure("mixture", rate=[0.5, 1.0], defense=["none", "trim"], n_seeds=1, store=None)
    >>> len(results)
    4
    >>> frame = results.to_frame()
    >>> damage = frame[frame["metric"] == "target_damage_mean"].pivot(index="rate", columns="defense", values="value")
    >>> bool(damage.loc[1.0, "none"] > damage.loc[0.5, "none"])
    True
    """
    given = Given()
    axes = {
        "dataset": _each(dataset, given.dataset),
        "victim": _each(victim, given.victim),
        "rate": rate,
        "defense": _each(defense, given.defense),
        "attack": _each(attack, given.attack),
    }
    wanted = grid(**{"stem": NAME, "tier": NAME, "partition": "", **axes, **settings})
    started = time.time()
    with _opened(store) as kept:
        run = _run(kept, given, integrity)
        given.supply(run.experiment.context, wanted)
        cells = list(dict.fromkeys(_with_partition(run, cell) for cell in wanted))
        run.plan(cells)
        progress = run.experiment.context.progress = Progress.of_run(run.forecast, None)
        try:
            reports = tuple(run.measure(cell) for cell in cells)
        finally:
            progress.close()
    if all(report.result is None for report in reports):
        raise run.failed[cells[0]]
    took = time.time() - started
    return Results(reports, RunInfo(NAME, "subpop.measure", seconds=took, started=started, **environment()))


def _each(given: Any, name: Any) -> Any:
    return [name(each) for each in given] if isinstance(given, list) else name(given)


@contextmanager
def _opened(store: str | PathLike[str] | None) -> Iterator[Store]:
    with Scratch("measure") as folder:
        path = Path(folder) / "store.sqlite" if store is None else place(str(store), Path.cwd())
        with Store(path) as kept:
            yield kept


def _run(store: Store, given: Given, integrity: bool) -> Run:
    baselines = find("baselines", Path.cwd())
    experiment = Experiment.on(
        store,
        root=data_root(None),
        plugins=given.defenses,
        attacks=given.attacks,
        cache=store.path.parent / "features",
        partitions=baselines / FOLDER,
        listener=to_terminal,
    )
    return Run(experiment, store, baselines, inspector=Inspector(experiment) if integrity else None, only_looks=True)


def _with_partition(run: Run, cell: Cell) -> Cell:
    """The cell with a partition that its data allows, if none was asked for."""
    if cell.partition:
        return cell
    try:
        has_annotations = bool(run.experiment.context.loaded(cell.dataset).annotations)
    except MissingData:  # reported when the cell is measured
        has_annotations = False
    return cell.with_(partition="feature_match" if has_annotations else "cluster_match")


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """The results of `measure`: one report for each cell.

    Examples
    --------
    >>> import subpop
    >>> results = subpop.measure("mixture", n_seeds=1, store=None)
    >>> bool(results["target_damage_mean"] > results["collateral_damage_max"])
    True
    """

    reports: tuple[CellReport, ...]
    """The cells with their results, in the order of the sweep."""
    info: RunInfo
    """When, where and with which libraries they were measured."""

    def __len__(self) -> int:
        return len(self.reports)

    def __getitem__(self, metric: str) -> float:
        """The value of a metric of a single cell."""
        if len(self.reports) != 1 or self.reports[0].result is None:
            raise KeyError(f"{metric!r}: there are {len(self.reports)} cells; use to_frame(), which has a row for each number")
        return self.reports[0].result[metric]

    def to_frame(self) -> pd.DataFrame:
        """Return all numbers as a frame.

        Returns
        -------
        pandas.DataFrame
            One row per number, with the columns of `subpop.results.frames.COLUMNS`, as `load_results` reads them.

        Examples
        --------
        >>> import subpop
        >>> frame = subpop.measure("mixture", n_seeds=1, store=None).to_frame()
        >>> list(frame.columns[2:8]), frame["verdict"].unique().tolist()
        (['dataset', 'victim', 'partition', 'attack', 'rate', 'defense'], ['not_compared'])
        """
        return frame_of(row for report in self.reports for row in result_rows(report))

    def subpopulations(self) -> pd.DataFrame:
        """Return the damage of every attacked subpopulation.

        Returns
        -------
        pandas.DataFrame
            One row per cell and subpopulation: `dataset`, `victim`, `rate`, `defense`, `subpopulation`, its numbers of rows
            (`n_train`, `n_aux`, `n_test`, `n_poison`), `target_damage` and further metrics, as fractions.

        Examples
        --------
        >>> import subpop
        >>> table = subpop.measure("mixture", n_seeds=1, store=None).subpopulations()
        >>> table["subpopulation"].is_unique, {"n_test", "target_damage"} <= set(table.columns)
        (True, True)
        """
        import pandas as pd

        rows = [
            {**{name: getattr(report.cell, name) for name in SHOWN}, **row}
            for report in self.reports
            for row in (report.result.table if report.result else ())
        ]
        return pd.DataFrame(rows)

    def plot(self) -> Figures:
        """Draw the figures of the report.

        Returns
        -------
        list
            matplotlib figures, which a notebook shows: damage against the rate and collateral against target damage. The list
            is empty if there are no numbers to draw.

        Examples
        --------
        >>> import subpop
        >>> len(subpop.measure("mixture", rate=[0.5, 1.0], n_seeds=1, store=None).plot()) > 0
        True
        """
        from subpop.report.figures import figures_of

        return Figures(figures_of(self.reports))

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the report: README.md, index.html, results.json, a table for each suite, and figures.

        Parameters
        ----------
        folder
            The folder, which is created if it does not exist.

        Returns
        -------
        None

        Raises
        ------
        BadInput
            If the folder cannot be written to or contains other files of these names.

        Examples
        --------
        >>> import tempfile
        >>> import subpop
        >>> folder = tempfile.mkdtemp()
        >>> subpop.measure("mixture", n_seeds=1, store=None).save(folder)
        >>> len(subpop.load_results(folder)) > 0
        True
        """
        write_report(self.reports, place(str(folder), Path.cwd()), self.info)

    def __repr__(self) -> str:
        from tabulate import tabulate

        shown = self._headline()
        texts = [name in (*SHOWN, "reason") for name in shown]
        heading = [str(name).replace("_", "\n") for name in shown]  # as a line, since tabulate widens headings
        rows = shown.itertuples(index=False, name=None)
        lines = [heading, *([_short(*of) for of in zip(row, texts, strict=True)] for row in rows)]
        widths = [len("logistic_regression") if of_text else None for of_text in texts]  # a usual line fits 80 columns
        aligned = ["left" if of_text else "right" for of_text in texts]
        text = tabulate(lines, tablefmt="plain", maxcolwidths=widths, colalign=aligned, disable_numparse=True) if texts else ""
        return f"Results of {len(self)} cell{'s' * (len(self) != 1)}:\n{text}"

    def _repr_html_(self) -> str:
        return str(self._headline().to_html(index=False))

    def _headline(self) -> pd.DataFrame:
        import pandas as pd

        found = []
        for report in self.reports:
            row = {name: getattr(report.cell, name) for name in SHOWN}
            numbers = {n.metric: n.value for n in report.result.numbers if not n.subpopulation} if report.result else {}
            shown = ("clean_accuracy", "target_damage_mean", "collateral_damage_max")
            row |= {name: numbers[name] for name in shown if name in numbers}
            found.append(row if report.result else {**row, "reason": report.reason})
        return pd.DataFrame(found)


def _short(value: Any, is_setting: bool) -> str:
    """A setting as it is written, or a number with three places."""
    if isinstance(value, float):
        return f"{value:g}" if is_setting else f"{value:.3f}"
    return str(value)


class Figures(list[Any]):
    """matplotlib figures, which a notebook shows as pictures."""

    def _repr_html_(self) -> str:
        return "".join(f'<img src="data:image/png;base64,{_png(figure)}"/>' for figure in self)


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return base64.b64encode(buffer.getvalue()).decode()
