"""Benchmark, check and debug defenses against subpopulation poisoning, and audit your own data."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from bdb import BdbQuit
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subpop.datasets.download import DatasetRecord
    from subpop.runtime.store import Store
    from subpop.session.run import Run
    from subpop.testing import CheckResult

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

SCORED = "-k scoreboard"
"""The cells that `subpop score` runs if no others are asked for."""
LISTED = {"defenses": "defense", "attacks": "attack", "victims": "victim", "datasets": "data set"}
DATA_ROOT = "folder of data files (default: $SUBPOP_DATA, else the user's cache)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    from subpop.runtime.writing import FULL
    from subpop.types import BadInput
    from subpop.types.base import nearest

    if isinstance(sys.stdout, TextIOWrapper):  # characters that the terminal cannot show are escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    parser, commands = _parser()
    options, for_pytest = parser.parse_known_args(_with_negative_values(sys.argv[1:] if arguments is None else arguments))
    if for_pytest and options.command not in ("run", "why", "score"):
        command = commands[options.command]
        known = dict.fromkeys(re.findall(r"(?<![\w-])--[a-z-]+", command.format_help()))
        advice = "; " + nearest(for_pytest[0].partition("=")[0], known) if for_pytest[0].startswith("-") else ""
        command.error(f"unrecognized arguments: {' '.join(for_pytest)}{advice}")
    try:
        if options.command == "run":
            return int(_run(for_pytest))
        if options.command == "score":
            return _score(options, for_pytest)
        return _why(options, for_pytest) if options.command == "why" else int(options.run(options))
    except BadInput as error:
        print(f"subpop: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in FULL:
            raise
        what = f"{error.filename or 'the output'} could not be written ({error.strerror})"
        print(f"subpop: {what}; free some room, or name another place", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "; finished work is kept, and the same command continues from there" if options.command == "audit" else ""
        print(f"subpop: interrupted{kept}", file=sys.stderr)
        return 130


def _with_negative_values(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `--budget -5m` as one, which argparse would take for two options; what it says is refused later."""
    found: list[str] = []
    for each in arguments:
        if found and found[-1] == "--budget" and re.match(r"-\d", each):
            found[-1] += f"={each}"
        else:
            found.append(each)
    return found


