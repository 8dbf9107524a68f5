"""`--shard i/n` and `subpop merge`: four shards give what one run gives, a part of them says so, and nothing counts twice."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_projects import ROOT, run_all

from subpop.report.verdict import Standing, headline
from subpop.results.shards import KIND, divisions, record_of_shard, unfinished
from subpop.runtime.store import Store
from subpop.runtime.store_merge import merge
from subpop.session import cli
from subpop.session.merging import merged
from subpop.session.shards import Shard, divide, is_exact_cell
from subpop.types import BadInput, Cell, CellReport, CellResult, Trial, TrialResult
from subpop.types.grid import grid, sweeps

SUITE = '''"""Source: a test. Deviations: none."""
from subpop.types.grid import grid

COMMON = dict(stem="little", tier="embedded", partition="feature_match", sampling="distinct", n_seeds=1)
CELLS = [*grid(dataset="digits", victim="logistic_regression", rate=[0.5, 1.0], defense=["none", "trim"], **COMMON),
         *grid(dataset="digits", victim="logistic_regression", rate=1.0, defense="matched_random_filter:trim", **COMMON),
         *grid(dataset="mixture", victim="logistic_regression", rate=1.0, defense=["none", "sever"], **COMMON),
         *grid(dataset="digits", victim="mlp", rate=1.0, defense=["none", "random_filter"], **COMMON)]


def test_cell(cell, measure):
    measure(cell)


def test_claim(sweep, result_of):
    assert all(result_of(cell)["clean_accuracy"] > 0.5 for cell in sweep)
'''
FIXED_TIMES = """
from dataclasses import replace
from subpop.experiments.experiment import Experiment

Experiment.timed_chunk = lambda self, cell, chunk: [replace(each, seconds=0.5) for each in self.run_chunk(cell, chunk)]
"""
"""A plug-in of pytest: every trial takes half a second, so that reports contain no clock."""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose suite was run once as a whole and once as four shards."""
    folder = tmp_path_factory.mktemp("shards")
    for name in ("benchmarks", "baselines"):
        (folder / name).mkdir()
    (folder / "benchmarks" / "test_little.py").write_text(SUITE)
    (folder / "fixed_times.py").write_text(FIXED_TIMES)
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    (folder / "pytest.ini").write_text("[pytest]\n")
    common = ["-p", "fixed_times", "--no-references"]
    runs = [[*common, "--store", "whole.sqlite", "--report-dir", "whole"]]
    runs += [[*common, "--store", f"{i}.sqlite", "--report-dir", f"of{i}", "--shard", f"{i}/4"] for i in range(1, 5)]
    done = run_all([folder] * len(runs), runs)
    assert all(each.returncode == 0 for each in done), "\n".join(each.stdout + each.stderr for each in done)
    (folder / "beside").write_text("\n".join(map(str, folder.glob("*.sqlite-*"))))
    (folder / "told").write_text("\f".join(each.stdout for each in done))
    return folder


def report(monkeypatch, project, store, folder, status=0):
    """The files of `subpop report` of a store, as bytes, at a fixed time."""
    monkeypatch.chdir(project)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    assert cli.main(["report", "--store", str(store), "--report-dir", str(folder)]) == status
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shards_of(project, numbers):
    return [project / f"{number}.sqlite" for number in numbers]


def counts(store):
    with sqlite3.connect(store) as connection:
        tables = ("chunks", "trials", "metrics", "blobs", "trial_arrays", "array_sets")
        return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_the_report_of_four_merged_shards_is_that_of_one_run(project, tmp_path, monkeypatch):
    told = merged(shards_of(project, (3, 1, 4, 2)), tmp_path / "merged.sqlite")
    assert "all 4 shards are in this store (9 cells)" in told
    assert counts(tmp_path / "merged.sqlite") == counts(project / "whole.sqlite")
    whole = report(monkeypatch, project, project / "whole.sqlite", tmp_path / "a")
    parts = report(monkeypatch, project, tmp_path / "merged.sqlite", tmp_path / "b")
    assert len(whole) > 10
    assert parts == whole


