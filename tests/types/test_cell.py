import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from seed_table import all_cells

from subpop.types import BadInput, Cell
from subpop.types.grid import grid, mean_by_rate, sweep_id, sweeps

ROOT = Path(__file__).parents[2]
BASE = {
    "stem": "s",
    "tier": "embedded",
    "dataset": "digits",
    "victim": "logistic_regression",
    "partition": "feature_match",
    "rate": 1.0,
}


def test_grid_is_the_product_of_its_lists():
    cells = grid(
        stem="s", tier="embedded", dataset="digits", victim=["a", "b"], partition="feature_match", rate=[0.5, 1], split=[0, 1]
    )
    assert len(cells) == 8
    assert cells[0] == Cell.of("s", "embedded", "digits", "a", "feature_match", "label_flip", 0.5, split=0)
    assert len({cell.id for cell in cells}) == 8


def test_a_sweep_holds_what_differs_in_rate_and_split_alone():
    cells = grid(stem="s", tier="embedded", dataset="digits", victim=["a", "b"], partition="feature_match", rate=[2, 0.5, 1])
    groups = sweeps(cells)
    assert [[cell.rate for cell in group] for group in groups] == [[0.5, 1, 2], [0.5, 1, 2]]
    assert sweep_id(groups[0]) == "embedded-digits-a-feature-label_flip-none"
    split = grid(stem="s", tier="embedded", dataset="digits", victim="a", partition="feature_match", rate=[1, 2], split=[0, 1])
    assert [len(group) for group in sweeps(split)] == [4]


def test_a_claim_is_made_of_the_mean_over_splits():
    sweep = grid(stem="s", tier="t", dataset="d", victim="v", partition="p", rate=[2, 1], split=[0, 1])
    value = {("0", 1.0): 0.1, ("1", 1.0): 0.3, ("0", 2.0): 0.5, ("1", 2.0): 0.6}
    means = mean_by_rate(sweeps(sweep)[0], lambda cell: {"m": value[cell.option("split"), cell.rate]}, "m")
    assert means == {1.0: pytest.approx(0.2), 2.0: pytest.approx(0.55)}
    assert list(means) == [1.0, 2.0]


def test_settings_are_sorted_and_removable():
    cell = grid(stem="s", tier="t", dataset="d", victim="v", partition="p", rate=1.0, split=2, encoder="tiny")[0]
    assert cell.setting_text == "encoder=tiny;split=2"
    assert cell.with_(split=None).setting_text == "encoder=tiny"
    assert cell.option("split", "1") == "2"
    assert cell.option("protocol", "default") == "default"


def test_ids_keep_the_partition_word_apart_from_suite_names():
    cell = Cell.of("s", "embedded", "digits", "mlp", "feature_match", "label_flip", 1.0)
    assert "feature_match" not in cell.id
    with pytest.raises(TypeError):
        cell.with_(1)


