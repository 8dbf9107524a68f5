import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_breast_cancer

from subpop.session.cli import main


def test_data_list_names_every_data_set(capsys, tmp_path):
    assert main(["data", "list", "--data-root", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in ("digits", "mixture", "adult", "subpop data fetch NAME", str(tmp_path)))


@pytest.mark.parametrize("columns", ["80", "200"])
def test_data_list_fits_the_terminal(capsys, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["data", "list", "--data-root", str(tmp_path)]) == 0
    table = capsys.readouterr().out.partition("\n\n")[2].splitlines()
    assert max(map(len, table)) <= int(columns)


def test_a_reader_that_stops_reading_costs_no_traceback(tmp_path):
    command = [sys.executable, "-m", "subpop", "data", "list", "--data-root", str(tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == ""
    assert child.wait() == 1


def test_verify_says_what_is_missing(capsys, tmp_path):
    assert main(["data", "verify", "adult", "--data-root", str(tmp_path)]) == 1
    assert "missing" in capsys.readouterr().out


def test_errors_are_one_line_with_the_fix(capsys, tmp_path):
    assert main(["data", "verify", "nothing"]) == 2
    assert "adult" in capsys.readouterr().err
    assert main(["report", "--store", str(tmp_path / "none.sqlite")]) == 2
    assert "pytest benchmarks/" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["audit", "mine.csv", "--lable", "income"], "did you mean --label?"),
        (["debug", "mine.py:f", "--xyzw"], "use one of --data-root, --help\n"),
        (["data", "list", "--dataroot=x"], "did you mean --data-root?"),
        (["check", "mine.py:f", "other.py:g"], "unrecognized arguments: other.py:g\n"),
    ],
)
def test_a_mistyped_option_shows_those_of_its_own_command(arguments, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    told = capsys.readouterr().err
    assert f"usage: subpop {arguments[0]}" in told
    assert said in told


@pytest.mark.parametrize(
    ("mistyped", "meant"),
    [(["--tire", "laptop"], "--tier"), (["-k", "trim", "--benchmark-jsn=x"], "--benchmark-json"), (["--qqqqqqqq"], None)],
)
def test_a_mistyped_option_for_pytest_names_the_nearest_one(mistyped, meant, tmp_path):
    command = [sys.executable, "-m", "subpop", "run", *mistyped]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 4
    assert "subpop run: error: unrecognized arguments: --" in done.stderr
    assert done.stderr.partition("did you mean: ")[2].split("\n")[0] == (meant or "")


def test_check_passes_a_defense_and_fails_another(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from subpop import Defended\n"
        "def good(train, fit, know, *, seed):\n    return Defended(fit(train))\n"
        "def bad(train, fit, know, *, seed):\n    return fit(train)\n"
    )
    assert main(["check", "mine.py:good"]) == 0
    assert main(["check", "mine.py:bad"]) == 1
    assert "Defended" in capsys.readouterr().out


def test_a_report_of_a_store_trains_nothing(tmp_path, capsys, monkeypatch):
    from subpop.experiments.experiment import Experiment
    from subpop.runtime.store import Store
    from subpop.session.run import Run
    from subpop.types.grid import grid

    place = {"stem": "s", "tier": "embedded", "dataset": "digits", "victim": "logistic_regression", "partition": "feature_match"}
    cells = grid(**place, rate=1.0, defense=["none", "trim"], n_seeds=1)
    with Store(tmp_path / "store.sqlite") as store:
        run = Run(Experiment.on(store), store, tmp_path)
        for cell in cells:
            run.measure(cell)
    monkeypatch.setattr(Experiment, "run_chunk", lambda *_: pytest.fail("it trains"))
    assert (
        main(
            [
                "report",
                "--store",
                str(tmp_path / "store.sqlite"),
                "--report-dir",
                str(tmp_path / "report"),
                "--baselines",
                str(tmp_path),
                "--publish",
                str(tmp_path / "published"),
            ]
        )
        == 1
    ), "there are no references"
    assert "digits" in (tmp_path / "report" / "README.md").read_text()

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    capsys.readouterr()
    assert main(["report", "--store", str(tmp_path / "store.sqlite"), "--report-dir", str(tmp_path / "other")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert re.fullmatch(r"subpop: /.*/other/.* could not be written \(No space left on device\); free some room, .*", told[0])
    published = sorted(str(path.relative_to(tmp_path / "published")) for path in (tmp_path / "published").rglob("*.*"))
    assert published == ["embedded/README.md", "embedded/leaderboard-embedded.svg", "embedded/leaderboard.json"]
    assert "| trim " in (tmp_path / "published/embedded/README.md").read_text()


def test_the_command_runs_as_a_module_and_unknown_commands_are_usage_errors():
    runs = [(["-m", "subpop", "nonsense"], 2), (["-m", "subpop.session.cli", "nonsense"], 2), (["-m", "subpop.session.cli"], 2)]
    runs += [(["-m", "subpop", "data", "list"], 0), (["-m", "subpop.session.cli", "data", "list"], 0)]
    for arguments, status in runs:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == status, (arguments, done.stderr)
        assert ("digits" in done.stdout) == (status == 0)
        assert ("usage: subpop" in done.stderr) == (status == 2)
        assert "RuntimeWarning" not in done.stderr


def test_the_package_lists_what_it_exports():
    code = "import subpop, sys; print({n for n in dir(subpop) if n[0] != '_'} == set(subpop.__all__), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["True", "False"]


def test_output_reaches_a_terminal_that_knows_ascii_only(tmp_path):
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "SUBPOP_DATA": str(tmp_path / "größe")}
    command = [sys.executable, "-m", "subpop", "data", "list"]
    done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert b"gr\\udcc3" in done.stdout or b"gr\\xf6" in done.stdout


def test_a_mistake_that_fails_many_checks_is_traced_once(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def bad(train, fit, know, *, seed):\n    raise ValueError('my mistake')\n")
    assert main(["check", "mine.py:bad"]) == 1
    told = capsys.readouterr().out
    assert told.count("Traceback") == 1
    assert told.count("ValueError: my mistake") == 2  # the message, and the end of the traceback
    assert "failed  in the same way: same_seed_same_answer, keeps_no_state, " in told


def test_what_the_harness_refuses_has_no_traceback_of_the_harness(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def bad(train, fit, know, *, seed):\n    fit(train)\n")
    assert main(["check", "mine.py:bad"]) == 1
    told = capsys.readouterr().out
    assert "the defense returned NoneType; it must return Defended(model)" in told
    assert "Traceback" not in told


def test_a_store_of_another_version_is_not_called_empty(tmp_path, capsys):
    from subpop.runtime.store import Store

    cell = {"stem": "s", "tier": "embedded", "dataset": "digits", "victim": "logistic_regression", "partition": "feature_match"}
    with Store(tmp_path / "store.sqlite") as store:
        store.put_record("s a", {**cell, "attack": "label_flip", "rate": 1.0, "defense": "none", "setting": [["n_seeds", 1]]})
    assert main(["report", "--store", str(tmp_path / "store.sqlite"), "--report-dir", str(tmp_path / "report")]) == 2
    assert "contains no finished cell, but 1 cell not finished or measured by another version" in capsys.readouterr().err


@pytest.mark.parametrize("first", [["laptop"], ["--tier", "laptop"]])
def test_a_tier_may_come_first(monkeypatch, first):
    asked = []
    monkeypatch.setattr("pytest.main", lambda arguments, plugins: asked.append(arguments) or 0)
    assert main(["run", *first, "-k", "embedded or digits"]) == 0
    assert asked[0][-4:] == ["--tier", "laptop", "-k", "embedded or digits"]


@pytest.mark.parametrize("options", [["-k", "digits"], ["mine/test_mine.py::test_cell[a]"], ["."], []])
def test_files_and_options_are_no_tiers(monkeypatch, options):
    asked = []
    monkeypatch.setattr("pytest.main", lambda arguments, plugins: asked.append(arguments) or 0)
    assert main(["run", *options]) == 0
    assert asked[0][len(asked[0]) - len(options) :] == options
    assert "--tier" not in asked[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["embeded", "-k", "digits"], "'embeded' is neither a tier nor a file; use one of embedded, laptop, paper"),
        (["laptop", "--tier", "embedded"], "the tier is named twice, as laptop and with --tier"),
        (["laptop", "--tier=embedded"], "the tier is named twice, as laptop and with --tier"),
    ],
)
def test_a_wrong_tier_names_the_right_ones(capsys, options, said):
    assert main(["run", *options]) == 2
    assert said in capsys.readouterr().err


def test_cells_of_a_tier_are_selected(tmp_path):
    command = [sys.executable, "-m", "subpop", "run", "embedded", "-k", "digits and feature_match", "--collect-only", "-q"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_feature_match.py::test_cell[embedded-digits" in done.stdout


@pytest.mark.parametrize("command", ["score", "compare", "audit", "run", "list"])
def test_help_shows_no_format_codes(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "%%" not in capsys.readouterr().out


def test_an_interrupted_audit_says_that_its_work_is_kept(tmp_path):
    """Ctrl-C while groups are attacked; no traceback. The store is that of `--out`, from which the next audit reads."""
    load_breast_cancer(as_frame=True).frame.to_csv(tmp_path / "cancer.csv", index=False)
    forest = "sklearn.ensemble:RandomForestClassifier(n_estimators=10)"
    command = [sys.executable, "-m", "subpop", "audit", "cancer.csv", "--label", "target", "--estimator", forest, "--out", "out"]
    begun = "import signal, sys, subpop.session.cli; signal.signal(signal.SIGINT, signal.default_int_handler); "
    begun += "sys.exit(subpop.session.cli.main(sys.argv[1:]))"  # a background job begins without the handler
    command = [sys.executable, "-c", begun, *command[3:]]
    child = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    told = []
    while "accuracy of each group" not in (line := child.stderr.readline()):
        told.append(line)
        assert line, f"it ended before: {told}"
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=60)[1]
    assert child.returncode == 130
    assert said.splitlines()[-1] == "subpop: interrupted; finished work is kept, and the same command continues from there"
    assert "Traceback" not in said
    assert (tmp_path / "out" / "audit.sqlite").exists()
