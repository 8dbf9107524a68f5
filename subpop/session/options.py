"""The command-line options of a session: their definitions and checks, and the run and folders that they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

WORTH = 10.0
"""Seconds of expected work from which starting workers saves time: each imports its libraries, which takes some seconds."""
ADVICE = "did you mean"
"""The line of pytest's messages about options that names the nearest one."""

if TYPE_CHECKING:
    import pytest

    from subpop.harness.plugins import AttackSpec, DefenseSpec, Spec
    from subpop.session.replaced_cells import Replacements
    from subpop.session.run import Run


def add_options(parser: pytest.Parser, *, has_xdist: bool) -> None:
    """Add our options to pytest's, including `-n` if pytest-xdist is not installed."""
    group = parser.getgroup("subpop", "subpopulation poisoning benchmark")
    _add_cells(group)
    _add_places(group)
    _add_user_code(group)
    _add_training(group)
    if not has_xdist:
        group._addoption("-n", "--numprocesses", dest="numprocesses", default=None, help="processes that train cells, or auto")


def _add_cells(group: pytest.OptionGroup) -> None:
    """Which cells run, with how many seeds, and what they are compared with."""
    group.addoption(
        "--tier", default="embedded", help="which cells run: the tier embedded (default, no download), laptop or paper"
    )
    group.addoption(
        "--no-references", action="store_true", help="only look: no number is compared, and none fails for lack of a reference"
    )
    group.addoption(
        "--budget",
        default=None,
        metavar="TIME",
        help="start no test after this time, such as 30m, and run the most valuable ones first; the page says what was left",
    )
    group.addoption(
        "--shard",
        default=None,
        metavar="I/N",
        help="run the I-th of N parts of the selected tests, the same on every machine; `subpop merge` combines the stores",
    )
    group.addoption(
        "--seeds-times",
        type=int,
        default=1,
        help="N times as many seeds in every cell; stochastic numbers are compared on those that their references do not have",
    )
    group.addoption("--rebaseline", action="store_true", help="record new references for the cells that ran; the run still fails")


def _add_places(group: pytest.OptionGroup) -> None:
    """Folders and files."""
    group.addoption("--data-root", default=None, help="folder of data files (default: $SUBPOP_DATA, else the user's cache)")
    group.addoption("--weights-root", default=None, help="folder of network weights (default: weights/ in the data root)")
    group.addoption("--store", default="runs/store.sqlite", help="database of finished trials (default: runs/store.sqlite)")
    group.addoption("--report-dir", default="runs/report", help="where the report goes (default: runs/report)")
    group.addoption("--baselines", default=None, help="folder of reference numbers (default: baselines/ in the root folder)")


def _add_user_code(group: pytest.OptionGroup) -> None:
    """User-supplied defenses, attacks, victims and data."""
    group.addoption(
        "--defense",
        action="append",
        default=[],
        help="your own defense: path.py:function or package.module:function; repeatable",
    )
    group.addoption(
        "--attack",
        action="append",
        default=[],
        help="your own attack: path.py:function or package.module:function; repeatable. It replaces label flipping in the "
        "undefended cells, and in those of --defense, of the suites that accept defenses",
    )
    group.addoption(
        "--victim",
        default=None,
        help="your own victim: package.module:Class or path.py:function, optionally with arguments. It replaces the "
        "victims in the suites that accept defenses; no other suite runs, and nothing is compared with references",
    )
    group.addoption(
        "--dataset",
        default=None,
        help="your own data: path.py:function or package.module:function, which returns (x, y) or (x, y, groups). It replaces "
        "the data of these suites in the same way",
    )
    group.addoption("--only-mine", action="store_true", help="run the defenses of --defense and the controls that belong to them")
    group.addoption(
        "--defense-timeout",
        type=float,
        default=300.0,
        help="seconds that a plug-in's code may take in one trial (default: 300)",
    )
    group.addoption("--no-integrity", action="store_true", help="do not probe plug-in defenses for known cheats")


def _add_training(group: pytest.OptionGroup) -> None:
    """How cells are trained."""
    group.addoption("--fresh", action="store_true", help="ignore the store and train everything again")
    group.addoption("--device", default="cpu", help="cpu (default) or cuda")
    group.addoption(
        "--executor",
        default=None,
        help="where cells train: loky (default: processes of this machine), dask or ray (clusters), or here, in one process",
    )
    group.addoption(
        "--jobs",
        type=int,
        default=None,
        help="number of processes that train cells (default: one for each core, if there is much to train); tests run in one "
        "process; `-n N` means the same",
    )


