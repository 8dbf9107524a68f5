"""Measuring from Python: what may be given, what is served from the store, and what comes out."""

import importlib.util
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import subpop
from subpop import BadInput, Defended
from subpop.experiments.experiment import Experiment
from subpop.harness.batching import DefenseError
from subpop.harness.callables import notation_of
from subpop.results.frames import COLUMNS
from subpop.runtime.no_store import NoStore
from subpop.runtime.progress import NotebookBar
from subpop.types.grid import grid

ROOT = Path(__file__).parents[2]
FILE = """
import numpy as np
from subpop import Defended


def first(train, fit, know, *, seed, share=0.5):
    return Defended(fit(train[np.random.default_rng(seed).random(len(train)) < share]))
"""


def identity(train, fit, know, *, seed):
    return Defended(fit(train))


def locked():
    lock = threading.Lock()

    def locked(train, fit, know, *, seed):
        with lock:
            return Defended(fit(train))

    return locked


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of a user, imported from a file."""
    (tmp_path / "own_defense.py").write_text(FILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = importlib.import_module("own_defense")
    yield found
    del sys.modules["own_defense"]


def small(*given, **further):
    return subpop.measure(*given, **{"n_seeds": 1, "store": None, "integrity": False, **further})


def test_a_sweep_agrees_with_the_cells_of_a_suite():
    results = small("mixture", rate=[0.5, 1.0], n_seeds=2)
    cells = grid(
        stem="s",
        tier="embedded",
        dataset="mixture",
        victim="logistic_regression",
        partition="feature_match",
        rate=[0.5, 1.0],
        n_seeds=2,
    )
    frame = results.to_frame()
    damage = frame[frame["metric"] == "target_damage_mean"].set_index("rate")["value"]
    experiment = Experiment.on(NoStore())
    assert damage.to_dict() == {cell.rate: experiment.run(cell)["target_damage_mean"] for cell in cells}
    assert list(frame.columns) == list(COLUMNS)
    assert set(frame["verdict"]) == {"not_compared"}
    with pytest.raises(KeyError, match="2 cells"):
        results["target_damage_mean"]


def test_saved_results_and_the_store_are_read_into_the_same_frame(tmp_path):
    results = small("mixture", store=tmp_path / "store.sqlite")
    results.save(tmp_path / "report")
    for place in ("report", "report/results.json", "store.sqlite"):
        pd.testing.assert_frame_equal(subpop.load_results(tmp_path / place), results.to_frame(), check_dtype=False)
    assert "**Not compared" in (tmp_path / "report" / "README.md").read_text()
    table = results.subpopulations()
    assert table["target_damage"].mean() == pytest.approx(results["target_damage_mean"])
    assert "mixture" in repr(results)
    assert max(map(len, repr(results).splitlines())) <= 80
    assert "<table" in results._repr_html_()
    assert results.plot()._repr_html_().count("<img") == len(results.plot()) > 0


def test_only_what_a_file_has_by_name_is_served_from_the_store(tmp_path, own):
    """A function that does nothing does no harm and no good: its damage is that of no defense."""

    def closure(train, fit, know, *, seed):
        return identity(train, fit, know, seed=seed)

    given = ["none", own.first, partial(own.first, share=0.9), closure, lambda train, fit, know, *, seed: Defended(fit(train))]
    first, second = (small("mixture", defense=given, store=tmp_path / "store.sqlite") for _ in range(2))
    names = ["none", "own_defense.first", "own_defense.first(share=0.9)", "closure", "lambda"]
    assert [report.cell.defense for report in second.reports] == names
    assert [report.result.from_store for report in first.reports] == [False] * 5
    assert [report.result.from_store for report in second.reports] == [True, True, True, False, False]
    damage = [report.result["target_damage_mean"] for report in second.reports]
    assert damage[3] == damage[4] == damage[0] != damage[1]
    assert [report.result.integrity for report in first.reports] == ["", *["unchecked"] * 4]


def test_own_rows_and_an_own_estimator(tmp_path):
    """Rows on a line are separated by a tree of depth one; an estimator from a file is served from the store, another is not."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer
    from sklearn.tree import DecisionTreeClassifier

    x = np.random.default_rng(0).normal(size=(600, 2))
    rows = (x, np.where(x[:, 0] > 0, "yes", "no"))
    stump = DecisionTreeClassifier(max_depth=1)
    local = make_pipeline(FunctionTransformer(lambda x: x), stump)
    first, second = (small(rows, [stump, local], store=tmp_path / "store.sqlite") for _ in range(2))
    assert [report.result["clean_accuracy"] for report in first.reports] == pytest.approx([1, 1], abs=0.02)
    assert [report.result.from_store for report in second.reports] == [True, False]
    assert first.reports[0].cell.partition == "cluster_match"
    assert small("mixture", DecisionTreeClassifier(max_depth=2)).reports[0].cell.victim == "DecisionTreeClassifier(max_depth=2)"