def test_the_store_of_a_run_that_ended_is_one_file(project, tmp_path):
    """A CI job keeps `--store`; most of the trials were in a file beside it."""
    assert (project / "beside").read_text() == ""
    for number in range(1, 5):
        shutil.copy(project / f"{number}.sqlite", tmp_path)
    told = merged([tmp_path / f"{number}.sqlite" for number in range(1, 5)], tmp_path / "merged.sqlite")
    assert "all 4 shards are in this store (9 cells)" in told
    assert counts(tmp_path / "merged.sqlite") == counts(project / "whole.sqlite")


def test_a_missing_shard_is_named_and_its_cells_are_counted(project, tmp_path, monkeypatch, capsys):
    told = merged(shards_of(project, (1, 2, 4)), tmp_path / "merged.sqlite")
    page = report(monkeypatch, project, tmp_path / "merged.sqlite", tmp_path / "r", status=1)["README.md"].decode()
    missing = len(cells_of(project / "of3"))
    there = 9 - missing
    said = f"shard 3 of 4 is not in this store ({missing} cells)"
    assert said in told
    assert page.splitlines()[2].startswith(f"**Unfinished: {there} of 9 cells measured; {said}.**")
    assert said in capsys.readouterr().out


def test_cells_without_trials_are_not_finished_although_all_shards_ended(project, tmp_path, monkeypatch):
    """The trials of a shard are damaged: a merge leaves them out, and a report counts their cells as missing."""
    number = next(n for n in range(1, 5) if any(cell[3] == "sever" for cell in cells_of(project / f"of{n}")))
    broken = tmp_path / "broken.sqlite"
    shutil.copy(project / f"{number}.sqlite", broken)
    with sqlite3.connect(broken) as connection:
        connection.execute("UPDATE trials SET seconds = 9 WHERE chunk IN (SELECT id FROM chunks WHERE cell LIKE '%sever%')")
    told = merged([broken, *shards_of(project, {1, 2, 3, 4} - {number})], tmp_path / "merged.sqlite")
    assert "left out, to be made again: the trials of chunk" in told
    assert "all 4 shards are in this store (9 cells), without what was left out above" in told
    page = report(monkeypatch, project, tmp_path / "merged.sqlite", tmp_path / "r", status=1)["README.md"].decode()
    said = "**Unfinished: 8 of 9 cells measured; 1 cell of shards that ended is left out.**"
    assert page.splitlines()[2].startswith(said)


def test_the_shards_are_a_partition_of_the_tests(project):
    found = [cells_of(project / f"of{number}") for number in range(1, 5)]
    assert sorted(cell for own in found for cell in own) == sorted(cells_of(project / "whole"))
    assert all(found), "no shard is empty"
    passed = [int(re.search(r"(\d+) passed", done)[1]) for done in (project / "told").read_text().split("\f")]
    assert passed[0] == 16 == sum(passed[1:])


def cells_of(folder):
    """The cells of a report."""
    rows = json.loads((folder / "results.json").read_text())["cells"]
    return {tuple(row[name] for name in ("dataset", "victim", "rate", "defense")) for row in rows}


def test_a_shard_merged_twice_counts_nothing_twice(project, tmp_path):
    into = tmp_path / "merged.sqlite"
    merged(shards_of(project, (1, 2)), into)
    before = counts(into)
    told = merged([*shards_of(project, (2, 1, 2)), into], into)
    assert counts(into) == before
    assert " 0 of them new" in told


def test_more_shards_than_tests_is_no_failure(project):
    done = run_all([project], [["--no-references", "--store", "no.sqlite", "--report-dir", "no", "--shard", "99/99"]])[0]
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_shard_says_which_part_it_is(project):
    page = (project / "of1" / "README.md").read_text()
    assert "This is shard 1 of 4: " in page.splitlines()[2]
    assert " of 9 planned cells." in page.splitlines()[2]


# --- stores that disagree ---------------------------------------------------------------------------------------------


EXACT = Cell.of("little", "embedded", "digits", "logistic_regression", "feature_match", rate=1.0, n_seeds=1)
RANDOM = EXACT.with_(victim="mlp")


