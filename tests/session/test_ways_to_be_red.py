"""The first line of a report's page, for each way in which a run can end: real pytest processes on a small suite."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from subpop.session.session_watch import SessionWatch

ROOT = Path(__file__).parents[2]
SUITE = '''"""Source: a test. Deviations: none."""
import os, signal, time
import pytest
from subpop.types.grid import grid

COMMON = dict(stem="little", tier="embedded", dataset="digits", victim="logistic_regression", partition="feature_match",
              sampling="distinct", n_seeds=1)
CELLS = [*grid(rate=[0.25, 0.5, 1.0], **COMMON),
         *grid(**{**COMMON, "tier": "paper", "dataset": "embeddings:nowhere.npz"}, rate=1.0)]
WAY = os.environ.get("WAY", "")


def test_cell(cell, measure):
    if cell.rate == 0.5 and WAY == "interrupt":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job begins without one
        os.kill(os.getpid(), signal.SIGINT)
    if cell.rate == 0.5 and WAY in ("terminate", "kill"):
        open("waits", "w").close()
        time.sleep(60)
    assert WAY != "before", "nothing is measured"
    measure(cell)
    assert WAY not in ("assertion", "first") or cell.rate != 0.25, "too much\\n::error::of it"


def test_claim(sweep, result_of):
    assert WAY != "claim", "the claim does not hold"


@pytest.fixture
def broken():
    assert WAY != "setup", "no set-up"


def test_beside_it(broken):
    pass


if WAY == "collection":
    raise ValueError("no module")
'''


def environment(way):
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "WAY": way}


def command(*options):
    return [sys.executable, "-m", "pytest", "benchmarks/", "-q", "-p", "no:cacheprovider", *options]


def run(project, way="", *options):
    return subprocess.run(
        command(*options), cwd=project, env=environment(way), capture_output=True, text=True, check=False, timeout=120
    )


def first_line(project):
    page = (project / "runs/report/README.md").read_text()
    return re.sub(r" The (embedded|laptop|paper) tier.*", "", page.splitlines()[2])


def results(project):
    return json.loads((project / "runs/report/results.json").read_text())


@pytest.fixture(scope="module")
def passed_once(tmp_path_factory):
    """A suite with recorded references, a full store and the page of a run that passed."""
    folder = tmp_path_factory.mktemp("passed")
    (folder / "benchmarks").mkdir()
    (folder / "baselines").mkdir()
    (folder / "benchmarks" / "test_little.py").write_text(SUITE)
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (folder / "pytest.ini").write_text("[pytest]\n")
    done = run(folder, "", "--rebaseline")
    assert done.returncode == 1, done.stdout
    assert first_line(folder).startswith("**References were rewritten**, so this run does not pass")
    assert "\nwith the old references: 3 cells fail only for lack of references\n" in done.stdout
    done = run(folder)
    assert done.returncode == 0, done.stdout
    assert first_line(folder) == "**Passed.**"
    told = results(folder)
    assert (told["planned"], told["measured"], told["complete"], told["exit_status"]) == (3, 3, True, 0)
    assert told["failed_tests"] == []
    assert (folder / "runs/report/little.md").read_text().splitlines()[4].startswith("**Passed.**")
    return folder


@pytest.fixture
def project(passed_once, tmp_path):
    return Path(shutil.copytree(passed_once, tmp_path / "project"))


@pytest.mark.parametrize(
    ("way", "options", "status", "line", "measured", "kind"),
    [
        ("claim", (), 1, "**Failed: 1 claim.**", 3, "claim"),
        ("assertion", (), 1, "**Failed: 1 assertion after a measured cell.**", 3, "assertion"),
        (
            "first",
            ("-x",),
            1,
            "**Failed: 1 assertion after a measured cell; stopped after 1 of 3 cells.**",
            1,
            "assertion",
        ),
        ("before", (), 1, "**Failed: 3 tests; stopped after 0 of 3 cells.**", 0, "test"),
        ("setup", (), 1, "**Failed: 1 set-up of a test.**", 3, "setup"),
        ("collection", (), 2, "**Failed: 1 module that could not be collected.**", 0, "collection"),
        ("interrupt", (), 2, "**Interrupted: 1 of 3 cells measured.**", 1, None),
        ("claim", ("-k", "claim"), 1, "**Failed: 1 claim.**", 0, "claim"),
        ("", ("-k", "claim"), 0, "**Passed: 1 claim, and no cell was compared with a reference.**", 0, None),
        ("", ("--tier", "paper"), 1, "**Nothing was measured**, so this run does not pass.", 0, None),
        ("", ("--tier", "paper", "--rebaseline"), 1, "**Nothing was measured**, so this run does not pass.", 0, None),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_the_page_follows_the_exit_status(project, way, options, status, line, measured, kind):
    done = run(project, way, *options)
    assert done.returncode == status, done.stdout
    assert ("run the same command again to continue" in done.stdout) == (way == "interrupt")
    assert ("no reference was recorded" in done.stdout) == ("--rebaseline" in options)
    assert first_line(project) == line
    told = results(project)
    assert (told["measured"], told["exit_status"]) == (measured, status)
    assert {each["kind"] for each in told["failed_tests"]} == ({kind} if kind else set())
    assert line.replace("**", "") in done.stdout, "the terminal says what the page says"
    assert "no cell was measured\n" not in done.stdout, "the first line says so already"
    page = (project / "runs/report/README.md").read_text()
    assert ("## What failed" in page) == (kind is not None)
    if kind:
        assert told["failed_tests"][0]["test"] in page
    assert (project / "runs/report/little.md").exists() == (len(told["cells"]) > 0)


def test_red_numbers_and_a_claim_are_counted_together(project):
    path = project / "baselines" / "little.csv"
    lines = path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "target_damage_mean" in line)
    value = lines[at].split(",")[lines[0].split(",").index("value")]
    lines[at] = lines[at].replace(f",{value},", f",{float(value) + 0.3},")
    path.write_text("\n".join(lines) + "\n")
    done = run(project, "claim")
    assert done.returncode == 1
    assert first_line(project) == "**Failed: 1 cell of 3, 1 claim.**"


@pytest.mark.parametrize("way", ["terminate", "kill"])
def test_an_ended_process_leaves_no_page_of_yesterday(project, way):
    process = subprocess.Popen(command(), cwd=project, env=environment(way), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not (project / "waits").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert first_line(project).startswith("**Unfinished: ")
    assert not (project / "runs/report/little.md").exists()
    process.send_signal(signal.SIGTERM if way == "terminate" else signal.SIGKILL)
    status = process.wait(60)
    told = results(project)
    if way == "terminate":
        assert status == 2
        assert first_line(project) == "**Interrupted by SIGTERM: 1 of 3 cells measured.**"
        assert (told["complete"], told["stopped"], told["exit_status"]) == (False, "SIGTERM", 2)
    else:
        assert status == -signal.SIGKILL
        assert first_line(project) in ("**Unfinished: 0 of 3 cells measured.**", "**Unfinished: 1 of 3 cells measured.**")
        assert (told["complete"], told["exit_status"]) == (False, None)


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize(("way", "hook"), [("interrupt", "keyboard_interrupt"), ("", "sessionfinish")])
def test_a_signal_while_the_session_ends_is_no_traceback(project, way, hook, number):
    """As of somebody who presses Ctrl-C twice, or of a service for tests that sends SIGTERM after SIGINT."""
    (project / "again.py").write_text(f"""