def _parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    parser = argparse.ArgumentParser(prog="subpop", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_data(commands)
    _add_check(commands)
    _add_list(commands)
    _add_new_defense(commands)
    _add_debug(commands)
    _add_run(commands)
    _add_audit(commands)
    _add_compare(commands)
    _add_score(commands)
    _add_export(commands)
    _add_plan(commands)
    _add_merge(commands)
    _add_why(commands)
    _add_report(commands)
    return parser, commands.choices


def _add_data(commands: Commands) -> None:
    data = commands.add_parser("data", help="list, fetch or verify data sets")
    data.add_argument(
        "action",
        choices=["list", "fetch", "verify"],
        help="list shows which data sets are ready; fetch downloads files; verify compares them with published checksums",
    )
    data.add_argument("names", nargs="*", help="data sets (default: all that need files)")
    data.add_argument("--data-root", default=None, help=DATA_ROOT)
    data.set_defaults(run=_data)


def _add_check(commands: Commands) -> None:
    check = commands.add_parser("check", help="run the contract checks of a defense, an attack, a victim or a loader of data")
    kind = check.add_mutually_exclusive_group(required=True)
    own = "path.py:function or package.module:function"
    kind.add_argument("defense", nargs="?", help=own)
    kind.add_argument("--attack", metavar="NAME", help=f"check an attack instead: {own}")
    kind.add_argument("--victim", metavar="NAME", help="check a victim: package.module:Class or path.py:function")
    kind.add_argument("--dataset", metavar="NAME", help=f"check a loader of data, which runs in child processes: {own}")
    check.set_defaults(run=_check)


def _add_list(commands: Commands) -> None:
    listed = commands.add_parser(
        "list", help="list defenses, attacks, victims and data sets: built-in ones and those of packages"
    )
    listed.add_argument("kind", nargs="?", choices=list(LISTED), help="list only this kind")
    listed.set_defaults(run=_list)


def _add_new_defense(commands: Commands) -> None:
    new = commands.add_parser("new-defense", help="write a small working defense, and its test, to start from")
    new.add_argument("name", metavar="NAME", help="the name of the function: NAME.py and test_NAME.py are written here")
    new.set_defaults(run=_new_defense)


def _add_debug(commands: Commands) -> None:
    debug = commands.add_parser("debug", help="run one trial of a defense in this process: breakpoint(), pdb and print work")
    debug.add_argument("defense", help="path.py:function or package.module:function")
    debug.add_argument(
        "-k",
        dest="words",
        default="defenses",
        help="words that the name of the suite or cell contains (default: defenses)",
    )
    debug.add_argument("--data-root", default=None, help=DATA_ROOT)
    debug.set_defaults(run=_debug)


def _add_run(commands: Commands) -> None:
    commands.add_parser(
        "run",
        help="run the benchmark's own suites from any folder; options go to pytest: -k, --tier, -n",
        usage="subpop run [embedded | laptop | paper] [pytest options]",
        description="Run the suites of ./benchmarks if there is such a folder, else those of the clone or the installed package. "
        "A tier may come first: `subpop run laptop` is `subpop run --tier laptop`. "
        "All options go to pytest: -k selects cells, --tier selects embedded, laptop or paper, -n 2 trains in two processes, "
        "--defense file.py:function adds your own defense, --only-mine leaves out all others, --victim and --dataset replace "
        "those of the suites by your own, --store and --report-dir name where the results go. "
        "`subpop run --collect-only -q` lists the cells.",
    )


def _add_audit(commands: Commands) -> None:
    audit = commands.add_parser(
        "audit",
        help="measure how badly each group of your own data can be hurt by mislabelled rows, and what would help",
        description="Audit a CSV, parquet or npz file or a folder of pictures: the accuracy of each group, the damage of attacks "
        "on it, certified bounds, and what filters would delete. Nothing leaves this machine.",
        epilog="exit status: 0, whatever was found; 2 for bad input",
    )
    audit.add_argument("data", metavar="DATA", help="a .csv, .tsv, .parquet or .npz file, or a folder of pictures")
    audit.add_argument("--label", default=None, help="the column of the labels; npz files and folders have their own")
    audit.add_argument(
        "--groups",
        default=None,
        help="columns that make the groups, separated by commas (default: all categorical ones, their pairs, and clusters)",
    )
    audit.add_argument(
        "--estimator",
        default=None,
        help="package.module:Class(argument=value) or path.py:function (default: logistic regression on vectorised columns)",
    )
    audit.add_argument("--budget", default=None, help="time, such as 5m (default: no limit)")
    audit.add_argument("--out", default=None, metavar="DIR", help="write README.md, index.html and audit.json there")
    audit.add_argument("--store", default=None, help="file of finished work (default: DIR/audit.sqlite or runs/audit.sqlite)")
    audit.add_argument("--with-rows", action="store_true", help="also name the rows whose labels the estimator believes least")
    audit.set_defaults(run=_audit)


def _add_compare(commands: Commands) -> None:
    compare = commands.add_parser(
        "compare",
        help="show which numbers moved between two runs, stores or folders of baselines",
        description="Compare two sets of numbers. Each is a results.json, the folder of a report, a store or a folder of "
        "baselines. The result is markdown: the defenses whose numbers moved, then suites and headline metrics, the largest "
        "change relative to its noise first.",
        epilog="exit status: 0 if no number moved by more than its noise and none is missing; 1 otherwise; 2 for bad input",
    )
    compare.add_argument("a", metavar="A", help="the earlier numbers, such as baselines")
    compare.add_argument("b", metavar="B", help="the later numbers, such as runs/report")
    compare.add_argument("--all", action="store_true", help="also list every number")
    paired = (
        "judge each defense by the paired difference of its damage; A and B are folders of reports, exit status 1: one is worse"
    )
    compare.add_argument("--paired", action="store_true", help=paired)
    compare.set_defaults(run=_compare)


def _add_score(commands: Commands) -> None:
    score = commands.add_parser(
        "score",
        help="measure a defense of your repository, and fail if it is worse than in another commit",
        description="Run the scoreboard's cells of a defense as it is here and as it is in the commit BASE, and compare the "
        "damage paired by subpopulation and seed. Further options go to pytest, such as -k or --tier laptop. In a CI job the "
        "report and the comparison go to the job's summary.",
        epilog="exit status: 1 if the 95 % interval of the difference says that the defense is worse, or if a cell fails here",
    )
    score.add_argument("defense", metavar="DEFENSE", help="path.py:function, relative to this folder, or package.module:function")
    score.add_argument("--against", default="main", metavar="BASE", help="a branch or commit to compare with (default: main)")
    score.add_argument("--folder", type=Path, default=Path("runs/score"), help="the store and reports (default: runs/score)")


def _add_export(commands: Commands) -> None:
    export = commands.add_parser(
        "export",
        help="write the trials and numbers of a store as tables: CSV, JSON or parquet",
        description="Write two tables of a store, `numbers` (a row for each number of each cell, as last measured) and `trials` "
        "(a row for each trial), and columns.csv, which says what their columns mean. The store is not changed.",
    )
    export.add_argument("store", metavar="STORE", help="a store that a run wrote, such as runs/store.sqlite")
    export.add_argument("--out", default="runs/export", metavar="DIR", help="where the tables go (default: runs/export)")
    export.add_argument("--format", default="csv", help="csv (default), json, or parquet, which needs pyarrow")
    export.add_argument("--force", action="store_true", help="overwrite tables of an earlier export")
    export.set_defaults(run=_export)


def _add_plan(commands: Commands) -> None:
    plan = commands.add_parser(
        "plan",
        help="show what a tier needs: cells, fits, operations, memory, and hours on this machine and on GPUs",
        description="Count the cells of a tier and compute what they need, by formulas, without reading data. The rate of this "
        "machine is measured; rates of GPUs are assumed from their data sheets.",
    )
    plan.add_argument("--tier", default="paper", help="embedded, laptop or paper (default: paper)")
    plan.add_argument("--store", help="derive the hours on this machine from the trials that this store has recorded")
    plan.add_argument("--json", action="store_true", help="print JSON instead of a table")
    plan.set_defaults(run=_plan)


def _add_merge(commands: Commands) -> None:
    merge = commands.add_parser(
        "merge",
        help="combine the stores of several machines, such as those of the shards of a run",
        description="Copy all trials, models and records of some stores into one, which is created if it does not exist. "
        "What several stores contain is kept once. The sources are not changed.",
        epilog="exit status: 0; 2 for bad input, and if two stores disagree on a deterministic trial",
    )
    merge.add_argument("stores", nargs="+", metavar="STORE", help="stores that runs wrote with --store")
    merge.add_argument("--into", required=True, metavar="STORE", help="the store that receives everything")
    merge.set_defaults(run=_merge)


def _add_why(commands: Commands) -> None:
    why = commands.add_parser(
        "why",
        help="say why a cell fails: noise, the code or this machine's processor",
        description="Run a cell twice here and with the kernels of other types of processor, and compare. Further options go to "
        "pytest, such as --tier laptop.",
        epilog="exit status: 0 if all numbers of the cell pass here; 1 if one does not; 2 for bad input",
    )
    why.add_argument("cell", metavar="CELL", help="a selection of cells, as for `pytest -k`")
    why.add_argument("--folder", type=Path, default=Path("runs/why"), help="where stores and reports go (default: runs/why)")


def _add_report(commands: Commands) -> None:
    report = commands.add_parser(
        "report",
        help="write a report of all finished cells in a store, without training",
        epilog="exit status: 0 if the report says Passed or Not compared; 1 if it says Failed or Unfinished; 2 for bad input",
    )
    report.add_argument("--store", default="runs/store.sqlite", help="database of finished trials (default: runs/store.sqlite)")
    report.add_argument("--report-dir", default="runs/report", help="where the report goes (default: runs/report)")
    baselines = "folder of reference numbers (default: baselines, else those of the clone or of the installed package)"
    report.add_argument("--baselines", default=None, help=baselines)
    report.add_argument("--data-root", default=None, help=DATA_ROOT)
    report.add_argument("--weights-root", default=None, help="folder of network weights (default: weights/ in the data root)")
    report.add_argument("--device", default="cpu", help="where the trials were trained: cpu (default) or cuda")
    publish = "also write the leaderboard of each tier to this folder, as in `reports/`, without times"
    report.add_argument("--publish", default=None, metavar="FOLDER", help=publish)
    report.set_defaults(run=_report)


def _data(options: argparse.Namespace) -> int:
    import shutil

    from tabulate import tabulate

    from subpop.datasets import DATASETS
    from subpop.datasets.download import data_root, describe, fetch, verify
    from subpop.types import BadInput
    from subpop.types.base import nearest

    root = data_root(options.data_root)
    unknown = [name for name in options.names if name not in DATASETS]
    if unknown:
        raise BadInput(f"unknown data set {unknown[0]!r}; {nearest(unknown[0], DATASETS)}")
    if options.action == "list":
        rows = [(each.name, _is_ready(each), each.summary, each.licence) for each in describe(root)]
        room = max(20, (shutil.get_terminal_size().columns - 36) // 2) if sys.stdout.isatty() else None
        found = tabulate(rows, ("name", "ready", "summary", "licence"), maxcolwidths=[None, None, room, room])
        return _shown(
            f"Data sets are read from {root}. `subpop data fetch NAME` downloads one of the size shown, or explains the manual "
            f"download.\n\n{found}"
        )
    names = options.names or [record.name for record in describe(root) if record.needs_files]
    states = [state for name in names for state in (fetch if options.action == "fetch" else verify)(name, root)]
    print(*states, sep="\n")
    return 0 if all(state.state in ("ok", "unverified") for state in states) else 1


def _shown(text: str) -> int:
    """Print a long text, without a traceback if the reader of a pipe (such as `head`) stops early."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise the flush at exit would fail again
        return 1
    return 0


def _is_ready(record: DatasetRecord) -> str:
    if record.ready:
        return "yes"
    return f"no ({record.megabytes:.0f} MB)" if record.needs_files and record.megabytes else "no"


def _check(options: argparse.Namespace) -> int:
    from subpop.runtime.progress import SILENT_SECONDS, saying_that

    with saying_that("still checking; each check calls it once or more", SILENT_SECONDS):
        results = _check_results(options)
    same: dict[str, list[str]] = {}  # one mistake fails many checks
    for result in results:
        if result.passed:
            print(result)
        else:
            same.setdefault(result.message, []).append(result.name)
    for message, (name, *others) in same.items():
        print(f"failed  {name}: {message}")
        if others:
            print(f"failed  in the same way: {', '.join(others)}")
    return 0 if all(result.passed for result in results) else 1


def _check_results(options: argparse.Namespace) -> list[CheckResult]:
    from subpop.harness.plugins import AttackSpec, DatasetSpec, DefenseSpec, load
    from subpop.runtime.output import to_terminal
    from subpop.session.installed import given_victim, parse_given
    from subpop.session.user_data import loaded
    from subpop.testing import CheckResult, check_attack, check_dataset, check_defense, check_victim
    from subpop.types import BadInput
    from subpop.victims import make_victim

    if options.attack is not None:
        return check_attack(load(parse_given(AttackSpec, options.attack, Path.cwd())))
    if options.dataset is not None:
        spec = parse_given(DatasetSpec, options.dataset, Path.cwd())
        return check_dataset(lambda: loaded(spec, listener=to_terminal))
    if options.victim is None:
        return check_defense(load(parse_given(DefenseSpec, options.defense, Path.cwd(), option="")))
    name = given_victim(options.victim, "--victim ")
    try:
        victim = make_victim(name)
    except BadInput as error:
        return [CheckResult("can_be_made", "failed", str(error))]
    return check_victim(victim)


def _list(options: argparse.Namespace) -> int:
    from tabulate import tabulate

    from subpop.session.installed import rows

    found = rows(None if options.kind is None else LISTED[options.kind])
    return _shown(tabulate(found, ("kind", "name", "from", "write")))


def _new_defense(options: argparse.Namespace) -> int:
    from subpop.session.new_defense import new_defense

    return _shown(new_defense(options.name, Path.cwd()))


def _run(for_pytest: Sequence[str]) -> int:
    """Run the suites of the clone or of the installed package; results are written below the current folder."""
    import pytest

    from subpop.runtime.places import find, keep_machine_code_out_of_the_package
    from subpop.session.run_info import COMMAND

    class Typed:
        def pytest_addoption(self, parser: pytest.Parser) -> None:
            parser.prog = "subpop run"  # of messages about options

        def pytest_configure(self, config: pytest.Config) -> None:
            config.stash[COMMAND] = ["subpop", "run", *for_pytest]

    suites, baselines = find("benchmarks", Path.cwd()), find("baselines", Path.cwd())
    keep_machine_code_out_of_the_package()
    sys.dont_write_bytecode = True  # otherwise pytest would write bytecode next to the suites
    first = ["-p", "xdist"] if find_spec("xdist") else []  # which owns -n, and must add it before our plug-in checks for it
    plugins = [*first, "-p", "subpop.pytest_plugin", "-p", "no:cacheprovider"]
    places = [str(suites), "--rootdir", str(Path.cwd()), "--baselines", str(baselines)]
    return int(pytest.main([*plugins, *places, *_with_tier(for_pytest)], plugins=[Typed()]))


def _with_tier(options: Sequence[str]) -> list[str]:
    """The options with a tier that comes first, as in `subpop run laptop -k adult`, written as `--tier laptop`."""
    from subpop.session.run import TIERS
    from subpop.types import BadInput

    first, *rest = options or [""]
    if not first or first.startswith("-") or "::" in first or Path(first).exists():
        return list(options)
    if first not in TIERS:
        raise BadInput(f"{first!r} is neither a tier nor a file; use one of {', '.join(TIERS)}, or select cells with -k")
    if any(option.partition("=")[0] == "--tier" for option in rest):
        raise BadInput(f"the tier is named twice, as {first} and with --tier; leave one of them out")
    return ["--tier", first, *rest]


def _debug(options: argparse.Namespace) -> int:
    from subpop.datasets.download import data_root
    from subpop.harness.plugins import DefenseSpec
    from subpop.session.debugging import debug
    from subpop.session.installed import parse_given

    spec = parse_given(DefenseSpec, options.defense, Path.cwd(), option="")
    try:
        print(*debug(spec, options.words, data_root(options.data_root)), sep="\n")
    except BdbQuit:
        print("subpop: the debugger was quit before the trial ended", file=sys.stderr)
        return 1
    return 0


def _audit(options: argparse.Namespace) -> int:
    import shutil
    from textwrap import fill

    from subpop.audit.pages import text_page
    from subpop.audit.run import STORE, audit
    from subpop.runtime.memory import for_long_runs
    from subpop.runtime.options import budget_seconds

    for_long_runs()
    found = audit(
        options.data,
        options.label,
        groups=options.groups,
        estimator=options.estimator,
        budget=None if options.budget is None else budget_seconds(options.budget, "--budget "),
        store=options.store or (None if options.out is None else Path(options.out) / "audit.sqlite"),
    )
    columns = shutil.get_terminal_size().columns
    text = text_page(found, columns, with_rows=options.with_rows)
    if options.out is None:
        more = f"All groups, filters and bounds: --out DIR --store {options.store or STORE} writes pages of what is there"
        return _shown(f"{text}\n{fill(more, columns, break_long_words=False, break_on_hyphens=False)}.")
    folder = Path(options.out)
    found.save(folder, with_rows=options.with_rows)
    return _shown(f"{text}\nAll groups, filters and bounds: {folder / 'index.html'} and {folder / 'README.md'}")


def _compare(options: argparse.Namespace) -> int:
    from subpop.report.comparison import comparison_page
    from subpop.results.comparison import compare_sides, load_side
    from subpop.runtime.options import place

    paths = [place(path, Path.cwd()) for path in (options.a, options.b)]
    if options.paired:
        from subpop.report.paired_runs import paired_page

        text, status = paired_page(*paths)
        _shown(text)
        return status
    found = compare_sides(*map(load_side, paths))
    _shown(comparison_page(found, every_number=options.all))
    return found.exit_status


def _score(options: argparse.Namespace, for_pytest: Sequence[str]) -> int:
    import shutil

    from subpop.harness.plugins import DefenseSpec
    from subpop.session.installed import parse_given
    from subpop.types import BadInput

    parse_given(DefenseSpec, options.defense, Path.cwd(), option="")
    missing = [name for name in ("bash", "git") if shutil.which(name) is None]
    if missing:
        raise BadInput(f"subpop score needs {missing[0]}, which is not installed or not on the PATH; install it")
    script = Path(__file__).with_name("score.sh")
    selected = any(option.startswith("-k") for option in for_pytest)
    words = [sys.executable, options.defense, options.against, str(options.folder), *(() if selected else SCORED.split())]
    sys.stdout.flush()
    os.execvp("bash", ["bash", str(script), *words, *for_pytest])  # which alone handles signals


def _export(options: argparse.Namespace) -> int:
    from subpop.results.export import export
    from subpop.runtime.options import place

    store, folder = place(options.store, Path.cwd()), place(options.out, Path.cwd())
    written = export(store, folder, options.format, replace=options.force)
    return _shown("\n".join(f"{path}: {n_rows:,} rows" for path, n_rows in written.items()))


def _plan(options: argparse.Namespace) -> int:
    import json

    from subpop.runtime.estimate import Rates
    from subpop.runtime.options import place
    from subpop.runtime.places import find
    from subpop.runtime.store import Store
    from subpop.session.planning import as_json, cells_of_tier, lines_of, rates, show
    from subpop.session.run import check_tier
    from subpop.types import BadInput

    found = rates()
    recorded = None
    if options.store is not None:
        path = place(options.store, Path.cwd())
        if not path.is_file():
            raise BadInput(f"--store {path} does not exist; name a store that a run wrote, or leave the option out")
        with Store(path) as store:
            recorded = Rates.recorded(store.costs())
    lines = lines_of(cells_of_tier(check_tier(options.tier), find("benchmarks", Path.cwd())), found, recorded)
    if options.json:
        return _shown(json.dumps(as_json(lines, found), indent=1))
    show(lines, found)
    return 0


def _merge(options: argparse.Namespace) -> int:
    from subpop.runtime.options import place
    from subpop.session.merging import merged

    into = place(options.into, Path.cwd())
    return _shown(merged([place(path, Path.cwd()) for path in options.stores], into))


def _why(options: argparse.Namespace, for_pytest: Sequence[str]) -> int:
    from subpop.session.why import why

    text, status = why(options.cell, options.folder.resolve(), for_pytest)
    print(text)
    return status


def _report(options: argparse.Namespace) -> int:
    from subpop.report import check_report_directory, check_summary
    from subpop.runtime.options import check_device_name, place
    from subpop.runtime.store import Store
    from subpop.types import BadInput

    check_device_name(options.device)
    path, directory = place(options.store, Path.cwd()), place(options.report_dir, Path.cwd())
    if not path.exists():
        raise BadInput(
            f"--store {path} does not exist; run `python -m pytest benchmarks/` first, or pass the path of an existing store"
        )
    check_report_directory(directory)
    check_summary()
    with Store(path) as store:
        return _report_of(store, directory, options)


def _report_of(store: Store, directory: Path, options: argparse.Namespace) -> int:
    """Write the report of a store to a folder; returns the exit status."""
    from subpop.report import RunInfo
    from subpop.report.leaderboard import leaderboards
    from subpop.report.published import publish, render
    from subpop.report.verdict import counted, headline, is_red, n_cells
    from subpop.runtime.options import place
    from subpop.session.run_info import environment
    from subpop.types import BadInput

    run = _run_of(store, options)
    left_out = run.measure_stored()
    for note in store.new_notes():
        print(f"subpop: {note}", file=sys.stderr)
    if not run.reports:
        others = f", but {n_cells(left_out)} not finished or measured by another version" if left_out else ""
        raise BadInput(f"--store {store.path} contains no finished cell{others}; run `python -m pytest benchmarks/` first")
    drifts = run.drifts()
    standing = run.standing(drifts)
    info = RunInfo(
        tier=", ".join(sorted({cell.tier for cell in run.reports})),
        device=options.device,
        commit="",
        command="subpop report",
        seconds=0.0,
        started=time.time(),
        suites={},
        left_out=run.left_out,
        standing=standing,
        drifts=drifts,
        **environment(),
    )
    run.write(directory, info)
    reports = list(run.reports.values())
    if options.publish is not None:
        folder = place(options.publish, Path.cwd())
        publish(leaderboards(reports), folder)
        render(folder)
    kept = f" ({run.n_kept} of plug-ins, as last measured)" if run.n_kept else ""
    others = f"{left_out} not finished or measured by another version"
    print(f"{n_cells(len(reports))}{kept}, {others}: {directory / 'README.md'}")
    for (what, reason), count in Counter((each.what, each.reason) for each in run.left_out).items():
        print(f"  {counted({what: count})} {reason}")
    print(headline(reports, standing).replace("**", ""))
    return int(is_red(reports, standing))


def _run_of(store: Store, options: argparse.Namespace) -> Run:
    """A run that reads its cells from a store."""
    from subpop.datasets.download import data_root
    from subpop.experiments.attack_sets import FOLDER
    from subpop.experiments.experiment import Experiment
    from subpop.runtime.options import place
    from subpop.runtime.places import find
    from subpop.session.run import Run

    weights = None if options.weights_root is None else place(options.weights_root, Path.cwd())
    baselines = find("baselines", Path.cwd()) if options.baselines is None else place(options.baselines, Path.cwd())
    experiment = Experiment.on(store, data_root(options.data_root), options.device, cache=store.path.parent / "features")
    experiment.context.weights_root, experiment.context.partitions = weights, baselines / FOLDER
    return Run(experiment, store, baselines)


if __name__ == "__main__":
    sys.exit(main())