def store_of(path, cell, *damages, key="k", seconds=1.0, arrays=None):
    with Store(path) as store:
        results = [
            TrialResult(Trial("digit=1", seed), {"kkt_residual": 1e-9 * seconds, "removed": damage}, arrays or {}, seconds, 1)
            for seed, damage in enumerate(damages)
        ]
        store.put_chunk(key, cell, results, "cpu")
    return path


def test_two_results_of_an_exact_trial_are_an_error_that_names_cell_and_trial(tmp_path):
    one, other = store_of(tmp_path / "a", EXACT, 1.0, 2.0), store_of(tmp_path / "b", EXACT, 1.0, 3.0)
    third = store_of(tmp_path / "t", EXACT, 5.0, key="other")
    with pytest.raises(BadInput, match=r"on a trial of little embedded-digits.*'digit=1', seed 1, attacked, has removed"):
        merged([third, one, other], tmp_path / "c")
    assert not (tmp_path / "c").exists(), "a merge that failed leaves no new store"
    shutil.copy(one, tmp_path / "c")
    with pytest.raises(BadInput, match="disagree"):
        merged([third, other], tmp_path / "c")
    with Store(tmp_path / "c") as store:
        assert not store.has_chunk("other"), "a merge that failed changes nothing"


def test_a_merge_that_failed_deletes_nothing_that_another_process_has_stored_meanwhile(tmp_path, monkeypatch):
    one, into = store_of(tmp_path / "a", EXACT, 1.0), tmp_path / "c"

    def refused(store, work):
        store_of(into, EXACT, 1.0, key="of another process")
        raise BadInput("the stores disagree")

    monkeypatch.setattr(Store, "in_one_transaction", refused)
    with pytest.raises(BadInput, match="disagree"):
        merged([one], into)
    with Store(into) as store:
        assert store.has_chunk("of another process")


def test_time_and_the_residual_of_the_solver_are_no_disagreement(tmp_path):
    one, other = store_of(tmp_path / "a", EXACT, 1.0), store_of(tmp_path / "b", EXACT, 1.0, seconds=7.0)
    assert "1 trials, 1 of them new; 1 chunks" in merged([one, other], tmp_path / "c")


def test_predictions_of_an_exact_victim_that_differ_are_an_error(tmp_path):
    import numpy as np

    right = np.array([True, False, True])
    one = store_of(tmp_path / "a", EXACT, 1.0, arrays={"right": right})
    other = store_of(tmp_path / "b", EXACT, 1.0, arrays={"right": ~right})
    with pytest.raises(BadInput, match=r"different values of 'right' \(3 of 3\)"):
        merged([one, other], tmp_path / "c")


@pytest.mark.parametrize(("one", "other"), [(1.0, 1 - 1e-12), (0.0, 1e-18), (0.3, 0.3 + 1e-10), (float("nan"), float("nan"))])
def test_numbers_that_differ_by_rounding_are_no_disagreement(tmp_path, one, other):
    stores = store_of(tmp_path / "a", EXACT, one), store_of(tmp_path / "b", EXACT, other)
    assert "1 trials, 1 of them new" in merged(stores, tmp_path / "c")


@pytest.mark.parametrize(("one", "other"), [(1.0, 2.0), (0.0, 1e-4), (0.3, 0.301), (0.3, float("nan"))])
def test_numbers_that_differ_by_more_are_one(tmp_path, one, other):
    stores = store_of(tmp_path / "a", EXACT, one), store_of(tmp_path / "b", EXACT, other)
    with pytest.raises(BadInput, match="disagree"):
        merged(stores, tmp_path / "c")


def test_of_a_stochastic_trial_the_first_store_is_kept_and_the_difference_counted(tmp_path):
    one, other = store_of(tmp_path / "a", RANDOM, 1.0, 2.0), store_of(tmp_path / "b", RANDOM, 1.0, 3.0)
    assert "1 trials of stochastic or user-supplied victims or defenses differ" in merged([one, other], tmp_path / "c")
    with Store(tmp_path / "c") as store:
        assert [each.metrics["removed"] for each in store.get_chunk("k") or ()] == [1.0, 2.0]