def advise(parser: pytest.Parser, arguments: Sequence[object]) -> None:
    """Let pytest's message about an unknown option name the nearest one. arguments: those of the command line."""
    known = {name for group in [*parser._groups, parser._anonymous] for option in group.options for name in option.names()}
    given = [str(each).partition("=")[0] for each in arguments]
    near = [get_close_matches(each, sorted(known), 1) for each in given if each.startswith("--") and each not in known]
    parser.extra_info.pop(ADVICE, None)
    if near and near[0]:
        parser.extra_info[ADVICE] = near[0][0]


def checked_defenses(config: pytest.Config) -> dict[str, DefenseSpec]:
    """The plug-in defenses by name. Raises BadInput if an option has an invalid value."""
    from subpop.defenses import is_built_in
    from subpop.harness.plugins import DefenseSpec
    from subpop.runtime.options import budget_seconds, check_device, check_timeout
    from subpop.session.run import check_tier
    from subpop.types import BadInput

    check_tier(config.getoption("--tier"))
    _check_workers(config)
    check_timeout(config.getoption("--defense-timeout"))
    check_device(config.getoption("--device"))
    budget_seconds(config.getoption("--budget"), "--budget ")
    if config.getoption("--budget") is not None and config.getoption("--rebaseline"):
        raise BadInput("--rebaseline records the references of whole suites; run it without --budget")
    if config.getoption("--shard") is not None:
        from subpop.session.shards import Shard

        Shard.parse(config.getoption("--shard"))
        if config.getoption("--rebaseline"):
            raise BadInput("--rebaseline records the references of whole suites; run it without --shard, or on a merged store")
    if config.getoption("--no-references") and config.getoption("--rebaseline"):
        raise BadInput("--rebaseline records references and --no-references reads none; use one of the two options")
    times = config.getoption("--seeds-times")
    if times < 1:
        raise BadInput(f"--seeds-times {times} must be a whole number of at least 1")
    if times > 1 and config.getoption("--rebaseline"):
        raise BadInput("--rebaseline records the seeds of each suite; run it without --seeds-times")
    if config.getoption("--only-mine") and not (config.getoption("--defense") or config.getoption("--attack")):
        raise BadInput(
            "--only-mine needs a defense or an attack of your own; name it with --defense or --attack path.py:function"
        )
    return _checked_plugins(DefenseSpec, config, is_built_in)


@dataclass(frozen=True)
class Workers:
    """Where cells train. worth: seconds of expected work below which they train in this process."""

    executor: str
    count: int
    worth: float = 0.0


def workers_of(config: pytest.Config) -> Workers:
    """The workers that the options ask for: without `-n` and `--executor`, a process for each core where that saves time.

    By default a GPU is used from one process, and so is everything that --rebaseline records.
    """
    from subpop.runtime.threads import n_cores

    executor, asked = config.getoption("--executor"), config.getoption("--jobs")
    is_default = executor is None and asked is None
    if executor == "here" or (is_default and (config.getoption("--device") != "cpu" or config.getoption("--rebaseline"))):
        return Workers("here", 1)
    executor, count = executor or "loky", n_cores() if asked is None else asked
    if executor == "loky" and count < 2:
        return Workers("here", 1)
    return Workers(executor, count, WORTH if is_default else 0.0)


def _check_workers(config: pytest.Config) -> None:
    from subpop.experiments.pools import check_executor
    from subpop.types import BadInput

    executor, asked = config.getoption("--executor"), config.getoption("--jobs")
    if asked is not None and asked < (1 if executor in ("dask", "ray") else 0):
        where = "" if executor is None else f" of --executor {executor}"
        raise BadInput(f"-n {asked} is not a number of processes{where}; give 1 or more, or leave it out for one per core")
    if executor is None:
        return
    check_executor(executor)
    if executor == "here" and (asked or 1) > 1:
        raise BadInput(f"--executor here trains in one process, not in {asked}; leave out one of --executor and -n")
    device = config.getoption("--device")
    if executor in ("dask", "ray") and ":" in device:
        raise BadInput(
            f"--executor {executor} gives each task a GPU, so that --device {device} cannot choose one; use --device cuda"
        )


def checked_attacks(config: pytest.Config) -> dict[str, AttackSpec]:
    """The user-supplied attacks by name. Raises BadInput if an option names none."""
    from subpop.attacks import ATTACKS
    from subpop.harness.plugins import AttackSpec

    return _checked_plugins(AttackSpec, config, ATTACKS.__contains__)


