"""Stored summaries: equal to computed ones, and used only for the values and the code that they were computed from."""

import sqlite3
from dataclasses import fields, replace

import numpy as np
import pytest

from subpop.datasets.stage import Stage
from subpop.results.summary import kept, summarise
from subpop.results.summary.kept import KIND, kept_summary
from subpop.runtime import memo as memo_module
from subpop.runtime.memo import Memo
from subpop.runtime.store import Store
from tests.results.test_summary import CELL, right, stage, trial


def trials() -> list:
    """Trials of a filter, the first with the arrays of a panel."""
    bits = right(12, 30, 10), right(18, 27, 9), right(24, 24, 10), right(24, 21, 10)
    names = [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    found = [trial(name, seed, True, own) for (name, seed), own in zip(names, bits, strict=True)]
    found += [trial(name, seed, False, right(24, 27, 10)) for name, seed in names]
    metrics = {**found[0].metrics, "kkt_residual": np.nan, "attack_fits": np.float64(3)}
    found[0] = replace(found[0], metrics=metrics, arrays={**found[0].arrays, "panel_x": np.ones((2, 2), np.float32)})
    return [replace(each, seconds=0.1 * i, n_fits=i) for i, each in enumerate(found)]


def arguments(**changed) -> dict:
    clean = np.stack([right(24, 30, 10), right(24, 27, 10)])
    most_wrong = np.full((2, 2, 1, 4), 6)
    given = {"cell": CELL, "stage": stage(), "results": trials(), "clean": clean, "exact": True, "most_wrong": most_wrong}
    return given | changed


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


@pytest.fixture
def computed(monkeypatch) -> list:
    """The cells whose summaries were computed."""
    cells = []

    def counted(cell, *args, **kwargs):
        cells.append(cell)
        return summarise(cell, *args, **kwargs)

    monkeypatch.setattr(kept, "summarise", counted)
    return cells


def asked(store, *, fresh: bool = False, **changed):
    return kept_summary(store, Memo(store, fresh=fresh), **arguments(**changed))


def assert_equal(found, expected):
    for each in fields(expected):
        if each.name != "arrays":
            np.testing.assert_equal(getattr(found, each.name), getattr(expected, each.name), each.name)
    assert list(found.arrays) == list(expected.arrays)
    for name, array in expected.arrays.items():
        assert found.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays[name], array)


def test_a_stored_summary_equals_the_computed_one_bit_for_bit(store, computed):
    expected = summarise(**arguments())
    assert_equal(asked(store), expected)
    assert_equal(asked(store), expected)
    assert len(computed) == 1


def test_trials_read_back_from_the_store_have_the_summary_of_those_that_were_trained(store, computed):
    own = trials()
    own[1] = replace(own[1], metrics={**own[1].metrics, "n_flipped": 4}, n_fits=np.int64(2))  # numbers of other types
    store.put_chunk("chunk", CELL, own, "cpu")
    asked(store, results=own)
    asked(store, results=store.get_chunk("chunk"))
    assert len(computed) == 1


def test_values_of_numpy_are_stored_as_those_of_python(store, computed):
    """A data set with `n_classes=y.max() + 1`, and a victim with `exact = np.False_`, failed after their training."""
    found = stage()
    own = replace(found, data=replace(found.data, dataset=replace(found.dataset, n_classes=np.int64(2))))
    assert_equal(asked(store, stage=own, exact=np.False_), summarise(**arguments(exact=False)))
    assert_equal(asked(store, exact=False), summarise(**arguments(exact=False)))
    assert len(computed) == 1


def edited(place: int, **metrics) -> list:
    """The trials with other metrics in one of them."""
    own = trials()
    own[place] = replace(own[place], metrics={**own[place].metrics, **metrics})
    return own


def other_bit() -> list:
    own = trials()
    own[3] = replace(own[3], arrays={"right": right(24, 20, 10)})
    return own


def other_groups() -> Stage:
    found = stage()
    return replace(found, partition=replace(found.partition, test=np.roll(found.partition.test, 1)))


def other_notes() -> Stage:
    found = stage()
    return replace(found, data=replace(found.data, dataset=replace(found.dataset, notes=("of another version",))))


CHANGES = {
    "a bit of one trial": {"results": other_bit()},
    "a metric": {"results": edited(2, n_flipped=3.0)},
    "one more metric": {"results": edited(2, undecided=0.0)},
    "the seconds of a trial": {"results": [replace(each, seconds=9.0) for each in trials()]},
    "the order of the trials": {"results": trials()[::-1]},
    "the clean models": {"clean": np.stack([right(24, 30, 10), right(24, 26, 10)])},
    "the trials that rank": {"ranked_by": trials()},
    "the certificates": {"most_wrong": np.full((2, 2, 1, 4), 5)},
    "whether the victim is exact": {"exact": False},
    "the subpopulations": {"stage": other_groups()},
    "the notes of the data": {"stage": other_notes()},
    "a setting of the cell": {"cell": replace(CELL, tier="laptop")},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_summary_of_other_values_is_not_used(store, computed, change):
    asked(store)
    assert_equal(asked(store, **CHANGES[change]), summarise(**arguments(**CHANGES[change])))
    assert len(computed) == 2


def test_a_summary_by_other_code_is_not_used(store, computed, monkeypatch):
    asked(store)
    code_key = memo_module.code_key
    monkeypatch.setattr(memo_module, "code_key", lambda modules: f"edited {code_key(modules)}")
    asked(store)
    assert len(computed) == 2


def test_the_code_of_a_summary_includes_all_that_computes_its_numbers():
    from subpop.runtime.cell_code import modules_in_key

    covered = modules_in_key(frozenset({kept.__name__}))
    used = "kept", "ranked", "subpopulation", "certified", "collective", "stages"
    assert {f"subpop.results.summary.{name}" for name in used} <= covered
    assert {"subpop.results.summary", "subpop.results.metrics", "subpop.results.intervals", "subpop.runtime.seeds"} <= covered


def test_a_fresh_run_computes_it_again(store, computed):
    asked(store)
    asked(store, fresh=True)
    assert len(computed) == 2


def test_the_store_has_only_the_last_summary_of_a_cell(store):
    asked(store)
    asked(store, results=other_bit())
    assert len(store.records(KIND)) == 1


def test_a_damaged_summary_is_computed_again(store, computed):
    asked(store)
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE records SET record = replace(record, '0.375', '0.125') WHERE kind = ?", (KIND,))
    assert_equal(asked(store), summarise(**arguments()))
    assert len(computed) == 2
    assert any("do not fit" in note or "does not fit" in note for note in store.notes)