def test_trials_of_another_version_have_another_key_and_are_both_kept(tmp_path):
    one, other = store_of(tmp_path / "a", EXACT, 1.0), store_of(tmp_path / "b", EXACT, 3.0, key="of another version")
    merged([one, other], tmp_path / "c")
    with Store(tmp_path / "c") as store:
        assert store.has_chunk("k")
        assert store.has_chunk("of another version")


def test_the_newer_record_is_kept_whichever_store_comes_first(tmp_path):
    for name, when in (("a", "2026-01-01T00:00:00+00:00"), ("b", "2026-01-02T00:00:00+00:00")):
        with Store(tmp_path / name) as store, pytest.MonkeyPatch.context() as patch:
            patch.setattr("subpop.runtime.store.now", lambda when=when: when)
            store.put_record("x", {"from": name})
    for order in (("a", "b"), ("b", "a")):
        into = tmp_path / "-".join(order)
        merge([tmp_path / name for name in order], into, lambda one, other: 0)
        with Store(into) as store:
            assert store.get_record("x") == {"from": "b"}


def test_what_cannot_be_merged_is_refused_before_anything_is_written(tmp_path):
    one = store_of(tmp_path / "a", EXACT, 1.0)
    (tmp_path / "text").write_text("no store")
    for bad, words in ((tmp_path / "nowhere", "there is no store"), (tmp_path / "text", "not a store of subpop")):
        with pytest.raises(BadInput, match=words):
            merged([one, bad], tmp_path / "c")
        assert not (tmp_path / "c").exists()


def test_what_cannot_be_merged_is_called_what_it_is_and_no_option_is_named_that_merge_lacks(tmp_path):
    one = store_of(tmp_path / "a", EXACT, 1.0)
    (tmp_path / "empty").touch()
    with pytest.raises(BadInput, match=r"empty is empty; name a store that a run"):
        merged([tmp_path / "empty"], tmp_path / "c")
    (tmp_path / "text").write_text("no store")
    with sqlite3.connect(tmp_path / "other") as connection:
        connection.execute("CREATE TABLE photos (id)")
    connection.close()
    pairs = [("text", "c"), ("a", "text"), ("a", "other"), ("a", ".")]
    for source, into in pairs:
        with pytest.raises(BadInput, match=r"name another file|name a file") as found:
            merged([tmp_path / source], tmp_path / into)
        assert "--store" not in str(found.value)
    merged([one], tmp_path / "empty")


def test_damaged_trials_of_a_source_are_left_out_and_named(tmp_path):
    one = store_of(tmp_path / "a", EXACT, 1.0)
    store_of(one, EXACT, 2.0, key="good")
    with sqlite3.connect(one) as connection:
        connection.execute("UPDATE metrics SET value = 9 WHERE metric = 'removed' AND value = 1")
    told = merged([one], tmp_path / "c")
    assert "left out, to be made again: the trials of chunk k" in told
    with Store(tmp_path / "c") as store:
        assert store.has_chunk("good")
        assert not store.has_chunk("k")