import os, signal

def pytest_runtest_setup():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job begins without one

def pytest_{hook}():
    os.kill(os.getpid(), signal.{number})
""")
    done = run(project, way, "-p", "again", "-k", "test_cell")
    assert done.returncode == -signal.Signals[number]
    assert "Traceback" not in done.stdout + done.stderr
    assert "subpop: ended before the report was written; the finished trials are stored" in done.stderr
    assert first_line(project).startswith("**Unfinished: ")


def test_files_of_an_earlier_run_go_and_others_stay(project):
    report = project / "runs/report"
    (report / "older.md").write_text((report / "little.md").read_text())
    (report / "older.csv").write_text((report / "little.csv").read_text())
    (report / "notes.md").write_text("mine\n")
    (report / "mine.csv").write_text("a,b\n1,2\n")
    figures = {path.name for path in (report / "figures").iterdir()}
    assert figures
    drawn = next(path for path in (report / "figures").iterdir() if path.suffix == ".png")
    (report / "figures" / "older.png").write_bytes(drawn.read_bytes())
    (report / "figures" / "mine.png").write_bytes(b"\x89PNG mine")
    assert run(project).returncode == 0
    assert not (report / "older.md").exists()
    assert not (report / "older.csv").exists()
    assert (report / "notes.md").read_text() == "mine\n"
    assert (report / "mine.csv").exists()
    assert {path.name for path in (report / "figures").iterdir()} == figures | {"mine.png"}


def test_a_suite_with_a_syntax_error_leaves_no_page_of_yesterday(project):
    with (project / "benchmarks" / "test_little.py").open("a") as suite:
        suite.write("def (\n")
    assert run(project).returncode == 2
    assert first_line(project) == "**Failed: 1 module that could not be collected.**"
    told = results(project)
    assert (told["complete"], [each["kind"] for each in told["failed_tests"]]) == (False, ["collection"])


def test_an_interrupt_between_two_lines_is_reported():
    def raises():
        raise KeyboardInterrupt

    raises.__code__ = raises.__code__.replace(co_linetable=b"")  # as where a signal arrives while a generator is closed
    with pytest.raises(KeyboardInterrupt) as caught:
        raises()
    assert caught.traceback[-1]._rawentry.tb_lineno is None
    watch = SessionWatch()
    watch.pytest_keyboard_interrupt(caught)
    assert watch.standing(2).stopped == "interrupt"
    assert "KeyboardInterrupt" in str(caught.getrepr())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("-k", "nowhere"), "no cell of the tier embedded matches -k 'nowhere'; suites with cells in this tier: little"),
        (
            ("--tier", "laptop", "-k", "test_cell"),
            "these suites have no cells in the tier laptop; choose another one with --tier",
        ),
    ],
)
def test_a_selection_without_cells_says_why(project, options, line):
    done = run(project, "", *options)
    assert done.returncode == 5
    assert line in done.stdout
    assert first_line(project) == "**Nothing was measured**, so this run does not pass.", "not the page of the run before"
    told = results(project)
    assert (told["planned"], told["exit_status"], told["cells"]) == (0, 5, [])
