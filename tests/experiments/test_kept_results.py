"""Results of whole cells in the store: the same to the bit, and measured again where anything they depend on has changed."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from small_projects import parse_defense

from subpop import victims
from subpop.defenses import DEFENSES
from subpop.experiments.experiment import Experiment
from subpop.experiments.impossibility import measure_impossibility
from subpop.experiments.kept_results import from_arrays, kept_result, to_arrays
from subpop.runtime.cell_code import code_key
from subpop.runtime.store import Store
from subpop.types import BadInput, Cell, CellResult, Number
from subpop.victims import VICTIMS

CELL = Cell.of("impossibility", "embedded", "mixture_cells", "cell_majority", "feature_match", "label_flip", 1.0)


def result(cell=CELL, value=1 / 3):
    numbers = (Number("a", value, 0.1, "group=1", 0.2), Number("nothing", float("nan"), None, "", None))
    table = ({"subpopulation": "group=1", "target_damage": -0.0},)
    arrays = {"pictures:a": np.arange(6, dtype=np.uint8).reshape(2, 3), "plain": np.array(["x", "yy"])}
    return CellResult(cell, numbers, table, arrays, "n_poison", False, 4, 7, 1.5, notes=("é",))


@pytest.fixture
def measured():
    """A measure that counts its calls."""
    calls = []

    def measure(cell, experiment):
        calls.append(cell)
        return result(cell, value=float(len(calls)))

    measure.__module__ = "subpop.experiments.impossibility"
    return SimpleNamespace(measure=measure, calls=calls)


def test_a_result_survives_the_store_to_the_bit(tmp_path):
    with Store(tmp_path / "s.sqlite") as store:
        store.put_arrays("key", to_arrays(result()))
        found = from_arrays(CELL, store.get_arrays("key"))
    assert repr(found.numbers) == repr(result().numbers)  # NaN is no equal of itself
    assert str(found.table[0]["target_damage"]) == "-0.0"
    assert (found.cell, found.knowledge, found.exact, found.n_subpopulations, found.n_fits, found.seconds, found.notes) == (
        (CELL, "n_poison", False, 4, 7, 1.5, ("é",))
    )
    assert list(found.arrays) == ["pictures:a", "plain"]
    for name, array in result().arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype


def kept(measure, cell, experiment):
    return kept_result(cell, experiment, "subpop.experiments.impossibility", lambda: measure(cell, experiment))


def test_a_cell_is_measured_once_a_store(tmp_path, measured):
    for from_store in (False, True):
        with Store(tmp_path / "s.sqlite") as store:
            found = kept(measured.measure, CELL, Experiment.on(store=store))
        assert (found.numbers[0].value, found.from_store) == (1.0, from_store)
    assert len(measured.calls) == 1


@pytest.mark.parametrize(
    "other", [CELL.with_(rate=2.0), CELL.with_(dataset="mixture"), CELL.with_(n_seeds=9), CELL.with_(partition_seed=1)]
)
def test_another_cell_is_another_result(tmp_path, measured, other):
    with Store(tmp_path / "s.sqlite") as store:
        experiment = Experiment.on(store=store)
        kept(measured.measure, CELL, experiment)
        assert not kept(measured.measure, other, experiment).from_store


READS = """
from pathlib import Path
import numpy as np
from subpop import Defended

def mine(train, fit, know, *, seed, share=0.0):
    dropped = round((share + float(Path(__file__).with_name("share.txt").read_text())) * len(train))
    return Defended(fit(train[np.arange(len(train)) >= dropped]))
"""


def test_a_plug_in_counts_with_its_source_its_arguments_and_what_it_reads(tmp_path):
    cell = CELL.with_(kind="two_worlds", alpha_base="train", n_seeds=1)

    def from_store(call=""):
        spec = parse_defense(f"mine.py:mine{call}", tmp_path)
        with Store(tmp_path / "s.sqlite") as store:
            experiment = Experiment.on(store=store, plugins={spec.name: spec})
            own = cell.with_(defense=spec.name)
            return kept_result(
                own, experiment, "subpop.experiments.impossibility", lambda: measure_impossibility(own, experiment)
            ).from_store

    (tmp_path / "mine.py").write_text(READS)
    (tmp_path / "share.txt").write_text("0.1")
    assert [from_store(), from_store()] == [False, True]
    assert [from_store("(share=0.2)"), from_store("(share=0.2)")] == [False, True]
    (tmp_path / "share.txt").write_text("0.2")
    assert [from_store(), from_store()] == [False, True]
    (tmp_path / "mine.py").write_text(READS.replace("round", "int"))
    assert [from_store(), from_store()] == [False, True]


def test_a_registry_line_that_changes_is_noticed(tmp_path, measured, monkeypatch):
    cell = CELL.with_(victim="mlp", defense="sever")
    with Store(tmp_path / "s.sqlite") as store:
        kept(measured.measure, cell, Experiment.on(store=store))
        assert kept(measured.measure, cell, Experiment.on(store=store)).from_store
        monkeypatch.setitem(VICTIMS, "mlp", lambda device, weights: victims.MLP(hidden=12))
        assert not kept(measured.measure, cell, Experiment.on(store=store)).from_store
        monkeypatch.setitem(DEFENSES, "sever", DEFENSES["sever_per_label"])  # another function of the same file
        assert not kept(measured.measure, cell, Experiment.on(store=store)).from_store


def test_a_victim_from_outside_the_package_counts_with_its_source(tmp_path, measured, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    cell = CELL.with_(victim="kept_victim:Own")
    with Store(tmp_path / "s.sqlite") as store:
        for body in ("pass", "smoothing = 1"):
            own = f"from sklearn.naive_bayes import GaussianNB\n\nclass Own(GaussianNB):\n    {body}\n"
            (tmp_path / "kept_victim.py").write_text(own)
            code_key.cache_clear()
            assert not kept(measured.measure, cell, Experiment.on(store=store)).from_store
            assert kept(measured.measure, cell, Experiment.on(store=store)).from_store


def test_a_fresh_run_measures_again(tmp_path, measured):
    with Store(tmp_path / "s.sqlite") as store:
        for _ in range(2):
            assert not kept(measured.measure, CELL, Experiment.on(store=store, fresh=True)).from_store


def test_what_raises_leaves_nothing_behind(tmp_path, measured):
    def fails(cell, experiment):
        raise BadInput("no")

    with Store(tmp_path / "s.sqlite") as store:
        with pytest.raises(BadInput, match="no"):
            kept(fails, CELL, Experiment.on(store=store))
        assert not kept(measured.measure, CELL, Experiment.on(store=store)).from_store


def test_words_of_codes_count(tmp_path, measured, monkeypatch):
    """A folder that was renamed changes what a report says, though no array."""
    with Store(tmp_path / "s.sqlite") as store:
        first = Experiment.on(store=store)
        kept(measured.measure, CELL, first)
        dataset = first.context.dataset(CELL)
        renamed = Experiment.on(store=store)
        monkeypatch.setattr(renamed.context, "dataset", lambda cell: replace(dataset, words={"group": ("a", "b")}))
        assert not kept(measured.measure, CELL, renamed).from_store