def checked_replacements(config: pytest.Config) -> Replacements | None:
    """The user-supplied victim and data, None for neither. Raises BadInput if an option names none.

    The data is loaded, in a child process.
    """
    if config.getoption("--victim") is None and config.getoption("--dataset") is None:
        return None
    from subpop.session.installed import given_victim, parse_given
    from subpop.session.replaced_cells import Replacements

    victim, data = config.getoption("--victim"), None
    if victim is not None:
        victim = given_victim(victim, "--victim ")
    if config.getoption("--dataset") is not None:
        from subpop.datasets import DATASETS
        from subpop.harness.plugins import DatasetSpec
        from subpop.runtime.output import to_terminal
        from subpop.session.user_data import load_user_data
        from subpop.types import BadInput

        spec = parse_given(DatasetSpec, config.getoption("--dataset"), config.invocation_params.dir)
        if spec.name in DATASETS:
            raise BadInput(f"--dataset {spec.name} has the name of a built-in data set; rename the function or its file")
        data = load_user_data(spec, config.getoption("--defense-timeout"), to_terminal)
    return Replacements(victim or "", data)


def _checked_plugins(kind: type[Spec], config: pytest.Config, is_built_in: Callable[[str], bool]) -> dict[str, Spec]:
    from subpop.session.installed import parse_given
    from subpop.types import BadInput

    option, noun = kind.role.option.strip(), kind.role.noun
    specs = [parse_given(kind, text, config.invocation_params.dir) for text in config.getoption(option)]
    names = [spec.name for spec in specs]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise BadInput(f"{option} names {double} more than once; leave out the repetition, or rename one of the functions")
    for name in names:
        if is_built_in(name):
            raise BadInput(f"{option} {name} has the name of a built-in {noun}; rename the function or its file")
    return {spec.name: spec for spec in specs}


def make_run(
    config: pytest.Config,
    plugins: Mapping[str, DefenseSpec],
    attacks: Mapping[str, AttackSpec],
    replacements: Replacements | None,
) -> Run:
    """The run that the options describe."""
    from subpop.datasets.download import data_root
    from subpop.experiments.attack_sets import FOLDER as PARTITIONS_FOLDER
    from subpop.experiments.experiment import Experiment
    from subpop.experiments.integrity import Inspector
    from subpop.runtime.fingerprint import keep_code_in
    from subpop.runtime.store import Store
    from subpop.session.run import Run
    from subpop.types import Cell

    store = Store(_place(config, "--store"))
    keep_code_in(store.path.parent / "code")
    experiment = Experiment.on(
        store,
        root=data_root(_place_or_none(config, "--data-root")),
        device=config.getoption("--device"),
        timeout=config.getoption("--defense-timeout"),
        plugins=plugins,
        attacks=attacks,
        fresh=config.getoption("--fresh"),
        cache=store.path.parent / "features",
        weights_root=_place_or_none(config, "--weights-root"),
        partitions=baselines_folder(config) / PARTITIONS_FOLDER,
        listener=_listener(config),
    )
    if replacements is not None and replacements.data is not None:
        experiment.context.supply(Cell.of(dataset=replacements.data.name), replacements.data)
    inspector = None if config.getoption("--no-integrity") else Inspector(experiment)
    fresh_seeds = config.getoption("--seeds-times") > 1
    return Run(
        experiment,
        store,
        baselines_folder(config),
        inspector=inspector,
        fresh_seeds=fresh_seeds,
        only_looks=config.getoption("--no-references"),
        user_supplied=frozenset() if replacements is None else replacements.names,
    )


def baselines_folder(config: pytest.Config) -> Path:
    """The folder of references."""
    return _place_or_none(config, "--baselines") or config.rootpath / "baselines"


def _listener(config: pytest.Config) -> Callable[[str], None]:
    """The listener for output of plug-in defenses: the terminal with -s, otherwise a buffer for the report of their test."""
    from subpop.runtime.output import Tail, to_terminal

    return to_terminal if config.getoption("capture") in ("no", "tee-sys") else Tail()


def report_directory(config: pytest.Config) -> Path:
    """The folder of the report."""
    return _place(config, "--report-dir")


def _place(config: pytest.Config, option: str) -> Path:
    """The absolute path that an option names; relative paths start from the folder in which pytest was started."""
    from subpop.runtime.options import place

    return place(config.getoption(option), config.invocation_params.dir)


def _place_or_none(config: pytest.Config, option: str) -> Path | None:
    return None if config.getoption(option) is None else _place(config, option)
