"""A plug-in's stored trials are served as long as everything that its process imported and opened is as it was."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_projects import parse_defense

from subpop.experiments.experiment import Experiment
from subpop.harness import manifest as manifest_module
from subpop.harness.manifest import Manifests, manifest_of, still_holds
from subpop.runtime.no_store import NoStore
from subpop.runtime.store import Store
from subpop.types import Trial
from subpop.types.grid import grid

CELL = grid(
    stem="s",
    tier="embedded",
    dataset="mixture_cells",
    victim="logistic_regression",
    partition="feature_match",
    rate=1.0,
    n_attacked=1,
    n_seeds=1,
    defense="mine.f",
)[0]
PLUGIN = """
import json
import os
from pathlib import Path

import numpy as np

from subpop import Defended

HERE = Path(__file__).parent


def f(train, fit, know, *, seed):
    import far_away

    share = json.loads((HERE / "params.json").read_text())["share"] * far_away.SCALE
    if (HERE / "more.json").exists() and os.listdir(HERE / "tables"):
        share += float(open(HERE / "more.json").read())
    scores = np.load(HERE / "scores.npy")
    keep = np.random.default_rng(seed).random(len(train)) > share * scores.mean()
    return Defended(fit(train[keep]), keep)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A plug-in that reads parameters, an array and a folder, and imports a module from elsewhere on the path."""
    for name in ("mine", "lib", "mine/tables"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine" / "mine.py").write_text(PLUGIN)
    (tmp_path / "mine" / "params.json").write_text('{"share": 0.5}')
    (tmp_path / "lib" / "far_away.py").write_text("SCALE = 1.0\n")
    (tmp_path / "mine" / "tables" / "a").write_text("")
    np.save(tmp_path / "mine" / "scores.npy", np.full(3, 0.5))
    monkeypatch.syspath_prepend(tmp_path / "lib")
    return tmp_path


def session(folder, store, function="f"):
    """An experiment as a new run makes it, with the plug-in as it is now."""
    return Experiment.on(store, plugins={"mine.f": parse_defense(f"mine/mine.py:{function}", folder)})


def from_store(folder, store, function="f"):
    return session(folder, store, function).trials(CELL)[1]


def test_what_a_plug_in_read_is_checked_before_its_trials_are_served(folder):
    """One story, since each step starts a child: unchanged things are served, and each change runs it again, once."""
    mine = folder / "mine"
    changes = {
        "parameters": lambda: (mine / "params.json").write_text('{"share": 0.25}'),
        "an array": lambda: np.save(mine / "scores.npy", np.full(3, 0.9)),
        "a module from elsewhere": lambda: (folder / "lib" / "far_away.py").write_text("SCALE = 0.5\n"),
        "a listed folder": lambda: (mine / "tables" / "b").write_text(""),
        "its own file": lambda: (mine / "mine.py").write_text(PLUGIN.replace("> share", ">= share")),
    }
    with Store(folder / "store.sqlite") as store:
        assert not from_store(folder, store)
        assert from_store(folder, store)
        (folder / "lib" / "far_away.py").write_text("# a comment\nSCALE = 1.0\n")
        assert from_store(folder, store)
        (mine / "more.json").write_text("0.1")  # was looked for, and not opened: no file
        for what, change in changes.items():
            change()
            assert not from_store(folder, store), what
            assert from_store(folder, store), what


def test_the_source_of_a_plug_in_is_part_of_its_key(folder):
    """Whoever drops it from the key serves the score of another function."""
    experiment = session(folder, NoStore())
    before = experiment.chunk_key(CELL, [Trial("a", 0)])
    for change in ({"source": "other"}, {"function": "g"}, {"path": folder / "other.py"}):
        experiment.plugins = {"mine.f": replace(experiment.plugins["mine.f"], **change)}
        assert experiment.chunk_key(CELL, [Trial("a", 0)]) != before, change


def test_controls_matched_to_a_plug_in_follow_its_manifest(folder):
    matched = CELL.with_(defense="matched_random_filter:mine.f")
    with Store(folder / "store.sqlite") as store:
        first = session(folder, store)
        assert [first.trials(cell)[1] for cell in (CELL, matched)] == [False, False]
        assert session(folder, store).trials(matched)[1]
        (folder / "mine" / "params.json").write_text('{"share": 0.9}')
        assert not session(folder, store).trials(matched)[1]


def test_trials_of_which_a_manifest_is_missing_are_not_reusable():
    """The store deletes a damaged record."""
    manifests = Manifests(NoStore())
    manifests.note("first", {kind: {} for kind in manifest_module.KINDS} | {"reasons": []})
    manifests.join("whole", ["first"])
    assert manifests.reasons("whole") == []
    manifests.join("whole", ["first", "second"])
    assert manifests.reasons("whole") == [manifest_module.CHANGED]


HONEST = {
    "libraries": "import pandas\n    import sklearn.cluster\n    import torch\n"
    "    sklearn.cluster.KMeans(2, n_init=1).fit(train.x)\n"
    "    pandas.DataFrame(train.x).describe()\n    torch.linalg.svd(torch.tensor(np.array(train.x)))",
    "files of its own": "import tempfile\n    with tempfile.TemporaryDirectory() as place:\n"
    "        np.save(place + '/x.npy', train.x)\n        np.load(place + '/x.npy')",
    "installed versions": "from importlib.metadata import version\n    version('numpy')\n    version('scikit-learn')",
    "warnings and tracebacks": "import warnings, traceback\n    warnings.warn('a')\n    traceback.format_stack()",
}
NOT_REUSABLE = {
    "subprocess": ("import subprocess\n    subprocess.run(['true'])", "starts processes"),
    "fork": ("if (child := os.fork()) == 0:\n        os._exit(0)\n    os.waitpid(child, 0)", "starts processes"),
    "pool": (
        "import multiprocessing\n    p = multiprocessing.get_context('spawn').Process(target=print)\n    p.start()",
        "starts processes",
    ),
    "ctypes": ("import ctypes\n    ctypes.CDLL(None).getpid()", "native code through ctypes"),
    "network": (
        "import socket\n    try:\n        socket.create_connection(('127.0.0.1', 9), 0.1)\n    except OSError:\n        pass",
        "network",
    ),
    "native reader": ("import pandas\n    pandas.read_parquet if train is None else None", "read_parquet opens files in native"),
}


def write(folder, body):
    text = "import os\nfrom pathlib import Path\nimport numpy as np\nfrom subpop import Defended\nHERE = Path(__file__).parent\n"
    text += f"def f(train, fit, know, *, seed):\n    {body}\n    return Defended(fit(train))\n"
    (folder / "mine" / "mine.py").write_text(text)


@pytest.mark.parametrize("name", HONEST)
def test_honest_plug_ins_are_reused(folder, name):
    write(folder, HONEST[name])
    with Store(folder / "store.sqlite") as store:
        first = session(folder, store)
        assert not first.trials(CELL)[1]
        assert first._not_reusable(CELL) == ()
        (folder / "mine" / "notes.txt").touch()  # somebody's notes, or output that is sent to a file there
        (folder / "lib" / "notes.txt").touch()
        assert from_store(folder, store)


@pytest.mark.parametrize("name", NOT_REUSABLE)
def test_what_cannot_be_watched_is_run_again_and_says_so(folder, name):
    body, reason = NOT_REUSABLE[name]
    write(folder, body)
    with Store(folder / "store.sqlite") as store:
        first = session(folder, store)
        assert [first.trials(CELL)[1] for _ in range(2)] == [False, True]  # claims of one run share it
        (note,) = first.run(CELL).notes[-1:]
        assert reason in note
        assert not from_store(folder, store)


# --- manifests --------------------------------------------------------------------------------------------------------


def seen(**changes):
    return {"modules": {}, "new": [], "files": {}, "folders": [], "reasons": [], **changes}


def test_installed_distributions_count_with_version_and_files(monkeypatch):
    import sklearn

    found = manifest_of(seen(modules={"sklearn": sklearn.__file__, "json": json.__file__}))
    assert list(found["distributions"]) == ["scikit-learn"]
    assert found["distributions"]["scikit-learn"][0] == sklearn.__version__
    assert found["modules"] == {}
    assert still_holds(json.loads(json.dumps(found)))
    original = importlib.metadata.distribution
    for version, record in (("0.0", original("scikit-learn").read_text("RECORD")), (sklearn.__version__, "another")):
        monkeypatch.setattr(
            importlib.metadata,
            "distribution",
            lambda name, v=version, r=record: SimpleNamespace(version=v, read_text=lambda _: r),
        )
        manifest_module._distribution.cache_clear()
        assert not still_holds(found)
    manifest_module._distribution.cache_clear()


def test_an_installed_helper_that_is_edited_in_place_counts(tmp_path, monkeypatch):
    package = tmp_path / "helper_for_tests"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "part.py").write_text("X = 1\n")
    monkeypatch.setattr(manifest_module, "INSTALLED", (f"{tmp_path}/",))
    modules = {"helper_for_tests": str(package / "__init__.py"), "helper_for_tests.part": str(package / "part.py")}
    found = manifest_of(seen(modules=modules, new=list(modules)))
    assert list(found["packages"]) == [str(package)]
    assert still_holds(found)
    (package / "part.py").write_text("X = 2\n")
    manifest_module._tree.cache_clear()
    assert not still_holds(found)


def test_a_file_that_was_missing_and_one_that_changed_meanwhile(tmp_path):
    missing, there = tmp_path / "missing", tmp_path / "there"
    there.write_text("a")
    status = there.stat()
    found = manifest_of(seen(files={str(missing): None, str(there): [status.st_size, status.st_mtime_ns]}))
    assert found["reasons"] == []
    assert still_holds(found)
    missing.write_text("b")
    assert not still_holds(found)
    changed = manifest_of(seen(files={str(there): [status.st_size + 1, status.st_mtime_ns]}))
    assert changed["reasons"] == [f"{there} changed while it ran"]
    assert not still_holds(changed)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    status = (tmp_path / "pipe").stat()
    found = manifest_of(seen(files={str(tmp_path / "pipe"): [status.st_size, status.st_mtime_ns]}))
    assert found["reasons"] == [f"{tmp_path / 'pipe'} cannot be hashed"]


def test_native_code_of_ones_own_is_not_reusable(tmp_path):
    (tmp_path / "fast.so").write_bytes(b"")
    found = manifest_of(seen(modules={"fast": str(tmp_path / "fast.so")}, new=["fast"]))
    assert found["reasons"] == ["fast.so is native code"]


def test_a_manifest_of_another_session_is_read_from_the_store(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        assert Manifests(store).key("k") is None
        Manifests(store).note("k", manifest_of(seen()))
        first = Manifests(store).key("k")
        assert first is not None
        Manifests(store).note("k", manifest_of(seen(reasons=["it starts processes"])))
        assert Manifests(store).key("k") is None