def test_a_merge_that_is_killed_leaves_the_store_as_it_was(tmp_path):
    into = store_of(tmp_path / "c", EXACT, 1.0, key="before")
    source = tmp_path / "a"
    for i in range(20):
        store_of(source, EXACT, float(i), key=f"k{i}")
    code = (
        "import os, signal, sys; from pathlib import Path; import subpop.runtime.store_merge as m\n"
        "insert, n = m.CHUNK.insert, [0]\n"
        "def killed(*given):\n    insert(*given); n[0] += 1\n    n[0] == 12 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "m.CHUNK = m.CHUNK._replace(insert=killed)\n"
        "m.merge([Path(sys.argv[1])], Path(sys.argv[2]), lambda a, b: 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(source), str(into)], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -9, done.stderr
    with Store(into) as store:
        assert not store.notes
        assert [key for key in ("before", *(f"k{i}" for i in range(20))) if store.has_chunk(key)] == ["before"]
    merged([source], into)
    assert counts(into)["chunks"] == 21


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(st.integers(0, 7), max_size=6), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_merging_is_a_union_in_any_order(parts, shuffled):
    """Stores with any keys: the merged one has each key once, with its own trials."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        sources = []
        for number, keys in enumerate(parts):
            sources.append(Path(folder) / f"s{number}")
            Store(sources[-1]).close()
            for key in keys:
                store_of(sources[-1], EXACT, float(key), key=f"k{key}")
        order = [*sources, *sources]
        shuffled.shuffle(order)
        merged(order, Path(folder) / "into")
        with Store(Path(folder) / "into") as store:
            everything = {key for keys in parts for key in keys}
            assert counts(store.path)["trials"] == len(everything)
            for key in everything:
                assert [each.metrics["removed"] for each in store.get_chunk(f"k{key}") or ()] == [float(key)]


# --- the division -----------------------------------------------------------------------------------------------------


def items_of(cells, stem="test_some.py"):
    """Tests of a suite with these cells: one for each cell, and a claim for each sweep."""
    module = ModuleType("suite")
    module.CELLS = cells
    path = Path("anywhere") / stem

    def item(name, **params):
        return SimpleNamespace(
            module=module, path=path, name=name, callspec=SimpleNamespace(params=params), nodeid=f"{stem}::{name}"
        )

    measuring = [item(f"test_cell[{cell.id}]", cell=cell) for cell in cells]
    return measuring + [item(f"test_claim[{i}]", sweep=sweep) for i, sweep in enumerate(sweeps(cells))]


@dataclasses.dataclass(eq=False)
class Test:
    module: ModuleType
    path: Path
    name: str
    callspec: SimpleNamespace

    __test__ = False


def hashable(items):
    return [Test(each.module, each.path, each.name, each.callspec) for each in items]


SOME = st.lists(
    st.sampled_from(
        grid(
            stem="some",
            tier="embedded",
            dataset=["digits", "mixture"],
            partition="feature_match",
            victim=["logistic_regression", "mlp"],
            rate=[0.5, 1.0],
            n_seeds=[1],
            defense=["none", "trim", "matched_random_filter:trim", "sever", "random_filter"],
        )
    ),
    min_size=1,
    max_size=20,
    unique=True,
)


@settings(max_examples=60, deadline=None)
@given(SOME, st.integers(1, 6), st.integers(0, 2**32))
def test_the_division_ignores_the_order_and_keeps_together_what_belongs_together(cells, n, seed):
    items = hashable(items_of(cells))
    found = dict(zip((item.name for item in items), divide(items, n), strict=True))
    assert set(found.values()) <= set(range(1, n + 1))
    again = hashable(items_of(cells))
    random.Random(seed).shuffle(again)
    assert dict(zip((item.name for item in again), divide(again, n), strict=True)) == found
    shard = {cell: found[f"test_cell[{cell.id}]"] for cell in cells}
    for cell in cells:
        base = cell.with_(defense=cell.defense.removeprefix("matched_random_filter:"))
        assert shard.get(base, shard[cell]) == shard[cell]
        if not is_exact_cell(cell):  # one fleet
            assert shard[cell] == next(
                shard[c] for c in cells if (c.dataset, c.victim, c.rate) == (cell.dataset, cell.victim, cell.rate)
            )
    for i, sweep in enumerate(sweeps(cells)):
        assert {shard[cell] for cell in sweep} == {found[f"test_claim[{i}]"]}


def test_a_claim_that_names_no_cell_stays_with_its_whole_suite():
    cells = grid(stem="some", tier="embedded", dataset="digits", partition="feature_match", victim="logistic_regression",
                 rate=1.0, n_seeds=1, defense=["none", "trim", "sever"])  # fmt: skip
    items = hashable(items_of(cells))
    assert len(set(divide(items, 3))) == 3
    items.append(Test(items[0].module, items[0].path, "test_all", SimpleNamespace(params={"name": "trim"})))
    assert len(set(divide(items, 3))) == 1


def test_shards_have_about_the_same_expected_time():
    """Longest first: no shard is above the mean by more than its longest group (list scheduling)."""
    from subpop.session.shards import _groups, _seconds

    cells = grid(stem="some", tier="embedded", dataset=["digits", "mixture", "digits_images"], partition="feature_match",
                 victim=["logistic_regression", "conv_net"], rate=[0.5, 1.0, 2.0], n_seeds=[1, 3, 5],
                 defense=["none", "trim", "sever", "knn_filter"])  # fmt: skip
    items = hashable(items_of(cells))
    longest = max(map(_seconds, _groups(items)))
    for n in (2, 4, 7):
        numbers = divide(items, n)
        loads = [_seconds([item for item, number in zip(items, numbers, strict=True) if number == i]) for i in range(1, n + 1)]
        assert max(loads) <= sum(loads) / n + longest * (1 - 1 / n) + 1e-9


@pytest.mark.parametrize("text", ["", "0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2", "1.5/4", "٣/٤"])
def test_a_shard_that_does_not_exist_is_refused(text):
    with pytest.raises(BadInput, match=r"must be i/n"):
        Shard.parse(text)


# --- records and pages ------------------------------------------------------------------------------------------------


CELLS = [("a one", 1), ("a two", 2), ("b three", 2)]


def division_of(ended, begun=(1, 2), cells=CELLS):
    records = dict(record_of_shard(number, 3, cells) for number in begun)
    return {key: {**record, "ended": record["shard"] in ended} for key, record in records.items()}


def test_which_shards_are_there():
    (found,) = divisions(division_of(ended=[]))
    assert (
        found.description(["a two"])
        == "shard 1 of 3 did not end (0 of 1 cell measured); shard 2 of 3 did not end (1 of 2 cells measured)"
    )
    assert divisions(division_of([2]))[0].description(["a one"]) == "shard 1 of 3 did not end (1 of 1 cell measured)"
    assert divisions(division_of([1], begun=[1]))[0].description(["a one"]) == "shard 2 of 3 is not in this store (2 cells)"
    whole = divisions(division_of([1, 2]))[0]
    assert (whole.lacking(()), whole.description(())) == ([], "all 3 shards are in this store (3 cells)"), (
        "the third shard has no cells"
    )
    assert KIND == "shard"


def test_one_shard_of_one_is_the_only_one():
    key, record = record_of_shard(1, 1, [("a one", 1)])
    assert divisions({key: {**record, "ended": True}})[0].description(()) == "the only shard is in this store (1 cell)"


def test_cells_that_another_run_measured_are_not_missing():
    (found,) = divisions(division_of([1], begun=[1]))
    assert found.description([name for name, _ in CELLS]) == "the cells of all 3 shards are in this store (3 cells)"


def test_shards_of_different_selections_are_not_called_missing():
    """Of three shards, the second was run with another -k."""
    other = [("a one", 1), ("a two", 2)]
    told = [each.description(["a one"]) for each in divisions(division_of([1], [1]) | division_of([2], [2], other))]
    advice = ": give all shards the same -k, tier and suites"
    assert any("shard 2 of 3 is in this store with another selection of cells (2 cells)" + advice == each for each in told)
    earlier = divisions(division_of([1], [1]) | division_of([1, 2], [1, 2], other))
    assert "shard 2 of 3 is not in this store (2 cells)" in [each.description(["a one"]) for each in earlier], (
        "another run is whole"
    )


def test_cells_of_shards_that_ended_are_left_out():
    stored = divisions(division_of([1, 2]))
    assert unfinished(stored, ["a one", "a two", "b three"]) == []
    assert unfinished(stored, ["a one"]) == ["2 cells of shards that ended are left out"]
    stored = divisions(division_of([1], [1]))
    assert unfinished(stored, []) == ["shard 2 of 3 is not in this store (2 cells)", "1 cell of shards that ended is left out"]


def test_what_was_left_is_the_headline_and_no_failure():
    standing = Standing(7, 0, left="4 cells were left")
    assert headline([], standing) == "**Unfinished: 0 of 7 cells measured; 4 cells were left.**"


def test_a_complete_suite_of_an_unfinished_run_is_not_called_unfinished():
    standing = Standing(3, 0, left="2 cells were left", planned_of={"a": 1, "b": 2})
    reports = [CellReport(EXACT, CellResult(EXACT, ()), status="pass")]
    assert headline(reports, standing.of_suite("a", reports)) == "**Passed.**"
    assert headline([], standing.of_suite("b", [])) == "**Unfinished: 0 of 2 cells measured; 2 cells were left.**"
