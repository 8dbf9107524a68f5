"""Names that installed packages declare as entry points: a real package, built and installed by pip."""

import json
import os
import subprocess
import sys

import pytest

from tests.small_projects import ROOT, make_project, run

PARTS = """
import numpy as np


def half(train, fit, know, *, seed, share=0.5):
    from subpop import Defended

    keep = np.random.default_rng(seed).random(len(train)) < share
    return Defended(fit(train[keep]), keep)


def first_rows(sample, count, *, seed):
    rows = np.resize(sample.members, count)
    return rows, 1 - sample.y[rows] if sample.target is None else np.full(count, sample.target)


def bayes():
    from sklearn.naive_bayes import GaussianNB  # every call of the attack would wait for it

    return GaussianNB()


def rings(n=600):
    rng = np.random.default_rng(0)
    group, y = rng.integers(0, 3, n), rng.integers(0, 2, n)
    return rng.normal(size=(n, 3)) + 2 * y[:, None] * np.eye(3)[group], y, {"ring": group}
"""
PROJECT = """
[build-system]
requires = ["setuptools>=68"]
build-backend = "setuptools.build_meta"

[project]
name = "{name}"
version = "1.5"

[tool.setuptools]
packages = ["{module}"]
{entries}
"""
TINY = """
[project.entry-points."subpop.defenses"]
keep-half = "tiny_parts.parts:half"
trim = "tiny_parts.parts:half"
shared = "tiny_parts.parts:half"
dotted = "tiny_parts.parts:half.needs"
[project.entry-points."subpop.attacks"]
first_rows = "tiny_parts.parts:first_rows"
[project.entry-points."subpop.victims"]
bayes = "tiny_parts.parts:bayes"
[project.entry-points."subpop.datasets"]
rings = "tiny_parts.parts:rings"
"""
OTHER = """
[project.entry-points."subpop.defenses"]
shared = "other_parts:half"
"""


def make_package(folder, name, entries):
    module = name.replace("-", "_")
    (folder / name / module).mkdir(parents=True)
    (folder / name / module / "__init__.py").write_text("")
    (folder / name / module / "parts.py").write_text(PARTS)
    (folder / name / "pyproject.toml").write_text(PROJECT.format(name=name, module=module, entries=entries))
    return str(folder / name)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder in which two packages are installed."""
    folder = tmp_path_factory.mktemp("packages")
    packages = [make_package(folder, name, entries) for name, entries in (("tiny-parts", TINY), ("other-parts", OTHER))]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-build-isolation", "--no-compile"]
    command = [*pip, "--target", str(folder / "site"), *packages]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def subpop(installed, folder, *words):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{installed}"}
    command = [sys.executable, "-m", "subpop", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=240)


def test_a_list_shows_them_with_their_package(installed, tmp_path):
    lines = subpop(installed, tmp_path, "list").stdout.splitlines()
    found = [line.split() for line in lines if "-parts 1.5" in line]
    assert sorted(found) == sorted(
        [
            ["defense", "dotted", "tiny-parts", "1.5", "dotted"],
            ["defense", "keep-half", "tiny-parts", "1.5", "keep-half"],
            ["defense", "shared", "other-parts", "1.5", "other_parts:half"],
            ["defense", "shared", "tiny-parts", "1.5", "tiny_parts.parts:half"],
            ["defense", "trim", "tiny-parts", "1.5", "tiny_parts.parts:half"],
            ["attack", "first_rows", "tiny-parts", "1.5", "first_rows"],
            ["victim", "bayes", "tiny-parts", "1.5", "bayes"],
            ["data", "set", "rings", "tiny-parts", "1.5", "rings"],
        ]
    )
    assert any(line.split() == ["defense", "trim", "built", "in", "trim"] for line in lines)


def test_a_bare_name_runs_what_the_package_declares(installed, tmp_path):
    project = make_project(tmp_path, rates=(1.0,))
    names = ["--defense", "keep-half(share=0.8)", "--attack", "first_rows", "--victim", "bayes", "--dataset", "rings(n=900)"]
    done = run(project, *names, "--no-integrity", "-k", "1-none or keep-half", PYTHONPATH=f"{ROOT}{os.pathsep}{installed}")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((project / "runs" / "report" / "results.json").read_text())["cells"]
    found = {(row["attack"], row["defense"]) for row in rows if row["metric"] == "target_damage_mean"}
    own = ["keep-half(share=0.8)", "matched_random_filter:keep-half(share=0.8)"]
    assert found == {(attack, defense) for attack in ("label_flip", "first_rows") for defense in ("none", *own)}
    assert {(row["dataset"], row["victim"]) for row in rows} == {("rings(n=900)", "tiny_parts.parts:bayes")}
    removed = [row["value"] for row in rows if row["metric"] == "removed_share" and row["defense"] == own[0]]
    assert all(0.1 < value < 0.3 for value in removed), removed


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "trim",
            "'trim': tiny-parts 1.5 declares a defense with the name of a built-in one; write tiny_parts.parts:half, and ask",
        ),
        ("shared(share=0.1)", "other-parts 1.5 and tiny-parts 1.5 both declare this defense; write other_parts:half(share=0.1)"),
        ("keep-haf", "'keep-haf' is declared by no installed package; did you mean keep-half?"),
        ("dotted", "tiny-parts 1.5 declares it as 'tiny_parts.parts:half.needs', which is not of the form package.module:name"),
        ("keep-half(size=3)", "has no argument 'size' of its own; it has share"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(installed, tmp_path, name, words):
    done = subpop(installed, tmp_path, "check", name)
    assert words in done.stderr
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_checks_take_declared_names(installed, tmp_path):
    done = subpop(installed, tmp_path, "check", "--attack", "first_rows")
    assert done.returncode == 0, done.stdout + done.stderr


def test_measure_takes_declared_names(installed, tmp_path):
    script = """
import subpop
r = subpop.measure("rings", "bayes", defense=["none", "keep-half"], n_seeds=1, store=None, integrity=False)
print([(x.cell.dataset, x.cell.victim, x.cell.defense) for x in r.reports])
print(all(x.result for x in r.reports), len(r.subpopulations()))
"""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{installed}"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=240)
    names = [("rings", "tiny_parts.parts:bayes", defense) for defense in ("none", "keep-half")]
    assert done.stdout.splitlines() == [str(names), "True 6"], done.stdout + done.stderr