def test_settings_are_typed_and_a_default_is_a_value() -> None:
    cell = grid(**BASE, split="2", holdout="0.25", panels="yes", defense="trim")[0]
    assert (cell.data.split, cell.defender.holdout, cell.panels) == (2, 0.25, True)
    assert cell.setting_text == "holdout=0.25;panels=yes;split=2"
    assert cell.with_(holdout=0.0625).setting_text == "holdout=0.0625;panels=yes;split=2"  # every digit, or two cells share rows
    plain = grid(**BASE)[0]
    assert (plain.data.split, plain.defender.holdout, plain.panels, plain.setting_text) == (0, None, False, "")
    assert plain.data == grid(**BASE, split=0)[0].data
    assert plain != grid(**BASE, split=0)[0]  # it names its split, as its rows in the baselines do


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"smapling": "distinct"}, "did you mean sampling?"),
        ({"defence": "trim"}, "did you mean defense?"),
        ({"objective": "cosine"}, "does not apply to a cell of kind poisoning with attack label_flip"),
        ({"attack": "influence", "objective": "cosine"}, "with attack influence"),
        ({"worlds": "paired"}, "does not apply to a cell of kind poisoning"),
        ({"kind": "two_worlds", "panels": "yes"}, "does not apply to a cell of kind two_worlds"),
        ({"kind": "clusters", "ranked_by": "none"}, "does not apply to a cell of kind clusters"),
        ({"sampling": "distnct"}, "use one of with_replacement, distinct"),
        ({"split": 1.5}, "split=1.5 must be a whole number"),
        ({"split": True}, "split=True must be a whole number"),
        ({"epsilon": 0, "attack": "influence"}, "epsilon=0 must be a number above 0, such as 16"),
        ({"holdout": 1}, "holdout=1 must be a number above 0 and below 1"),
        ({"holdout": 1 - 1e-15}, "must be a number above 0 and below 1"),
        ({"rate": "often"}, "rate='often' must be a number"),
        ({"rate": (1, 2)}, "rate=(1, 2) must be a number, such as 0.5; grid takes a list of numbers for several values"),
        ({"rate": None}, "rate=None must be a number"),
        ({"defense": [["none", "trim"]]}, "defense=['none', 'trim'] must be a string; grid takes a list of strings"),
        ({"attack": ("influence",)}, "attack=('influence',) must be a string"),
        ({"kind": None}, "unknown kind of cell None"),
        ({"encoder": "a;b=c"}, "encoder='a;b=c' may contain any printable characters but ';'"),
        ({"encoder": "a;split=1", "split": 1}, "which separates settings in a baseline; use another name"),
        ({"encoder": "tiny\n"}, r"encoder='tiny\n' may contain any printable characters"),
        ({"clusters_on": "in\0puts"}, "may contain any printable characters"),
        ({"n_seeds": True}, "n_seeds=True must be a whole number"),
    ],
)
def test_a_setting_that_no_cell_has_is_refused_where_it_is_written(settings, said) -> None:
    with pytest.raises(BadInput, match=re.escape(said)):
        grid(**{**BASE, **settings})


def test_a_record_is_plain_and_gives_the_cell_again() -> None:
    for cell in all_cells():
        assert Cell.of(**json.loads(json.dumps(cell.record()))) == cell


@pytest.mark.parametrize(
    "settings", [{"holdout": 1 / 3}, {"attack": "influence", "epsilon": 16 / 3}, {"rate": 1 / 3}, {"rate": -0.0}]
)
def test_another_cell_has_the_same_numbers_to_the_bit(settings) -> None:
    """A control is built beside its filter by `with_`, which passes settings on as texts."""
    cell = grid(**{**BASE, **settings})[0]
    assert cell.with_(defense="trim").with_(defense="none") == cell
    assert Cell.of(**{name: str(value) if name == "rate" else value for name, value in cell.record().items()}) == cell
    assert "-0" not in str(cell.rate)


def test_a_cell_without_moved_rows() -> None:
    moved = grid(**BASE, attack="gradient_match", epsilon=16, objective="cosine", sampling="distinct")[0]
    assert moved.plain() == grid(**BASE, sampling="distinct")[0]
    assert moved.plain().plain() is moved.plain() or moved.plain().plain() == moved.plain()


def test_every_id_is_an_expression_that_selects_it() -> None:
    """`-k ID` selects the cell, and every cell whose id it begins, but none that it is no part of."""
    from _pytest.mark.expression import Expression

    ids = [cell.id for cell in all_cells()]
    for own in ids:
        selects = Expression.compile(own)
        assert selects.evaluate(lambda name, own=own, **_: name == own), own
    with pytest.raises(SyntaxError):
        Expression.compile("split=0;sampling=distinct")


def test_odd_names_become_ids_that_k_accepts(tmp_path) -> None:
    from _pytest.mark.expression import Expression

    names = ["image_folder:a b/c@64", "embeddings:x;y=z.npz", "sklearn.svm:LinearSVC", "C:\\data", "π 1", "a(b)[c]"]
    for name in names:
        own = grid(**{**BASE, "dataset": name})[0].id
        assert Expression.compile(own).evaluate(lambda found, own=own, **_: found == own)


@pytest.mark.parametrize("stem", ["table16_influence", "defenses_trim_sever", "impossibility"])
def test_pytest_selects_one_cell_by_its_id(stem) -> None:
    cell = next(cell for cell in all_cells() if cell.stem == stem and cell.tier == "embedded" and cell.setting)
    command = [
        sys.executable,
        "-m",
        "pytest",
        f"benchmarks/test_{stem}.py",
        "--collect-only",
        "-q",
        "-k",
        f"test_cell and {cell.id}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert f"test_cell[{cell.id}]" in done.stdout, done.stdout + done.stderr