def test_one_failing_cell_does_not_cost_the_others():
    def raises(train, fit, know, *, seed):
        raise RuntimeError("no luck")

    results = small("mixture", defense=["none", raises])
    frame = results.to_frame()
    assert frame[frame["defense"] == "raises"]["reason"].str.contains("no luck").all()
    assert (frame[frame["defense"] == "none"]["verdict"] == "not_compared").all()
    with pytest.raises(DefenseError, match="no luck"):
        small("mixture", defense=raises)


X = np.zeros((6, 2))
BAD = {
    "no data": (lambda: small(7), "int is not a data set; give a subpop.Dataset"),
    "no such data": (lambda: small("digit"), "did you mean digits"),
    "labels": (lambda: small((X, [0, 1])), r"y has shape \(2,\) for 6 rows"),
    "missing labels": (lambda: small((X, [0, 1, np.nan, 1, 0, 1])), "1 labels are missing, the first in row 2"),
    "one class": (lambda: small((X, [1] * 6)), "1 different values in 6 rows"),
    "text": (lambda: small(([["a", "b"]] * 6, [0, 1] * 3)), "encode text and categories"),
    "NaN": (lambda: small((np.where(X == 0, np.nan, 1), [0, 1] * 3)), "6 rows of x have missing"),
    "flat": (lambda: small((np.zeros(6), [0, 1] * 3)), "shape"),
    "no victim": (lambda: small("mixture", 3), "no estimator|cannot be fitted"),
    "no function": (lambda: small("mixture", defense=3), "defense=3 is int; give a name"),
    "not a defense": (lambda: small("mixture", defense=lambda train: None), "give it these parameters"),
    "no file": (lambda: small("mixture", defense="no.py:f"), "defense='no.py:f': there is no file"),
    "cannot travel": (lambda: small("mixture", defense=locked()), "locked cannot be sent.* write it to a file"),
    "no setting": (lambda: small("mixture", shares=1), "shares=1 is not a known setting"),
    "no results": (lambda: subpop.load_results("nowhere"), "nowhere does not exist; name a results.json"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_answered_with_the_value_what_is_allowed_and_the_fix(name):
    call, words = BAD[name]
    with pytest.raises(BadInput, match=words):
        call()


def test_functions_of_a_script_and_of_other_functions_have_no_file(own, monkeypatch):
    assert notation_of(own.first) == f"{own.__file__}:first"
    assert notation_of(partial(own.first, share=0.2)) == f"{own.__file__}:first(share=0.2)"
    assert notation_of(partial(own.first, share=own)) is None
    assert notation_of(lambda: 0) is None
    monkeypatch.setattr(own.first, "__module__", "__main__")
    assert notation_of(own.first) is None


def test_the_section_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    section = (ROOT / "README.md").read_text().split("[start:python] -->")[1].split("<!-- --8<-- [end")[0].strip()
    assert len(section.splitlines()) <= 15
    exec(section.split("```python\n")[1].split("```")[0], {"__name__": "readme"})
    assert capsys.readouterr().out.count("drop_lowest") == 4
    assert len(subpop.load_results("runs/store.sqlite")) > 8


def test_the_bar_of_a_notebook_says_how_far_the_run_is():
    bar = NotebookBar()
    task = bar.add_task("", total=1.0, cells="", fits="", left="")
    bar.update(task, completed=0.25, cells="1/4 cells", description="<b>")
    assert bar.html() == '<progress max="1" value="0.250"></progress> 1/4 cells, &lt;b&gt;'


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_call_leaves_no_file_open(tmp_path):
    counts = []
    for _ in range(3):
        subpop.measure("mixture", n_seeds=1, store=tmp_path / "s.sqlite")
        counts.append(len(list(Path("/proc/self/fd").iterdir())))
    assert counts[1] == counts[2]
