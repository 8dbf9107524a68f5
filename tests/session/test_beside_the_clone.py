"""The clone's folder has the name of the package: scripts beside it must get the package, not the folder."""

import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

INSTALL_ALONE = """
import os, site, sys
sys.path[:] = [entry for entry in sys.path if not os.path.isfile(os.path.join(entry, "subpop", "__init__.py"))]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
site.addsitedir({site!r})
"""
"""Forgets the installation that these tests run from, then does what `pip install -e` of the copy would."""


def test_a_script_beside_an_installed_clone_imports_the_package(tmp_path):
    pytest.importorskip("setuptools")
    if any((Path(folder) / "subpop").is_dir() for folder in site.getsitepackages()):
        pytest.skip("subpop is installed without -e, beside the libraries: the copy cannot be installed in its place")
    clone = tmp_path / "subpop"
    shutil.copytree(ROOT / "subpop", clone / "subpop", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    build = "from setuptools import build_meta; print(build_meta.build_editable('wheel'))"
    (clone / "wheel").mkdir()
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True, timeout=120)
    [wheel] = (clone / "wheel").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "sitecustomize.py").write_text(INSTALL_ALONE.format(site=str(tmp_path / "site")))
    (tmp_path / "script.py").write_text("import subpop\nprint(subpop.__file__, subpop.Defended.__name__)\n")
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "first")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(clone / "subpop" / "__init__.py"), "Defended"]
