"""The installed package runs its own suites from any folder and writes nothing where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from small_projects import make_project

from subpop.runtime import places
from subpop.runtime.places import PACKAGE_DATA, check_writable, find
from subpop.types import BadInput

ROOT = Path(__file__).parents[1]
SUITE = "figure2_trim"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The interpreter and the package of an environment that holds the wheel, and the dependencies of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves files behind
    for name in ("subpop", "benchmarks", "baselines"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), str(source)], check=True, timeout=300)
    (wheel,) = folder.glob("subpop-*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip())
    install = [sys.executable, "-m", "pip", "install", *options[:1], *options[2:], "--target", str(packages), str(wheel)]
    subprocess.run(install, check=True, timeout=300)
    # Lines of this environment's own .pth files are not read there, so that the clone itself stays out of reach.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python, packages


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def test_a_cell_runs_from_another_folder(installed, tmp_path):
    python, packages = installed
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    command = [python, "-m", "subpop", "run", "embedded", "-k", SUITE, "-q"]
    before = contents(packages)
    told = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False, "timeout": 300}
    done = subprocess.run(command, env={**environment, "PYTHONDONTWRITEBYTECODE": "1"}, **told)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search("^[0-9]+ cells pass$", done.stdout, re.MULTILINE), done.stdout  # compared with the references of the wheel
    assert contents(packages) == before
    page = (tmp_path / "runs" / "report" / "README.md").read_text()
    assert "**Passed.**" in page
    assert f"`subpop run embedded -k {SUITE} -q`" in page
    assert "<dialog" in (tmp_path / "runs" / "report" / "index.html").read_text()  # whose parts are files of the wheel
    refused = subprocess.run([*command, "--rebaseline"], env={**environment, "PYTHONDONTWRITEBYTECODE": "1"}, **told)
    assert refused.returncode == 4
    assert "would change the installed package" in refused.stderr
    explained = subprocess.run(
        [python, "-m", "subpop", "why", f"{SUITE} and none"], env={**environment, "PYTHONDONTWRITEBYTECODE": "1"}, **told
    )
    assert explained.returncode == 0, explained.stdout + explained.stderr
    assert re.search("^[0-9]+ numbers are compared with references and pass here", explained.stdout, re.MULTILINE), (
        explained.stdout
    )
    assert contents(packages) == before


def test_what_is_no_module_is_in_the_wheel(installed):
    """The page for coding assistants, and the script of `subpop score`."""
    _, packages = installed
    assert all((packages / "subpop" / name).is_file() for name in ("AGENTS.md", "session/score.sh"))


def test_an_installed_package_takes_its_own_suites_and_none_that_lie_beside_it(tmp_path, monkeypatch):
    """Some packages install their `benchmarks` next to it."""
    for folder in ("site/benchmarks", "site/subpop/data/benchmarks", "caller"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(places, "PACKAGE", tmp_path / "site" / "subpop")
    monkeypatch.setattr(places, "PACKAGE_DATA", tmp_path / "site" / "subpop" / "data")
    assert find("benchmarks", tmp_path / "caller") == tmp_path / "site" / "subpop" / "data" / "benchmarks"


def test_the_caller_s_folder_comes_first(tmp_path):
    assert find("baselines", tmp_path) == ROOT / "baselines"
    (tmp_path / "baselines").mkdir()
    assert find("baselines", tmp_path) == tmp_path / "baselines"
    with pytest.raises(BadInput, match="there is no folder suites in"):
        find("suites", tmp_path)
    with pytest.raises(BadInput, match="--baselines"):
        check_writable(PACKAGE_DATA / "baselines")
    with pytest.raises(BadInput, match="--rebaseline cannot write to /dev/null/baselines"):
        check_writable(Path("/dev/null/baselines"))


@pytest.mark.parametrize("options", [[], ["-n", "2"], ["-p", "no:xdist"], ["-p", "no:xdist", "-n", "2"]])
def test_a_folder_with_a_suite_of_its_own_needs_no_conftest(tmp_path, options):
    project = make_project(tmp_path)
    (project / "conftest.py").unlink()
    (project / "pytest.ini").unlink()
    command = [sys.executable, "-m", "subpop", "run", "--collect-only", "-q", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_little.py::test_cell[embedded-digits-logistic_regression-feature-label_flip-1-trim" in done.stdout
